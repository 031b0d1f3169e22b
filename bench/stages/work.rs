//! The stages of a request as pieces of work that can be repeated: what `counted.rs` counts and `timed.rs` times.
//!
//! Each is in its steady state: what it keeps from request to request is there already.

use std::hint::black_box;
use std::time::{Duration, Instant};

use shadowcat::base::SessionId;
use shadowcat::store::{self, Record, Store, Transport};
use shadowcat::table::{Limits, Rate, Verdict};
use shadowcat::telemetry::Registry;
use shadowcat::telemetry::account::Account;
use shadowcat::wire::answer::{Form, Listener, Said};
use shadowcat::wire::http1::body::BodyDecoder;
use shadowcat::wire::http1::encode::{self, Lines};
use shadowcat::wire::http1::framing::{self, BodyLength};
use shadowcat::wire::http1::head::{HeadLimits, Method, Name, Progress, Repeats, RequestHead, ResponseHead};
use shadowcat::wire::json::Peek;
use shadowcat::wire::sse::EventScanner;

pub type Work = Box<dyn FnMut()>;

/// Its name, and how it is made.
pub type Stage = (&'static str, fn() -> Work);

pub const STAGES: [Stage; 15] = [
    ("request_head", request_head),
    ("request_head_again", request_head_again),
    ("request_framing", request_framing),
    ("peek", peek),
    ("peek_60k", peek_60k),
    ("request_out", request_out),
    ("response_head", response_head),
    ("response_framing", response_framing),
    ("response_out", response_out),
    ("answer", answer),
    ("events", events),
    ("chunks", chunks),
    ("session", session),
    ("limit", limit),
    ("account", account),
];

const LIMITS: HeadLimits = HeadLimits { head_bytes: 32 * 1024, fields: 100, target_bytes: 8 * 1024 };

/// About a kilobyte of head, as MCP clients behind other proxies send it.
fn request_bytes() -> Vec<u8> {
    let (cookie, baggage) = ("c".repeat(300), "b".repeat(200));
    format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\n\
         Mcp-Session-Id: 0123456789abcdef0123456789abcdef\r\nUser-Agent: mcp-client/1.0 (bench; linux x86_64) sdk/2.4.0\r\n\
         Accept-Language: en-US,en;q=0.9\r\nX-Request-Id: 0123456789abcdef0123456789abcdef\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nbaggage: {baggage}\r\n\
         Cookie: {cookie}\r\nContent-Length: 250\r\n\r\n"
    )
    .into_bytes()
}

fn response_bytes() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nDate: Wed, 25 Nov 2026 20:00:00 GMT\r\nServer: bench\r\nContent-Type: application/json\r\n\
      Mcp-Session-Id: 0123456789abcdef0123456789abcdef\r\nCache-Control: no-store\r\nContent-Length: 300\r\n\r\n"
        .to_vec()
}

fn call(bytes: usize) -> Vec<u8> {
    let (start, end) =
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":""#, r#""}}}"#);
    format!("{start}{}{end}", "x".repeat(bytes - start.len() - end.len())).into_bytes()
}

fn parsed_request(bytes: &[u8]) -> RequestHead {
    let mut head = RequestHead::default();
    assert!(matches!(head.parse(bytes, &LIMITS), Ok(Progress::Complete)));
    head
}

fn parsed_response(bytes: &[u8]) -> ResponseHead {
    let mut head = ResponseHead::default();
    assert!(matches!(head.parse(bytes, &LIMITS), Ok(Progress::Complete)));
    head
}

fn request_head() -> Work {
    let (bytes, mut head) = (request_bytes(), RequestHead::default());
    Box::new(move || {
        head.reset();
        assert!(matches!(head.parse(black_box(&bytes), &LIMITS), Ok(Progress::Complete)));
    })
}

/// One that is like the one before it on its connection.
fn request_head_again() -> Work {
    let (before, bytes) = (request_bytes(), [request_bytes(), call(250)].concat());
    let head = parsed_request(&before);
    Box::new(move || assert_eq!(head.repeats(black_box(&bytes), &before[..head.len]), Repeats::All))
}

fn request_framing() -> Work {
    let bytes = request_bytes();
    let head = parsed_request(&bytes);
    Box::new(move || {
        let framing = framing::request(black_box(&head), &bytes).expect("a framing");
        assert_eq!(framing.body, BodyLength::Length(250));
    })
}

fn peek_of(body: Vec<u8>) -> Work {
    let mut peek = Peek::new();
    Box::new(move || {
        peek.reset();
        peek.feed(black_box(&body)).expect("JSON");
        peek.finish().expect("a message");
        assert_eq!(peek.method(), Some(&b"tools/call"[..]));
    })
}

fn peek() -> Work {
    peek_of(call(250))
}

fn peek_60k() -> Work {
    peek_of(call(60_000))
}

fn copy_on(out: &mut Vec<u8>, fields: &shadowcat::wire::http1::head::Fields, bytes: &[u8], not: &[Name]) {
    let mut lines = Lines::new(out, bytes, None);
    for field in encode::forwardable(fields, bytes) {
        if !not.contains(&field.known) {
            lines.copy(field);
        }
    }
    lines.out();
}

