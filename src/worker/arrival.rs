//! What comes before the first request of a connection: who stands behind it (PROXY protocol), and the handshake.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustls::ServerConfig;

use super::Worker;
use super::connection::LINGER;
use crate::net::{Buffer, Stream, within};
use crate::wire::proxy_protocol::{self, Progress};

/// Who it is, and whether its `X-Forwarded-*` are believed. A trusted proxy below HTTP tells who stands behind it before
/// the first byte; what that one claims in HTTP fields is then as good as its own address.
pub async fn identify(worker: &Worker, stream: &Stream, peer: IpAddr) -> Option<(IpAddr, bool)> {
    let view = worker.view();
    let (guards, times) = (&view.view.plan.guards, &view.view.plan.timeouts);
    if !guards.trusts(peer) {
        return Some((peer, false));
    }
    if !guards.proxy_protocol {
        return Some((peer, true));
    }
    let announced = Box::pin(within(times.header, announced(stream))).await;
    match announced {
        Ok(Ok(Some(source))) => Some((source, guards.trusts(source))),
        Ok(Ok(None)) => Some((peer, false)),
        Ok(Err(error)) => {
            worker.cells.refused("proxy_protocol");
            tracing::info!(%peer, %error, "lost a connection without a PROXY header");
            None
        }
        Err(_) => {
            worker.cells.refused("proxy_protocol");
            tracing::info!(%peer, "lost a connection whose PROXY header did not come in time");
            None
        }
    }
}

/// The handshake, where clients speak TLS.
pub async fn secure(worker: &Worker, stream: Stream, peer: IpAddr) -> Option<Stream> {
    let view = worker.view();
    let (Some(config), Some(plan)) = (worker.shared.tls.load_full(), &view.view.plan.tls) else { return Some(stream) };
    let _under_way = UnderWay(worker);
    if worker.shared.handshakes.fetch_add(1, Relaxed) >= plan.handshakes_max {
        worker.cells.handshake("turned_away");
        return None;
    }
    let outcome = Box::pin(within(plan.handshake_timeout, handshake(stream, config))).await;
    let (outcome, secured) = match outcome {
        Ok(Ok((stream, resumed))) => (if resumed { "resumed" } else { "full" }, Some(stream)),
        Ok(Err(error)) => {
            tracing::info!(%peer, %error, "a TLS handshake failed");
            ("failed", None)
        }
        Err(_) => ("timeout", None),
    };
    worker.cells.handshake(outcome);
    secured
}

async fn handshake(stream: Stream, config: Arc<ServerConfig>) -> std::io::Result<(Stream, bool)> {
    const PLAIN: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 43\r\nConnection: close\r\n\r\n\
        This port speaks TLS: ask with https://...\n";
    stream.readable().await?;
    // A handshake begins with the byte 22, a request with a letter.
    let mut first = [0];
    if stream.peek(&mut first).is_ok_and(|n| n == 1) && first[0].is_ascii_uppercase() {
        let mut out = Buffer::small();
        out.vec().extend_from_slice(PLAIN);
        let _ = stream.write_all(out).await;
        linger_before_close(&stream).await;
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "a plain request on a port that speaks TLS"));
    }
    stream.secure(config).await
}

/// What was sent is read only if what came is: closing over unread bytes is a reset.
async fn linger_before_close(stream: &Stream) {
    stream.shutdown().await;
    let _ = within(LINGER, async { while matches!(stream.read(Buffer::small()).await.0, Ok(1..)) {} }).await;
}

/// A handshake that is counted.
struct UnderWay<'a>(&'a Worker);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.shared.handshakes.fetch_sub(1, Relaxed);
    }
}

/// Read the header of the PROXY protocol, and not a byte more.
async fn announced(stream: &Stream) -> std::io::Result<Option<IpAddr>> {
    let bad = |error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
    let mut header = Vec::new();
    loop {
        stream.readable().await?;
        let mut space = [0; 256];
        let came = match stream.peek(&mut space) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(came) => came,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let progress = proxy_protocol::extent(&header, &space[..came]).map_err(bad)?;
        let (Progress::More(n) | Progress::Last(n)) = progress;
        stream.take_peeked(&mut space[..n])?;
        header.extend_from_slice(&space[..n]);
        if let Progress::Last(_) = progress {
            return proxy_protocol::source(&header).map(|source| source.map(|ip| ip.to_canonical())).map_err(bad);
        }
    }
}
