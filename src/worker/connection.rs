//! One client connection: wait, read a head, run the exchange, again.

use std::cell::{Cell, OnceCell};
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::exchange::{self, Told};
use super::flow::Flow;
use super::refusal::Refusal;
use super::{Flags, Phase, Scratch, Worker, account, arrival, auth, refusal};
use crate::base::slab::Key;
use crate::config::plan::Plan;
use crate::net::{self, Buffer, Stream, within};
use crate::wire::http1::head::{self, Repeats};

/// How long and how much we still read from a client that we told to close, so that it gets to read our answer before
/// a reset throws it away.
pub const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// A client as the stages see it.
pub struct Client {
    pub stream: Stream,
    pub peer: IpAddr,
    /// What upstream is told of this hop.
    pub hop: Hop,
    /// `Forwarded` and `X-Forwarded-*` of this peer are believed.
    pub trusted: bool,
    /// The verdict on its latest token.
    pub memo: auth::Memo,
    /// The verdict on its certificate, once somebody asked.
    pub certificate: auth::Certified,
    flags: Rc<Flags>,
}

impl Client {
    pub fn enter(&self, phase: Phase) {
        self.flags.phase.set(phase);
    }

    /// A write to this descriptor that is still under way at this tick of the housekeeping fails.
    pub fn write_by(&self, fd: i32, tick: u64) {
        self.flags.write_by.set((fd, tick));
    }

    /// Among those of this worker.
    pub fn number(&self) -> u64 {
        self.flags.number
    }

    pub fn wrote(&self) {
        self.flags.write_by.set((0, 0));
    }

    /// Wait for the next request, but if `briefly`, no longer than a turn or two of the housekeeping, which costs nothing until
    /// then. Nobody rests who has not got his last answer.
    async fn rest(&self, worker: &Worker, briefly: bool) -> Rest {
        loop {
            let mut readable = pin!(self.stream.message());
            let since = worker.ticks.get();
            let rest = poll_fn(|cx| {
                if self.stream.is_stuck() {
                    return Poll::Ready(None);
                }
                if let Poll::Ready(came) = readable.as_mut().poll(cx) {
                    self.flags.is_resting.set(false);
                    return Poll::Ready(Some(Rest::Over(came)));
                }
                if briefly {
                    if worker.ticks.get() > since + 1 {
                        return Poll::Ready(Some(Rest::Long));
                    }
                    self.flags.is_resting.set(true);
                }
                Poll::Pending
            });
            if let Some(rest) = rest.await {
                return rest;
            }
            self.flags.idle_by.set(0);
            self.enter(Phase::Busy);
            if !Box::pin(self.answered(worker)).await || worker.is_draining() {
                return Rest::Over(Err(std::io::ErrorKind::BrokenPipe.into()));
            }
            self.enter(Phase::Idle);
            self.flags.idle_by.set(worker.ticks_from_now(wait_limit(worker, false)));
        }
    }

    /// Wait until what was posted has left, for as long as a write may take; whether it has.
    async fn answered(&self, worker: &Worker) -> bool {
        self.write_by(self.stream.fd(), worker.ticks_from_now(worker.view().view.plan.timeouts.write));
        let sent = self.stream.sent().await;
        self.wrote();
        sent
    }

    /// Say that no more will be sent, behind what was.
    async fn shutdown(&self, worker: &Worker) {
        if self.answered(worker).await {
            self.write_by(self.stream.fd(), worker.ticks_from_now(worker.view().view.plan.timeouts.write));
            self.stream.shutdown().await;
            self.wrote();
        }
    }
}

/// A client's address and how it speaks to us, as they stand in what is forwarded; written once for all its requests.
pub struct Hop {
    text: Box<[u8]>,
    address: Range<u8>,
    /// Where `Forwarded` begins.
    forwarded: u8,
}

impl Hop {
    fn new(peer: IpAddr, stream: &Stream) -> Hop {
        const NAME: &str = "X-Forwarded-For: ";
        let address = peer.to_string();
        let scheme = if stream.is_tls() { "https" } else { "http" };
        let first = format!("{NAME}{address}\r\nX-Forwarded-Proto: {scheme}\r\n");
        // RFC 7239 section 6.
        let node = if peer.is_ipv6() { format!("\"[{address}]\"") } else { address.clone() };
        let second = format!("Forwarded: for={node};proto={scheme}");
        let start = NAME.len() as u8;
        Hop {
            address: start..start + address.len() as u8,
            forwarded: first.len() as u8,
            text: (first + &second).into_bytes().into(),
        }
    }

    /// The client's address.
    pub fn address(&self) -> &[u8] {
        &self.text[usize::from(self.address.start)..usize::from(self.address.end)]
    }

    /// The lines of `X-Forwarded-For` and `X-Forwarded-Proto`.
    pub fn x_forwarded(&self) -> &[u8] {
        &self.text[..usize::from(self.forwarded)]
    }

    /// `Forwarded` up to what the client called the host.
    pub fn forwarded(&self) -> &[u8] {
        &self.text[usize::from(self.forwarded)..]
    }
}

