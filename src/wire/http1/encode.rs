//! Heads and chunk frames as bytes. What is written was parsed before, or is ours: no value holds a line end.

use std::ops::Range;

use super::head::{Field, Fields, Name};
use crate::base::Span;

pub const LINE_END: &[u8] = b"\r\n";
pub const CHUNK_END: &[u8] = LINE_END;
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

pub fn request_line(out: &mut Vec<u8>, method: &[u8], target: &[u8]) {
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// An empty `reason` becomes the usual one.
pub fn status_line(out: &mut Vec<u8>, status: u16, text: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
    out.extend_from_slice(&digits);
    out.push(b' ');
    out.extend_from_slice(if text.is_empty() { reason(status).as_bytes() } else { text });
    out.extend_from_slice(b"\r\n");
}

#[inline]
pub fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(!value.iter().any(|b| matches!(b, b'\r' | b'\n')), "a value with a line end");
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Fields of a received head on their way out. Lines that stand there as we would write them, one behind the other, are
/// copied in one go.
pub struct Lines<'a> {
    out: &'a mut Vec<u8>,
    bytes: &'a [u8],
    /// What was not copied yet.
    run: Range<usize>,
    copied: Option<&'a mut Vec<Copied>>,
}

/// Bytes of a received head, and where in what was written they stand.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    pub at: u32,
    pub of: Span,
}

impl<'a> Lines<'a> {
    /// `bytes`: the buffer that the head was parsed from. All that is copied from there is told to `copied`.
    pub fn new(out: &'a mut Vec<u8>, bytes: &'a [u8], copied: Option<&'a mut Vec<Copied>>) -> Lines<'a> {
        Lines { out, bytes, run: 0..0, copied }
    }

    #[inline(always)]
    pub fn copy(&mut self, field: &Field) {
        let (start, name_end) = (field.name.start as usize, (field.name.start + field.name.len) as usize);
        let value = field.value.start as usize..(field.value.start + field.value.len) as usize;
        let is = |at: usize, text: &[u8; 2]| self.bytes.get(at..at + 2).is_some_and(|found| found == text);
        if value.start == name_end + 2 && is(name_end, b": ") && is(value.end, b"\r\n") {
            if self.run.end == start {
                self.run.end = value.end + 2;
            } else {
                self.out();
                self.run = start..value.end + 2;
            }
        } else {
            let name = field.name.of(self.bytes);
            let out = self.out();
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            self.run = value;
            self.out().extend_from_slice(LINE_END);
        }
    }

    /// What was written so far, for what is not copied.
    #[inline(never)]
    pub fn out(&mut self) -> &mut Vec<u8> {
        let run = std::mem::take(&mut self.run);
        if let Some(copied) = &mut self.copied
            && !run.is_empty()
        {
            let of = Span { start: run.start as u32, len: run.len() as u32 };
            copied.push(Copied { at: self.out.len() as u32, of });
        }
        self.out.extend_from_slice(&self.bytes[run]);
        self.out
    }
}

pub fn content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

pub fn chunked(out: &mut Vec<u8>) {
    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
}

/// The empty line behind the fields.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// The line before a chunk's data: hexadecimal size, CRLF (RFC 9112 section 7.1).
pub struct ChunkHead {
    text: [u8; 18],
    start: usize,
}

impl ChunkHead {
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

pub fn chunk_head(mut size: usize) -> ChunkHead {
    let mut head = ChunkHead { text: *b"0000000000000000\r\n", start: 16 };
    loop {
        head.start -= 1;
        head.text[head.start] = b"0123456789abcdef"[size % 16];
        size /= 16;
        if size == 0 {
            return head;
        }
    }
}

/// The fields that go on to the next hop (RFC 9110 section 7.6.1): none that is about this hop or its framing, none
/// that `Connection` names, unless the message means something else without it.
pub fn forwardable<'a>(fields: &'a Fields, bytes: &'a [u8]) -> impl Iterator<Item = &'a Field> {
    let names_some =
        fields.all(Name::Connection).any(|field| options(field, bytes).any(|option| !is_plain_option(option)));
    fields.iter().filter(move |field| {
        !is_of_this_hop(field.known) && (!names_some || never_removed(field, bytes) || !is_named(fields, field, bytes))
    })
}

fn options<'a>(field: &Field, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    field.value.of(bytes).split(|&b| b == b',').map(<[u8]>::trim_ascii)
}

fn is_plain_option(option: &[u8]) -> bool {
    option.is_empty() || option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive")
}

fn is_named(fields: &Fields, field: &Field, bytes: &[u8]) -> bool {
    let name = field.name.of(bytes);
    fields
        .all(Name::Connection)
        .any(|connection| options(connection, bytes).any(|option| option.eq_ignore_ascii_case(name)))
}

fn is_of_this_hop(name: Name) -> bool {
    matches!(
        name,
        Name::Connection
            | Name::ContentLength
            | Name::Expect
            | Name::KeepAlive
            | Name::Proxy
            | Name::ProxyAuthenticate
            | Name::ProxyAuthorization
            | Name::ProxyConnection
            | Name::Te
            | Name::Trailer
            | Name::TransferEncoding
            | Name::Underscored
            | Name::Upgrade
    )
}

/// A client could otherwise make the proxy drop what upstream decides by.
fn never_removed(field: &Field, bytes: &[u8]) -> bool {
    let name = field.name.of(bytes);
    matches!(
        field.known,
        Name::Accept
            | Name::Authorization
            | Name::ContentEncoding
            | Name::ContentType
            | Name::Cookie
            | Name::Forwarded
            | Name::Host
            | Name::LastEventId
            | Name::Origin
            | Name::XForwardedFor
            | Name::XForwardedHost
            | Name::XForwardedProto
    ) || (name.len() > 4 && name[..4].eq_ignore_ascii_case(b"mcp-"))
}

/// The usual reason phrase (RFC 9110 section 15).
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        103 => "Early Hints",
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
