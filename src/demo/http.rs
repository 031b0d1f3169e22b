//! HTTP as the demo needs it: whole requests out of a connection's buffer, answers into one.

use std::cell::RefCell;
use std::io::Write;
use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::Span;

/// Bytes of one request head.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const FIELDS_MAX: usize = 100;
/// Bytes of one request body, decoded.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one chunk-size line with its extensions.
const CHUNK_LINE_BYTES_MAX: usize = 256;
const TRAILER_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Delete,
    #[default]
    Other,
}

/// A request that is refused before anybody looks at it, with this status; the connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

/// The `Accept` fields; none at all accepts everything (RFC 9110 section 12.5.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepts {
    given: bool,
    json: bool,
    events: bool,
}

impl Accepts {
    pub fn json(self) -> bool {
        self.json || !self.given
    }

    pub fn events(self) -> bool {
        self.events || !self.given
    }

    fn add(&mut self, value: &[u8]) {
        self.given = true;
        for range in value.split(|byte| *byte == b',') {
            let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let kind = parts.next().unwrap_or_default();
            let refused = parts.any(|part| matches!(part, b"q=0" | b"q=0.0" | b"q=0.00" | b"q=0.000"));
            let is =
                |kinds: [&str; 3]| !refused && kinds.iter().any(|known| kind.eq_ignore_ascii_case(known.as_bytes()));
            self.json |= is(["application/json", "application/*", "*/*"]);
            self.events |= is(["text/event-stream", "text/*", "*/*"]);
        }
    }
}

/// The parts of a head that the demo acts upon, as spans of the buffer it was read from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    pub head_bytes: usize,
    pub method: Method,
    pub path: Span,
    pub query: Span,
    pub http10: bool,
    pub keep_alive: bool,
    pub expects_continue: bool,
    pub accepts: Accepts,
    pub content_type: Option<Span>,
    pub host: Option<Span>,
    pub origin: Option<Span>,
    pub session: Option<Span>,
    pub version: Option<Span>,
    pub mcp_method: Option<Span>,
    pub mcp_name: Option<Span>,
    pub region: Option<Span>,
    pub last_event_id: Option<Span>,
    /// `None` for a chunked body.
    length: Option<usize>,
}

/// Reads a head; `None` while it is incomplete. Framing is refused as RFC 9112 section 6.3 asks, and
/// where it leaves a choice, strictly.
pub fn head(buffer: &[u8]) -> Result<Option<Request>, Refused> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let head_bytes = match parsed.parse_with_uninit_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete(bytes)) if bytes <= HEAD_BYTES_MAX => bytes,
        Ok(httparse::Status::Partial) if buffer.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Refused(431)),
        Err(_) => return Err(Refused(400)),
    };
    let target = parsed.path.unwrap_or_default().as_bytes();
    let query_at = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let mut request = Request {
        head_bytes,
        method: match parsed.method.unwrap_or_default() {
            "GET" => Method::Get,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            _ => Method::Other,
        },
        path: Span::within(buffer, &target[..query_at]),
        query: Span::within(buffer, target.get(query_at + 1..).unwrap_or(&target[target.len()..])),
        http10: parsed.version == Some(0),
        keep_alive: parsed.version == Some(1),
        length: Some(0),
        ..Request::default()
    };
    let (mut lengths, mut codings) = (0, 0);
    for field in parsed.headers.iter() {
        let value = Span::within(buffer, field.value);
        let slot = match field.name {
            name if name.eq_ignore_ascii_case("content-length") => {
                lengths += 1;
                request.length = Some(decimal(field.value).ok_or(Refused(400))?);
                continue;
            }
            name if name.eq_ignore_ascii_case("transfer-encoding") => {
                codings += 1;
                request.length = None;
                if !field.value.eq_ignore_ascii_case(b"chunked") || request.http10 {
                    return Err(Refused(400));
                }
                continue;
            }
            name if name.eq_ignore_ascii_case("connection") => {
                request.keep_alive = keeps_alive(field.value, request.keep_alive);
                continue;
            }
            name if name.eq_ignore_ascii_case("expect") => {
                request.expects_continue = field.value.eq_ignore_ascii_case(b"100-continue");
                continue;
            }
            name if name.eq_ignore_ascii_case("accept") => {
                request.accepts.add(field.value);
                continue;
            }
            name => match request.slot(name) {
                Some(slot) => slot,
                None => continue,
            },
        };
        // Two of a field that selects what is served: a proxy may have looked at the other one.
        if slot.replace(value).is_some() {
            return Err(Refused(400));
        }
    }
    if lengths + codings > 1 || (request.host.is_none() && !request.http10) {
        return Err(Refused(400));
    }
    if request.length.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(Refused(413));
    }
    Ok(Some(request))
}

