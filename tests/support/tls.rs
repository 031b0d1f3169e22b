//! A certificate authority and a server with a certificate of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SideData, StreamOwned, SupportedProtocolVersion, version,
};

use super::client::RawClient;
use super::upstream::{Conversation, FakeUpstream};
use super::wire::{Plain, Transport, Wire};

/// PEM of a new authority, and a server's settings with a certificate that it signed for `name`.
pub fn authority_and_server(name: &str) -> (String, Arc<ServerConfig>) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("a server");
    (ca_certificate.pem(), Arc::new(config))
}

/// A server for `name` that takes clients with a certificate of this authority only.
pub fn server_asking_for(authority: &Authority, name: &str) -> Arc<ServerConfig> {
    let (certificate, key) = authority.sign(name);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).expect("a root");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key"),
        )
        .expect("a server");
    Arc::new(config)
}

struct Tls<C: std::ops::DerefMut<Target = ConnectionCommon<S>>, S: SideData>(StreamOwned<C, Plain>);

impl<C: std::ops::DerefMut<Target = ConnectionCommon<S>>, S: SideData> Read for Tls<C, S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl<C: std::ops::DerefMut<Target = ConnectionCommon<S>>, S: SideData> Write for Tls<C, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<C: std::ops::DerefMut<Target = ConnectionCommon<S>> + Send, S: SideData> Transport for Tls<C, S> {
    fn socket(&self) -> &TcpStream {
        self.0.sock.socket()
    }

    fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

/// An authority that signs certificates into files.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Authority { pem, issuer: Issuer::new(parameters, key), certificate: der }
    }

    /// PEM of a certificate for `name` and of its key.
    pub fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        leaf.distinguished_name.push(DnType::CommonName, name);
        // As long as a public authority gives one.
        let (day, now) = (Duration::from_secs(86_400), UNIX_EPOCH.elapsed().expect("after 1970"));
        leaf.not_before = date_time_ymd(1970, 1, 1) + now - day;
        leaf.not_after = leaf.not_before + 90 * day;
        let leaf = leaf.signed_by(&key, &self.issuer).expect("a certificate");
        (leaf.pem(), key.serialize_pem())
    }

    /// As [`sign`](Authority::sign), valid for so many seconds from now.
    pub fn sign_for(&self, name: &str, seconds: u64) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.not_after = (SystemTime::now() + Duration::from_secs(seconds)).into();
        let leaf = leaf.signed_by(&key, &self.issuer).expect("a certificate");
        (leaf.pem(), key.serialize_pem())
    }

    /// The same in files of a directory: `NAME.pem`, and `NAME.key` that only its owner reads.
    pub fn write(&self, directory: &Path, name: &str, signed: &(String, String)) -> (PathBuf, PathBuf) {
        let (certificate, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        // Renamed into place, so that nobody sees half of a file.
        for (path, text) in [(&key, &signed.1), (&certificate, &signed.0)] {
            let new = path.with_extension("new");
            std::fs::write(&new, text).expect("written");
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("permissions");
            std::fs::rename(&new, path).expect("renamed");
        }
        (certificate, key)
    }

    /// A client that trusts it.
    pub fn client(&self) -> ClientConfig {
        self.client_with(&[&version::TLS13, &version::TLS12], None)
    }

    pub fn client_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        certificate: Option<&(String, String)>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a client")
            }
        }
    }
}

/// A client over TLS, after its handshake.
pub fn client(address: SocketAddr, name: &'static str, config: Arc<ClientConfig>) -> io::Result<RawClient> {
    let socket = Plain(Arc::new(TcpStream::connect(address)?));
    let connection =
        ClientConnection::new(config, ServerName::try_from(name).expect("a name")).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(RawClient { wire: Wire::over(Box::new(Tls(stream))) })
}

/// An upstream that speaks TLS with these settings.
pub fn upstream(config: Arc<ServerConfig>, script: impl Fn(&mut Conversation) + Send + Sync + 'static) -> FakeUpstream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let wrap = move |stream| {
        let connection = ServerConnection::new(config.clone()).ok()?;
        Some(Box::new(Tls(StreamOwned::new(connection, Plain(stream)))) as Box<dyn Transport>)
    };
    FakeUpstream::on(listener, wrap, script)
}
