//! Request and response heads as offsets into the caller's buffer (RFC 9112 sections 2 to 5).
//!
//! httparse splits the lines; what is allowed in them is decided here, more strictly than the RFC's leave to be lenient:
//! bare CR or LF, obs-fold, white space before the colon and control characters are refused wherever they stand.

use std::mem::MaybeUninit;

use memchr::memmem;

pub use super::field::{Field, Fields, Name};
pub use super::repeats::Repeats;
use super::repeats::repeats;
use crate::base::Span;

/// Fields that one head may have whatever the limits say: what fits the parser's table on the stack.
pub const FIELDS_MAX: usize = 128;

/// Bounds on one head; all in bytes but `fields`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    pub head_bytes: usize,
    pub fields: usize,
    pub target_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Connect,
    Trace,
    /// Any other valid token; its spelling is `RequestHead::method_text`.
    Other,
}

/// "Not yet" is not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Incomplete,
    Complete,
}

/// Reused from request to request: parsing in the steady state allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Bytes of the head with its final CRLF CRLF.
    pub len: usize,
    pub method: Method,
    pub method_text: Span,
    /// As received: origin form, absolute form, or `*`.
    pub target: Span,
    /// Path and query of the target (of an absolute form: behind the authority, "/" if empty).
    /// Empty span with `target` in absolute form and no path means "/".
    pub path_and_query: Span,
    /// The authority of an absolute-form target, else empty.
    pub authority: Span,
    pub version: Version,
    pub fields: Fields,
    searched: usize,
}

/// As [`RequestHead`], of an answer. One that repeats the head before it is not parsed again.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    pub len: usize,
    pub status: u16,
    pub reason: Span,
    pub version: Version,
    pub fields: Fields,
    /// Of all that were parsed into this; a head that is the same but for the digits of its length keeps the number.
    pub number: u64,
    searched: usize,
    /// The bytes of the head that was parsed last, if they are few, and the limits that it kept.
    before: Vec<u8>,
    limits: Option<HeadLimits>,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the head is too large")]
    TooLarge,
    #[error("the head has too many fields")]
    TooManyFields,
    #[error("the request target is too long")]
    TargetTooLong,
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    UnsupportedVersion,
    #[error("malformed head: {0}")]
    Malformed(&'static str),
}

impl HeadError {
    /// The status that tells the client.
    pub fn status(&self) -> u16 {
        match self {
            HeadError::TooLarge | HeadError::TooManyFields => 431,
            HeadError::TargetTooLong => 414,
            HeadError::UnsupportedVersion => 505,
            HeadError::Malformed(_) => 400,
        }
    }
}

use HeadError::Malformed;

/// The end of the last line, and the empty line.
const END: &[u8] = b"\r\n\r\n";
/// Longest method, bytes.
const METHOD_BYTES_MAX: usize = 32;
/// Longest answer's head that is kept to be compared with the next, bytes.
const REPEATED_BYTES_MAX: usize = 1024;
const BARE_LINE_FEED: HeadError = Malformed("line feed without carriage return");

impl RequestHead {
    /// Forget the last request, keep the memory.
    pub fn reset(&mut self) {
        self.len = 0;
        self.searched = 0;
        self.fields.clear();
    }

