//! A connection with a client over TLS: rustls between the socket and pooled buffers.
//!
//! Nothing is read before the socket is readable, and what is then read goes through rustls without a wait in between.
//! So an idle connection owns no buffer, and every wait may be dropped at any time without losing a byte. Neither the
//! reader nor the writer keeps a borrow of the state while it waits: both may be under way in one task.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

use super::Buffer;
use super::socket::Socket;

/// Plaintext that is encrypted before the socket is written to, bytes: what bounds the memory of a slow reader.
const PIECE_BYTES: usize = 64 * 1024;

pub struct Secured {
    socket: Socket,
    tls: RefCell<ServerConnection>,
    /// Ciphertext that rustls has no room for before plaintext is read.
    kept: RefCell<Buffer>,
    /// Somebody writes ciphertext and will write all there is.
    writing: Cell<bool>,
}

/// What reading the socket led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Plaintext, the end of input or an error waits to be read.
    Ready,
    /// Nothing that the reader should know.
    Quiet,
}

impl Secured {
    pub fn new(socket: Socket, config: Arc<ServerConfig>) -> io::Result<Secured> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(2 * PIECE_BYTES));
        Ok(Secured { socket, tls: RefCell::new(tls), kept: RefCell::default(), writing: Cell::new(false) })
    }

    /// Finish the handshake. Whether the session was resumed.
    ///
    /// # Errors
    /// What the client did wrong, after it was told by an alert; or it left.
    pub async fn handshake(&self) -> io::Result<bool> {
        loop {
            self.flush().await?;
            if !self.tls.borrow().is_handshaking() {
                break;
            }
            if self.kept.borrow().is_empty() {
                poll_fn(|cx| self.socket.poll_message(cx)).await;
            }
            let result = self.pump();
            if result.is_err() {
                // The alert that says why.
                let _ = self.flush().await;
            }
            if result? == State::Ready && self.tls.borrow().is_handshaking() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.flush().await?;
        Ok(self.tls.borrow().handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// The certificate of the client, which was verified.
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        self.tls.borrow().peer_certificates()?.first().cloned().map(CertificateDer::into_owned)
    }

    /// Nothing is lost if this wait is given up: what was read stays in the state.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        while self.state() == State::Quiet {
            if self.kept.borrow().is_empty() {
                ready!(self.socket.poll_message(cx));
            }
            if self.pump()? == State::Ready {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// As [`Socket::poll_read`], of what was sealed.
    pub fn poll_read(&self, buffer: &mut Buffer, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            match self.take(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            ready!(self.poll_readable(cx))?;
        }
    }

    pub async fn write_all(&self, buffer: &Buffer) -> io::Result<()> {
        for piece in buffer.bytes().chunks(PIECE_BYTES) {
            self.tls.borrow_mut().writer().write_all(piece)?;
            self.flush().await?;
        }
        Ok(())
    }

    /// As [`Socket::post`], for what makes one piece.
    pub fn post(&self, buffer: Buffer) -> Result<(), Buffer> {
        let mut tls = self.tls.borrow_mut();
        // A record that waits to be written would be overtaken, or half of one cut in two.
        if buffer.len() > PIECE_BYTES || self.writing.get() || tls.wants_write() || self.socket.has_mail() {
            return Err(buffer);
        }
        let mut out = Buffer::small();
        let sealed = tls.writer().write_all(buffer.bytes()).and_then(|()| {
            while tls.wants_write() {
                tls.write_tls(out.vec())?;
            }
            Ok(())
        });
        // There is no mail, as was seen above.
        if sealed.is_err() || self.socket.post(out).is_err() {
            self.socket.lose();
        }
        Ok(())
    }

    /// Read what is there and say what it is; takes no plaintext and does not wait.
    pub fn probe(&self) -> super::Probe {
        if self.state() == State::Quiet && self.pump().is_err() {
            return super::Probe::Ended;
        }
        match self.tls.borrow_mut().reader().fill_buf() {
            Ok(bytes) if !bytes.is_empty() => super::Probe::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => super::Probe::Quiet,
            _ => super::Probe::Ended,
        }
    }

    /// Tell the client that this is the end.
    pub async fn close(&self) {
        self.tls.borrow_mut().send_close_notify();
        let _ = self.flush().await;
    }

    fn state(&self) -> State {
        Self::state_of(&mut self.tls.borrow_mut())
    }

    fn state_of(tls: &mut ServerConnection) -> State {
        match tls.reader().fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => State::Quiet,
            // Bytes, an orderly end, or an end without one.
            _ => State::Ready,
        }
    }

    /// Move plaintext into the buffer's room.
    fn take(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let mut tls = self.tls.borrow_mut();
        let mut reader = tls.reader();
        let room = buffer.read_room();
        let taken = match reader.fill_buf() {
            Ok(bytes) => {
                let taken = bytes.len().min(room);
                buffer.vec().extend_from_slice(&bytes[..taken]);
                taken
            }
            // Cut without a close_notify: whether that is an orderly end is for HTTP's own framing to say.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            Err(error) => return Err(error),
        };
        reader.consume(taken);
        Ok(taken)
    }

    /// Ciphertext that is there, through rustls. Does not wait.
    fn pump(&self) -> io::Result<State> {
        let mut space = self.kept.take();
        if space.is_empty() {
            match self.socket.recv(&mut space) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(State::Quiet),
                came => came?,
            };
        }
        let mut tls = self.tls.borrow_mut();
        let mut rest = space.bytes();
        loop {
            // No bytes tell rustls of the end of input.
            let before = rest.len();
            tls.read_tls(&mut rest)?;
            let processed = tls.process_new_packets();
            if let Err(error) = processed {
                drop(tls);
                self.flush_now();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            // With plaintext that waits to be read it may take no more.
            if rest.is_empty() || rest.len() == before || Self::state_of(&mut tls) == State::Ready {
                break;
            }
        }
        let taken = space.len() - rest.len();
        space.consume(taken);
        if !space.is_empty() {
            self.kept.replace(space);
        }
        let state = Self::state_of(&mut tls);
        let answers = tls.wants_write() && !tls.is_handshaking();
        drop(tls);
        if answers {
            self.flush_now();
        }
        Ok(state)
    }

    /// Write all ciphertext that there is, also what comes meanwhile.
    async fn flush(&self) -> io::Result<()> {
        self.writing.set(true);
        let result = self.flush_all().await;
        self.writing.set(false);
        result
    }

    async fn flush_all(&self) -> io::Result<()> {
        while self.tls.borrow().wants_write() {
            let mut out = Buffer::small();
            while self.tls.borrow().wants_write() && out.len() < PIECE_BYTES {
                self.tls.borrow_mut().write_tls(out.vec())?;
            }
            self.socket.write_all(out).await.0?;
        }
        Ok(())
    }

    /// What the reader has to say (an alert, a new key, tickets) leaves at once if nobody writes and there is room; else
    /// with the next write.
    fn flush_now(&self) {
        if self.writing.get() || self.socket.has_unsent_mail() {
            return;
        }
        let mut tls = self.tls.borrow_mut();
        while tls.wants_write() {
            let mut out = Vec::with_capacity(512);
            if tls.write_tls(&mut out).is_err() {
                return;
            }
            if !self.socket.send(&out).is_ok_and(|sent| sent == out.len()) {
                // Half a record cannot be taken back: the connection is of no use any more.
                let _ = rustix::net::shutdown(self.socket.fd(), rustix::net::Shutdown::Both);
                return;
            }
        }
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}