impl Request {
    fn slot(&mut self, name: &str) -> Option<&mut Option<Span>> {
        let slots = [
            ("host", &mut self.host),
            ("content-type", &mut self.content_type),
            ("mcp-session-id", &mut self.session),
            ("mcp-protocol-version", &mut self.version),
            ("origin", &mut self.origin),
            ("mcp-method", &mut self.mcp_method),
            ("mcp-name", &mut self.mcp_name),
            ("mcp-param-region", &mut self.region),
            ("last-event-id", &mut self.last_event_id),
        ];
        slots.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, slot)| slot)
    }

    pub fn has_chunked_body(&self) -> bool {
        self.length.is_none()
    }

    /// The body in `buffer`, which begins with this head, and the bytes of the whole request; `None`
    /// while it is incomplete. A chunked body is decoded into `scratch`.
    pub fn body<'a>(&self, buffer: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Option<(&'a [u8], usize)>, Refused> {
        let Some(length) = self.length else {
            scratch.clear();
            let used = unchunk(&buffer[self.head_bytes..], scratch)?;
            return Ok(used.map(|used| (&scratch[..], self.head_bytes + used)));
        };
        let end = self.head_bytes + length;
        Ok(buffer.get(self.head_bytes..end).map(|body| (body, end)))
    }
}

fn keeps_alive(value: &[u8], before: bool) -> bool {
    let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if options.clone().any(|option| option.eq_ignore_ascii_case(b"close")) {
        return false;
    }
    before || options.any(|option| option.eq_ignore_ascii_case(b"keep-alive"))
}

