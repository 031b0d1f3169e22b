//! Single values as text: times, sizes, addresses, names. Each function reads one and says what it wanted instead.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use url::{Host, Url};

use super::plan::Cidr;

/// Longest time that can be set; keeps every sum of times far from overflow.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

pub fn count(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let number: i128 = text.trim().parse().map_err(|_| "expected a whole number".to_owned())?;
    if number < i128::from(min) {
        return Err(format!("expected at least {min}"));
    }
    u64::try_from(number).ok().filter(|number| *number <= max).ok_or_else(|| format!("expected at most {max}"))
}

pub fn ratio(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

/// Seconds without a unit; else as in `30s`, `5m`, `250ms`, `1h 30m`.
pub fn duration(text: &str, may_be_zero: bool) -> Result<Duration, String> {
    let expected = || "expected a time such as 30, \"30s\", \"5m\" or \"250ms\"".to_owned();
    let time = match text.trim().parse::<f64>() {
        Ok(seconds) if seconds < 0.0 => return Err("expected a time, which is never negative".into()),
        Ok(seconds) if seconds > TIME_MAX.as_secs_f64() => TIME_MAX.saturating_add(Duration::from_secs(1)),
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| expected())?,
        // humantime reads `5M` as five months, which nobody means.
        Err(_) if text.contains('M') => return Err("expected a time such as \"5m\" (minutes are a small m)".into()),
        Err(_) => humantime::parse_duration(text.trim()).map_err(|_| expected())?,
    };
    match time {
        Duration::ZERO if !may_be_zero => Err("expected more than 0".into()),
        time if time > TIME_MAX => Err("expected at most 100 years".into()),
        time => Ok(time),
    }
}

/// Bytes without a unit; else as in `64KiB`, `1MB`.
pub fn size(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let expected = || "expected a size such as 65536, \"64KiB\" or \"1MiB\"".to_owned();
    let text = text.trim();
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(expected());
    }
    let bytes = text.parse::<bytesize::ByteSize>().map_err(|_| expected())?.as_u64();
    match bytes {
        _ if bytes < min => Err(format!("expected at least {}", bytesize::ByteSize(min))),
        _ if bytes > max => Err(format!("expected at most {}", bytesize::ByteSize(max))),
        _ => Ok(bytes),
    }
}

/// An address to listen on; `localhost:PORT` and `:PORT` (any address) are understood.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let with_name = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let with_port = text.strip_prefix(':').map(|port| format!("0.0.0.0:{port}"));
    with_name
        .or(with_port)
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| "expected an address with its port such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

/// An absolute `http://` or `https://` URL without a fragment.
pub fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("expected a URL such as https://example.com/path: {error}"))?;
    match url.scheme() {
        "http" | "https" if url.fragment().is_some() => Err("expected a URL without a fragment (`#...`)".into()),
        "http" | "https" => Ok(url),
        other => Err(format!("expected a URL that begins with http:// or https://, not {other}:")),
    }
}

/// Whether the host is this machine by its name or address alone, so that plain `http://` stays inside.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The text with a URL's user and password blotted out.
pub fn without_userinfo(text: &str) -> String {
    let Some(start) = text.find("://").map(|at| at + 3) else { return text.to_owned() };
    let authority = text[start..].split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) => format!("{}***{}", &text[..start], &text[start + at..]),
        None => text.to_owned(),
    }
}

/// The path of a request, e.g. `/health`.
pub fn route(text: &str) -> Result<(), String> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'));
    if text.starts_with('/') && plain { Ok(()) } else { Err("expected a path such as /health".into()) }
}

/// A name as it stands in metrics and logs.
pub fn label(text: &str) -> Result<(), String> {
    match text {
        _ if text.chars().any(char::is_control) => Err("expected a name without control characters".into()),
        _ if text.len() > 128 => Err("expected a name of at most 128 bytes".into()),
        _ => Ok(()),
    }
}

/// A host name or address literal without a port, lower case; IPv6 without brackets.
pub fn host(text: &str) -> Result<String, String> {
    let expected = || format!("`{text}` is no host name (expected one such as mcp.example.com, without a port)");
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    match Host::parse(text).map_err(|_| expected())? {
        Host::Domain(name) if name.is_empty() || name.contains('*') => Err(expected()),
        Host::Domain(name) => Ok(name),
        Host::Ipv4(address) => Ok(address.to_string()),
        Host::Ipv6(address) => Ok(address.to_string()),
    }
}

