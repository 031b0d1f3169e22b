//! One connection to a target, made anew whenever it must be: send a request, read its answer.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use shadowcat::net::tls::Connector;
use shadowcat::net::{self, Buffer, Either, Stream, race, stream, within};
use shadowcat::wire::sse::EventReader;

use crate::answer::{Reader, Step, Want};
use crate::fault::{Fault, Kind};
use crate::message::Message;
use crate::pace::Clock;

/// Room for answers of which more is to come, bytes.
const LARGE_BYTES: usize = 128 * 1024;
/// Pieces in which long bodies are sent, bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// Of a slow reader, how often it reads.
const READS_A_SECOND: u64 = 20;
/// How often somebody who follows a stream asks whether it has been long enough.
const SLICE: Duration = Duration::from_millis(50);
/// What a slow reader's kernel takes in advance, bytes.
const SLOW_WINDOW_BYTES: usize = 16 * 1024;

/// How connections are made.
#[derive(Clone)]
pub struct Dial {
    pub address: SocketAddr,
    /// Over TLS; one connector may resume sessions, the other makes full handshakes.
    pub tls: Option<(Connector, Connector)>,
    pub timeout: Duration,
}

/// What a sweep over all connections of a thread looks at: a timer for each request would cost more.
#[derive(Debug)]
pub struct Watch {
    fd: Cell<i32>,
    /// When the request at hand is given up, ns; 0: there is none.
    by: Cell<u64>,
    expired: Cell<bool>,
}

impl Watch {
    /// End what takes too long.
    pub fn look(&self, now: u64) {
        if (1..now).contains(&self.by.get()) && self.fd.get() >= 0 {
            self.by.set(0);
            self.expired.set(true);
            stream::end(self.fd.get());
        }
    }
}

pub struct Client {
    dial: Rc<Dial>,
    clock: Clock,
    resumes: bool,
    stream: Option<Stream>,
    input: Buffer,
    pub reader: Reader,
    pub watch: Rc<Watch>,
    /// Open connections of the thread.
    open: Rc<Cell<u64>>,
    /// Answers on this connection.
    served: u32,
    /// How long the last connection took to make, until somebody asks.
    pub connected: Option<u64>,
}

/// How a stream is followed.
pub struct Follow<'a> {
    /// Bytes a second that are read at most.
    pub rate: Option<u64>,
    /// Told what there is so far.
    pub each: &'a mut dyn FnMut(&Streamed),
    /// Asked every now and then.
    pub is_over: &'a dyn Fn() -> bool,
}

/// What a stream came to.
#[derive(Debug, Default)]
pub struct Streamed {
    pub events: u64,
    pub bytes: u64,
    pub ended: bool,
}

impl Client {
    pub fn new(dial: Rc<Dial>, clock: Clock, resumes: bool, open: Rc<Cell<u64>>) -> Client {
        let watch = Rc::new(Watch { fd: Cell::new(-1), by: Cell::new(0), expired: Cell::new(false) });
        Client {
            dial,
            clock,
            resumes,
            stream: None,
            input: Buffer::default(),
            reader: Reader::default(),
            watch,
            open,
            served: 0,
            connected: None,
        }
    }

    /// Send a request and read what answers it; of an event stream that was wanted, the head. Whether it is the right
    /// answer is for [`Reader::verdict`] to say.
    ///
    /// # Errors
    /// There is no answer in time, counted from `now`; the connection is gone.
    pub async fn exchange(
        &mut self,
        message: &mut Message,
        want: Want,
        rate: Option<u64>,
        now: u64,
    ) -> Result<(), Fault> {
        let result = self.try_exchange(message, want, rate, now).await;
        self.watch.by.set(0);
        if self.input.is_empty() {
            // Nobody who waits owns a buffer.
            self.input = Buffer::default();
        }
        if let Err(fault) = result {
            self.close();
            let expired = self.watch.expired.replace(false);
            return Err(if expired { Fault::new(Kind::Timeout, fault.detail) } else { fault });
        }
        self.served += 1;
        Ok(())
    }

