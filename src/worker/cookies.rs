//! Our two cookies: read, written, kept from upstreams, and counted only for requests of our own pages.

use super::guard::Request;
use crate::config::plan::LoginPlan;
use crate::identity::AuthError;
use crate::wire::http1::encode;
use crate::wire::http1::head::{Method, Name};

/// A login that was begun; the prefix keeps other hosts, paths and plain HTTP from setting it (RFC 6265bis section
/// 4.1.3.2).
pub const LOGIN: &str = "__Host-shadowcat-login";
/// Who logged in.
pub const SESSION: &str = "__Host-shadowcat-session";
/// What both begin with.
const PREFIX: &[u8] = b"__Host-shadowcat-";
/// Browsers keep no longer ones, name and value together (RFC 6265 section 6.1).
pub const BYTES_MAX: usize = 4096;

/// The value of a cookie. Allocates nothing.
///
/// # Errors
/// It stands there twice, or is no ASCII: the browser that we gave it to does neither.
pub fn find<'a>(request: &Request<'a>, name: &str) -> Result<Option<&'a str>, AuthError> {
    let fields = request.head.fields.all(Name::Cookie);
    let mut found = None;
    for pair in fields.flat_map(|field| field.value.of(request.bytes).split(|&b| b == b';')) {
        let Some(value) = pair.trim_ascii().strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
        else {
            continue;
        };
        let value = std::str::from_utf8(value).map_err(|_| AuthError::Cookie)?;
        if found.replace(value).is_some() {
            return Err(AuthError::Cookie);
        }
    }
    Ok(found)
}

/// The value of `Set-Cookie`; `None` as value takes the cookie away.
pub fn set(name: &str, value: Option<&str>, life_s: u64) -> String {
    let life_s = if value.is_some() { life_s } else { 0 };
    let value = value.unwrap_or_default();
    format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={life_s}")
}

/// A `Cookie` field as it goes to an upstream: without ours, the others as they were sent.
pub fn forward(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let is_ours = |pair: &&[u8]| pair.trim_ascii().starts_with(PREFIX);
    if memchr::memmem::find(value, PREFIX).is_none() {
        encode::field(out, name, value);
        return;
    }
    let mut others = value.split(|&b| b == b';').filter(|pair| !is_ours(pair)).map(<[u8]>::trim_ascii);
    let Some(first) = others.find(|pair| !pair.is_empty()) else { return };
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(first);
    for pair in others {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(pair);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether the cookie of a login counts for this request: not if a page of somebody else makes the browser send it.
///
/// `SameSite=Lax` alone is not enough, since a site is more than an origin. Whoever comes over a link is shown a page,
/// and nothing more: a navigation of the whole window is let in, as it must be after a login, which comes from elsewhere.
pub fn may_count(plan: &LoginPlan, request: &Request<'_>) -> bool {
    let site = fetch_metadata(request, b"sec-fetch-site");
    let origin = request.find(Name::Origin);
    if origin.is_some_and(|origin| origin != plan.origin.as_bytes()) {
        return false;
    }
    match (request.method(), site) {
        (_, Some(b"same-origin" | b"none")) => true,
        (Method::Get, Some(_)) => {
            let (mode, dest) = (b"sec-fetch-mode", b"sec-fetch-dest");
            fetch_metadata(request, mode) == Some(b"navigate") && fetch_metadata(request, dest) == Some(b"document")
        }
        (_, Some(_)) => false,
        (Method::Get | Method::Head | Method::Options, None) => true,
        (_, None) => origin.is_some(),
    }
}

/// `Sec-Fetch-*` (W3C Fetch Metadata), which no page can set.
pub fn fetch_metadata<'a>(request: &Request<'a>, name: &[u8]) -> Option<&'a [u8]> {
    request.fields_named(name).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_sees_all_cookies_but_ours() {
        let forwarded = |value: &str| {
            let mut out = Vec::new();
            forward(&mut out, b"cookie", value.as_bytes());
            String::from_utf8(out).unwrap()
        };
        for (value, expected) in [
            ("a=b; c=d", "cookie: a=b; c=d\r\n"),
            ("a=b;c=d", "cookie: a=b;c=d\r\n"),
            ("__Host-shadowcat-session=x", ""),
            ("__Host-shadowcat-session=x; __Host-shadowcat-login=y;", ""),
            ("a=b; __Host-shadowcat-session=x; c=\"d\"", "cookie: a=b; c=\"d\"\r\n"),
            ("__Host-shadowcat-login=x;a=b", "cookie: a=b\r\n"),
            ("a=__Host-shadowcat-session", "cookie: a=__Host-shadowcat-session\r\n"),
            ("; ;__Host-shadowcat-session", ""),
            ("", "cookie: \r\n"),
        ] {
            assert_eq!(forwarded(value), expected, "{value}");
        }
    }
}
