//! A certificate authority and a server with a certificate of it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::upstream::{Conversation, FakeUpstream};
use super::wire::{Plain, Transport};

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

struct Tls(StreamOwned<ServerConnection, Plain>);

impl Read for Tls {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Transport for Tls {
    fn socket(&self) -> &TcpStream {
        self.0.sock.socket()
    }
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
