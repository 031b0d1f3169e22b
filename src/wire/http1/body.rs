//! Bodies decoded in place, piece by piece (RFC 9112 sections 6 and 7).

use super::framing::BodyLength;
use super::head::is_token;

/// Longest chunk extension, bytes.
const EXTENSION_BYTES_MAX: usize = 256;
/// Longest trailer section, bytes.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("malformed chunked body: {0}")]
    Malformed(&'static str),
    #[error("the body is too long")]
    TooLong,
    #[error("the body ends too early")]
    Premature,
}

impl BodyError {
    pub fn status(&self) -> u16 {
        if *self == BodyError::TooLong { 413 } else { 400 }
    }
}

use BodyError::Malformed;

/// What one piece of input held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Input bytes that belong to this body, from the start.
    pub consumed: usize,
    /// Body bytes, compacted to the start of the input.
    pub data: usize,
}

/// Fed with input as it comes, in any pieces.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    received: u64,
    max: Option<u64>,
    /// The size of the chunk whose extension is being skipped.
    pending: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    Size { value: u64, digits: u8 },
    Extension { bytes: usize },
    SizeLineFeed { value: u64 },
    Data(u64),
    DataReturn,
    DataLineFeed,
    Trailer { bytes: usize, part: Trailer },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailer {
    LineStart,
    Name,
    Value,
    ValueLineFeed,
    LastLineFeed,
}

impl BodyDecoder {
    /// `max`: most body bytes; a `Length` beyond it fails at the first [`decode`](BodyDecoder::decode).
    pub fn new(length: BodyLength, max: Option<u64>) -> BodyDecoder {
        let state = match length {
            BodyLength::Empty | BodyLength::Length(0) => State::Done,
            BodyLength::Length(length) => State::Length(length),
            BodyLength::Chunked => State::Size { value: 0, digits: 0 },
            BodyLength::UntilClose => State::UntilClose,
        };
        BodyDecoder { state, received: 0, max, pending: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Body bytes so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes to come, where the head said how many.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// The connection ended.
    ///
    /// # Errors
    /// `Premature`, unless that is how this body ends.
    pub fn end_of_input(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Premature),
        }
    }

    /// Decode a piece in place.
    pub fn decode(&mut self, input: &mut [u8]) -> Result<Decoded, BodyError> {
        let mut data = 0;
        let mut at = 0;
        while at < input.len() && !self.is_done() {
            let here = match self.state {
                State::Length(left) | State::Data(left) => left.min((input.len() - at) as u64) as usize,
                State::UntilClose => input.len() - at,
                _ => {
                    self.frame_byte(input[at])?;
                    at += 1;
                    continue;
                }
            };
            if at != data {
                input.copy_within(at..at + here, data);
            }
            at += here;
            data += here;
            self.received += here as u64;
            self.state = match self.state {
                State::Length(left) if left == here as u64 => State::Done,
                State::Length(left) => State::Length(left - here as u64),
                State::Data(left) if left == here as u64 => State::DataReturn,
                State::Data(left) => State::Data(left - here as u64),
                other => other,
            };
            self.check_max()?;
        }
        Ok(Decoded { consumed: at, data })
    }

    fn check_max(&self) -> Result<(), BodyError> {
        let announced = match self.state {
            State::Length(left) | State::Data(left) => left,
            State::SizeLineFeed { value } => value,
            _ => 0,
        };
        let over = self.max.is_some_and(|max| self.received.saturating_add(announced) > max);
        if over { Err(BodyError::TooLong) } else { Ok(()) }
    }

    /// One byte of chunked framing.
    fn frame_byte(&mut self, byte: u8) -> Result<(), BodyError> {
        self.state = match self.state {
            State::Size { value, digits } => match (byte as char).to_digit(16) {
                Some(_) if digits == 16 => return Err(Malformed("chunk size is too large")),
                Some(digit) => State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 },
                None if digits == 0 => return Err(Malformed("chunk size is missing")),
                None => match byte {
                    b'\r' => State::SizeLineFeed { value },
                    b';' => {
                        self.pending = value;
                        State::Extension { bytes: 0 }
                    }
                    _ => return Err(Malformed("chunk size")),
                },
            },
            State::Extension { bytes } => match byte {
                b'\r' => State::SizeLineFeed { value: self.pending },
                b'\t' | b' '..=b'~' | 0x80.. if bytes < EXTENSION_BYTES_MAX => State::Extension { bytes: bytes + 1 },
                _ => return Err(Malformed("chunk extension")),
            },
            State::SizeLineFeed { value } => match (byte, value) {
                (b'\n', 0) => State::Trailer { bytes: 0, part: Trailer::LineStart },
                (b'\n', size) => State::Data(size),
                _ => return Err(Malformed("line end of a chunk size")),
            },
            State::DataReturn if byte == b'\r' => State::DataLineFeed,
            State::DataLineFeed if byte == b'\n' => State::Size { value: 0, digits: 0 },
            State::DataReturn | State::DataLineFeed => return Err(Malformed("no line end behind a chunk")),
            State::Trailer { bytes, .. } if bytes >= TRAILER_BYTES_MAX => {
                return Err(Malformed("trailers are too large"));
            }
            State::Trailer { bytes, part } => match trailer_byte(part, byte)? {
                None => State::Done,
                Some(part) => State::Trailer { bytes: bytes + 1, part },
            },
            State::Done | State::Length(_) | State::UntilClose | State::Data(_) => self.state,
        };
        self.check_max()
    }
}

/// Trailer fields are checked and dropped (RFC 9110 section 6.5.1); `None` at their end.
fn trailer_byte(part: Trailer, byte: u8) -> Result<Option<Trailer>, BodyError> {
    Ok(Some(match (part, byte) {
        (Trailer::LineStart, b'\r') => Trailer::LastLineFeed,
        (Trailer::LastLineFeed, b'\n') => return Ok(None),
        (Trailer::LineStart | Trailer::Name, _) if is_token(byte) => Trailer::Name,
        (Trailer::Name, b':') => Trailer::Value,
        (Trailer::Value, b'\r') => Trailer::ValueLineFeed,
        (Trailer::Value, b'\t' | b' '..=b'~' | 0x80..) => Trailer::Value,
        (Trailer::ValueLineFeed, b'\n') => Trailer::LineStart,
        _ => return Err(Malformed("trailer")),
    }))
}
