//! One connection of either side: bytes as they come, and a strict reading of HTTP/1.1 out of them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::http::{BodyFraming, Head};
use super::wait::PATIENCE;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// FIN.
    Orderly,
    /// RST.
    Reset,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Bytes(usize),
    Ended(Ending),
    /// Nothing within the time.
    Quiet,
}

/// Why a message could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    Ended(Ending),
    /// Nothing for [`PATIENCE`].
    Quiet,
    /// Not HTTP/1.1 as a strict reader wants it.
    Malformed(String),
}

/// What bytes travel on.
pub trait Transport: Read + Write + Send {
    fn socket(&self) -> &TcpStream;

    /// Whether a TLS session was resumed.
    fn is_resumed(&self) -> bool {
        false
    }
}

/// Plain TCP; whoever holds a weak handle can shut it down.
pub struct Plain(pub Arc<TcpStream>);

impl Read for Plain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(into)
    }
}

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Plain {
    fn socket(&self) -> &TcpStream {
        &self.0
    }
}

pub struct Wire {
    transport: Box<dyn Transport>,
    buffer: Vec<u8>,
    /// Everything that was ever read (up to a bound), for assertions on what arrived.
    record: Option<Arc<Mutex<Vec<u8>>>>,
}

/// Bytes of one connection that are kept for assertions.
const RECORD_BYTES_MAX: usize = 4 << 20;
const READ_BYTES: usize = 64 * 1024;

impl Wire {
    pub fn is_resumed(&self) -> bool {
        self.transport.is_resumed()
    }

    pub fn new(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Wire::over(Box::new(Plain(Arc::new(stream))))
    }

    pub fn over(transport: Box<dyn Transport>) -> Wire {
        Wire { transport, buffer: Vec::new(), record: None }
    }

    pub fn recording_to(mut self, record: Arc<Mutex<Vec<u8>>>) -> Wire {
        self.record = Some(record);
        self
    }

    pub fn socket(&self) -> &TcpStream {
        self.transport.socket()
    }

    /// Bytes that were read and not yet taken.
    pub fn pending(&self) -> &[u8] {
        &self.buffer
    }

