//! Strings and numbers, over the ends of pieces.

use super::PeekError::{self, Duplicate, Grammar};
use super::keys::{key_at, lookalike_at};
use super::{KEY_BYTES_MAX, Number, Peek, Sink, State, ends_a_number};

/// No quote, backslash or control character, and ASCII.
fn is_plain(byte: u8) -> bool {
    (byte as i8 >= 0x20) & (byte != b'"') & (byte != b'\\')
}

/// Where in a block the first byte stands that is not plain.
#[cfg(target_arch = "x86_64")]
fn stop_in(block: &[u8; 16]) -> Option<usize> {
    use std::arch::x86_64 as simd;

    #[target_feature(enable = "sse2")]
    fn stops(block: u128) -> i32 {
        let block = simd::_mm_set_epi64x((block >> 64) as i64, block as i64);
        let below = simd::_mm_cmplt_epi8(block, simd::_mm_set1_epi8(0x20));
        let quotes = simd::_mm_cmpeq_epi8(block, simd::_mm_set1_epi8(b'"' as i8));
        let backslashes = simd::_mm_cmpeq_epi8(block, simd::_mm_set1_epi8(b'\\' as i8));
        simd::_mm_movemask_epi8(simd::_mm_or_si128(below, simd::_mm_or_si128(quotes, backslashes)))
    }

    // SAFETY: every x86-64 has SSE2. Without it the peek into 250 bytes takes 11 % more instructions, into 60 KB 49 %.
    let stops = unsafe { stops(u128::from_le_bytes(*block)) };
    (stops != 0).then(|| stops.trailing_zeros() as usize)
}

/// Where in a block the first byte stands that is not plain. Made of steps that a compiler does for all bytes at a time.
#[cfg(not(target_arch = "x86_64"))]
fn stop_in(block: &[u8; 16]) -> Option<usize> {
    let stops = u128::from_le_bytes(block.map(|byte| if is_plain(byte) { 0 } else { 0xff }));
    (stops != 0).then(|| stops.trailing_zeros() as usize / 8)
}

/// How many bytes from the front are ASCII that stands for itself in a string: no quote, backslash or control character.
#[inline]
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    for (at, block) in bytes.as_chunks().0.iter().enumerate() {
        if let Some(stop) = stop_in(block) {
            return at * 16 + stop;
        }
    }
    match bytes.last_chunk() {
        // The last block, of which the front is known to be plain.
        Some(block) => stop_in(block).map_or(bytes.len(), |stop| bytes.len() - 16 + stop),
        None => bytes.iter().take_while(|byte| is_plain(**byte)).count(),
    }
}

impl Peek {
    /// A run of a string up to its end, an escape, or the end of the piece; how many bytes that was.
    pub(super) fn string(&mut self, bytes: &[u8]) -> Result<usize, PeekError> {
        let plain = plain_run(bytes);
        let stop = match bytes.get(plain) {
            None => None,
            Some(b'"' | b'\\') if self.partial_len == 0 => Some(plain),
            // Beyond ASCII, or not allowed at all: the whole run is looked at anew.
            Some(_) => memchr::memchr2(b'"', b'\\', &bytes[plain..]).map(|at| plain + at),
        };
        let run = &bytes[..stop.unwrap_or(bytes.len())];
        if run.len() != plain || self.partial_len > 0 {
            self.check_text(run, stop.is_some())?;
        }
        self.keep(run)?;
        match stop.map(|at| bytes[at]) {
            Some(b'"') => self.end_string()?,
            Some(_) => self.state = State::Escape,
            None => {}
        }
        Ok(run.len() + usize::from(stop.is_some()))
    }

