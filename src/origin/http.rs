//! HTTP as an origin server needs it: what it reads off a request's head, and the heads of its answers.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::wire::http1::encode;
use crate::wire::http1::framing::{self, BodyLength, FramingError};
use crate::wire::http1::head::{HeadError, HeadLimits, Method, Name, RequestHead, Version};
use crate::wire::mcp::header;

pub const JSON: &str = "application/json";

pub const HEAD_LIMITS: HeadLimits = HeadLimits { head_bytes: 32 * 1024, fields: 100, target_bytes: 8 * 1024 };

/// A request that is refused before anybody looks at it, with this status; the connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

impl From<HeadError> for Refused {
    fn from(error: HeadError) -> Refused {
        Refused(error.status())
    }
}

impl From<FramingError> for Refused {
    fn from(error: FramingError) -> Refused {
        Refused(error.status())
    }
}

/// What an origin server acts upon, of one request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    head: &'a RequestHead,
    /// Of the head, and maybe of what follows it.
    bytes: &'a [u8],
    pub method: Method,
    pub path: &'a [u8],
    pub path_and_query: &'a [u8],
    pub host: &'a [u8],
    pub accepts: Accepts,
    pub content_type: Option<&'a [u8]>,
    pub origin: Option<&'a [u8]>,
    pub session: Option<&'a [u8]>,
    pub version: Option<&'a [u8]>,
    pub mcp_method: Option<&'a [u8]>,
    pub mcp_name: Option<&'a [u8]>,
    pub last_event_id: Option<&'a [u8]>,
    pub body: &'a [u8],
    pub transport: Transport,
}

/// How a request came, which decides how its answer goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    pub http10: bool,
    pub keep_alive: bool,
}

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

/// Where a request's body is, and how the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    pub length: BodyLength,
    pub transport: Transport,
    pub expects_continue: bool,
}

/// Framing that two parsers could read differently is refused, as is a body of more than `body_max` bytes.
pub fn frame(head: &RequestHead, bytes: &[u8], body_max: u64) -> Result<Framing, Refused> {
    head.host(bytes)?;
    let framing = framing::request(head, bytes)?;
    if matches!(framing.body, BodyLength::Length(length) if length > body_max) {
        return Err(Refused(413));
    }
    let http10 = head.version == Version::Http10;
    let transport = Transport { http10, keep_alive: framing.keep_alive };
    Ok(Framing { length: framing.body, transport, expects_continue: framing.expect_continue && !http10 })
}

impl<'a> Request<'a> {
    /// Reads the fields; `bytes` begins with the head.
    pub fn new(
        head: &'a RequestHead,
        bytes: &'a [u8],
        body: &'a [u8],
        transport: Transport,
    ) -> Result<Request<'a>, Refused> {
        let path_and_query = head.path_and_query.of(bytes);
        let path = &path_and_query[..memchr::memchr(b'?', path_and_query).unwrap_or(path_and_query.len())];
        let mut request = Request {
            head,
            bytes,
            method: head.method,
            path,
            path_and_query,
            host: head.host(bytes)?,
            accepts: Accepts::default(),
            content_type: None,
            origin: None,
            session: None,
            version: None,
            mcp_method: None,
            mcp_name: None,
            last_event_id: None,
            body,
            transport,
        };
        for field in &head.fields {
            let value = field.value.of(bytes);
            let slot = match field.known {
                Name::Accept => {
                    request.accepts.add(value);
                    continue;
                }
                Name::ContentType => &mut request.content_type,
                Name::LastEventId => &mut request.last_event_id,
                Name::McpMethod => &mut request.mcp_method,
                Name::McpName => &mut request.mcp_name,
                Name::McpProtocolVersion => &mut request.version,
                Name::McpSessionId => &mut request.session,
                Name::Origin => &mut request.origin,
                _ => continue,
            };
            // Two of a field that selects what is served: a proxy may have looked at the other one.
            if slot.replace(value).is_some() {
                return Err(Refused(400));
            }
        }
        Ok(request)
    }

    /// The value of a field that has no place of its own here.
    ///
    /// # Errors
    /// There are two.
    pub fn other(&self, name: &[u8]) -> Result<Option<&'a [u8]>, Refused> {
        let fields = self.head.fields.iter().filter(|field| field.known == Name::Other);
        let mut values = fields.filter(|field| field.name.of(self.bytes).eq_ignore_ascii_case(name));
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(|field| field.value.of(self.bytes))),
            _ => Err(Refused(400)),
        }
    }

    /// Whether the body says that it is JSON.
    pub fn is_json(&self) -> bool {
        let kind = self.content_type.unwrap_or_default();
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        kind.eq_ignore_ascii_case(JSON.as_bytes())
    }
}

