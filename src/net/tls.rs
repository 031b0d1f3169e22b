//! TLS towards upstreams: rustls with the one crypto provider, through monoio-rustls.

use std::io;
use std::path::Path;
use std::sync::Arc;

use monoio::net::TcpStream;
use monoio_rustls::TlsConnector;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::Stream;

/// Makes verified TLS connections to one server name. There is no mode that skips the verification.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// `ca_path`: a PEM file of roots; `None`: the system's.
    ///
    /// # Errors
    /// A name that is no DNS name or IP address, a file that cannot be read or holds no certificate, no system roots.
    pub fn new(server_name: &str, ca_path: Option<&Path>) -> Result<Connector, String> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| format!("`{server_name}` is neither a DNS name nor an IP address"))?;
        let roots = match ca_path {
            Some(path) => roots_of_file(path)?,
            None => roots_of_system()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Connector { config: Arc::new(config), name })
    }

    /// The handshake over a fresh connection.
    pub async fn handshake(&self, stream: Stream) -> io::Result<Stream> {
        let fd = stream.fd();
        let tcp: TcpStream = stream.into_tcp();
        let tls = TlsConnector::from(self.config.clone()).connect(self.name.clone(), tcp).await;
        Ok(Stream::tls(fd, tls.map_err(io::Error::other)?))
    }
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| format!("{}: {error}", path.display()))?;
        roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if roots.is_empty() {
        return Err(format!("{}: no certificate in this file", path.display()));
    }
    Ok(roots)
}

fn roots_of_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system has no root certificates (install ca-certificates, or set `ca_path`)".into());
    }
    Ok(roots)
}