/// What becomes of the connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    KeepAlive,
    /// All was said and read.
    Close,
    /// Input is left that nobody will read.
    Linger,
    /// The answer is cut: a reset, or at least no orderly end, must show it.
    Abort,
}

/// Serve a connection, which is counted already, in a task of its own. A panic loses this connection and no other.
pub fn start(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let stream = match Stream::adopt(stream) {
        Ok(stream) => stream,
        Err(error) => {
            worker.shared.connections.fetch_sub(1, Relaxed);
            return tracing::debug!(%error, "lost a connection before its first byte");
        }
    };
    let id = worker.next_connection.replace(worker.next_connection.get() + 1);
    let flags = Rc::new(Flags {
        number: id,
        client_fd: stream.fd(),
        phase: Cell::new(Phase::New),
        waker: OnceCell::new(),
        write_by: Cell::new((0, 0)),
        idle_by: Cell::new(0),
        is_resting: Cell::new(false),
    });
    let place = worker.connections.borrow_mut().insert(flags.clone());
    worker.cells.connections.add(1);
    let worker = worker.clone();
    net::spawn(async move {
        let guard = Registered { worker: worker.clone(), place };
        poll_fn(|cx| {
            let _ = flags.waker.set(cx.waker().clone());
            Poll::Ready(())
        })
        .await;
        let served = async {
            let Some((peer, trusted)) = arrival::identify(&worker, &stream, peer.ip().to_canonical()).await else {
                return;
            };
            if let Some(stream) = arrival::secure(&worker, stream, peer).await {
                let client = Client {
                    hop: Hop::new(peer, &stream),
                    stream,
                    peer,
                    trusted,
                    memo: auth::Memo::default(),
                    certificate: auth::Certified::default(),
                    flags,
                };
                serve(&worker, &client).await;
                if client.stream.has_mail() {
                    // However it ended: the client gets what it was answered.
                    client.enter(Phase::Busy);
                    Box::pin(client.answered(&worker)).await;
                }
            }
        };
        if contain_panic(pin!(served)).await.is_none() {
            worker.cells.panics.add(1);
            tracing::error!(worker = worker.index, "a connection was lost to a panic");
        }
        drop(guard);
    });
}

/// Takes the connection off the worker's list, whatever happens.
struct Registered {
    worker: Rc<Worker>,
    place: Key,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(self.place);
        self.worker.cells.connections.sub(1);
        self.worker.shared.connections.fetch_sub(1, Relaxed);
    }
}

async fn serve(worker: &Rc<Worker>, client: &Client) {
    let (mut first, mut input) = (true, Buffer::default());
    loop {
        let since = worker.ticks.get();
        // An idle connection has no buffer, and of what a request needs not even the place.
        if client.flags.idle_by.get() == 0 {
            client.flags.idle_by.set(worker.ticks_from_now(wait_limit(worker, first)));
        }
        if input.is_empty() && !matches!(client.rest(worker, false).await, Rest::Over(Ok(()))) {
            return;
        }
        // Boxed once for all the requests that come in close order. Many clients ask once and stay: only one that asks again
        // soon is expected to go on so.
        let again = !first && worker.ticks.get() <= since + 1;
        match Box::pin(serve_busy(worker, client, again, std::mem::take(&mut input))).await {
            Pause::Over => return,
            Pause::Idle => {}
            Pause::Flows(flow, following) => {
                input = following;
                let after = flow.run(worker, client).await;
                if !Box::pin(goes_on(worker, client, after, &mut input)).await {
                    return;
                }
            }
        }
        first = false;
    }
}

/// How long a client may ask for nothing. One that never said anything is as slow a header as one that stopped half-way.
fn wait_limit(worker: &Worker, first: bool) -> Duration {
    let view = worker.view();
    let times = &view.view.plan.timeouts;
    if first { times.header } else { times.keep_alive }
}

/// Why a connection needs no longer what requests need.
enum Pause {
    /// It has ended.
    Over,
    /// Nobody asks.
    Idle,
    /// A stream without end; and what follows its request.
    Flows(Box<Flow>, Buffer),
}

/// Requests, from one whose first bytes are there to the first pause, which may be short if more of them are `expected`.
async fn serve_busy(worker: &Rc<Worker>, client: &Client, expected: bool, input: Buffer) -> Pause {
    let mut scratch = worker.take_scratch();
    let pause = serve_requests(worker, client, &mut scratch, expected, input).await;
    worker.give_scratch(scratch);
    pause
}