fn decimal(digits: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Decodes a chunked body (RFC 9112 section 7.1); gives the bytes it took, `None` while incomplete.
fn unchunk(mut rest: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Refused> {
    let whole = rest.len();
    loop {
        let Some(line) = line(rest, CHUNK_LINE_BYTES_MAX)? else { return Ok(None) };
        rest = &rest[line.len() + 2..];
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = match std::str::from_utf8(digits).map(|hex| (hex, usize::from_str_radix(hex, 16))) {
            Ok((hex, Ok(size))) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => size,
            _ => return Err(Refused(400)),
        };
        if size == 0 {
            break;
        }
        if size > BODY_BYTES_MAX - out.len() {
            return Err(Refused(413));
        }
        let Some((data, behind)) = rest.split_at_checked(size) else { return Ok(None) };
        match behind {
            [b'\r', b'\n', behind @ ..] => rest = behind,
            [] | [b'\r'] => return Ok(None),
            _ => return Err(Refused(400)),
        }
        out.extend_from_slice(data);
    }
    // Trailers say nothing that the demo wants.
    loop {
        let Some(line) = line(rest, TRAILER_BYTES_MAX)? else { return Ok(None) };
        rest = &rest[line.len() + 2..];
        if line.is_empty() {
            return Ok(Some(whole - rest.len()));
        }
    }
}

/// The first line without its CRLF; a bare CR or LF is refused.
fn line(rest: &[u8], bytes_max: usize) -> Result<Option<&[u8]>, Refused> {
    match memchr::memchr2(b'\r', b'\n', rest) {
        Some(at) if at > bytes_max => Err(Refused(400)),
        Some(at) => match &rest[at..] {
            [b'\r', b'\n', ..] => Ok(Some(&rest[..at])),
            [b'\r'] => Ok(None),
            _ => Err(Refused(400)),
        },
        None if rest.len() > bytes_max => Err(Refused(400)),
        None => Ok(None),
    }
}

/// What stands in the head of an answer besides its status.
#[derive(Clone, Copy, Default)]
pub struct Reply<'a> {
    pub content_type: &'a str,
    pub session: Option<&'a str>,
    pub allow: Option<&'a str>,
    pub close: bool,
    /// The client spoke HTTP/1.0 and wants the connection kept.
    pub says_keep_alive: bool,
}

/// Appends a whole answer.
pub fn answer(out: &mut Vec<u8>, status: u16, reply: Reply<'_>, body: &[u8]) {
    open(out, status, &reply);
    let typed = if body.is_empty() { "" } else { reply.content_type };
    if !typed.is_empty() {
        write!(out, "Content-Type: {typed}\r\n").expect("writing to a Vec does not fail");
    }
    write!(out, "Content-Length: {}\r\n\r\n", body.len()).expect("writing to a Vec does not fail");
    out.extend_from_slice(body);
}

/// Appends the head of an event stream; HTTP/1.0 gets one that ends with the connection.
pub fn event_stream(out: &mut Vec<u8>, reply: Reply<'_>, chunked: bool) {
    open(out, 200, &reply);
    out.extend_from_slice(b"Content-Type: text/event-stream\r\n");
    // Buffering proxies hold small events back otherwise.
    out.extend_from_slice(b"Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n");
    out.extend_from_slice(if chunked { b"Transfer-Encoding: chunked\r\n\r\n" } else { b"\r\n" });
}

fn open(out: &mut Vec<u8>, status: u16, reply: &Reply<'_>) {
    write!(out, "HTTP/1.1 {status} {}\r\n", reason(status)).expect("writing to a Vec does not fail");
    date(out);
    if let Some(session) = reply.session {
        write!(out, "Mcp-Session-Id: {session}\r\n").expect("writing to a Vec does not fail");
    }
    if let Some(allow) = reply.allow {
        write!(out, "Allow: {allow}\r\n").expect("writing to a Vec does not fail");
    }
    if reply.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if reply.says_keep_alive {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        431 => "Request Header Fields Too Large",
        _ => "Error",
    }
}

/// `Date` (RFC 9110 section 6.6.1), written anew once a second.
fn date(out: &mut Vec<u8>) {
    thread_local!(static LINE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LINE.with_borrow_mut(|(written, line)| {
        if *written != now || line.is_empty() {
            (*written, *line) = (now, date_line(now));
        }
        out.extend_from_slice(line.as_bytes());
    });
}

fn date_line(seconds: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, in the proleptic Gregorian calendar: leap days come last.
    let (era, day) = ((days + 719_468) / 146_097, (days + 719_468) % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (date, year) = (day - (153 * month + 2) / 5 + 1, era * 400 + year + u64::from(month >= 10));
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let (weekday, month) = (WEEKDAYS[(days % 7) as usize], MONTHS[month as usize]);
    format!("Date: {weekday}, {date:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pipelined_requests_with_both_framings() {
        let wire = b"POST /mcp?x=1 HTTP/1.1\r\nHost: a\r\nmcp-session-ID:  s \r\nContent-Length: 2\r\n\r\nhi\
                     POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nyo\r\n1\r\n!\r\n0\r\nT: 1\r\n\r\nrest";
        let (mut scratch, first) = (Vec::new(), head(wire).expect("valid").expect("complete"));
        assert_eq!((first.path.of(wire), first.query.of(wire)), (&b"/mcp"[..], &b"x=1"[..]));
        assert_eq!(first.session.map(|span| span.of(wire)), Some(&b"s"[..]));
        let (body, used) = first.body(wire, &mut scratch).expect("valid").expect("complete");
        assert_eq!(body, b"hi");
        let wire = &wire[used..];
        let second = head(wire).expect("valid").expect("complete");
        let (body, used) = second.body(wire, &mut scratch).expect("valid").expect("complete");
        assert_eq!((body, &wire[used..]), (&b"yo!"[..], &b"rest"[..]));
        for cut in 0..used {
            let part = &wire[..cut];
            let body = head(part).expect("valid").map(|head| head.body(part, &mut scratch).expect("valid").is_some());
            assert_ne!(body, Some(true), "{cut} bytes");
        }
    }

    #[test]
    fn refuses_ambiguous_framing() {
        let status = |fields: &str| head(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).err();
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: \r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Host: b\r\n",
            "Mcp-Session-Id: a\r\nMcp-Session-Id: b\r\n",
        ] {
            assert_eq!(status(fields), Some(Refused(400)), "{fields}");
        }
        assert_eq!(status("Content-Length: 99999999\r\n"), Some(Refused(413)));
        assert_eq!(status(&"A: b\r\n".repeat(200)), Some(Refused(431)));
        for chunks in ["\r\n", "-1\r\n", "1\r\nab", "1\nx\r\n", "fffffff\r\n", "zz\r\n"] {
            assert!(unchunk(chunks.as_bytes(), &mut Vec::new()).is_err(), "{chunks}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date_line(0), "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
        assert_eq!(date_line(951_782_400), "Date: Tue, 29 Feb 2000 00:00:00 GMT\r\n");
        assert_eq!(date_line(1_785_283_199), "Date: Tue, 28 Jul 2026 23:59:59 GMT\r\n");
        assert_eq!(date_line(1_798_761_599), "Date: Thu, 31 Dec 2026 23:59:59 GMT\r\n");
    }
}