    /// After an answer that was whole: end the connection if it may not serve again, or has served enough.
    pub fn settle(&mut self, requests_per_connection: u32) {
        let enough = requests_per_connection > 0 && self.served >= requests_per_connection;
        if enough || !self.reader.keep_alive() {
            self.close();
        }
    }

    pub fn close(&mut self) {
        self.watch.fd.set(-1);
        self.watch.by.set(0);
        self.input.clear();
        if self.stream.take().is_some() {
            self.open.set(self.open.get() - 1);
        }
    }

    async fn try_exchange(
        &mut self,
        message: &mut Message,
        want: Want,
        rate: Option<u64>,
        now: u64,
    ) -> Result<(), Fault> {
        self.reader.begin(want);
        // The other side may have ended what it kept open long enough; over TLS that shows only when it is read.
        let is_stale = |stream: &Stream| !stream.is_tls() && !stream.is_quiet();
        if self.stream.as_ref().is_none_or(is_stale) {
            self.close();
            self.connect(rate.is_some()).await?;
        }
        self.watch.by.set(now + self.dial.timeout.as_nanos() as u64);
        let Some(stream) = &self.stream else { return Err(Fault::new(Kind::Closed, "")) };
        send(stream, message).await?;
        match rate {
            None => self.receive().await,
            Some(rate) => self.receive_slowly(rate).await,
        }
    }

    async fn connect(&mut self, is_slow: bool) -> Result<(), Fault> {
        let begun = self.clock.now();
        let limit = self.dial.timeout;
        let timed_out = |what: &str| Fault::new(Kind::Timeout, format!("{what} in {limit:?}"));
        let connecting = within(limit, Stream::connect(self.dial.address)).await;
        let made = connecting.map_err(|_| timed_out("no connection"))?;
        let mut stream = made.map_err(|error| Fault::of_io(Kind::Connect, &error))?;
        if is_slow {
            narrow(&stream);
        }
        if let Some((resuming, full)) = &self.dial.tls {
            let connector = if self.resumes { resuming } else { full };
            let shaken = within(limit, connector.handshake(stream)).await.map_err(|_| timed_out("no handshake"))?;
            stream = shaken.map_err(|error| Fault::of_io(Kind::Tls, &error))?;
        }
        self.watch.fd.set(stream.fd());
        self.stream = Some(stream);
        self.served = 0;
        self.open.set(self.open.get() + 1);
        self.connected = Some(self.clock.now() - begun);
        Ok(())
    }

    async fn receive(&mut self) -> Result<(), Fault> {
        loop {
            let Some(stream) = &self.stream else { return Err(Fault::new(Kind::Closed, "")) };
            // (Nor while it waits for an answer.)
            stream.readable().await.map_err(|error| Fault::of_io(Kind::Io, &error))?;
            let mut input = std::mem::take(&mut self.input);
            if input.is_empty() {
                let is_long = self.reader.bytes > 0;
                input = if is_long { Buffer::streaming(LARGE_BYTES) } else { Buffer::small() };
            } else if input.room() == 0 {
                input.make_room(2 * input.len());
            }
            let (read, back) = stream.read(input).await;
            self.input = back;
            if self.take(read)? {
                return Ok(());
            }
        }
    }

    /// As a reader that has better things to do: so many bytes a second.
    async fn receive_slowly(&mut self, rate: u64) -> Result<(), Fault> {
        let piece = (rate / READS_A_SECOND).clamp(1, LARGE_BYTES as u64);
        let pause = Duration::from_nanos(piece * 1_000_000_000 / rate);
        loop {
            let Some(stream) = &self.stream else { return Err(Fault::new(Kind::Closed, "")) };
            let mut input = std::mem::take(&mut self.input);
            let kept = input.len();
            if input.room() != piece as usize {
                let mut memory = Vec::with_capacity(kept + piece as usize);
                memory.extend_from_slice(input.bytes());
                input = Buffer::from_vec(memory);
            }
            let (read, back) = stream.read(input).await;
            self.input = back;
            if self.take(read)? {
                return Ok(());
            }
            net::sleep(pause).await;
        }
    }

