//! Short texts that are kept in place, so that a record of them is plain memory; and texts in lines, where they can break nothing.

use std::fmt;
use std::io::Write;
use std::net::IpAddr;

/// Up to `N` bytes of a text, at most 255; what is longer is cut.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    length: u8,
    is_cut: bool,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    pub const NONE: Text<N> = Text { length: 0, is_cut: false, bytes: [0; N] };

    #[inline]
    pub fn of(text: &[u8]) -> Text<N> {
        const { assert!(N <= 255) }
        let mut kept = Text::NONE;
        let length = text.len().min(N);
        kept.bytes[..length].copy_from_slice(&text[..length]);
        kept.length = length as u8;
        kept.is_cut = length < text.len();
        kept
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub fn kept(&self) -> Kept<'_> {
        Kept { bytes: &self.bytes[..usize::from(self.length)], is_cut: self.is_cut }
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// `K` texts in one place of `N` bytes, at most 255, so that few short ones take little. What finds no room there is cut.
#[derive(Clone, Copy)]
pub struct Texts<const N: usize, const K: usize> {
    ends: [u8; K],
    is_cut: [bool; K],
    bytes: [u8; N],
}

impl<const N: usize, const K: usize> Texts<N, K> {
    /// Each with the most bytes that it may have; the first ones are the last to be cut.
    pub fn of(texts: [(&[u8], usize); K]) -> Texts<N, K> {
        const { assert!(N <= 255) }
        let (mut kept, mut end) = (Texts { ends: [0; K], is_cut: [false; K], bytes: [0; N] }, 0);
        for (place, (text, most)) in texts.into_iter().enumerate() {
            let length = text.len().min(most).min(N - end);
            kept.bytes[end..end + length].copy_from_slice(&text[..length]);
            end += length;
            kept.ends[place] = end as u8;
            kept.is_cut[place] = length < text.len();
        }
        kept
    }

    pub fn kept(&self, place: usize) -> Kept<'_> {
        let start = if place == 0 { 0 } else { usize::from(self.ends[place - 1]) };
        Kept { bytes: &self.bytes[start..usize::from(self.ends[place])], is_cut: self.is_cut[place] }
    }
}

impl<const N: usize, const K: usize> fmt::Debug for Texts<N, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..K).map(|place| self.kept(place).to_text())).finish()
    }
}

/// A text that was kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    bytes: &'a [u8],
    is_cut: bool,
}

impl Kept<'_> {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// As text, with an ellipsis where it was cut; what is no UTF-8 is replaced.
    pub fn append(&self, out: &mut Vec<u8>) {
        match std::str::from_utf8(self.whole_characters()) {
            Ok(text) => out.extend_from_slice(text.as_bytes()),
            Err(_) => out.extend_from_slice(String::from_utf8_lossy(self.whole_characters()).as_bytes()),
        }
        if self.is_cut {
            out.extend_from_slice("…".as_bytes());
        }
    }

    /// As [`append`](Kept::append).
    pub fn to_text(self) -> String {
        let mut out = Vec::new();
        self.append(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Between quotes, as JSON has it.
    pub fn quote(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        escape(out, self.whole_characters());
        if self.is_cut {
            out.extend_from_slice("…".as_bytes());
        }
        out.push(b'"');
    }

    /// Without the part of a character that the cut left.
    fn whole_characters(&self) -> &[u8] {
        if !self.is_cut {
            return self.bytes;
        }
        match std::str::from_utf8(self.bytes) {
            Err(error) if error.error_len().is_none() => &self.bytes[..error.valid_up_to()],
            _ => self.bytes,
        }
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Text<N> {
        Text::NONE
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kept().to_text().fmt(f)
    }
}

/// A text as it may stand between quotes, in JSON and in a terminal: no quote, backslash or control character (those of
/// C1 included) stays as it is, nor what is no UTF-8.
pub fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.iter().all(plain) {
        return out.extend_from_slice(text);
    }
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
                c if c.is_control() => {
                    let mut digits = [0; 4];
                    crate::wire::trace_context::spell(&(c as u16).to_be_bytes(), &mut digits);
                    out.extend_from_slice(b"\\u");
                    out.extend_from_slice(&digits);
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// A number without the ceremony of `fmt`.
pub fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// An address without the ceremony of `fmt`, where it is of the short kind.
pub fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (place, byte) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                decimal(out, u64::from(byte));
            }
        }
        // Writing into a vector cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// Microseconds as milliseconds with three places.
pub fn milliseconds(out: &mut Vec<u8>, us: u64) {
    decimal(out, us / 1000);
    padded::<3>(out, (us % 1000) as u32, b".");
}

/// A number of exactly `N` digits, behind something.
pub fn padded<const N: usize>(out: &mut Vec<u8>, mut number: u32, before: &[u8]) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(before);
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &[u8]) -> String {
        let mut out = Vec::new();
        Text::<16>::of(text).kept().quote(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn quoted_texts_are_json_and_break_no_line() {
        for text in ["", "plain", "a\"b\\c", "a\r\nb\t\u{1b}[31m", "größe", "\u{7f}\u{85}\u{9b}"] {
            let json: String = serde_json::from_str(&quoted(text.as_bytes())).unwrap();
            assert_eq!(json, text);
            assert!(!quoted(text.as_bytes()).chars().any(char::is_control), "{text:?}");
        }
        assert_eq!(quoted(b"a\xffb"), "\"a\u{fffd}b\"");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(quoted(b"0123456789abcdef"), "\"0123456789abcdef\"");
        assert_eq!(quoted(b"0123456789abcdefg"), "\"0123456789abcdef…\"");
        assert_eq!(quoted("0123456789abcde€".as_bytes()), "\"0123456789abcde…\"");
    }

    #[test]
    fn texts_share_a_place_and_the_first_are_cut_last() {
        let texts = Texts::<10, 3>::of([(b"abcdef", 4), (b"", 4), (b"0123456789", 8)]);
        assert_eq!([0, 1, 2].map(|place| texts.kept(place).to_text()), ["abcd…", "", "012345…"]);
        let texts = Texts::<10, 2>::of([(b"0123456789", 10), (b"x", 4)]);
        assert_eq!([0, 1].map(|place| texts.kept(place).to_text()), ["0123456789", "…"]);
    }

    #[test]
    fn numbers_are_those_of_fmt() {
        for number in [0, 7, 10, 999, 1000, 123_456, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
        let mut out = Vec::new();
        milliseconds(&mut out, 12_034);
        assert_eq!(out, b"12.034");
        for text in ["127.0.0.1", "255.0.10.1", "::1", "2001:db8::17"] {
            let mut out = Vec::new();
            address(&mut out, text.parse().unwrap());
            assert_eq!(out, text.as_bytes());
        }
    }
}
