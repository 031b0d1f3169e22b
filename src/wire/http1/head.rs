//! Request and response heads as offsets into the caller's buffer (RFC 9112 sections 2 to 5).
//!
//! httparse splits the lines; what is allowed in them is decided here, more strictly than the RFC's leave to be lenient:
//! bare CR or LF, obs-fold, white space before the colon and control characters are refused wherever they stand.

use std::mem::MaybeUninit;

use memchr::memmem;

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

/// Field names that the proxy acts upon, told once while parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Name {
    #[default]
    Other,
    Accept,
    Authorization,
    Connection,
    ContentEncoding,
    ContentLength,
    ContentType,
    Cookie,
    Expect,
    Forwarded,
    Host,
    /// Who somebody in front says that the client is: `X-Forwarded-User`, `Remote-User` and their like.
    Identity,
    KeepAlive,
    LastEventId,
    McpMethod,
    McpName,
    McpProtocolVersion,
    McpSessionId,
    Origin,
    Proxy,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// `X-Forwarded-*` other than the three above, and `X-Real-IP`.
    XForwardedOther,
    /// A name that contains an underscore: never forwarded (`hardening` rule 6a).
    Underscored,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Field {
    pub name: Span,
    /// Without surrounding white space.
    pub value: Span,
    pub known: Name,
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
    pub fields: Vec<Field>,
    searched: usize,
}

/// As [`RequestHead`], of an answer.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    pub len: usize,
    pub status: u16,
    pub reason: Span,
    pub version: Version,
    pub fields: Vec<Field>,
    searched: usize,
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
        check_start(&bytes[skip..], limits)?;
        let Some(end) = find_end(bytes, skip, &mut self.searched, limits.head_bytes)? else {
            return Ok(Progress::Incomplete);
        };
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let config = httparse::ParserConfig::default();
        let status = config.parse_request_with_uninit_headers(&mut parsed, &bytes[skip..end], &mut slots);
        let status = status.map_err(|error| match error {
            httparse::Error::Version if !names_a_version(&bytes[skip..end]) => Malformed("request line"),
            other => parse_error(other),
        })?;
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
        ends_at(status, end - skip)?;
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
        let mut hosts = self.fields.iter().filter(|field| field.known == Name::Host);
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.value.of(bytes),
            (None, _) if self.version == Version::Http10 => return Ok(self.authority.of(bytes)),
            (None, _) => return Err(Malformed("no Host")),
            (Some(_), Some(_)) => return Err(Malformed("more than one Host")),
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
        find(&self.fields, bytes, name)
    }

    pub fn count(&self, name: Name) -> usize {
        self.fields.iter().filter(|field| field.known == name).count()
    }
}

impl ResponseHead {
    /// Forget the last answer, keep the memory.
    pub fn reset(&mut self) {
        self.len = 0;
        self.searched = 0;
        self.fields.clear();
    }

    /// Parse the head at the start of `bytes`; call again with more bytes while `Incomplete`.
    pub fn parse(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Progress, HeadError> {
        const START: &[u8] = b"HTTP/1.";
        let known = bytes.len().min(START.len());
        if bytes[..known] != START[..known] {
            return Err(Malformed("no status line"));
        }
        let Some(end) = find_end(bytes, 0, &mut self.searched, limits.head_bytes)? else {
            return Ok(Progress::Incomplete);
        };
        let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let status = config.parse_response_with_uninit_headers(&mut parsed, &bytes[..end], &mut slots);
        ends_at(status.map_err(parse_error)?, end)?;
        let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
            return Err(Malformed("no status line"));
        };
        if !(100..600).contains(&status) {
            return Err(Malformed("status"));
        }
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
        find(&self.fields, bytes, name)
    }

    pub fn count(&self, name: Name) -> usize {
        self.fields.iter().filter(|field| field.known == name).count()
    }
}