/// An origin as browsers send it: lower case, no default port; `*` is any.
pub fn origin(text: &str) -> Result<String, String> {
    let expected = || format!("`{text}` is no origin (expected one such as https://app.example.com, or *)");
    if text == "*" {
        return Ok(text.to_owned());
    }
    let url = Url::parse(text).map_err(|_| expected())?;
    let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    if !bare || !url.has_host() || !url.username().is_empty() || url.password().is_some() || text.ends_with('/') {
        return Err(expected());
    }
    match url.origin() {
        // Schemes that the URL standard does not know, as of editors' own pages.
        url::Origin::Opaque(_) => Ok(text.to_ascii_lowercase()),
        known => Ok(known.ascii_serialization()),
    }
}

/// An address range, `10.0.0.0/8`, or one address.
pub fn cidr(text: &str) -> Result<Cidr, String> {
    let expected = || format!("`{text}` is no address range (expected one such as 10.0.0.0/8)");
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| expected())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let digits = |prefix: &str| prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix = match prefix {
        None => width,
        Some(prefix) if digits(prefix) => prefix.parse().map_err(|_| expected())?,
        Some(_) => return Err(expected()),
    };
    if prefix <= width { Ok(Cidr { address, prefix }) } else { Err(expected()) }
}

/// An OAuth scope (RFC 6749 section 3.3).
pub fn scope(text: &str) -> Result<(), String> {
    let token = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    match text {
        _ if text.contains([' ', ',']) => {
            Err(format!("`{text}` looks like several scopes: write each in quotes of its own"))
        }
        _ if !text.is_empty() && text.bytes().all(token) => Ok(()),
        _ => Err(format!("`{text}` is no scope")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_units() {
        let read = |text| duration(text, false);
        assert_eq!(read("30"), Ok(Duration::from_secs(30)));
        assert_eq!(read("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(read("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(read("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(read("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0", true), Ok(Duration::ZERO));
        for bad in ["0", "0s", "-1", "soon", "5M", "nan", "inf", "1e99", "200years", "", "s"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let read = |text| size(text, 1, 1 << 40);
        assert_eq!(read("65536"), Ok(65536));
        assert_eq!(read("64KiB"), Ok(65536));
        assert_eq!(read("1MB"), Ok(1_000_000));
        for bad in ["much", "-1", "nan", "", "0", "2TiB", "1e300"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn whole_numbers_have_bounds() {
        assert_eq!(count("7", 1, 9), Ok(7));
        assert_eq!(count("-1", 1, 9), Err("expected at least 1".into()));
        assert_eq!(count("99999999999999999999999999", 1, 9), Err("expected at most 9".into()));
        assert_eq!(count("1.5", 1, 9), Err("expected a whole number".into()));
    }

    #[test]
    fn hosts_and_origins_are_as_requests_carry_them() {
        assert_eq!(host("MCP.Example.com"), Ok("mcp.example.com".into()));
        assert_eq!(host("[::1]"), Ok("::1".into()));
        assert_eq!(host("::1"), Ok("::1".into()));
        for bad in ["a:80", "http://a", "*", "*.a", "", "a b", "a/b"] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert_eq!(origin("HTTPS://App.example.com:443"), Ok("https://app.example.com".into()));
        assert_eq!(origin("http://localhost:6274"), Ok("http://localhost:6274".into()));
        assert_eq!(origin("vscode-webview://Abc"), Ok("vscode-webview://abc".into()));
        for bad in ["app.example.com", "https://a/b", "https://a/", "https://u@a", "null", ""] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_hold_their_addresses() {
        let range = cidr("10.1.0.0/16").unwrap();
        assert!(range.contains("10.1.255.1".parse().unwrap()));
        assert!(range.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!range.contains("10.2.0.1".parse().unwrap()));
        assert!(cidr("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!(cidr("::1").unwrap().contains("::1".parse().unwrap()));
        for bad in ["10.0.0.0/33", "x", "10.0.0.0/", "10.0.0.0/+8", "::/129"] {
            assert!(cidr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn userinfo_is_blotted_out() {
        assert_eq!(without_userinfo("http://u:p@w@h/x@y"), "http://***@h/x@y");
        assert_eq!(without_userinfo("http://h/x@y"), "http://h/x@y");
        assert_eq!(without_userinfo("plain"), "plain");
    }

    #[test]
    fn addresses_have_a_port() {
        assert_eq!(address("localhost:1"), Ok("127.0.0.1:1".parse().unwrap()));
        assert_eq!(address(":1"), Ok("0.0.0.0:1".parse().unwrap()));
        assert!(address("8080").is_err() && address("example.com:80").is_err() && address("[::1]:80").is_ok());
    }
}