/// The head to upstream as `worker::outbound` puts it together.
fn request_out() -> Work {
    let (bytes, mut out) = (request_bytes(), Vec::with_capacity(4096));
    let head = parsed_request(&bytes);
    Box::new(move || {
        out.clear();
        encode::request_line(&mut out, head.method_text.of(&bytes), b"/mcp");
        encode::field(&mut out, b"Host", b"localhost:8080");
        copy_on(&mut out, &head.fields, black_box(&bytes), &[Name::Host, Name::McpSessionId]);
        encode::field(&mut out, b"Mcp-Session-Id", b"fedcba9876543210fedcba9876543210");
        encode::content_length(&mut out, 250);
        encode::end(&mut out);
        black_box(&out);
    })
}

fn response_head() -> Work {
    let (bytes, mut head) = (response_bytes(), ResponseHead::default());
    Box::new(move || {
        head.reset();
        assert!(matches!(head.parse(black_box(&bytes), &LIMITS), Ok(Progress::Complete)));
    })
}

fn response_framing() -> Work {
    let bytes = response_bytes();
    let head = parsed_response(&bytes);
    Box::new(move || {
        let framing = framing::response(black_box(&head), &bytes, Method::Post).expect("a framing");
        assert_eq!(framing.body, BodyLength::Length(300));
    })
}

fn response_out() -> Work {
    let (bytes, mut out) = (response_bytes(), Vec::with_capacity(4096));
    let head = parsed_response(&bytes);
    Box::new(move || {
        out.clear();
        encode::status_line(&mut out, head.status, b"OK");
        copy_on(&mut out, &head.fields, black_box(&bytes), &[Name::McpSessionId]);
        encode::content_length(&mut out, 300);
        encode::end(&mut out);
        black_box(&out);
    })
}

fn answer() -> Work {
    let text = "x".repeat(200);
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{text}"}}],"isError":false}}}}"#
    )
    .into_bytes();
    Box::new(move || {
        let mut listener = Listener::new(Form::Json, true);
        listener.hear(black_box(&body), true);
        assert_eq!(listener.said(), Said::Result);
    })
}

fn events() -> Work {
    let event =
        b"event: message\nid: 17\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n".repeat(8);
    let mut scanner = EventScanner::default();
    Box::new(move || {
        scanner.feed(black_box(&event));
        assert!(scanner.at_boundary());
    })
}

/// Eight chunks in, eight heads of chunks out.
fn chunks() -> Work {
    let whole = [&b"40\r\n".to_vec()[..], &[b'x'; 64], b"\r\n"].concat().repeat(8);
    let mut input = whole.clone();
    Box::new(move || {
        input.copy_from_slice(&whole);
        let mut decoder = BodyDecoder::new(BodyLength::Chunked, None);
        let (mut at, mut data) = (0, 0);
        while at < input.len() {
            let decoded = decoder.decode(black_box(&mut input[at..])).expect("chunks");
            (at, data) = (at + decoded.consumed, data + decoded.data);
            black_box(encode::chunk_head(decoded.data).as_bytes());
        }
        assert_eq!(data, 8 * 64);
    })
}

/// A session that a worker does not have in its own map: read from LMDB.
fn session() -> Work {
    let store =
        Store::open(store::Options { map_bytes: Some(16 << 20), ..store::Options::default() }).expect("a store");
    let mut last: Option<SessionId> = None;
    for number in 0..100 {
        let record = Record {
            upstream: "one".into(),
            upstream_session: format!("{number:032}"),
            protocol: "2025-11-25".into(),
            transport: Transport::StreamableHttp,
            principal: None,
            initialize: None,
            created_ms: store.now_ms(),
            seen_ms: store.now_ms(),
        };
        // Of one kind, so that each run finds the same tree.
        let id = SessionId::from_random([number; 24]);
        store.create(store.reserve().expect("room"), id, record).wait().expect("a commit");
        last = Some(id);
    }
    let id = last.expect("a session");
    Box::new(move || assert!(store.find(black_box(&id)).expect("a store that reads").is_some()))
}

fn limit() -> Work {
    let (limits, rate) = (Limits::new(10_000), Rate::new(1_000_000_000, Duration::from_secs(60), 1_000_000_000));
    let mut now = 1 << 40;
    Box::new(move || {
        now += 1_000_000;
        let key = limits.key(black_box(b"https://idp.example\0user-1"));
        assert_eq!(limits.take(key, || 7, rate, now), Verdict::Granted);
    })
}

/// The account of a request is opened, kept and closed.
fn account() -> Work {
    let registry = Registry::default();
    let cells = registry.worker(0);
    let begun = Instant::now();
    Box::new(move || {
        let account = Account::new(begun);
        account.received(1250);
        account.sent.set(Some(begun));
        account.spoke(begun + Duration::from_micros(200));
        account.sent_client(500);
        account.status.set(200);
        let split = account.split(begun + Duration::from_micros(300));
        black_box(account.outcome());
        cells.took(black_box(&split), true, Duration::from_secs(1));
    })
}