fn find<'a>(fields: &[Field], bytes: &'a [u8], name: Name) -> Option<&'a [u8]> {
    fields.iter().find(|field| field.known == name).map(|field| field.value.of(bytes))
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
    let end = memmem::find(&bytes[from.min(bytes.len())..], b"\r\n\r\n").map(|at| from + at + 4);
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
    if method.len() > 32 || !method.iter().all(|&b| is_token(b)) || (method.is_empty() && !bytes.is_empty()) {
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
    fields: &mut Vec<Field>,
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
        fields.push(Field { name: span, value, known: name_of(name) });
    }
    Ok(())
}

/// Token characters (RFC 9110 section 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Visible ASCII without what no URI has, and whole percent escapes (RFC 3986).
fn check_target(target: &[u8]) -> Result<(), HeadError> {
    let mut escapes = target;
    while let Some(at) = memchr::memchr(b'%', escapes) {
        match escapes.get(at + 1..at + 3) {
            Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => escapes = &escapes[at + 3..],
            _ => return Err(Malformed("percent escape in the request target")),
        }
    }
    let allowed = |byte: &u8| (0x21..0x7f).contains(byte) && !b"\"<>\\^`{|}#".contains(byte);
    if target.is_empty() || !target.iter().all(allowed) {
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
    let name_byte = |&b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b);
    let host_ok = host.first() == Some(&b'[') || (!host.is_empty() && host.iter().all(name_byte));
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

/// By length first, so that most names cost one comparison or none.
fn name_of(name: &[u8]) -> Name {
    let candidates: &[(&str, Name)] = match name.len() {
        2 => &[("te", Name::Te)],
        3 => &[("via", Name::Via)],
        4 => &[("host", Name::Host)],
        5 => &[("proxy", Name::Proxy)],
        6 => &[("accept", Name::Accept), ("cookie", Name::Cookie), ("origin", Name::Origin), ("expect", Name::Expect)],
        7 => &[("upgrade", Name::Upgrade), ("trailer", Name::Trailer)],
        8 => &[("mcp-name", Name::McpName)],
        9 => &[("forwarded", Name::Forwarded), ("x-real-ip", Name::XForwardedOther)],
        11 => &[("remote-user", Name::Identity)],
        10 => &[("connection", Name::Connection), ("keep-alive", Name::KeepAlive), ("mcp-method", Name::McpMethod)],
        12 => &[("content-type", Name::ContentType)],
        13 => &[
            ("authorization", Name::Authorization),
            ("last-event-id", Name::LastEventId),
            ("x-remote-user", Name::Identity),
        ],
        14 => &[("content-length", Name::ContentLength), ("mcp-session-id", Name::McpSessionId)],
        15 => &[("x-forwarded-for", Name::XForwardedFor)],
        16 => &[
            ("content-encoding", Name::ContentEncoding),
            ("x-forwarded-host", Name::XForwardedHost),
            ("proxy-connection", Name::ProxyConnection),
            ("x-forwarded-user", Name::Identity),
        ],
        17 => &[
            ("transfer-encoding", Name::TransferEncoding),
            ("x-forwarded-proto", Name::XForwardedProto),
            ("x-forwarded-email", Name::Identity),
        ],
        18 => &[
            ("proxy-authenticate", Name::ProxyAuthenticate),
            ("x-forwarded-scopes", Name::Identity),
            ("x-forwarded-groups", Name::Identity),
        ],
        19 => &[("proxy-authorization", Name::ProxyAuthorization)],
        20 => &[("mcp-protocol-version", Name::McpProtocolVersion)],
        _ => &[],
    };
    for (spelling, known) in candidates {
        if name.eq_ignore_ascii_case(spelling.as_bytes()) {
            return *known;
        }
    }
    if name.len() > 15 && name[..15].eq_ignore_ascii_case(b"x-auth-request-") {
        return Name::Identity;
    }
    if name.contains(&b'_') {
        Name::Underscored
    } else if name.len() > 12 && name[..12].eq_ignore_ascii_case(b"x-forwarded-") {
        Name::XForwardedOther
    } else {
        Name::Other
    }
}
