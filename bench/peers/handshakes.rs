//! Connections one after the other, each with a TLS 1.3 handshake and one small request: the client of the handshake rows.
//!
//! usage: handshakes CA.pem PORT full|resumed x25519|hybrid|p256 CONNECTIONS
//!
//! Prints what was negotiated; fails if a handshake was not of the kind that was asked for.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [ca, port, kind, group, connections] = words.as_slice() else { return Err("five arguments".into()) };
    let mut provider = default_provider();
    provider.kx_groups = match group.as_str() {
        "x25519" => vec![kx_group::X25519],
        "p256" => vec![kx_group::SECP256R1],
        // What browsers of today and rustls offer first; the fallback comes with the first message.
        "hybrid" => vec![kx_group::X25519MLKEM768, kx_group::X25519],
        other => return Err(format!("no group {other}").into()),
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let resumed = kind == "resumed";
    config.resumption = if resumed { Resumption::in_memory_sessions(16) } else { Resumption::disabled() };
    let config = Arc::new(config);
    let port = port.parse()?;
    if resumed {
        connection(&config, port)?;
    }
    let mut negotiated = BTreeSet::new();
    for _ in 0..connections.parse::<u32>()? {
        let (kind, what) = connection(&config, port)?;
        if (kind == HandshakeKind::Resumed) != resumed {
            return Err(format!("a handshake was {kind:?}").into());
        }
        negotiated.insert(what);
    }
    println!("{}", negotiated.into_iter().collect::<Vec<_>>().join(", "));
    Ok(())
}

fn connection(config: &Arc<ClientConfig>, port: u16) -> Result<(HandshakeKind, String), Box<dyn Error>> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    let mut tls = StreamOwned::new(ClientConnection::new(config.clone(), ServerName::try_from("localhost")?)?, socket);
    tls.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    match tls.read_to_end(&mut answer) {
        // An end without close_notify; the answer says itself whether it is whole.
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => {}
    }
    if !answer.starts_with(b"HTTP/1.1 200") || !answer.ends_with(b"ok\n") {
        return Err(format!("not the answer: {}", String::from_utf8_lossy(&answer)).into());
    }
    let kind = tls.conn.handshake_kind().ok_or("no handshake")?;
    let suite = tls.conn.negotiated_cipher_suite().ok_or("no suite")?.suite();
    let group = tls.conn.negotiated_key_exchange_group().map(|group| group.name());
    Ok((kind, format!("{suite:?} {group:?}")))
}
