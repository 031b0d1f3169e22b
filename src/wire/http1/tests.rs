//! Heads and bodies in any pieces; what was parsed and written again parses to the same.

use proptest::prelude::*;

use super::body::{BodyDecoder, BodyError};
use super::encode;
use super::framing::{self, BodyLength, FramingError};
use super::head::{HeadError, HeadLimits, Method, Name, Progress, Repeats, RequestHead, ResponseHead, Version};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 2048, fields: 20, target_bytes: 256 };

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /mcp?a=%20b HTTP/1.1\r\nHost: a:1\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello",
    "\r\nDELETE /mcp HTTP/1.1\r\nhost:a\r\nmcp-session-id:   spaced \t\r\n\r\n",
    "GET http://a/b HTTP/1.1\r\nHost: a\r\nEmpty:\r\nCookie: k=v; l=\"w\"\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nX-Bytes: \u{e9}\u{fffd}\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive, x\r\n\r\n",
    "BREW /pot HTTP/1.1\r\nHost: a\r\nUnder_Score: 1\r\n\r\n",
];

/// With the status that each gets, however it comes in.
const REFUSED: &[(&str, u16)] = &[
    ("GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n folded\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /% HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("GET /\r\nHost: a\r\n\r\n", 400),
];

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 204 \r\n\r\n",
    "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.0 302 Found it\r\nLocation: /x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n",
];

fn request_in(pieces: &[usize], bytes: &[u8]) -> (Result<Progress, HeadError>, RequestHead) {
    let mut head = RequestHead::default();
    let mut verdict = Ok(Progress::Incomplete);
    for &upto in pieces.iter().chain([&bytes.len()]) {
        verdict = head.parse(&bytes[..upto], &LIMITS);
        if verdict != Ok(Progress::Incomplete) {
            break;
        }
    }
    (verdict, head)
}

/// All that the rest of the proxy reads of a head.
fn view(head: &RequestHead, bytes: &[u8]) -> String {
    let texts: Vec<_> = [head.method_text, head.target, head.path_and_query, head.authority]
        .iter()
        .map(|span| span.of(bytes).escape_ascii().to_string())
        .collect();
    let fields: Vec<_> = head
        .fields
        .iter()
        .map(|f| (f.known, f.name.of(bytes).escape_ascii().to_string(), f.value.of(bytes).escape_ascii().to_string()))
        .collect();
    format!("{:?} {:?} {texts:?} {fields:?} {:?}", head.method, head.version, framing::request(head, bytes))
}

fn written(head: &RequestHead, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::request_line(&mut out, head.method_text.of(bytes), head.target.of(bytes));
    for field in &head.fields {
        encode::field(&mut out, field.name.of(bytes), field.value.of(bytes));
    }
    encode::end(&mut out);
    out
}

/// Ends of pieces, in order.
fn cuts(len: usize) -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::btree_set(0..=len, 0..12).prop_map(|set| set.into_iter().collect())
}

fn corpus(texts: Vec<&'static str>) -> impl Strategy<Value = (&'static str, Vec<usize>)> {
    proptest::sample::select(texts).prop_flat_map(|text| (Just(text), cuts(text.len())))
}