    /// Parse the head at the start of `bytes`; call again with more bytes while `Incomplete`.
    pub fn parse(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Progress, HeadError> {
        // One empty line before a request line is tolerated (RFC 9112 section 2.2).
        if bytes == b"\r" {
            return Ok(Progress::Incomplete);
        }
        let skip = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let config = httparse::ParserConfig::default();
        // Most heads come whole and are fine: then they are gone through once. With all others care comes first.
        if self.searched == 0 && bytes.get(skip).is_some_and(|&byte| is_token(byte)) {
            let status = config.parse_request_with_uninit_headers(&mut parsed, &bytes[skip..], &mut slots);
            if let Ok(httparse::Status::Complete(len)) = status
                && len <= limits.head_bytes
                && bytes[..skip + len].ends_with(END)
                && parsed.method.is_some_and(|method| method.len() <= METHOD_BYTES_MAX)
            {
                return self.take(bytes, skip + len, &parsed, limits);
            }
        }
        check_start(&bytes[skip..], limits)?;
        let Some(end) = find_end(bytes, skip, &mut self.searched, limits.head_bytes)? else {
            return Ok(Progress::Incomplete);
        };
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let status = config.parse_request_with_uninit_headers(&mut parsed, &bytes[skip..end], &mut slots);
        let status = status.map_err(|error| match error {
            httparse::Error::Version if !names_a_version(&bytes[skip..end]) => Malformed("request line"),
            other => parse_error(other),
        })?;
        // Unless the parser saw its end too early, what it says of the head is said first.
        let taken = self.take(bytes, end, &parsed, limits)?;
        ends_at(status, end - skip)?;
        Ok(taken)
    }

    /// Keep where in `bytes`, of which the head has `end`, everything stands.
    fn take(
        &mut self,
        bytes: &[u8],
        end: usize,
        parsed: &httparse::Request<'_, '_>,
        limits: &HeadLimits,
    ) -> Result<Progress, HeadError> {
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(Malformed("no request line"));
        };
        if target.len() > limits.target_bytes {
            return Err(HeadError::TargetTooLong);
        }
        self.len = end;
        self.version = if version == 0 { Version::Http10 } else { Version::Http11 };
        self.method = method_of(method.as_bytes());
        self.method_text = Span::within(bytes, method.as_bytes());
        self.target = Span::within(bytes, target.as_bytes());
        collect(&mut self.fields, bytes, parsed.headers, limits)?;
        self.split_target(bytes)?;
        Ok(Progress::Complete)
    }

    fn split_target(&mut self, bytes: &[u8]) -> Result<(), HeadError> {
        let target = self.target.of(bytes);
        check_target(target)?;
        self.authority = Span::EMPTY;
        self.path_and_query = self.target;
        if target.first() == Some(&b'/') {
            return Ok(());
        }
        if self.method == Method::Connect {
            return valid_authority(target).then_some(()).ok_or(Malformed("CONNECT needs an authority"));
        }
        if target == b"*" && self.method == Method::Options {
            return Ok(());
        }
        let scheme = [b"http://".as_slice(), b"https://"]
            .into_iter()
            .find(|scheme| target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme))
            .ok_or(Malformed("request target"))?;
        let rest = &target[scheme.len()..];
        let authority_len = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_len);
        if !valid_authority(authority) || path.first() == Some(&b'?') {
            return Err(Malformed("request target"));
        }
        self.authority = Span::within(bytes, authority);
        self.path_and_query = if path.is_empty() { Span::EMPTY } else { Span::within(bytes, path) };
        Ok(())
    }

    /// The one valid Host (RFC 9112 section 3.2); empty for an HTTP/1.0 request without one.
    pub fn host<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], HeadError> {
        let host = match self.find(bytes, Name::Host) {
            Some(_) if self.fields.is_repeated(Name::Host) => return Err(Malformed("more than one Host")),
            Some(host) => host,
            None if self.version == Version::Http10 => return Ok(self.authority.of(bytes)),
            None => return Err(Malformed("no Host")),
        };
        if !valid_authority(host) {
            return Err(Malformed("Host"));
        }
        let authority = self.authority.of(bytes);
        if !authority.is_empty() && !authority.eq_ignore_ascii_case(host) {
            return Err(Malformed("Host differs from the request target"));
        }
        Ok(host)
    }

    /// The first value of a field.
    pub fn find<'a>(&self, bytes: &'a [u8], name: Name) -> Option<&'a [u8]> {
        self.fields.find(bytes, name)
    }
}

impl ResponseHead {
    /// The next answer begins.
    pub fn reset(&mut self) {
        self.searched = 0;
    }

