//! Certificates and keys from PEM files. Every error names the file.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// A certificate chain, leaf first, with the key of its leaf.
///
/// # Errors
/// A file that cannot be read, or without a certificate or key; a key that is not the leaf's.
pub fn pair(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, String> {
    let chain = chain(certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| broken(key, error))?;
    let pair = CertifiedKey::from_der(chain, secret, provider)
        .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))?;
    Ok(Arc::new(pair))
}

/// Certificates to trust.
///
/// # Errors
/// A file that cannot be read, or without a certificate that can sign.
pub fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots.add(certificate).map_err(|error| broken(path, error))?;
    }
    Ok(roots)
}

/// Never empty.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| broken(path, error))?;
    let chain: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| broken(path, error))?;
    if chain.is_empty() { Err(broken(path, "no certificate in this file")) } else { Ok(chain) }
}

fn broken(path: &Path, error: impl Display) -> String {
    format!("{}: {error}", path.display())
}
