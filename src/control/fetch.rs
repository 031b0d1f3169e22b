//! HTTP towards authorization servers: blocking, verified, bounded in time and size, never redirected.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use url::Url;

use crate::base::Secret;
use crate::config::is_loopback;

/// Longest answer that is read, bytes. Key sets with certificate chains take some tens of KiB.
const ANSWER_BYTES_MAX: u64 = 512 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const WHOLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks authorization servers. Cheap to clone; connections are kept.
#[derive(Clone)]
pub struct Client {
    /// Hosts that the configuration names.
    configured: Agent,
    /// Hosts that only an answer named: none inside private networks.
    discovered: Agent,
    /// This machine: no proxy of the environment in between.
    loopback: Agent,
}

/// Why there is no answer. Holds nothing of what was sent, and of the URL no query.
#[derive(Debug)]
pub struct FetchError {
    place: String,
    why: String,
    pub kind: FetchErrorKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchErrorKind {
    /// Not even tried.
    Refused,
    /// The connection broke: one that was kept may have been closed by the other side.
    Broken,
    /// No answer in time, no connection, no TLS, too long an answer.
    Failed,
    /// An answer of another status than 200.
    Status(u16),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

/// Who named a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    Configuration,
    Answer,
}

/// How we say who we are (RFC 6749 section 2.3.1).
#[derive(Clone, Debug)]
pub struct ClientId {
    pub id: String,
    /// `None`: a public client, whose id goes into the form.
    pub secret: Option<Secret>,
}

impl Client {
    /// `ca_path`: PEM file of the roots; `None`: the system's.
    ///
    /// # Errors
    /// The file cannot be read or holds no certificate.
    pub fn new(ca_path: Option<&Path>) -> Result<Client, String> {
        let roots = match ca_path {
            Some(path) => roots_of_file(path)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let roots: Vec<Certificate<'static>> =
            roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
        let builder = || {
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::new_with_certs(&roots))
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .build();
            Agent::config_builder()
                .tls_config(tls)
                .http_status_as_error(false)
                .max_redirects(0)
                .timeout_connect(Some(CONNECT_TIMEOUT))
                .timeout_global(Some(WHOLE_TIMEOUT))
                .user_agent(concat!("shadowcat/", env!("CARGO_PKG_VERSION")))
        };
        Ok(Client {
            configured: builder().build().new_agent(),
            discovered: Agent::with_parts(builder().build(), DefaultConnector::default(), PublicOnly::default()),
            loopback: builder().proxy(None).build().new_agent(),
        })
    }

    /// The body of a 200 answer.
    ///
    /// # Errors
    /// Everything else.
    pub fn get(&self, url: &str, by: NamedBy) -> Result<Vec<u8>, FetchError> {
        let (agent, place) = self.agent(url, by)?;
        let answer = agent.get(url).header("Accept", "application/json").call();
        read(answer, &place)
    }

    /// As [`get`](Client::get), with the time that the other side says it is (`Date`).
    ///
    /// # Errors
    /// As [`get`](Client::get).
    pub fn get_dated(&self, url: &str, by: NamedBy) -> Result<(Vec<u8>, Option<String>), FetchError> {
        let (agent, place) = self.agent(url, by)?;
        let answer = agent.get(url).header("Accept", "application/json").call();
        let date =
            answer.as_ref().ok().and_then(|answer| answer.headers().get("date")?.to_str().ok()).map(str::to_owned);
        Ok((read(answer, &place)?, date))
    }

    /// Post a form and read the body of a 200 answer.
    ///
    /// # Errors
    /// Everything else.
    pub fn post(
        &self,
        url: &str,
        by: NamedBy,
        client: Option<&ClientId>,
        form: &[(&str, &str)],
    ) -> Result<Vec<u8>, FetchError> {
        let (agent, place) = self.agent(url, by)?;
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let mut request = agent
            .post(url)
            .header("Accept", "application/json")
            .header("Content-Type", "application/x-www-form-urlencoded");
        match client {
            Some(ClientId { id, secret: Some(secret) }) => {
                request = request.header("Authorization", basic(id, secret));
            }
            Some(ClientId { id, secret: None }) => drop(body.append_pair("client_id", id)),
            None => {}
        }
        read(request.send(body.finish()), &place)
    }

