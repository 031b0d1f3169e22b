//! TLS towards upstreams: rustls with the one crypto provider, through monoio-rustls.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use monoio_rustls::TlsConnector;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::{Stream, pem};
use crate::config::plan::UpstreamTls;

/// Makes verified TLS connections to one server name. There is no mode that skips the verification.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// # Errors
    /// A name that is no DNS name or IP address, a file that cannot be read or holds no certificate, a key that is not
    /// that of its certificate, no system roots.
    pub fn new(plan: &UpstreamTls) -> Result<Connector, String> {
        let name = ServerName::try_from(plan.server_name.clone())
            .map_err(|_| format!("`{}` is neither a DNS name nor an IP address", plan.server_name))?;
        let roots = match &plan.ca_path {
            Some(path) => pem::roots(path)?,
            None => roots_of_system()?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match &plan.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let own = pem::pair(certificate, key, &provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
        };
        Ok(Connector { config: Arc::new(config), name })
    }

    /// The same, but no session is resumed: every handshake is a full one.
    pub fn without_resumption(&self) -> Connector {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        Connector { config: Arc::new(config), name: self.name.clone() }
    }

    /// A handshake and no more, on a thread that may block.
    ///
    /// # Errors
    /// Whom it speaks to is not who it must be; no step of it takes longer than `limit`.
    pub fn try_handshake(&self, mut stream: std::net::TcpStream, limit: Duration) -> io::Result<()> {
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let connection = ClientConnection::new(self.config.clone(), self.name.clone());
        let mut connection = connection.map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(())
    }

    /// The handshake over a fresh connection.
    pub async fn handshake(&self, stream: Stream) -> io::Result<Stream> {
        let fd = stream.fd();
        let tcp = stream.into_socket()?.into_tcp()?;
        let tls = TlsConnector::from(self.config.clone()).connect(self.name.clone(), tcp).await;
        Ok(Stream::tls(fd, tls.map_err(io::Error::other)?))
    }
}

pub fn roots_of_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system has no root certificates (install ca-certificates, or set `ca_path`)".into());
    }
    Ok(roots)
}
