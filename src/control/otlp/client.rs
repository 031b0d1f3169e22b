//! A client of one gRPC method over HTTP/2: one connection, one request at a time, made anew when it failed.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::status::{Verdict, verdict};
use crate::config::plan::Collector;
use crate::net::tls::roots_of_system;

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// From the connect to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// As gRPC tells it.
const PATIENCE_TOLD: &str = "10S";
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub struct Client {
    host: String,
    port: u16,
    /// As in a URL.
    authority: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connection: Option<SendRequest<Bytes>>,
}

impl Client {
    /// # Errors
    /// No root certificates, or a name that is none.
    pub fn new(collector: &Collector) -> Result<Client, String> {
        let Collector { host, port, .. } = collector.clone();
        let tls = collector.tls.then(|| connector(&host)).transpose()?;
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Client { host, port, authority, tls, connection: None })
    }

    /// The collector in logs.
    pub fn name(&self) -> &str {
        &self.authority
    }

    /// Send a message of gRPC.
    pub async fn export(&mut self, message: Bytes) -> Verdict {
        let asked = timeout(PATIENCE, self.ask(message)).await;
        asked.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE_TOLD}"))).unwrap_or_else(|why| {
            // What is left of the connection is in an unknown state.
            self.connection = None;
            Verdict::Later(why, None)
        })
    }

    async fn ask(&mut self, message: Bytes) -> Result<Verdict, String> {
        let connection = match self.connection.take() {
            Some(connection) => connection.ready().await.ok(),
            None => None,
        };
        let mut connection = match connection {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let text = |error: h2::Error| error.to_string();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let request = Request::post(format!("{scheme}://{}{METHOD}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", PATIENCE_TOLD)
            .header("user-agent", concat!("shadowcat/", env!("CARGO_PKG_VERSION")))
            .body(())
            .map_err(|error| error.to_string())?;
        let (response, mut body) = connection.send_request(request, false).map_err(text)?;
        body.send_data(message, true).map_err(text)?;
        let verdict = answer(response).await.map_err(text)?;
        self.connection = Some(connection);
        Ok(verdict)
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>, String> {
        let told = |error: io::Error| format!("no connection: {error}");
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(told)?;
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => speak(stream).await,
            Some((connector, name)) => speak(connector.connect(name.clone(), stream).await.map_err(told)?).await,
        }
    }
}

/// HTTP/2 over a fresh stream; the connection runs beside whatever else the thread does.
async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<SendRequest<Bytes>, String> {
    let (sender, connection) = h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
    // Its end shows at the next request.
    tokio::spawn(connection);
    sender.ready().await.map_err(|error| error.to_string())
}

async fn answer(response: ResponseFuture) -> Result<Verdict, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
            return Ok(Verdict::Refused("the collector's answer is too long".into()));
        }
        bytes.extend_from_slice(&piece);
    }
    if head.status != StatusCode::OK {
        return Ok(without_grpc(head.status));
    }
    // An answer without a body may have its status in its head.
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(of_fields(&trailers, &bytes)
        .or_else(|| of_fields(&head.headers, &bytes))
        .unwrap_or_else(|| Verdict::Refused("the collector does not speak gRPC".into())))
}

fn of_fields(fields: &HeaderMap, body: &[u8]) -> Option<Verdict> {
    let text = |name| fields.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?.parse().ok()?;
    let details = fields.get("grpc-status-details-bin").map(http::HeaderValue::as_bytes);
    Some(verdict(code, text("grpc-message").unwrap_or_default(), details, body))
}

/// As gRPC maps what somebody in between answers (its documentation, "HTTP to gRPC Status Code Mapping").
fn without_grpc(status: StatusCode) -> Verdict {
    let why = format!("the collector answers {status} in place of gRPC");
    match status.as_u16() {
        429 | 502..=504 => Verdict::Later(why, None),
        _ => Verdict::Refused(why),
    }
}

fn connector(host: &str) -> Result<(TlsConnector, ServerName<'static>), String> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("telemetry.otlp_endpoint: `{host}` is neither a DNS name nor an IP address"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = roots_of_system().map_err(|error| format!("telemetry.otlp_endpoint: {error}"))?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), name))
}