proptest! {
    #[test]
    fn a_request_head_is_the_same_in_any_pieces((text, cuts) in corpus(REQUESTS.to_vec())) {
        let bytes = text.as_bytes();
        let (verdict, whole) = request_in(&[], bytes);
        prop_assert_eq!(verdict, Ok(Progress::Complete));
        let (verdict, pieces) = request_in(&cuts, bytes);
        prop_assert_eq!(verdict, Ok(Progress::Complete));
        prop_assert_eq!(view(&whole, bytes), view(&pieces, bytes));
        prop_assert_eq!(whole.len, pieces.len);
    }

    #[test]
    fn a_head_that_stands_in_other_bytes_is_what_parsing_them_gives(
        text in proptest::sample::select(REQUESTS.to_vec()),
        changes in proptest::collection::vec((0usize..120, proptest::sample::select(b"0123456789-+ \r\n:aH".to_vec())), 0..3),
        more in 0usize..3,
    ) {
        let before = text.as_bytes();
        let (_, head) = request_in(&[], before);
        let mut bytes = [before, b"next"].concat();
        bytes.truncate(before.len() + more);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let (verdict, fresh) = request_in(&[], &bytes);
        if head.repeats(&bytes, &before[..head.len]) != Repeats::Nothing {
            prop_assert_eq!(verdict, Ok(Progress::Complete));
            prop_assert_eq!(fresh.len, head.len);
            prop_assert_eq!(view(&fresh, &bytes), view(&head, &bytes));
        } else {
            prop_assert_ne!(&bytes[..head.len], &before[..head.len]);
        }
        prop_assert_eq!(RequestHead::default().repeats(&bytes, before), Repeats::Nothing);
    }

    #[test]
    fn a_bad_head_is_refused_in_any_pieces(
        (text, cuts) in corpus(REFUSED.iter().map(|(text, _)| *text).collect())
    ) {
        let (verdict, _) = request_in(&cuts, text.as_bytes());
        prop_assert!(matches!(verdict, Err(error) if error.status() >= 400), "{verdict:?}");
    }

    #[test]
    fn an_answer_head_is_the_same_in_any_pieces((text, cuts) in corpus(ANSWERS.to_vec())) {
        let bytes = text.as_bytes();
        let parse = |pieces: &[usize]| {
            let mut head = ResponseHead::default();
            let done = pieces.iter().chain([&bytes.len()]).map(|&upto| head.parse(&bytes[..upto], &LIMITS)).find(
                |verdict| *verdict != Ok(Progress::Incomplete),
            );
            let fields: Vec<_> = head.fields.iter().map(|f| (f.known, f.name.of(bytes), f.value.of(bytes))).collect();
            format!("{done:?} {} {} {fields:?} {:?}", head.status, head.len, framing::response(&head, bytes, Method::Get))
        };
        prop_assert!(parse(&[]).starts_with("Some(Ok(Complete))"));
        prop_assert_eq!(parse(&[]), parse(&cuts));
    }

    #[test]
    fn an_answer_head_is_the_same_whatever_came_before_it(
        texts in proptest::collection::vec(proptest::sample::select(ANSWERS.to_vec()), 1..6),
        digit in 0u8..10,
    ) {
        let mut kept = ResponseHead::default();
        for text in texts {
            // A repeated head, but for its length, is among them as well.
            let text = text.replace("Content-Length: 2", &format!("Content-Length: {digit}"));
            let bytes = text.as_bytes();
            kept.reset();
            let mut fresh = ResponseHead::default();
            prop_assert_eq!(kept.parse(bytes, &LIMITS), fresh.parse(bytes, &LIMITS));
            let told = |head: &ResponseHead| {
                let fields: Vec<_> = head.fields.iter().map(|f| (f.known, f.name.of(bytes), f.value.of(bytes))).collect();
                format!("{} {} {:?} {fields:?} {:?}", head.status, head.len, head.version, framing::response(head, bytes, Method::Get))
            };
            prop_assert_eq!(told(&kept), told(&fresh));
            // With less allowed it is refused, however well it is known.
            let strict = HeadLimits { fields: 0, ..LIMITS };
            let refused = kept.clone().parse(bytes, &strict);
            prop_assert_eq!(refused, ResponseHead::default().parse(bytes, &strict));
        }
    }

    #[test]
    fn what_is_written_after_parsing_is_stable((text, _) in corpus(REQUESTS.to_vec())) {
        let bytes = text.as_bytes();
        let (_, head) = request_in(&[], bytes);
        let once = written(&head, bytes);
        let (verdict, again) = request_in(&[], &once);
        prop_assert_eq!(verdict, Ok(Progress::Complete));
        prop_assert_eq!(again.len, once.len());
        prop_assert_eq!(written(&again, &once), once);
    }

    #[test]
    fn any_fields_survive_writing_and_parsing(
        fields in proptest::collection::vec(("[A-Za-z0-9-]{1,12}", "[!-~]([ -~]{0,20}[!-~])?"), 0..12)
    ) {
        let mut out = Vec::new();
        encode::request_line(&mut out, b"GET", b"/");
        for (name, value) in &fields {
            encode::field(&mut out, name.as_bytes(), value.as_bytes());
        }
        encode::end(&mut out);
        let (verdict, head) = request_in(&[], &out);
        prop_assert_eq!(verdict, Ok(Progress::Complete));
        let got: Vec<_> = head.fields.iter().map(|f| (f.name.of(&out), f.value.of(&out))).collect();
        let sent: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn chunks_decode_to_what_was_framed_in_any_pieces(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        cuts in proptest::collection::btree_set(0usize..400, 0..10),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(encode::chunk_head(chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(encode::CHUNK_END);
        }
        wire.extend_from_slice(encode::LAST_CHUNK);
        let body = wire.len();
        wire.extend_from_slice(b"next");
        let mut decoder = BodyDecoder::new(BodyLength::Chunked, None);
        let (mut data, mut consumed, mut from) = (Vec::new(), 0, 0);
        for upto in cuts.into_iter().filter(|&cut| cut < wire.len()).chain([wire.len()]) {
            let mut piece = wire[from..upto].to_vec();
            let decoded = decoder.decode(&mut piece).unwrap();
            data.extend_from_slice(&piece[..decoded.data]);
            consumed += decoded.consumed;
            from = upto;
        }
        prop_assert!(decoder.is_done());
        prop_assert_eq!(consumed, body);
        prop_assert_eq!(data, chunks.concat());
    }
}

#[test]
fn a_length_of_as_many_digits_leaves_the_rest_where_it_stood() {
    let head = |length: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nX: y\r\n\r\n");
    let before = head("10");
    let (_, parsed) = request_in(&[], before.as_bytes());
    for (length, same) in [("10", true), ("99", true), ("9", false), ("100", false), ("1x", false), ("+1", false)] {
        let repeats = if same { Repeats::All } else { Repeats::Nothing };
        assert_eq!(parsed.repeats(head(length).as_bytes(), before.as_bytes()), repeats, "{length}");
    }
    let longer = head("25") + "body";
    assert_eq!(parsed.repeats(longer.as_bytes(), before.as_bytes()), Repeats::All);
    let mut restated = before.clone().into_bytes();
    parsed.restate(longer.as_bytes(), &mut restated);
    assert_eq!(restated, head("25").into_bytes());
    assert_eq!(framing::request(&parsed, longer.as_bytes()).map(|framing| framing.body), Ok(BodyLength::Length(25)));
    assert_eq!(parsed.repeats(&longer.as_bytes()[..40], before.as_bytes()), Repeats::Nothing);
}

#[test]
fn a_head_of_another_session_trace_or_request_has_the_form_of_the_one_before() {
    let head = |session: &str, trace: &str, id: &str, origin: &str| {
        let named = format!("Mcp-Session-Id: {session}\r\ntraceparent: {trace}\r\nX-Request-Id:{id}\r\n");
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{named}Content-Length: 10\r\nOrigin: {origin}\r\nX-Request-Id: b\r\n\r\n"
        )
    };
    let before = head("one", "00-1-01", " ", "a");
    let (_, parsed) = request_in(&[], before.as_bytes());
    for (session, trace, id, origin, same) in [
        ("two", "00-2-00", " ", "a", true),
        ("one", "00-2-00", " ", "a", true),
        ("t o", "00-1-01", " ", "a", false),
        (" wo", "00-1-01", " ", "a", false),
        ("t\no", "00-1-01", " ", "a", false),
        ("one", "00-1-0\x7f", " ", "a", false),
        ("one", "00-1-\u{e4}", " ", "a", false),
        ("four", "00-1-1", " ", "a", false),
        // An empty value has no place of its own.
        ("one", "00-1-01", "x", "a", false),
        ("two", "00-1-01", " ", "b", false),
    ] {
        let now = head(session, trace, id, origin);
        let repeats = if same { Repeats::Form { same_session: session == "one" } } else { Repeats::Nothing };
        let repeats = if now == before { Repeats::All } else { repeats };
        assert_eq!(parsed.repeats(now.as_bytes(), before.as_bytes()), repeats, "{now:?}");
        if same {
            assert_eq!(view(&parsed, now.as_bytes()), view(&request_in(&[], now.as_bytes()).1, now.as_bytes()));
        }
    }
}

#[test]
fn every_refusal_has_its_status() {
    for (text, status) in REFUSED {
        let verdict = request_in(&[], text.as_bytes()).0;
        assert_eq!(verdict.map_err(|error| error.status()), Err(*status), "{text:?}");
    }
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(20));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(2048));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(256));
    for (text, error) in
        [(many, HeadError::TooManyFields), (large, HeadError::TooLarge), (long, HeadError::TargetTooLong)]
    {
        assert_eq!(request_in(&[], text.as_bytes()).0, Err(error));
    }
}