/// What stands in the head of an answer besides its status.
#[derive(Clone, Copy, Default)]
pub struct Reply<'a> {
    pub content_type: &'a str,
    pub session: Option<&'a str>,
    pub allow: Option<&'a str>,
    /// Seconds.
    pub retry_after: Option<u32>,
    pub close: bool,
    /// The client spoke HTTP/1.0 and wants the connection kept.
    pub says_keep_alive: bool,
}

impl Reply<'_> {
    /// The beginnings of an answer to this request.
    pub fn to(request: &Request<'_>) -> Reply<'static> {
        let Transport { http10, keep_alive } = request.transport;
        Reply { content_type: JSON, close: !keep_alive, says_keep_alive: http10 && keep_alive, ..Reply::default() }
    }
}

/// Appends a whole answer.
pub fn answer(out: &mut Vec<u8>, status: u16, reply: Reply<'_>, body: &[u8]) {
    open(out, status, &reply);
    if !body.is_empty() {
        encode::field(out, b"Content-Type", reply.content_type.as_bytes());
    }
    encode::content_length(out, body.len() as u64);
    encode::end(out);
    out.extend_from_slice(body);
}

/// Appends the head of an event stream; HTTP/1.0 gets one that ends with the connection.
pub fn event_stream(out: &mut Vec<u8>, reply: Reply<'_>, chunked: bool) {
    open(out, 200, &reply);
    encode::field(out, b"Content-Type", b"text/event-stream");
    encode::field(out, b"Cache-Control", b"no-cache, no-transform");
    // Proxies that buffer would hold small events back.
    encode::field(out, b"X-Accel-Buffering", b"no");
    if chunked {
        encode::chunked(out);
    }
    encode::end(out);
}

fn open(out: &mut Vec<u8>, status: u16, reply: &Reply<'_>) {
    encode::status_line(out, status, b"");
    date(out);
    if let Some(session) = reply.session {
        encode::field(out, header::SESSION_ID.as_bytes(), session.as_bytes());
    }
    if let Some(allow) = reply.allow {
        encode::field(out, b"Allow", allow.as_bytes());
    }
    if let Some(seconds) = reply.retry_after {
        encode::field(out, b"Retry-After", seconds.to_string().as_bytes());
    }
    if reply.close {
        encode::field(out, b"Connection", b"close");
    } else if reply.says_keep_alive {
        encode::field(out, b"Connection", b"keep-alive");
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
    use crate::wire::http1::head::Progress;

    fn read(wire: &[u8], check: impl FnOnce(&Request<'_>)) -> Result<(), Refused> {
        let mut head = RequestHead::default();
        assert_eq!(head.parse(wire, &HEAD_LIMITS)?, Progress::Complete);
        let framing = frame(&head, wire, 1000)?;
        check(&Request::new(&head, wire, b"", framing.transport)?);
        Ok(())
    }

    #[test]
    fn reads_what_a_server_acts_upon() {
        let wire = b"POST /mcp?x=1 HTTP/1.1\r\nHost: a\r\nmcp-session-ID:  s \r\nAccept: text/html\r\n\
                     Accept: text/event-stream;q=0.5, */*;q=0\r\nMCP-PARAM-REGION: r\r\n\r\n";
        let read = read(wire, |request| {
            assert_eq!((request.path, request.path_and_query), (&b"/mcp"[..], &b"/mcp?x=1"[..]));
            assert_eq!((request.session, request.other(b"mcp-param-region")), (Some(&b"s"[..]), Ok(Some(&b"r"[..]))));
            assert!(request.accepts.events() && !request.accepts.json());
        });
        assert_eq!(read, Ok(()));
    }

    #[test]
    fn refuses_what_two_could_read_differently() {
        let status = |fields: &str| {
            read(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes(), |_| {})
                .err()
                .map(|Refused(status)| status)
        };
        assert_eq!(status(""), None);
        assert_eq!(status("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Some(400));
        assert_eq!(status("Host: b\r\n"), Some(400));
        assert_eq!(status("Mcp-Session-Id: a\r\nMcp-Session-Id: b\r\n"), Some(400));
        assert_eq!(status("Content-Length: 99999999\r\n"), Some(413));
        assert_eq!(status(&"A: b\r\n".repeat(200)), Some(431));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date_line(0), "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
        assert_eq!(date_line(951_782_400), "Date: Tue, 29 Feb 2000 00:00:00 GMT\r\n");
        assert_eq!(date_line(1_785_283_199), "Date: Tue, 28 Jul 2026 23:59:59 GMT\r\n");
        assert_eq!(date_line(1_798_761_599), "Date: Thu, 31 Dec 2026 23:59:59 GMT\r\n");
    }
}
