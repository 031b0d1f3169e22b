//! `health`: asks a server how it is, as the probe of a container whose image has no other client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::Failure;
use super::args::ServerArgs;
use crate::config;
use crate::config::plan::Plan;

/// Longest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Debug, Args)]
pub struct HealthArgs {
    /// Ask whether it is ready for work, not only alive
    #[arg(long)]
    ready: bool,
    /// Longest time for all of it
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = |text: &str| config::duration(text, false))]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArgs,
}

/// # Errors
/// 1: no answer in time, or another one than 200; 78: the configuration.
pub fn run(args: &HealthArgs) -> Result<ExitCode, Failure> {
    let loaded = config::check(&args.server.sources()).map_err(|errors| Failure::config(errors.to_string()))?;
    let path = if args.ready { "/ready" } else { "/health" };
    let limit = Limit { until: Instant::now() + args.timeout };
    let failure = |message: String| Failure { code: 1, message };
    let (place, asked) = ask(&loaded.plan, path, &limit);
    let answer = asked.map_err(|error| failure(format!("{place}{path}: {error}")))?;
    match status_of(&answer) {
        Some(200) => {
            println!("{}", body_of(&answer));
            Ok(ExitCode::SUCCESS)
        }
        Some(status) => Err(failure(format!("{place}{path}: {status} {}", body_of(&answer)))),
        None => Err(failure(format!("{place}{path}: the answer is no HTTP"))),
    }
}

/// Where it was asked, and what came.
fn ask(plan: &Plan, path: &str, limit: &Limit) -> (String, io::Result<Vec<u8>>) {
    let wants_certificate = plan.tls.as_ref().is_some_and(|tls| tls.require_client_cert);
    // We have no certificate to show, and a port that is another one each time is known to the socket alone.
    match (&plan.admin.bind, &plan.admin.socket) {
        (Some(address), _) if wants_certificate && address.port() != 0 => {
            let address = reachable(*address);
            (format!("http://{address}"), over_tcp(address, None, false, path, limit))
        }
        (_, Some(socket)) if wants_certificate || plan.bind.port() == 0 => {
            (format!("{}:", socket.path.display()), over_socket(&socket.path, path, limit))
        }
        _ => {
            let address = reachable(plan.bind);
            let scheme = if plan.tls.is_some() { "https" } else { "http" };
            let announces = plan.guards.proxy_protocol && plan.guards.trusts(address.ip());
            let tls = plan.tls.as_ref().map(|_| address.ip());
            (format!("{scheme}://{address}"), over_tcp(address, tls, announces, path, limit))
        }
    }
}

/// From this machine.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bind.port())
}

/// `announces`: connections from here begin with a PROXY header.
fn over_tcp(
    address: SocketAddr,
    tls: Option<IpAddr>,
    announces: bool,
    path: &str,
    limit: &Limit,
) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, limit.left()?)?;
    stream.set_write_timeout(Some(limit.left()?))?;
    if announces {
        stream.write_all(b"PROXY UNKNOWN\r\n")?;
    }
    let Some(ip) = tls else { return converse(&mut stream, |stream, left| stream.set_read_timeout(left), path, limit) };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let tls = ClientConnection::new(Arc::new(config), ServerName::from(ip)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(tls, stream);
    converse(&mut stream, |stream, left| stream.sock.set_read_timeout(left), path, limit)
}

fn over_socket(socket: &std::path::Path, path: &str, limit: &Limit) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(limit.left()?))?;
    converse(&mut stream, |stream, left| stream.set_read_timeout(left), path, limit)
}

fn converse<S: Read + Write>(
    stream: &mut S,
    wait_at_most: impl Fn(&S, Option<Duration>) -> io::Result<()>,
    path: &str,
    limit: &Limit,
) -> io::Result<Vec<u8>> {
    wait_at_most(stream, Some(limit.left()?))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    stream.flush()?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while answer.len() < ANSWER_BYTES_MAX {
        wait_at_most(stream, Some(limit.left()?))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            // A TLS connection that ends without saying so, behind the answer.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && status_of(&answer).is_some() => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.1 ")?;
    std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
}

fn body_of(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim()).replace(char::is_control, "?")
}

/// For the whole of it, however it comes in pieces.
struct Limit {
    until: Instant,
}

impl Limit {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// We ask ourselves, over loopback or an address of this machine: whom the certificate names is for others to judge.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
