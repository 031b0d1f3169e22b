//! A server that runs: one task writes what waits in its queue, another one reads what it says, a line at a time.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use memchr::memchr;

use super::queue::Queue;
use crate::net::{Buffer, Stream, race, sleep, spawn, within};
use crate::origin::message::{batch, is_batch};
use crate::stdio::{Child, Exit, Spawn, Stop};

/// Bytes of one message of a server.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Least room of a read, bytes.
const READ_BYTES: usize = 16 * 1024;
/// How long a server that is to end may take to read what was meant for it.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a server whose stdout ended may take to say how it ended.
const FAREWELL: Duration = Duration::from_secs(3);

/// All servers, by number.
pub struct Children {
    spawn: Spawn,
    max: usize,
    state: Mutex<State>,
    fewer: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    started: u64,
    closed: bool,
}

/// Why no server was started.
pub enum NotStarted {
    /// As many run as may.
    TooMany(usize),
    /// The bridge ends.
    Closed,
    Failed(io::Error),
}

impl Children {
    pub fn new(spawn: Spawn, max: usize) -> Children {
        Children { spawn, max, state: Mutex::default(), fewer: Condvar::new() }
    }

    /// Starts one more. Whether it does start is heard from its [`Lines`].
    pub fn start(self: &Arc<Self>) -> Result<(Arc<Queue>, Lines), NotStarted> {
        let number = {
            let mut state = self.lock();
            if state.closed {
                return Err(NotStarted::Closed);
            }
            if state.running >= self.max {
                return Err(NotStarted::TooMany(self.max));
            }
            state.running += 1;
            state.started += 1;
            state.started
        };
        let place = Place(self.clone());
        let begin = || {
            let Child { stdin, stdout, ended, stop } = self.spawn.start(format!("server {number}"), place)?;
            let queue = Arc::<Queue>::default();
            spawn(write(queue.clone(), Stream::adopt_local(stdin)?, stop));
            let lines = Lines {
                number,
                stdout: Stream::adopt_local(stdout)?,
                queue: queue.clone(),
                ended: Some(ended),
                held: Buffer::default(),
                searched: 0,
            };
            Ok((queue, lines))
        };
        begin().map_err(NotStarted::Failed)
    }

    /// No more are started.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Blocks until all that were told to end have ended; false if that takes longer than `limit`.
    pub fn wait_until_none(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        while state.running > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.fewer.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a server that runs, until nothing of it is left.
struct Place(Arc<Children>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.fewer.notify_all();
    }
}

/// A message a write: some servers read better what comes as it was sent. In the end stdin is closed, and the guard is told.
async fn write(queue: Arc<Queue>, stdin: Stream, stop: Stop) {
    while let Some(line) = queue.next().await {
        let writing = pin!(stdin.write_all(Buffer::from_vec(line)));
        let over = pin!(async {
            queue.closed().await;
            sleep(LAST_WORDS).await;
        });
        match race(writing, over).await {
            crate::net::Either::First((Ok(()), _)) => {}
            _ => break,
        }
    }
    queue.close();
    drop((stdin, stop));
}

/// What a server says.
pub struct Lines {
    pub number: u64,
    stdout: Stream,
    queue: Arc<Queue>,
    ended: Option<oneshot::Receiver<io::Result<Exit>>>,
    held: Buffer,
    /// Bytes of `held` without a line end.
    searched: usize,
}

impl Lines {
    /// Hear each message, those of a batch one by one, until there are no more: why.
    pub async fn hear(&mut self, mut heard: impl AsyncFnMut(&str)) -> String {
        loop {
            let line = match self.next().await {
                Ok(line) => line,
                Err(why) => return why,
            };
            let Ok(text) = std::str::from_utf8(&line) else {
                tracing::warn!(server = self.number, "what a server wrote is not UTF-8, and is left out");
                continue;
            };
            if is_batch(&line) {
                for one in batch(&line).unwrap_or_default() {
                    heard(one.get()).await;
                }
            } else {
                heard(text).await;
            }
        }
    }

    /// The next line that is not blank, without its end.
    ///
    /// # Errors
    /// The server has ended, or must: why.
    async fn next(&mut self) -> Result<Vec<u8>, String> {
        loop {
            let unsearched = &self.held.bytes()[self.searched..];
            if let Some(end) = memchr(b'\n', unsearched) {
                let line = self.held.bytes()[..self.searched + end].trim_ascii().to_vec();
                self.held.consume(self.searched + end + 1);
                self.searched = 0;
                if !line.is_empty() {
                    return Ok(line);
                }
                continue;
            }
            self.searched = self.held.len();
            if self.searched > MESSAGE_BYTES_MAX {
                let limit = MESSAGE_BYTES_MAX >> 20;
                return Err(self.over(Some(format!("the server sent a message of more than {limit} MiB"))).await);
            }
            match self.read().await {
                Ok(1..) => {}
                _ if self.held.bytes().trim_ascii().is_empty() => return Err(self.over(None).await),
                _ => {
                    let line = self.held.bytes().trim_ascii().to_vec();
                    (self.held, self.searched) = (Buffer::default(), 0);
                    return Ok(line);
                }
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        if self.held.is_empty() {
            // A server that is quiet needs no buffer.
            self.held = Buffer::default();
        }
        self.stdout.readable().await?;
        if self.held.is_empty() {
            self.held = Buffer::small();
        }
        if self.held.room() < READ_BYTES / 4 {
            // A long message must not be moved for each piece of it.
            self.held.make_room(self.held.len() + self.held.len().max(READ_BYTES));
        }
        let (read, held) = self.stdout.read(std::mem::take(&mut self.held)).await;
        self.held = held;
        read
    }

    /// Ends the server, if it has not ended; why in words.
    async fn over(&mut self, why: Option<String>) -> String {
        self.queue.close();
        let Some(ended) = self.ended.take().filter(|_| why.is_none()) else {
            return why.unwrap_or_else(|| "the server has ended".to_owned());
        };
        match within(FAREWELL, ended).await {
            Ok(Ok(Ok(Exit { code: 126 | 127, .. }))) => {
                "the server could not be started, or a program that it needs; see the proxy's stderr".to_owned()
            }
            Ok(Ok(Ok(exit))) => format!("the server ended with exit code {}", exit.code),
            Ok(Ok(Err(error))) => format!("the server could not be started: {error}"),
            Ok(Err(_)) | Err(_) => "the server closed its stdout".to_owned(),
        }
    }
}
