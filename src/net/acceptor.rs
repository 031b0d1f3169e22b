//! Certificates and settings towards clients, from files to what a handshake uses.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use crate::config::plan::{TlsPlan, TlsVersion};

/// Keys of session tickets: one for the process, so that a session is resumed on any worker, and after certificates
/// were loaded anew. They change by themselves every six hours.
static TICKETS: LazyLock<Option<Arc<dyn ProducesTickets>>> =
    LazyLock::new(|| rustls::crypto::aws_lc_rs::Ticketer::new().ok());

/// The settings of `plan` with what its files hold now.
///
/// # Errors
/// A file that cannot be read or holds nothing of use, a key that does not belong to its certificate.
pub fn settings(plan: &TlsPlan) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pairs = plan.pairs.iter().map(|(certificate, key)| Pair::load(certificate, key, &provider));
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
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider);
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
    if let Some(tickets) = &*TICKETS {
        config.ticketer = tickets.clone();
    }
    Ok(Arc::new(config))
}

/// What tells that a file was changed; follows links, which is how Kubernetes swaps them.
pub fn fingerprint(plan: &TlsPlan) -> Vec<Option<(SystemTime, u64)>> {
    let files = plan.pairs.iter().flat_map(|(certificate, key)| [certificate, key]).chain(&plan.client_ca_path);
    let of = |path: &PathBuf| fs::metadata(path).ok().and_then(|found| Some((found.modified().ok()?, found.len())));
    files.map(of).collect()
}

/// A certificate with its key.
struct Pair {
    key: Arc<CertifiedKey>,
}

impl Pair {
    fn load(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Pair, String> {
        let broken = |error: rustls::pki_types::pem::Error| format!("{}: {error}", certificate.display());
        let chain = CertificateDer::pem_file_iter(certificate).map_err(broken)?;
        let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(broken)?;
        if chain.is_empty() {
            return Err(format!("{}: no certificate in this file", certificate.display()));
        }
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
        let key = CertifiedKey::from_der(chain, secret, provider)
            .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))?;
        Ok(Pair { key: Arc::new(key) })
    }

    fn is_for(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name) else { return false };
        let parsed = self.key.end_entity_cert().ok().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        parsed.is_some_and(|leaf| verify_server_name(&leaf, &name).is_ok())
    }
}

/// The first pair whose certificate has the name that was asked for, else the first.
struct Resolver {
    pairs: Vec<Pair>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.pairs.len())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().filter(|_| self.pairs.len() > 1);
        let fitting = named.and_then(|name| self.pairs.iter().find(|pair| pair.is_for(name)));
        fitting.or(self.pairs.first()).map(|pair| pair.key.clone())
    }
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let broken = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| broken(&error))? {
        roots.add(certificate.map_err(|error| broken(&error))?).map_err(|error| broken(&error))?;
    }
    if roots.is_empty() { Err(broken(&"no certificate in this file")) } else { Ok(roots) }
}
