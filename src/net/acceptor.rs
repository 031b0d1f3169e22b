//! Certificates and settings towards clients, from files to what a handshake uses.

use std::fmt;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::pem;
use crate::config::plan::{TlsPlan, TlsVersion};

/// Keys of session tickets: one set for the process, so that a session is resumed on any worker, and after certificates
/// were loaded anew. They change by themselves every six hours, and when other roots sign clients' certificates: a
/// resumed session brings the verdict on its certificate along.
static TICKETS: Mutex<Option<Tickets>> = Mutex::new(None);

struct Tickets {
    /// What `client_ca_path` held.
    clients: Option<Vec<u8>>,
    keys: Arc<dyn ProducesTickets>,
}

/// `None`: the system has no random bytes, so sessions are not resumed.
fn tickets(plan: &TlsPlan) -> Option<Arc<dyn ProducesTickets>> {
    let clients = plan.client_ca_path.as_ref().and_then(|path| fs::read(path).ok());
    let mut tickets = TICKETS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = tickets.as_ref().filter(|known| known.clients == clients) {
        return Some(known.keys.clone());
    }
    let keys = rustls::crypto::aws_lc_rs::Ticketer::new().ok()?;
    *tickets = Some(Tickets { clients, keys: keys.clone() });
    Some(keys)
}

/// The settings of `plan` with what its files hold now.
///
/// # Errors
/// A file that cannot be read or holds nothing of use, a key that does not belong to its certificate.
pub fn settings(plan: &TlsPlan) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pairs = plan.pairs.iter().map(|(certificate, key)| pem::pair(certificate, key, &provider));
    let resolver = Resolver { pairs: pairs.collect::<Result<_, _>>()? };
    let versions: &[&SupportedProtocolVersion] = match plan.min_version {
        TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::Tls13 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let builder = match &plan.client_ca_path {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(pem::roots(path)?), provider);
            let verifier = if plan.require_client_cert { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| format!("{}: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 1;
    // Our order of ciphers holds: a client that prefers a weaker one does not get it.
    config.ignore_client_order = true;
    if let Some(keys) = tickets(plan) {
        config.ticketer = keys;
    }
    Ok(Arc::new(config))
}

fn is_for(pair: &CertifiedKey, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    let parsed = pair.end_entity_cert().ok().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    parsed.is_some_and(|leaf| verify_server_name(&leaf, &name).is_ok())
}

/// The first pair whose certificate has the name that was asked for, else the first.
struct Resolver {
    pairs: Vec<Arc<CertifiedKey>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.pairs.len())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().filter(|_| self.pairs.len() > 1);
        let fitting = named.and_then(|name| self.pairs.iter().find(|pair| is_for(pair, name)));
        fitting.or(self.pairs.first()).cloned()
    }
}