    /// A peer that does not want to read is no error here: what it got or not is asserted elsewhere.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.transport.write_all(bytes).and_then(|()| self.transport.flush()).is_ok()
    }

    /// Write what the peer takes until it takes nothing for `patience`; the number of bytes it took.
    pub fn send_until_blocked(&mut self, bytes: &[u8], patience: Duration) -> usize {
        self.socket().set_write_timeout(Some(patience)).expect("SO_SNDTIMEO");
        let mut sent = 0;
        while sent < bytes.len() {
            match self.transport.write(&bytes[sent..]) {
                Ok(n @ 1..) => sent += n,
                _ => break,
            }
        }
        self.socket().set_write_timeout(None).expect("SO_SNDTIMEO");
        sent
    }

    pub fn finish_sending(&self) {
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    /// End with an RST when dropped.
    pub fn reset(self) {
        SockRef::from(self.socket()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Make the receive buffer of this side small, so that a reader that stops is felt soon.
    pub fn take_little(&self, bytes: usize) {
        SockRef::from(self.socket()).set_recv_buffer_size(bytes).expect("SO_RCVBUF");
    }

    /// One read.
    pub fn fill(&mut self, patience: Duration) -> Input {
        self.socket().set_read_timeout(Some(patience.max(Duration::from_millis(1)))).expect("SO_RCVTIMEO");
        let mut piece = [0; READ_BYTES];
        let begun = Instant::now();
        loop {
            match self.transport.read(&mut piece) {
                Ok(0) => return Input::Ended(Ending::Orderly),
                Ok(n) => {
                    self.keep(&piece[..n]);
                    return Input::Bytes(n);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Input::Quiet;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted && begun.elapsed() < patience => {}
                // TLS without close_notify is an orderly end of TCP all the same.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Input::Ended(Ending::Orderly),
                Err(_) => return Input::Ended(Ending::Reset),
            }
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
        if let Some(record) = &self.record {
            let mut record = record.lock().expect("record");
            let room = RECORD_BYTES_MAX.saturating_sub(record.len()).min(piece.len());
            record.extend_from_slice(&piece[..room]);
        }
    }

    fn more(&mut self) -> Result<(), Broken> {
        match self.fill(PATIENCE) {
            Input::Bytes(_) => Ok(()),
            Input::Ended(ending) => Err(Broken::Ended(ending)),
            Input::Quiet => Err(Broken::Quiet),
        }
    }

    /// The next head, with its raw bytes.
    pub fn head(&mut self) -> Result<Head, Broken> {
        let end = self.find(b"\r\n\r\n")? + 4;
        let raw: Vec<u8> = self.buffer.drain(..end).collect();
        Head::parse(&raw).map_err(Broken::Malformed)
    }

    /// A whole body; what came of one that breaks is in `into`.
    pub fn body(&mut self, framing: BodyFraming, into: &mut Vec<u8>) -> Result<(), Broken> {
        match framing {
            BodyFraming::None => Ok(()),
            BodyFraming::Length(length) => {
                let mut left = length;
                while left > 0 {
                    if self.buffer.is_empty() {
                        self.more()?;
                    }
                    let take = self.buffer.len().min(left);
                    into.extend(self.buffer.drain(..take));
                    left -= take;
                }
                Ok(())
            }
            BodyFraming::Chunked => {
                while let Some(chunk) = self.chunk(into)? {
                    into.extend(chunk);
                }
                Ok(())
            }
            BodyFraming::UntilClose => loop {
                into.append(&mut self.buffer);
                match self.more() {
                    Ok(()) => {}
                    Err(Broken::Ended(Ending::Orderly)) => return Ok(()),
                    Err(broken) => return Err(broken),
                }
            },
        }
    }

    /// The next chunk, `None` for the last one (with its trailers, which must be none). Of a chunk that breaks off, what
    /// came is put into `partial`.
    pub fn chunk(&mut self, partial: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Broken> {
        let end = self.find(b"\r\n")?;
        let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 2);
        let hex = !line.is_empty() && line.len() <= 8 && line.bytes().all(|b| b.is_ascii_hexdigit());
        let size = usize::from_str_radix(&line, 16).ok().filter(|_| hex);
        let size = size.ok_or_else(|| Broken::Malformed(format!("chunk size {line:?}")))?;
        while self.buffer.len() < size + 2 {
            if let Err(broken) = self.more() {
                let came = self.buffer.len().min(size);
                partial.extend(self.buffer.drain(..came));
                return Err(broken);
            }
        }
        let chunk: Vec<u8> = self.buffer.drain(..size).collect();
        let behind: Vec<u8> = self.buffer.drain(..2).collect();
        if behind != b"\r\n" {
            return Err(Broken::Malformed(format!("{behind:?} behind a chunk")));
        }
        Ok((size > 0).then_some(chunk))
    }

    /// `bytes` more bytes.
    pub fn exactly(&mut self, bytes: usize) -> Result<Vec<u8>, Broken> {
        while self.buffer.len() < bytes {
            self.more()?;
        }
        Ok(self.buffer.drain(..bytes).collect())
    }

    fn find(&mut self, what: &[u8]) -> Result<usize, Broken> {
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer[searched..], what) {
                return Ok(searched + at);
            }
            searched = self.buffer.len().saturating_sub(what.len() - 1);
            self.more()?;
        }
    }

    /// Everything up to the end of the connection, and how it ended; `None`: it does not end.
    pub fn rest(&mut self, patience: Duration) -> (Vec<u8>, Option<Ending>) {
        loop {
            match self.fill(patience) {
                Input::Bytes(_) => {}
                Input::Ended(ending) => return (std::mem::take(&mut self.buffer), Some(ending)),
                Input::Quiet => return (std::mem::take(&mut self.buffer), None),
            }
        }
    }
}
