//! The first stage: a well-framed request from a page and to a name that may ask.

use std::net::IpAddr;

use super::connection::Client;
use super::refusal::Refusal;
use super::upstream::LocalView;
use crate::base::Span;
use crate::config::plan::{GuardsPlan, Plan};
use crate::wire::http1::framing::{self, BodyLength, RequestFraming};
use crate::wire::http1::head::{Field, Method, Name, RequestHead, Version};

/// A request whose framing is beyond doubt and whose Host and Origin are allowed.
pub struct Request<'a> {
    pub head: &'a RequestHead,
    /// The buffer that the head's offsets point into.
    pub bytes: &'a [u8],
    pub host: &'a [u8],
    framing: RequestFraming,
}

impl<'a> Request<'a> {
    pub fn method(&self) -> Method {
        self.head.method
    }

    pub fn path_and_query(&self) -> &'a [u8] {
        let path = self.head.path_and_query.of(self.bytes);
        if path.is_empty() { b"/" } else { path }
    }

    pub fn path(&self) -> &'a [u8] {
        let path = self.path_and_query();
        &path[..memchr::memchr(b'?', path).unwrap_or(path.len())]
    }

    /// Without query, for comparisons with configured paths.
    pub fn path_text(&self) -> std::borrow::Cow<'a, str> {
        String::from_utf8_lossy(self.path())
    }

    /// The values of a field that the parser does not know by name.
    pub fn fields_named<'b>(&'b self, name: &'b [u8]) -> impl Iterator<Item = &'a [u8]> + 'b {
        let named = move |field: &&Field| field.name.of(self.bytes).eq_ignore_ascii_case(name);
        self.head.fields.iter().filter(named).map(|field| field.value.of(self.bytes))
    }

    pub fn find(&self, name: Name) -> Option<&'a [u8]> {
        self.head.find(self.bytes, name)
    }

    pub fn body(&self) -> BodyLength {
        self.framing.body
    }

    pub fn keep_alive(&self) -> bool {
        self.framing.keep_alive
    }

    pub fn expects_continue(&self) -> bool {
        self.framing.expect_continue && self.head.version == Version::Http11
    }

    /// Whether its body will be read to its end anyhow: a refusal may wait for that, and the connection goes on.
    pub fn is_soon_read(&self, limit: usize) -> bool {
        match self.framing.body {
            BodyLength::Empty => true,
            BodyLength::Length(length) => length <= limit as u64 && !self.expects_continue(),
            BodyLength::Chunked | BodyLength::UntilClose => false,
        }
    }

    /// `application/json`, or no type at all.
    pub fn is_json(&self) -> bool {
        let Some(kind) = self.find(Name::ContentType) else { return true };
        let essence = kind[..memchr::memchr(b';', kind).unwrap_or(kind.len())].trim_ascii();
        essence.eq_ignore_ascii_case(b"application/json")
            || (essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json"))
    }

    pub fn is_http10(&self) -> bool {
        self.head.version == Version::Http10
    }
}

/// What a head that was let in came to, for one of the same form ([`Repeats`](crate::wire::http1::head::Repeats)): it depends on nothing but what
/// is equal in both, the client and the view.
#[derive(Clone, Copy)]
pub struct Admitted {
    view: u32,
    host: Span,
    framing: RequestFraming,
}

/// As [`judge`]; `memory` is that of this head, or of none.
///
/// # Errors
/// As [`judge`].
pub fn admit<'a>(
    view: &LocalView,
    client: &Client,
    head: &'a RequestHead,
    bytes: &'a [u8],
    memory: &mut Option<Admitted>,
) -> Result<Request<'a>, Refusal> {
    if let Some(Admitted { host, framing, .. }) = memory.filter(|memory| memory.view == view.number) {
        let framing = framing::restated(framing, head, bytes).map_err(Refusal::framing)?;
        within_limit(&view.view.plan, &framing)?;
        return Ok(Request { head, bytes, host: host.of(bytes), framing });
    }
    let request = judge(&view.view.plan, client, head, bytes)?;
    let host = Span::within(bytes, request.host);
    *memory = Some(Admitted { view: view.number, host, framing: request.framing });
    Ok(request)
}

/// # Errors
/// Ambiguous framing (400 and close), CONNECT and TRACE (405), a Host (403) or Origin (403) that is not allowed.
fn judge<'a>(plan: &Plan, client: &Client, head: &'a RequestHead, bytes: &'a [u8]) -> Result<Request<'a>, Refusal> {
    let framing = framing::request(head, bytes).map_err(Refusal::framing)?;
    let host = head.host(bytes).map_err(Refusal::head)?;
    if matches!(head.method, Method::Connect | Method::Trace) {
        return Err(Refusal::METHOD);
    }
    within_limit(plan, &framing)?;
    let request = Request { head, bytes, host, framing };
    if is_probe(request.path()) {
        return Ok(request);
    }
    let loopback = plan.bind.ip().is_loopback();
    if !host_allowed(&plan.guards, loopback, host) && !client.trusted {
        return Err(refused_unread(&request, Refusal::HOST));
    }
    let allowed = |origin| is_our_own(plan, origin) || origin_allowed(&plan.guards, loopback, host, origin);
    if head.fields.is_repeated(Name::Origin) || request.find(Name::Origin).is_some_and(|origin| !allowed(origin)) {
        return Err(refused_unread(&request, Refusal::ORIGIN));
    }
    Ok(request)
}

