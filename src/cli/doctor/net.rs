//! What is reached over the network: our own ports, upstreams, authorization servers.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use url::Url;

use super::{Findings, State};
use crate::config::plan::{AuthPlan, IssuerPlan, Plan, UpstreamPlan};
use crate::control::fetch::{Client, NamedBy};
use crate::control::{discovery, resolve};
use crate::identity::KeySet;
use crate::net::tls::Connector;

/// Upstreams that are tried at a time.
const AT_ONCE: usize = 16;
/// A connection that takes longer is none.
const CONNECT_TIME: Duration = Duration::from_secs(5);

pub fn look(plan: &Plan, findings: &mut Findings) {
    ports(plan, findings);
    roots(plan, findings);
    upstreams(plan, findings);
    if let Some(auth) = &plan.auth {
        issuers(auth, findings);
    }
}

fn ports(plan: &Plan, findings: &mut Findings) {
    let admin = plan.admin.bind.map(|address| ("admin.bind", address));
    for (name, address) in [("proxy.bind", plan.bind)].into_iter().chain(admin) {
        match TcpListener::bind(address) {
            Ok(_) => findings.ok(name, format!("{address} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_ours(plan) => {
                findings.ok(name, format!("{address} is in use, by a server of this configuration"));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let fix = format!("ss -ltnp 'sport = :{}' shows who listens there", address.port());
                findings.fail(name, format!("{address} is in use by somebody else"), fix);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let fix = "AmbientCapabilities=CAP_NET_BIND_SERVICE, or a port from 1024 on";
                findings.fail(name, format!("{address}: {error}"), fix);
            }
            Err(error) => findings.fail(name, format!("{address}: {error}"), "an address of this machine"),
        }
    }
}

/// A server whose socket is where this configuration has it.
fn is_ours(plan: &Plan) -> bool {
    plan.admin.socket.as_ref().is_some_and(|socket| UnixStream::connect(&socket.path).is_ok())
}

fn roots(plan: &Plan, findings: &mut Findings) {
    let of_upstreams = plan.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
    let by_upstreams = of_upstreams.filter(|tls| tls.ca_path.is_none()).count();
    let by_auth = plan.auth.as_ref().is_some_and(|auth| auth.ca_path.is_none() && !auth.issuers.is_empty());
    let count = rustls_native_certs::load_native_certs().certs.len();
    if count > 0 {
        findings.ok("CA store", format!("{count} roots of the system"));
    } else if by_upstreams > 0 || by_auth {
        findings.fail("CA store", "the system has no roots", "install ca-certificates, or set ca_path");
    } else {
        findings.ok("CA store", "the system has no roots, and none are needed");
    }
}

fn upstreams(plan: &Plan, findings: &mut Findings) {
    for some in plan.upstreams.chunks(AT_ONCE) {
        let looked = thread::scope(|scope| {
            let one = |upstream| scope.spawn(move || upstream_of(plan, upstream));
            let looks: Vec<_> = some.iter().map(one).collect();
            looks.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for (upstream, looked) in some.iter().zip(looked) {
            let (state, found, fix) = looked.unwrap_or((State::Fail, "the look at it broke off".to_owned(), ""));
            findings.add(format!("upstream {}", upstream.name), state, found, fix);
        }
    }
}

type Look = (State, String, &'static str);

fn upstream_of(plan: &Plan, upstream: &UpstreamPlan) -> Look {
    let addresses = resolve::addresses(&upstream.host, upstream.port);
    if addresses.is_empty() {
        return (State::Fail, format!("{} does not resolve", upstream.host), "the name, and /etc/resolv.conf");
    }
    let limit = plan.timeouts.connect.min(CONNECT_TIME);
    let connector = match upstream.tls.as_ref().map(Connector::new).transpose() {
        Ok(connector) => connector,
        Err(why) => return (State::Fail, why, "the files of this upstream"),
    };
    let tried: Vec<(SocketAddr, Result<(), String>)> = addresses
        .iter()
        .map(|&address| {
            let connected = TcpStream::connect_timeout(&address, limit).map_err(|error| error.to_string());
            let shaken = connected.and_then(|stream| match &connector {
                Some(connector) => connector.try_handshake(stream, limit).map_err(|error| format!("TLS: {error}")),
                None => Ok(()),
            });
            (address, shaken)
        })
        .collect();
    let failed: Vec<String> =
        tried.iter().filter_map(|(address, result)| Some(format!("{address}: {}", result.as_ref().err()?))).collect();
    let fix = "whether it runs, a firewall, its certificate and ca_path";
    match (failed.len(), tried.len()) {
        (0, 1) => (State::Ok, format!("{} connects", addresses[0]), ""),
        (0, all) => (State::Ok, format!("{all} addresses, all connect"), ""),
        (some, all) if some < all => (State::Warn, failed.join(", "), fix),
        _ => (State::Fail, failed.join(", "), fix),
    }
}

fn issuers(auth: &AuthPlan, findings: &mut Findings) {
    if auth.closed {
        let fix = "auth.issuer or auth.jwks_url, auth.introspection_url, or API keys";
        findings.fail("auth", "there is nothing to verify a token with: every request is refused", fix);
    }
    if auth.issuers.is_empty() {
        return;
    }
    let client = match Client::new(auth.ca_path.as_deref()) {
        Ok(client) => client,
        Err(why) => return findings.fail("auth", why, "auth.ca_path"),
    };
    for issuer in &auth.issuers {
        let name = issuer.issuer.as_deref().or(issuer.jwks_url.as_deref()).or(issuer.introspection_url.as_deref());
        let check = format!("issuer {}", name.unwrap_or("without a name"));
        if !issuer.has_keys() {
            findings.ok(check, "its tokens are asked about, one by one");
            continue;
        }
        match keys_of(&client, issuer) {
            Err(why) => findings.fail(check, why, "whether it runs and may be reached from here, and its URL"),
            Ok((0, _)) => {
                findings.fail(check, "none of its keys fits auth.algorithms", "auth.algorithms as the issuer signs");
            }
            Ok((keys, date)) => clocks(findings, &check, keys, date, issuer.leeway),
        }
    }
}

/// How many keys can be used, and what time it is there.
fn keys_of(client: &Client, issuer: &IssuerPlan) -> Result<(usize, Option<u64>), String> {
    let (url, by) = match (&issuer.jwks_url, &issuer.issuer) {
        (Some(url), _) => (url.clone(), NamedBy::Configuration),
        (None, Some(name)) => {
            let metadata = discovery::of_issuer(client, name)?;
            let url = metadata.jwks_uri.ok_or("its metadata names no jwks_uri")?;
            let by = discovery::named_by(name, &url);
            (url, by)
        }
        (None, None) => return Err("neither an issuer nor a jwks_url".to_owned()),
    };
    let (text, date) = client.get_dated(&url, by).map_err(|error| error.to_string())?;
    let place = Url::parse(&url).map_or_else(|_| url.clone(), |url| url.origin().ascii_serialization());
    let keys = KeySet::parse(&text, &issuer.algorithms).map_err(|why| format!("the keys of {place}: {why}"))?;
    Ok((keys.len(), date.as_deref().and_then(seconds_of)))
}

fn clocks(findings: &mut Findings, check: &str, keys: usize, date: Option<u64>, leeway: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let Some(date) = date else { return findings.ok(check, format!("usable keys: {keys}")) };
    let apart = now.abs_diff(date);
    let found = format!("usable keys: {keys}; its clock and ours are {apart} s apart");
    if apart > leeway.as_secs() {
        findings.fail(check, found, "set the clock (NTP): tokens seem to be of another time");
    } else if apart > leeway.as_secs() / 2 {
        findings.warn(check, found, "set the clock (NTP)");
    } else {
        findings.ok(check, found);
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7) in seconds since 1970.
fn seconds_of(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = date.split_whitespace().skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let text = format!("{year}-{month:02}-{day}T{time}Z");
    let time = humantime::parse_rfc3339(&text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        assert_eq!(seconds_of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for bad in ["", "yesterday", "Sun, 06 Nox 1994 08:49:37 GMT", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(seconds_of(bad), None, "{bad}");
        }
    }
}
