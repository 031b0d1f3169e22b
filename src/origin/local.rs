//! Against DNS rebinding, where no proxy stands in front: a page that a browser loaded elsewhere reaches us under its own
//! name.

use std::net::IpAddr;

use super::Request;

/// Whether Host and Origin are of this machine's loopback.
pub fn is_local(request: &Request<'_>) -> bool {
    let host = is_local_authority(request.host);
    let origin = request.origin.is_none_or(|origin| {
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.is_some_and(is_local_authority)
    });
    host && origin
}

/// `host`, `host:port` or `[v6]:port` of this machine's loopback.
fn is_local_authority(authority: &[u8]) -> bool {
    let Ok(authority) = std::str::from_utf8(authority) else { return false };
    let host = match authority.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((host, port)) if port.is_empty() || port.starts_with(':') => host,
            _ => return false,
        },
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_authorities_are_loopback_only() {
        for local in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.9.9.9", "[::1]:80", "[::1]"] {
            assert!(is_local_authority(local.as_bytes()), "{local}");
        }
        for foreign in ["evil.example.com", "localhost.evil.com", "10.0.0.1", "[::2]", "[::1]x", "", "127.0.0.1.nip.io"]
        {
            assert!(!is_local_authority(foreign.as_bytes()), "{foreign}");
        }
    }
}