fn within_limit(plan: &Plan, framing: &RequestFraming) -> Result<(), Refusal> {
    match (framing.body, plan.limits.body_bytes_max) {
        (BodyLength::Length(length), Some(max)) if length > max => Err(Refusal::BODY_TOO_LONG),
        _ => Ok(()),
    }
}

/// A refused request whose body is still to come ends the connection.
fn refused_unread(request: &Request<'_>, refusal: Refusal) -> Refusal {
    if request.body() == BodyLength::Empty { refusal } else { refusal.closing() }
}

/// `/health` and `/ready` answer any Host: probes of orchestrators use addresses.
pub fn is_probe(path: &[u8]) -> bool {
    matches!(path, b"/health" | b"/ready")
}

/// Bound to loopback, only loopback names reach us (DNS rebinding); bound elsewhere any, unless names are listed.
fn host_allowed(guards: &GuardsPlan, bound_to_loopback: bool, host: &[u8]) -> bool {
    let name = host_name(host);
    if guards.allowed_hosts.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(name)) {
        return true;
    }
    if bound_to_loopback { is_loopback(name) || host.is_empty() } else { guards.allowed_hosts.is_empty() }
}

/// The origin that browsers log in at is configured, so that no DNS can make it somebody else's.
fn is_our_own(plan: &Plan, origin: &[u8]) -> bool {
    let login = plan.auth.as_ref().and_then(|auth| auth.login.as_ref());
    login.is_some_and(|login| login.origin.as_bytes() == origin)
}

/// Listed; or loopback while we are bound to loopback; or equal to a Host that cannot be rebound by DNS.
fn origin_allowed(guards: &GuardsPlan, bound_to_loopback: bool, host: &[u8], origin: &[u8]) -> bool {
    let listed = |allowed: &String| allowed == "*" || allowed.as_bytes().eq_ignore_ascii_case(origin);
    if guards.allowed_origins.iter().any(listed) {
        return true;
    }
    let Some(authority) = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://")) else {
        return false;
    };
    let name = host_name(authority);
    if bound_to_loopback && is_loopback(name) {
        return true;
    }
    let fixed = is_loopback(name)
        || ip_of(name).is_some()
        || guards.allowed_hosts.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(name));
    fixed && authority.eq_ignore_ascii_case(host)
}

/// The host without its port (and an IPv6 literal with its brackets).
fn host_name(authority: &[u8]) -> &[u8] {
    let after_bracket = memchr::memchr(b']', authority).map_or(0, |at| at + 1);
    match memchr::memchr(b':', &authority[after_bracket..]) {
        Some(colon) => &authority[..after_bracket + colon],
        None => authority,
    }
}

fn ip_of(name: &[u8]) -> Option<IpAddr> {
    let name = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")).unwrap_or(name);
    std::str::from_utf8(name).ok()?.parse().ok()
}

fn is_loopback(name: &[u8]) -> bool {
    name == b"127.0.0.1"
        || name.eq_ignore_ascii_case(b"localhost")
        || (name.len() > 10 && name[name.len() - 10..].eq_ignore_ascii_case(b".localhost"))
        || ip_of(name).is_some_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(hosts: &[&str], origins: &[&str]) -> GuardsPlan {
        GuardsPlan {
            allowed_hosts: hosts.iter().map(|&s| s.into()).collect(),
            allowed_origins: origins.iter().map(|&s| s.into()).collect(),
            ..GuardsPlan::default()
        }
    }

    #[test]
    fn bound_to_loopback_only_loopback_names_pass() {
        let guards = listing(&[], &[]);
        for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.3.2.1", "app.localhost"] {
            assert!(host_allowed(&guards, true, host.as_bytes()), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "10.0.0.1", "[::2]"] {
            assert!(!host_allowed(&guards, true, host.as_bytes()), "{host}");
            assert!(host_allowed(&guards, false, host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn listed_hosts_are_the_only_ones() {
        let guards = listing(&["mcp.example.com"], &[]);
        assert!(host_allowed(&guards, false, b"MCP.example.com:443"));
        assert!(!host_allowed(&guards, false, b"other.example.com"));
    }

    #[test]
    fn an_origin_equal_to_host_counts_only_where_dns_cannot_lie() {
        let guards = listing(&["mcp.example.com"], &["https://app.example.com"]);
        let allowed = |host: &str, origin: &str| origin_allowed(&guards, false, host.as_bytes(), origin.as_bytes());
        assert!(allowed("mcp.example.com", "https://app.example.com"));
        assert!(allowed("mcp.example.com", "https://mcp.example.com"));
        assert!(allowed("10.1.2.3:8080", "http://10.1.2.3:8080"));
        assert!(!allowed("rebound.example", "http://rebound.example"));
        assert!(!allowed("10.1.2.3:8080", "null"));
        assert!(!allowed("localhost:1", "http://localhost:2"));
        assert!(origin_allowed(&guards, true, b"localhost:1", b"http://localhost:2"));
        assert!(!origin_allowed(&guards, true, b"localhost:1", b"http://evil.example"));
    }
}