#[test]
fn one_host_is_needed() {
    let host = |text: &str| {
        let (verdict, head) = request_in(&[], text.as_bytes());
        assert_eq!(verdict, Ok(Progress::Complete), "{text:?}");
        head.host(text.as_bytes()).map(|host| String::from_utf8_lossy(host).into_owned()).ok()
    };
    assert_eq!(host("GET / HTTP/1.1\r\nHost: a:80\r\n\r\n").as_deref(), Some("a:80"));
    assert_eq!(host("GET http://A/ HTTP/1.1\r\nHost: a\r\n\r\n").as_deref(), Some("a"));
    assert_eq!(host("GET / HTTP/1.0\r\n\r\n").as_deref(), Some(""));
    for fields in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: u@a\r\n", "Host: a:x\r\n", "Host:\r\n"] {
        assert_eq!(host(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), None, "{fields:?}");
    }
    assert_eq!(host("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"), None);
}

#[test]
fn ambiguous_framing_is_refused() {
    let framing = |fields: &str| {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let (verdict, head) = request_in(&[], text.as_bytes());
        assert_eq!(verdict, Ok(Progress::Complete), "{text:?}");
        framing::request(&head, text.as_bytes()).map(|framing| framing.body)
    };
    assert_eq!(framing("Content-Length: 18446744073709551615\r\n"), Ok(BodyLength::Length(u64::MAX)));
    assert_eq!(framing("Transfer-Encoding: chunked\r\n"), Ok(BodyLength::Chunked));
    for bad in ["1, 1", "+1", "-1", "0x1", "1 1", "", "18446744073709551616"] {
        assert_eq!(framing(&format!("Content-Length: {bad}\r\n")), Err(FramingError::ContentLength), "{bad:?}");
    }
    assert_eq!(framing("Content-Length: 1\r\nContent-Length: 1\r\n"), Err(FramingError::ContentLength));
    for bad in ["identity", "gzip, chunked", "chunked, chunked", "xchunked", "chunked;a", "\"chunked\""] {
        assert_eq!(framing(&format!("Transfer-Encoding: {bad}\r\n")), Err(FramingError::TransferEncoding), "{bad:?}");
    }
    let both = "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(framing(both), Err(FramingError::BothLengths));
    assert_eq!(framing("Expect: 200-ok\r\n"), Err(FramingError::Expectation));
}