    /// Parse the head at the start of `bytes`; call again with more bytes while `Incomplete`. What is known of the head
    /// before holds until this one is complete.
    pub fn parse(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Progress, HeadError> {
        if self.limits == Some(*limits) && self.searched == 0 && repeats(&self.fields, bytes, &self.before) {
            return Ok(Progress::Complete);
        }
        self.limits = None;
        let progress = self.parse_anew(bytes, limits)?;
        if progress == Progress::Complete && self.len <= REPEATED_BYTES_MAX {
            self.before.clear();
            self.before.extend_from_slice(&bytes[..self.len]);
            self.limits = Some(*limits);
        }
        Ok(progress)
    }

    fn parse_anew(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Progress, HeadError> {
        const START: &[u8] = b"HTTP/1.";
        let known = bytes.len().min(START.len());
        if bytes[..known] != START[..known] {
            return Err(Malformed("no status line"));
        }
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        if self.searched == 0 {
            let status = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut slots);
            if let Ok(httparse::Status::Complete(len)) = status
                && len <= limits.head_bytes
                && bytes[..len].ends_with(END)
            {
                return self.take(bytes, len, &parsed, limits);
            }
        }
        let Some(end) = find_end(bytes, 0, &mut self.searched, limits.head_bytes)? else {
            return Ok(Progress::Incomplete);
        };
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let status = config.parse_response_with_uninit_headers(&mut parsed, &bytes[..end], &mut slots);
        ends_at(status.map_err(parse_error)?, end)?;
        self.take(bytes, end, &parsed, limits)
    }

    /// As of a request.
    fn take(
        &mut self,
        bytes: &[u8],
        end: usize,
        parsed: &httparse::Response<'_, '_>,
        limits: &HeadLimits,
    ) -> Result<Progress, HeadError> {
        let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
            return Err(Malformed("no status line"));
        };
        if !(100..600).contains(&status) {
            return Err(Malformed("status"));
        }
        self.number += 1;
        self.len = end;
        self.status = status;
        self.version = if version == 0 { Version::Http10 } else { Version::Http11 };
        // httparse gives a text outside the buffer for a reason that it does not like; it is informative only.
        let reason = parsed.reason.unwrap_or_default().as_bytes();
        let inside = bytes.as_ptr_range().contains(&reason.as_ptr());
        self.reason = if inside && !reason.is_empty() { Span::within(bytes, reason) } else { Span::EMPTY };
        collect(&mut self.fields, bytes, parsed.headers, limits)?;
        Ok(Progress::Complete)
    }

    /// The first value of a field.
    pub fn find<'a>(&self, bytes: &'a [u8], name: Name) -> Option<&'a [u8]> {
        self.fields.find(bytes, name)
    }
}

/// The parser takes a bare line feed for the end of a line: then it sees the end of the head before we do.
fn ends_at(status: httparse::Status<usize>, end: usize) -> Result<(), HeadError> {
    match status {
        httparse::Status::Complete(len) if len == end => Ok(()),
        _ => Err(BARE_LINE_FEED),
    }
}

/// The end of the head, behind its empty line. Looks at no byte twice, and refuses early what can never become a head:
/// a line feed without its carriage return, or more bytes than the limit. (In a head that is whole the parser and
/// [`collect`] find such a line feed.)
fn find_end(bytes: &[u8], skip: usize, searched: &mut usize, head_bytes: usize) -> Result<Option<usize>, HeadError> {
    let from = (*searched).max(skip).saturating_sub(3).max(skip);
    let end = memmem::find(&bytes[from.min(bytes.len())..], END).map(|at| from + at + 4);
    let upto = end.unwrap_or(bytes.len());
    if end.is_some() {
        return if upto - skip > head_bytes { Err(HeadError::TooLarge) } else { Ok(end) };
    }
    let new = &bytes[(*searched).min(upto)..];
    for at in memchr::memchr_iter(b'\n', new).map(|at| at + *searched) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(BARE_LINE_FEED);
        }
    }
    for at in memchr::memchr_iter(b'\r', new).map(|at| at + *searched) {
        if bytes.get(at + 1).is_some_and(|&next| next != b'\n') {
            return Err(Malformed("carriage return without line feed"));
        }
    }
    *searched = upto;
    // The last byte may be a carriage return whose line feed is still to come: look at it again next time.
    if bytes.last() == Some(&b'\r') {
        *searched -= 1;
    }
    if upto - skip > head_bytes { Err(HeadError::TooLarge) } else { Ok(None) }
}

/// Refuse what cannot be the start of a request line, so that TLS or noise gets its answer at once.
fn check_start(bytes: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
    let line = &bytes[..memchr::memchr(b'\r', bytes).unwrap_or(bytes.len())];
    let method = &line[..memchr::memchr(b' ', line).unwrap_or(line.len())];
    if method.len() > METHOD_BYTES_MAX || !is_all(method, TOKEN) || (method.is_empty() && !bytes.is_empty()) {
        return Err(Malformed("method"));
    }
    let target = line.get(method.len() + 1..).unwrap_or_default();
    if memchr::memchr(b' ', target).unwrap_or(target.len()) > limits.target_bytes {
        return Err(HeadError::TargetTooLong);
    }
    Ok(())
}