    /// What came; whether the answer is whole.
    fn take(&mut self, read: std::io::Result<usize>) -> Result<bool, Fault> {
        match read {
            Ok(0) => {
                self.reader.end()?;
                Ok(true)
            }
            Ok(_) => {
                let (used, step) = self.reader.feed(self.input.bytes_mut())?;
                self.input.consume(used);
                Ok(step == Step::Done)
            }
            Err(error) => Err(Fault::of_io(Kind::Io, &error)),
        }
    }

    /// Read the events of a stream that was opened until then, or until it ends. The connection ends with it.
    ///
    /// # Errors
    /// It broke.
    pub async fn follow(&mut self, follow: Follow<'_>) -> Result<Streamed, Fault> {
        let result = self.try_follow(follow).await;
        self.close();
        result
    }

    async fn try_follow(&mut self, follow: Follow<'_>) -> Result<Streamed, Fault> {
        let mut streamed = Streamed::default();
        let mut events = EventReader::default();
        let broken = |error: &dyn std::fmt::Display| Fault::new(Kind::Http, error.to_string());
        let (Some(mut body), Some(stream)) = (self.reader.stream_body(), &self.stream) else {
            return Err(Fault::new(Kind::Closed, ""));
        };
        let mut slice = Box::pin(net::sleep(SLICE));
        loop {
            if !self.input.is_empty() {
                let decoded = body.decode(self.input.bytes_mut()).map_err(|error| broken(&error))?;
                let fed = events.feed(&self.input.bytes()[..decoded.data]);
                fed.map_err(|error| Fault::new(Kind::TooLarge, error.to_string()))?;
                streamed.bytes += decoded.consumed as u64;
                self.input.consume(decoded.consumed);
                while events.next_event().is_some() {
                    streamed.events += 1;
                }
                (follow.each)(&streamed);
                if body.is_done() {
                    streamed.ended = true;
                    return Ok(streamed);
                }
            }
            let mut reading = pin!(async {
                // Nobody who waits owns a buffer.
                drop(stream.readable().await);
                stream.read(Buffer::small()).await
            });
            let (read, back) = loop {
                match race(slice.as_mut(), reading.as_mut()).await {
                    Either::Second(read) => break read,
                    // Over TLS a read that is dropped loses bytes; the connection ends with the stream.
                    Either::First(()) if (follow.is_over)() => return Ok(streamed),
                    Either::First(()) => slice = Box::pin(net::sleep(SLICE)),
                }
            };
            self.input = back;
            match read {
                Ok(0) => {
                    streamed.ended = true;
                    return Ok(streamed);
                }
                Ok(read) => {
                    if let Some(rate) = follow.rate {
                        net::sleep(Duration::from_nanos(read as u64 * 1_000_000_000 / rate)).await;
                    }
                }
                Err(error) => return Err(Fault::of_io(Kind::Io, &error)),
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

async fn send(stream: &Stream, message: &mut Message) -> Result<(), Fault> {
    let (sent, back) = stream.write_all(std::mem::take(&mut message.first)).await;
    message.first = back;
    let broken = |error: std::io::Error| Fault::of_io(Kind::Closed, &error);
    // A target may answer and close before it has read all: then the answer counts, or what reading says.
    let Err(error) = sent else {
        let Some((rest, from)) = message.rest.clone() else { return Ok(()) };
        for piece in rest[from..].chunks(PIECE_BYTES) {
            let mut buffer = Buffer::streaming(LARGE_BYTES);
            buffer.vec().extend_from_slice(piece);
            if stream.write_all(buffer).await.0.is_err() {
                break;
            }
        }
        return Ok(());
    };
    Err(broken(error))
}

/// A small window, so that it is the target which has to wait.
fn narrow(stream: &Stream) {
    // SAFETY: the descriptor belongs to `stream`, which outlives the borrow.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(stream.fd()) };
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(fd, SLOW_WINDOW_BYTES);
}
