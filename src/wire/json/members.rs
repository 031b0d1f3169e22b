//! What most of a body is made of, in one go: members of objects whose keys and values are plain and in one piece.
//!
//! Whatever else comes is left where it stands, in the state that takes it byte by byte.

use super::PeekError;
use super::keys::Key;
use super::text::plain_run;
use super::{Peek, Sink, State};

fn behind_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// A string from its quote on, and where it ends; if it is not plain or not whole, where its text begins.
#[inline(always)]
fn plain_string(bytes: &[u8], at: usize) -> Result<(&[u8], usize), usize> {
    let start = at + 1;
    let rest = &bytes[start..];
    match rest.split_at(plain_run(rest)) {
        (text, [b'"', ..]) => Ok((text, start + text.len() + 1)),
        _ => Err(start),
    }
}

impl Peek {
    /// Members from the quote of a key on, those of objects in them and behind them too; where it stopped.
    pub(super) fn members(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, PeekError> {
        loop {
            at = self.key(bytes, at)?;
            if !matches!(self.state, State::Colon) || bytes.get(at) != Some(&b':') {
                return Ok(at);
            }
            self.state = State::Value;
            at = behind_space(bytes, at + 1);
            match bytes.get(at) {
                Some(b'"') => at = self.string_value(bytes, at)?,
                Some(b'1'..=b'9') => at = self.integer(bytes, at)?,
                Some(b'{') => {
                    self.open(true)?;
                    at = behind_space(bytes, at + 1);
                    if bytes.get(at) == Some(&b'"') {
                        continue;
                    }
                    return Ok(at);
                }
                _ => return Ok(at),
            }
            if !matches!(self.state, State::AfterValue) {
                return Ok(at);
            }
            while bytes.get(at) == Some(&b'}') && self.place.is_object() {
                self.close();
                at += 1;
            }
            if bytes.get(at) != Some(&b',') || !self.place.is_object() {
                return Ok(at);
            }
            self.state = State::Key;
            at = behind_space(bytes, at + 1);
            if bytes.get(at) != Some(&b'"') {
                return Ok(at);
            }
        }
    }

    /// A key from its quote on; where it stopped.
    #[inline(always)]
    fn key(&mut self, bytes: &[u8], at: usize) -> Result<usize, PeekError> {
        let matters = self.place.has_keys();
        let (key, end) = match plain_string(bytes, at) {
            Ok(plain) => plain,
            Err(start) => {
                self.in_key = true;
                self.key.clear();
                self.key_overflow = false;
                self.sink = if matters { Sink::Key } else { Sink::Nothing };
                self.state = State::String;
                return Ok(start);
            }
        };
        if matters {
            self.end_key(key, true)?;
        } else {
            (self.state, self.current) = (State::Colon, None);
        }
        Ok(end)
    }

    /// A string that is a value, from its quote on; where it stopped.
    #[inline(always)]
    pub(super) fn string_value(&mut self, bytes: &[u8], at: usize) -> Result<usize, PeekError> {
        let (text, end) = match plain_string(bytes, at) {
            Ok(plain) => plain,
            Err(start) => {
                self.begin_string();
                return Ok(start);
            }
        };
        if !matches!(self.current, None | Some(Key::Jsonrpc)) {
            self.begin_string();
            self.keep(text)?;
            self.end_string_value();
        } else {
            (self.state, self.current) = (State::AfterValue, None);
        }
        Ok(end)
    }

    /// A number of digits alone, if what follows is there and no part of it; where it stopped.
    #[inline(always)]
    fn integer(&mut self, bytes: &[u8], at: usize) -> Result<usize, PeekError> {
        let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, behind) = bytes[at..].split_at(digits);
        if !matches!(behind.first(), Some(b',' | b'}')) {
            return Ok(at);
        }
        self.begin_capture(false);
        self.keep(number)?;
        self.end_scalar();
        Ok(at + digits)
    }
}