/// Whether the request line is three words of which the last is some version of HTTP: then 505, else 400.
fn names_a_version(head: &[u8]) -> bool {
    let line = &head[..memchr::memchr(b'\r', head).unwrap_or(head.len())];
    let mut words = line.split(|&b| b == b' ');
    let last = words.by_ref().nth(2);
    words.next().is_none() && last.is_some_and(|word| word.len() == 8 && word.starts_with(b"HTTP/"))
}

fn parse_error(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version => HeadError::UnsupportedVersion,
        httparse::Error::HeaderName => Malformed("field name"),
        httparse::Error::HeaderValue => Malformed("field value"),
        httparse::Error::NewLine => Malformed("line end"),
        httparse::Error::Status => Malformed("status line"),
        httparse::Error::Token => Malformed("request line"),
    }
}

fn collect(
    fields: &mut Fields,
    bytes: &[u8],
    parsed: &[httparse::Header<'_>],
    limits: &HeadLimits,
) -> Result<(), HeadError> {
    if parsed.len() > limits.fields {
        return Err(HeadError::TooManyFields);
    }
    fields.clear();
    for header in parsed {
        let name = header.name.as_bytes();
        if name.is_empty() {
            return Err(Malformed("field name"));
        }
        let span = Span::within(bytes, name);
        if !bytes[..span.start as usize].ends_with(b"\r\n") {
            return Err(BARE_LINE_FEED);
        }
        let value = header.value.trim_ascii();
        let value = if value.is_empty() { Span::EMPTY } else { Span::within(bytes, value) };
        fields.push(Field { name: span, value, known: Name::of(name) });
    }
    Ok(())
}

/// What a byte may be part of.
const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const REG_NAME: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        let alphanumeric = (byte as u8).is_ascii_alphanumeric();
        // RFC 9110 section 5.6.2.
        if alphanumeric || stands_in(b"!#$%&'*+-.^_`|~", byte as u8) {
            classes[byte] |= TOKEN;
        }
        // Visible ASCII without what no URI has (RFC 3986).
        if !stands_in(b"\"<>\\^`{|}#", byte as u8) {
            classes[byte] |= TARGET;
        }
        // RFC 3986 section 3.2.2.
        if alphanumeric || stands_in(b"-._~%!$&'()*+,;=", byte as u8) {
            classes[byte] |= REG_NAME;
        }
        byte += 1;
    }
    classes
};

const fn stands_in(set: &[u8], byte: u8) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

/// Token characters (RFC 9110 section 5.6.2).
pub fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

/// Whether all of `text` is of a class.
fn is_all(text: &[u8], class: u8) -> bool {
    text.iter().fold(class, |left, &byte| left & CLASSES[usize::from(byte)]) != 0
}

/// What a URI may have, and whole percent escapes (RFC 3986).
fn check_target(target: &[u8]) -> Result<(), HeadError> {
    let mut escapes = target;
    while let Some(at) = memchr::memchr(b'%', escapes) {
        match escapes.get(at + 1..at + 3) {
            Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => escapes = &escapes[at + 3..],
            _ => return Err(Malformed("percent escape in the request target")),
        }
    }
    if target.is_empty() || !is_all(target, TARGET) {
        return Err(Malformed("request target"));
    }
    Ok(())
}

/// `uri-host [":" port]` without userinfo (RFC 9110 section 7.2).
fn valid_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority.first() {
        Some(b'[') => {
            let Some(end) = memchr::memchr(b']', authority) else { return false };
            let literal = std::str::from_utf8(&authority[1..end]).unwrap_or_default();
            if literal.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (&authority[..=end], &authority[end + 1..])
        }
        Some(_) => authority.split_at(memchr::memchr(b':', authority).unwrap_or(authority.len())),
        None => return false,
    };
    let host_ok = host.first() == Some(&b'[') || (!host.is_empty() && is_all(host, REG_NAME));
    let port_ok = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_ok && port_ok
}

fn method_of(method: &[u8]) -> Method {
    match method {
        b"GET" => Method::Get,
        b"POST" => Method::Post,
        b"HEAD" => Method::Head,
        b"PUT" => Method::Put,
        b"PATCH" => Method::Patch,
        b"DELETE" => Method::Delete,
        b"OPTIONS" => Method::Options,
        b"CONNECT" => Method::Connect,
        b"TRACE" => Method::Trace,
        _ => Method::Other,
    }
}
