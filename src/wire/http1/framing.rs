//! How long a body is: one function for requests, one for answers (RFC 9112 section 6.3). What is ambiguous is refused.

use super::head::{Field, Fields, Method, Name, RequestHead, ResponseHead, Version};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    Empty,
    /// Bytes.
    Length(u64),
    Chunked,
    /// An answer that ends with its connection.
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFraming {
    pub body: BodyLength,
    pub keep_alive: bool,
    pub expect_continue: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFraming {
    pub body: BodyLength,
    pub keep_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("both Content-Length and Transfer-Encoding")]
    BothLengths,
    #[error("Content-Length is not one number")]
    ContentLength,
    #[error("Transfer-Encoding is not exactly one `chunked`")]
    TransferEncoding,
    #[error("Transfer-Encoding in HTTP/1.0")]
    TransferEncodingIn10,
    #[error("a body where none can be")]
    ForbiddenBody,
    #[error("an expectation other than 100-continue")]
    Expectation,
}

impl FramingError {
    pub fn status(&self) -> u16 {
        if *self == FramingError::Expectation { 417 } else { 400 }
    }
}

/// # Errors
/// Anything that two parsers could read differently.
pub fn request(head: &RequestHead, bytes: &[u8]) -> Result<RequestFraming, FramingError> {
    let seen = scan(&head.fields, bytes, head.version)?;
    let body = match (seen.chunked, seen.length) {
        (true, _) => BodyLength::Chunked,
        (false, Some(0) | None) => BodyLength::Empty,
        (false, Some(length)) => BodyLength::Length(length),
    };
    let expect_continue = seen.expect_continue?;
    Ok(RequestFraming { body, keep_alive: seen.keep_alive, expect_continue })
}

/// The framing of a head that differs from one with the framing `before` in nothing but the digits of its length.
///
/// # Errors
/// The digits are no number.
pub fn restated(before: RequestFraming, head: &RequestHead, bytes: &[u8]) -> Result<RequestFraming, FramingError> {
    let body = match head.fields.find(bytes, Name::ContentLength).map(number) {
        None => before.body,
        Some(None) => return Err(FramingError::ContentLength),
        Some(Some(0)) => BodyLength::Empty,
        Some(Some(length)) => BodyLength::Length(length),
    };
    Ok(RequestFraming { body, ..before })
}

/// # Errors
/// As [`request`], and a body with 1xx or 204; 101 is for the caller to refuse.
pub fn response(head: &ResponseHead, bytes: &[u8], request_method: Method) -> Result<ResponseFraming, FramingError> {
    let seen = scan(&head.fields, bytes, head.version)?;
    let bodiless = head.status < 200 || head.status == 204;
    if bodiless && (seen.chunked || seen.length.is_some_and(|length| length > 0)) {
        return Err(FramingError::ForbiddenBody);
    }
    let body = if bodiless || head.status == 304 || request_method == Method::Head {
        BodyLength::Empty
    } else {
        match (seen.chunked, seen.length) {
            (true, _) => BodyLength::Chunked,
            (false, Some(0)) => BodyLength::Empty,
            (false, Some(length)) => BodyLength::Length(length),
            (false, None) => BodyLength::UntilClose,
        }
    };
    Ok(ResponseFraming { body, keep_alive: seen.keep_alive && body != BodyLength::UntilClose })
}

struct Seen {
    length: Option<u64>,
    chunked: bool,
    keep_alive: bool,
    expect_continue: Result<bool, FramingError>,
}

fn scan(fields: &Fields, bytes: &[u8], version: Version) -> Result<Seen, FramingError> {
    let length = match fields.find(bytes, Name::ContentLength) {
        // Two lengths are refused even if they agree: somebody on the way may read the other one.
        Some(_) if fields.is_repeated(Name::ContentLength) => return Err(FramingError::ContentLength),
        Some(digits) => Some(number(digits).ok_or(FramingError::ContentLength)?),
        None => None,
    };
    let chunked = fields.has(Name::TransferEncoding);
    if chunked {
        if version == Version::Http10 {
            return Err(FramingError::TransferEncodingIn10);
        }
        let coding = fields.find(bytes, Name::TransferEncoding).unwrap_or_default();
        if fields.is_repeated(Name::TransferEncoding) || !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(FramingError::TransferEncoding);
        }
        if length.is_some() {
            return Err(FramingError::BothLengths);
        }
    }
    let (mut close, mut keep) = (false, false);
    for field in fields.all(Name::Connection) {
        for token in field.value.of(bytes).split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            close |= token.eq_ignore_ascii_case(b"close");
            keep |= token.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    let is_known = |field: &Field| field.value.of(bytes).eq_ignore_ascii_case(b"100-continue");
    let expect_continue = match fields.all(Name::Expect).all(is_known) {
        true => Ok(fields.has(Name::Expect)),
        false => Err(FramingError::Expectation),
    };
    let keep_alive = !close && (version == Version::Http11 || keep);
    Ok(Seen { length, chunked, keep_alive, expect_continue })
}

/// Digits only, no sign, no list, no overflow (RFC 9110 section 8.6).
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, byte| {
        byte.is_ascii_digit().then_some(())?;
        sum.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}
