//! What most of a body is made of, in one go: members of objects whose keys and values are plain and in one piece.
//!
//! Whatever else comes is left where it stands, in the state that takes it byte by byte.

use super::PeekError;
use super::text::plain_run;
use super::{Peek, Sink, State};

fn behind_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

impl Peek {
    /// Members from the quote of a key on, those of objects in them and behind them too; where it stopped.
    pub(super) fn members(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, PeekError> {
        loop {
            at = self.key(bytes, at)?;
            if self.state != State::Colon || bytes.get(at) != Some(&b':') {
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
            if self.state != State::AfterValue {
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
    fn key(&mut self, bytes: &[u8], at: usize) -> Result<usize, PeekError> {
        let start = at + 1;
        let end = start + plain_run(&bytes[start..]);
        let matters = self.place.has_keys();
        if bytes.get(end) != Some(&b'"') {
            self.in_key = true;
            self.key.clear();
            self.key_overflow = false;
            self.sink = if matters { Sink::Key } else { Sink::Nothing };
            self.state = State::String;
            return Ok(start);
        }
        if matters {
            self.end_key(&bytes[start..end], true)?;
        } else {
            (self.state, self.current) = (State::Colon, None);
        }
        Ok(end + 1)
    }

    /// A string that is a value, from its quote on; where it stopped.
    pub(super) fn string_value(&mut self, bytes: &[u8], at: usize) -> Result<usize, PeekError> {
        let start = at + 1;
        let end = start + plain_run(&bytes[start..]);
        if bytes.get(end) != Some(&b'"') {
            self.begin_string();
            return Ok(start);
        }
        if self.current.is_some() {
            self.begin_string();
            self.keep(&bytes[start..end])?;
            self.end_string()?;
        } else {
            self.state = State::AfterValue;
        }
        Ok(end + 1)
    }

    /// A number of digits alone, if what follows is there and no part of it; where it stopped.
    fn integer(&mut self, bytes: &[u8], at: usize) -> Result<usize, PeekError> {
        let end = at + bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !matches!(bytes.get(end), Some(b',' | b'}')) {
            return Ok(at);
        }
        self.begin_capture(false);
        self.keep(&bytes[at..end])?;
        self.end_scalar();
        Ok(end)
    }
}
