//! What a collector answers, and whether that can be helped by asking again (OTLP specification, "Failures").

use std::time::Duration;

use crate::wire::base64::decode_digits;
use crate::wire::protobuf::{Value, fields, inner};

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Taken, but for so many spans that the collector did not want.
    Taken { rejected: u64 },
    /// Never, and why.
    Refused(String),
    /// Not now, and why; perhaps with how long to wait.
    Later(String, Option<Duration>),
}

/// The code of gRPC for success.
const OK: u32 = 0;
/// Not now (CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS).
const PASSING: [u32; 6] = [1, 4, 10, 11, 14, 15];
/// Not now either, but only if it says for how long.
const RESOURCE_EXHAUSTED: u32 = 8;

/// `details`: the value of `grpc-status-details-bin`.
pub fn verdict(code: u32, message: &str, details: Option<&[u8]>, body: &[u8]) -> Verdict {
    if code == OK {
        return Verdict::Taken { rejected: rejected(body) };
    }
    let why = format!("the collector answers {}: {message}", name(code));
    let delay = details.and_then(base64).and_then(|status| retry_delay(&status));
    if PASSING.contains(&code) || (code == RESOURCE_EXHAUSTED && delay.is_some()) {
        Verdict::Later(why, delay)
    } else {
        Verdict::Refused(why)
    }
}

/// `ExportTraceServiceResponse.partial_success.rejected_spans`, behind the head that gRPC puts before a message.
fn rejected(body: &[u8]) -> u64 {
    let Some((&[0, _, _, _, _], message)) = body.split_first_chunk() else { return 0 };
    let found = inner(message, 1).into_iter().flat_map(fields).find(|(number, _)| *number == 1);
    match found {
        Some((_, Value::Number(rejected))) => i64::from_ne_bytes(rejected.to_ne_bytes()).max(0) as u64,
        _ => 0,
    }
}

/// `google.rpc.RetryInfo.retry_delay` in a `google.rpc.Status`.
fn retry_delay(status: &[u8]) -> Option<Duration> {
    let details = fields(status).filter_map(|(number, value)| match (number, value) {
        (3, Value::Bytes(any)) => Some(any),
        _ => None,
    });
    let is_retry = |any: &&[u8]| inner(any, 1) == Some(b"type.googleapis.com/google.rpc.RetryInfo");
    let mut infos = details.filter(is_retry).filter_map(|any| inner(any, 2));
    let info = infos.next()?;
    let delay = inner(info, 1).unwrap_or_default();
    let number = |field| {
        fields(delay).find_map(|(number, value)| match value {
            Value::Number(value) if number == field => Some(value),
            _ => None,
        })
    };
    let nanoseconds = number(2).unwrap_or(0).min(999_999_999) as u32;
    Some(Duration::new(number(1).unwrap_or(0).min(u64::from(u32::MAX)), nanoseconds))
}

/// With or without padding, as binary metadata come.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.iter().rposition(|&byte| byte != b'=').map_or(0, |last| last + 1);
    decode_digits(&text[..digits], *b"+/").map(|(bytes, _)| bytes)
}

fn name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(code as usize).map_or_else(|| format!("code {code}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protobuf::{bytes, message, number};

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, message.len() as u8], message].concat()
    }

    #[test]
    fn a_partial_success_is_taken_in_part() {
        let mut response = Vec::new();
        message(&mut response, 1, |out| {
            number(out, 1, 7);
            bytes(out, 2, b"too old");
        });
        assert_eq!(verdict(0, "", None, &framed(&response)), Verdict::Taken { rejected: 7 });
        for body in [&b""[..], &framed(b""), b"\x01\0\0\0\0", b"nonsense"] {
            assert_eq!(verdict(0, "", None, body), Verdict::Taken { rejected: 0 });
        }
    }

    #[test]
    fn no_room_is_not_now_only_with_a_time() {
        let later = |code, details: Option<&[u8]>| match verdict(code, "m", details, b"") {
            Verdict::Later(_, delay) => Some(delay),
            _ => None,
        };
        assert_eq!(later(14, None), Some(None));
        assert_eq!(later(3, None), None);
        assert_eq!(later(8, None), None);
        assert_eq!(later(8, Some(b"*")), None);
        // Python: base64(Status(code=8, details=[Any(RetryInfo(retry_delay=Duration(seconds=2, nanos=500000000)))])).
        let info = "CAgaNgoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIKCggIAhCAyrXuAQ==";
        assert_eq!(later(8, Some(info.as_bytes())), Some(Some(Duration::from_millis(2500))));
    }
}