#[test]
fn bad_chunks_are_refused() {
    let decode = |text: &str| BodyDecoder::new(BodyLength::Chunked, Some(64)).decode(&mut text.as_bytes().to_vec());
    for bad in ["\r\n", "g\r\n", "1\n", "1\r\nab", " 1\r\n", "1 \r\n", "-1\r\n", "0x1\r\n", "1;a\0\r\n", "0\r\nA\r\n"] {
        assert!(matches!(decode(bad), Err(BodyError::Malformed(_))), "{bad:?}");
    }
    assert!(matches!(decode("00000000000000001\r\n"), Err(BodyError::Malformed(_))));
    assert_eq!(decode("ffffffffffffffff\r\n"), Err(BodyError::TooLong));
    assert_eq!(decode("41\r\n"), Err(BodyError::TooLong));
    let mut cut = BodyDecoder::new(BodyLength::Chunked, None);
    cut.decode(&mut b"5\r\nhel".to_vec()).unwrap();
    assert_eq!(cut.end_of_input(), Err(BodyError::Premature));
}

#[test]
fn the_fields_of_this_hop_stay_here() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine, Authorization, Mcp-Session-Id\r\nX-Mine: 1\r\n\
                Authorization: b\r\nMcp-Session-Id: s\r\nTE: trailers\r\nUpgrade: h2c\r\nProxy: evil\r\nX_U: 1\r\nX-Ours: 2\r\n\r\n";
    let (_, head) = request_in(&[], text.as_bytes());
    let left: Vec<_> = encode::forwardable(&head.fields, text.as_bytes())
        .map(|field| String::from_utf8_lossy(field.name.of(text.as_bytes())).into_owned())
        .collect();
    assert_eq!(left, ["Host", "Authorization", "Mcp-Session-Id", "X-Ours"]);
    assert_eq!(head.find(text.as_bytes(), Name::McpSessionId), Some(b"s".as_slice()));
    assert_eq!(head.version, Version::Http11);
}