    /// No control characters, and valid UTF-8 over the ends of pieces.
    fn check_text(&mut self, run: &[u8], ends: bool) -> Result<(), PeekError> {
        // Without a way out in the middle, so that it is done many bytes at a time.
        if run.iter().fold(0xff, |least: u8, &byte| least.min(byte)) < 0x20 {
            return Err(Grammar("a control character in a string"));
        }
        let mut rest = run;
        while self.partial_len > 0 {
            let Some((&byte, after)) = rest.split_first() else { break };
            rest = after;
            self.partial[usize::from(self.partial_len)] = byte;
            self.partial_len += 1;
            match std::str::from_utf8(&self.partial[..usize::from(self.partial_len)]) {
                Ok(_) => self.partial_len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Grammar("not UTF-8")),
            }
        }
        if let Err(error) = std::str::from_utf8(rest) {
            if error.error_len().is_some() {
                return Err(Grammar("not UTF-8"));
            }
            let cut = &rest[error.valid_up_to()..];
            self.partial[..cut.len()].copy_from_slice(cut);
            self.partial_len = cut.len() as u8;
        }
        if ends && self.partial_len > 0 { Err(Grammar("not UTF-8")) } else { Ok(()) }
    }

    pub(super) fn escape(&mut self, byte: u8) -> Result<(), PeekError> {
        if self.sink == Sink::Raw {
            if self.state == State::Escape {
                self.keep(b"\\")?;
            }
            self.keep(&[byte])?;
        }
        match self.state {
            State::Escape => {
                let plain = match byte {
                    b'"' | b'\\' | b'/' => byte,
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'u' => {
                        self.state = State::Unicode { left: 4, value: 0 };
                        return Ok(());
                    }
                    _ => return Err(Grammar("escape")),
                };
                self.state = State::String;
                self.keep_decoded(&[plain])
            }
            State::Unicode { left, value } => {
                let digit = (byte as char).to_digit(16).ok_or(Grammar("escape"))?;
                let value = value << 4 | digit as u16;
                if left > 1 {
                    self.state = State::Unicode { left: left - 1, value };
                    return Ok(());
                }
                self.unicode(value)
            }
            State::LowBackslash if byte == b'\\' => {
                self.state = State::LowU;
                Ok(())
            }
            State::LowU if byte == b'u' => {
                self.state = State::Unicode { left: 4, value: 0 };
                Ok(())
            }
            _ => Err(Grammar("a lone surrogate")),
        }
    }

    fn unicode(&mut self, value: u16) -> Result<(), PeekError> {
        let high = std::mem::take(&mut self.high_surrogate);
        let scalar = match (high, value) {
            (0, 0xd800..=0xdbff) => {
                self.high_surrogate = value;
                self.state = State::LowBackslash;
                return Ok(());
            }
            (0, 0xdc00..=0xdfff) => return Err(Grammar("a lone surrogate")),
            (0, plain) => u32::from(plain),
            (high, 0xdc00..=0xdfff) => 0x10000 + ((u32::from(high) - 0xd800) << 10) + (u32::from(value) - 0xdc00),
            _ => return Err(Grammar("a lone surrogate")),
        };
        self.state = State::String;
        let mut utf8 = [0; 4];
        let text = char::from_u32(scalar).ok_or(Grammar("escape"))?.encode_utf8(&mut utf8);
        self.keep_decoded(text.as_bytes())
    }

    fn end_string(&mut self) -> Result<(), PeekError> {
        if !self.in_key {
            self.end_string_value();
            return Ok(());
        }
        self.in_key = false;
        if self.sink != Sink::Key {
            (self.state, self.current) = (State::Colon, None);
            return Ok(());
        }
        let key = std::mem::take(&mut self.key);
        let ended = self.end_key(&key, !self.key_overflow);
        self.key = key;
        ended
    }

    #[inline]
    pub(super) fn end_string_value(&mut self) {
        if self.sink == Sink::Raw {
            self.arena.push(b'"');
        }
        self.end_scalar();
    }

    /// A key at a place where keys matter; if it is not whole, what was kept of it.
    #[inline(always)]
    pub(super) fn end_key(&mut self, key: &[u8], is_whole: bool) -> Result<(), PeekError> {
        self.state = State::Colon;
        self.current = key_at(self.place, key).filter(|_| is_whole);
        match self.current {
            Some(key) if self.has(key) => return Err(Duplicate(key.spelled())),
            Some(key) => self.seen |= 1 << key as u32,
            None => self.end_strange_key(key, is_whole),
        }
        Ok(())
    }

    /// None of ours, but maybe like one.
    #[inline(never)]
    fn end_strange_key(&mut self, key: &[u8], is_whole: bool) {
        // What was kept of a key that is too long counts up to its NUL.
        if (is_whole && key.len() <= KEY_BYTES_MAX) || key.contains(&0) {
            let kept = &key[..key.len().min(KEY_BYTES_MAX)];
            self.kept.lookalike = self.kept.lookalike.or(lookalike_at(self.place, kept));
        }
    }

    pub(super) fn number(&mut self, number: Number, byte: u8) -> Result<usize, PeekError> {
        let next = match (number, byte) {
            (Number::Minus, b'0') => Number::Zero,
            (Number::Minus, b'1'..=b'9') | (Number::Integer, b'0'..=b'9') => Number::Integer,
            (Number::Zero | Number::Integer, b'.') => Number::Point,
            (Number::Point | Number::Fraction, b'0'..=b'9') => Number::Fraction,
            (Number::Zero | Number::Integer | Number::Fraction, b'e' | b'E') => Number::Exponent,
            (Number::Exponent, b'+' | b'-') => Number::ExponentSign,
            (Number::Exponent | Number::ExponentSign | Number::ExponentDigits, b'0'..=b'9') => Number::ExponentDigits,
            _ if ends_a_number(number) => {
                self.end_scalar();
                return Ok(0);
            }
            _ => return Err(Grammar("number")),
        };
        self.keep(&[byte])?;
        self.state = State::Number(next);
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::plain_run;

    #[test]
    fn a_run_ends_where_a_byte_is_not_plain_wherever_that_stands() {
        for byte in 0..=255u8 {
            let plain = matches!(byte, 0x20..0x80) && byte != b'"' && byte != b'\\';
            for (length, at) in [7, 16, 23, 50].into_iter().flat_map(|length| (0..length).map(move |at| (length, at))) {
                // What follows must not be taken for it, nor what stands before.
                for around in [b'a', b'!', b'#', b'[', b']', 0x7f] {
                    let mut text = vec![around; length];
                    text[at] = byte;
                    let run = if plain { length } else { at };
                    assert_eq!(plain_run(&text), run, "{byte:#x} at {at} of {length} in {around:#x}");
                }
            }
        }
    }
}
