//! Heads of requests and answers: no panic, and the same verdict for any two pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowcat::wire::http1::framing;
use shadowcat::wire::http1::head::{HeadLimits, Method, Progress, RequestHead, ResponseHead};

const LIMITS: HeadLimits = HeadLimits { head_bytes: 4096, fields: 64, target_bytes: 1024 };

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let cut = usize::from(cut).min(bytes.len());
    let mut whole = RequestHead::default();
    let verdict = whole.parse(bytes, &LIMITS);
    let mut pieces = RequestHead::default();
    let first = pieces.parse(&bytes[..cut], &LIMITS);
    if first == Ok(Progress::Incomplete) {
        let second = pieces.parse(bytes, &LIMITS);
        assert_eq!(verdict.is_ok(), second.is_ok(), "{verdict:?} {second:?}");
    }
    if verdict == Ok(Progress::Complete) {
        assert!(first.is_ok(), "{first:?}");
        let _ = whole.host(bytes);
        let _ = framing::request(&whole, bytes);
    }
    let mut answer = ResponseHead::default();
    if answer.parse(bytes, &LIMITS) == Ok(Progress::Complete) {
        let _ = framing::response(&answer, bytes, Method::Get);
    }
});