    fn agent(&self, url: &str, by: NamedBy) -> Result<(&Agent, String), FetchError> {
        let parsed = Url::parse(url).map_err(|_| refused("an address that is no URL".into(), "not fetched"))?;
        let place = format!("{}{}", parsed.origin().ascii_serialization(), parsed.path());
        match (parsed.scheme(), is_loopback(&parsed), by) {
            ("http" | "https", true, NamedBy::Configuration) => Ok((&self.loopback, place)),
            ("https", _, NamedBy::Configuration) => Ok((&self.configured, place)),
            ("https", _, NamedBy::Answer) => Ok((&self.discovered, place)),
            _ => Err(refused(place, "not fetched: https:// is needed")),
        }
    }
}

fn refused(place: String, why: &str) -> FetchError {
    FetchError { place, why: why.to_owned(), kind: FetchErrorKind::Refused }
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>, place: &str) -> Result<Vec<u8>, FetchError> {
    let failed = |error: ureq::Error| {
        let kind = if matches!(error, ureq::Error::Io(_)) { FetchErrorKind::Broken } else { FetchErrorKind::Failed };
        FetchError { place: place.to_owned(), why: error.to_string(), kind }
    };
    let mut answer = answer.map_err(failed)?;
    let status = answer.status().as_u16();
    if status != 200 {
        let kind = FetchErrorKind::Status(status);
        return Err(FetchError { place: place.to_owned(), why: format!("status {status}"), kind });
    }
    answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(failed)
}

/// `client_secret_basic`: both parts form-encoded before they are joined.
fn basic(id: &str, secret: &Secret) -> String {
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let both = format!("{}:{}", encode(id), encode(secret.expose()));
    format!("Basic {}", base64(both.as_bytes()))
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    let mut text = crate::wire::jose::encode_base64url(bytes).replace('-', "+").replace('_', "/");
    text.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    text
}

fn roots_of_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let broken = |error: rustls::pki_types::pem::Error| format!("auth.ca_path: {}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(broken)?;
    let roots = found.collect::<Result<Vec<_>, _>>().map_err(broken)?;
    if roots.is_empty() {
        return Err(format!("auth.ca_path: {}: no certificate in this file", path.display()));
    }
    Ok(roots)
}

// --- private networks ------------------------------------------------------------------------------------------------

/// Resolves names to public addresses alone, so that metadata cannot make us ask our own network.
#[derive(Debug, Default)]
struct PublicOnly(DefaultResolver);

impl Resolver for PublicOnly {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.0.resolve(uri, config, timeout)?;
        let mut public = self.empty();
        found.iter().filter(|address| is_public(address.ip())).for_each(|address| public.push(*address));
        if public.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(public) }
    }
}

/// Whether an address is for everybody (the special ones are those of RFC 6890 and its successors).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_documentation();
            let shared = a == 100 && (64..128).contains(&b);
            let protocol = (a, b, c) == (192, 0, 0) || (a == 198 && (18..20).contains(&b));
            !(special || shared || protocol || a == 0 || a >= 224)
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            // Only 2000::/3 is for everybody; what carries an IPv4 address in it may lead inside again.
            let translated = first == 0x2002 || (first == 0x2001 && second < 0x200) || v6 == Ipv6Addr::UNSPECIFIED;
            (0x2000..0x4000).contains(&first) && !translated && (first, second) != (0x2001, 0x0db8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_not_public() {
        for inside in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.8",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
            "ff02::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "2001:4860:4860::8888"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn plain_http_is_for_configured_loopback_alone() {
        let client = Client::new(None).unwrap();
        let agent = |url, by| client.agent(url, by).map(|(_, place)| place).map_err(|error| error.to_string());
        assert!(
            agent("http://127.0.0.1:1/x?secret", NamedBy::Configuration).is_ok_and(|place| !place.contains("secret"))
        );
        assert!(agent("http://idp.example/x", NamedBy::Configuration).is_err());
        assert!(agent("http://127.0.0.1:1/x", NamedBy::Answer).is_err());
        assert!(agent("https://idp.example/x", NamedBy::Answer).is_ok());
        assert!(agent("file:///etc/passwd", NamedBy::Configuration).is_err());
    }

    #[test]
    fn clients_are_named_as_the_rfc_says() {
        // RFC 6749 section 2.3.1 has this id; the secret here needs its encoding.
        assert_eq!(basic("s6BhdRkqt3", &Secret::new("a b:c")), "Basic czZCaGRSa3F0MzphK2IlM0Fj");
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