async fn serve_requests(
    worker: &Rc<Worker>,
    client: &Client,
    scratch: &mut Scratch,
    expected: bool,
    mut input: Buffer,
) -> Pause {
    loop {
        // Until something is there the client is idle, whatever its connection seemed to be ready for.
        if input.is_empty() && !matches!(fill(client, &mut input).await, Ok(1..)) {
            return Pause::Over;
        }
        client.flags.idle_by.set(0);
        let told = {
            // Only now: a connection may have been idle for longer than a configuration lived.
            let view = worker.view();
            match next_head(client, &view.view.plan, &mut input, scratch).await {
                Next::Request => {}
                Next::Refused(refusal) => {
                    let (bytes, _) = Box::pin(refusal::answer(worker, client, &refusal, None, false, None)).await;
                    account::never_begun(worker, &view, client, &refusal, bytes);
                    Box::pin(linger(worker, client, input)).await;
                    return Pause::Over;
                }
                Next::Gone => return Pause::Over,
            }
            client.enter(Phase::Busy);
            worker.cells.requests.add(1);
            exchange::run(worker, &view, client, &mut input, scratch).await
        };
        let after = match told {
            Told::Over(after) => after,
            Told::Flows(flow) => return Pause::Flows(flow, input),
        };
        if !goes_on(worker, client, after, &mut input).await {
            return Pause::Over;
        }
        if input.is_empty() {
            drop(std::mem::take(&mut input));
            client.flags.idle_by.set(worker.ticks_from_now(wait_limit(worker, false)));
            if !expected {
                return Pause::Idle;
            }
            match client.rest(worker, true).await {
                Rest::Over(Ok(())) => {}
                Rest::Over(Err(_)) => return Pause::Over,
                Rest::Long => return Pause::Idle,
            }
        }
    }
}

/// What comes after an exchange; whether requests may.
async fn goes_on(worker: &Worker, client: &Client, after: After, input: &mut Buffer) -> bool {
    match after {
        // The next request waits until the answer before it has left: if that cannot be, nobody asks any more.
        After::KeepAlive if !input.is_empty() => {
            if !Box::pin(client.answered(worker)).await {
                return false;
            }
            client.enter(Phase::Idle);
            return true;
        }
        After::KeepAlive if !worker.is_draining() => {
            client.enter(Phase::Idle);
            return true;
        }
        After::KeepAlive | After::Close => Box::pin(client.shutdown(worker)).await,
        After::Linger => Box::pin(linger(worker, client, std::mem::take(input))).await,
        After::Abort => client.stream.reset(),
    }
    false
}

enum Next {
    /// Its head is in the scratch space.
    Request,
    Refused(Refusal),
    Gone,
}

/// How the pause between two requests ended.
enum Rest {
    /// Something came.
    Over(std::io::Result<()>),
    /// It did not: it is time to make oneself small.
    Long,
}

/// Read until the head of the request is complete, and keep it.
async fn next_head(client: &Client, plan: &Plan, input: &mut Buffer, scratch: &mut Scratch) -> Next {
    let (times, limits) = (&plan.timeouts, plan.limits.head);
    let repeats = match scratch.limits == Some(limits) {
        true => scratch.head.repeats(input.bytes(), scratch.bytes.bytes()),
        false => Repeats::Nothing,
    };
    match repeats {
        Repeats::All => {
            scratch.head.restate(input.bytes(), scratch.bytes.bytes_mut());
            scratch.repeated.written.expect();
            return Next::Request;
        }
        Repeats::Form { same_session } => {
            scratch.bytes.keep_head(&input.bytes()[..scratch.head.len]);
            scratch.repeated.session.take_if(|_| !same_session);
            scratch.repeated.written.expect();
            return Next::Request;
        }
        Repeats::Nothing => {}
    }
    scratch.limits = None;
    scratch.repeated.forget();
    scratch.head.reset();
    let mut begun = None;
    let refusal = loop {
        match scratch.head.parse(input.bytes(), &limits) {
            Ok(head::Progress::Complete) => {
                scratch.limits = Some(limits);
                scratch.bytes.keep_head(&input.bytes()[..scratch.head.len]);
                return Next::Request;
            }
            Ok(head::Progress::Incomplete) => {}
            Err(error) => break Refusal::head(error),
        }
        if input.room() == 0 {
            input.make_room((input.len() * 2).max(plan.limits.head.head_bytes + 1));
        }
        let left = times.header.saturating_sub(begun.get_or_insert_with(Instant::now).elapsed());
        match within(left, client.stream.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Next::Gone,
            Err(_) => break Refusal::HEADER_TIMEOUT,
        }
        match within(left, fill(client, input)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return Next::Gone,
            Err(_) => break Refusal::HEADER_TIMEOUT,
        }
    };
    Next::Refused(refusal)
}

/// One read appended to `input`.
pub async fn fill(client: &Client, input: &mut Buffer) -> std::io::Result<usize> {
    let (result, buffer) = client.stream.read(std::mem::take(input)).await;
    *input = buffer;
    result
}

async fn linger(worker: &Worker, client: &Client, mut input: Buffer) {
    client.shutdown(worker).await;
    let drain = async {
        let mut seen = 0;
        while seen < LINGER_BYTES {
            input.clear();
            if client.stream.readable().await.is_err() {
                return;
            }
            if input.room() == 0 {
                input = Buffer::small();
            }
            match fill(client, &mut input).await {
                Ok(n @ 1..) => seen += n,
                _ => return,
            }
        }
    };
    let _ = within(LINGER, drain).await;
}

/// `None` if the future panicked; it is not polled again.
async fn contain_panic<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Some(value)),
        Err(_) => Poll::Ready(None),
    })
    .await
}
