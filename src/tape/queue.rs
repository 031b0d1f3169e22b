//! A queue of bytes from one thread to one other: what one side saw, copied, with the time. It is of a fixed size, made
//! once; nobody waits for room.
//!
//! Words are atomics, written and read without order among themselves; `head` and `tail` publish them. So this is safe
//! code, and a plain copy to the machine.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crossbeam::utils::CachePadded;

/// Words before the bytes of an event.
const HEADER: u64 = 4;
/// This part of the room is left for the ends of exchanges, which are short, so that others learn of them.
const RESERVE: u64 = 16;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Of a client: a head, and what came with it of the body.
    Request,
    RequestBody,
    /// To a client, likewise.
    Response,
    ResponseBody,
    /// The session is known from here on.
    Session,
    End,
    /// Bytes of a stdio stream.
    Bytes,
}

const KINDS: [Kind; 7] =
    [Kind::Request, Kind::RequestBody, Kind::Response, Kind::ResponseBody, Kind::Session, Kind::End, Kind::Bytes];

/// What is said about an event in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub kind: Kind,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Of the exchange: the same in all of its events.
    pub exchange: u64,
    /// Nanoseconds on the clock of the recorder.
    pub at: u64,
}

pub mod flag {
    /// Nothing more comes of this body.
    pub const LAST: u8 = 1;
    /// The proxy answers by itself.
    pub const OWN: u8 = 2;
    /// The body is an event stream.
    pub const EVENTS: u8 = 4;
    /// The text begins with the name of a session.
    pub const SESSION: u8 = 8;
    /// The body is encoded, and cannot be looked into.
    pub const ENCODED: u8 = 16;
    /// Whether it belongs to a session is known only once the answer is there.
    pub const BEGINS: u8 = 32;
}

/// An event that was taken; its memory is used again.
#[derive(Debug)]
pub struct Event {
    pub facts: Facts,
    /// Names: the session, the upstream, or how it ended.
    pub text: Vec<u8>,
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

impl Default for Event {
    fn default() -> Event {
        let facts = Facts { kind: Kind::End, flags: 0, exchange: 0, at: 0 };
        Event { facts, text: Vec::new(), head: Vec::new(), body: Vec::new() }
    }
}

pub struct Queue {
    words: Box<[AtomicU64]>,
    /// Words that were ever written. Of the writing thread.
    head: CachePadded<Head>,
    /// Words that were ever read. Of the reading thread.
    tail: CachePadded<AtomicU64>,
}

struct Head {
    at: AtomicU64,
    /// `tail` as it was seen last.
    tail_seen: AtomicU64,
}

impl Queue {
    /// Room for about so many bytes.
    pub fn new(bytes: usize) -> Queue {
        let words = (bytes / 8).next_power_of_two();
        Queue {
            words: std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect(),
            head: CachePadded::new(Head { at: AtomicU64::new(0), tail_seen: AtomicU64::new(0) }),
            tail: CachePadded::new(AtomicU64::new(0)),
        }
    }

    /// Copy an event into the queue; `false`: there was no room. Of one thread at a time.
    pub fn put(&self, facts: Facts, text: &[u8], head: &[u8], body: &[u8]) -> bool {
        let words = |bytes: &[u8]| bytes.len().div_ceil(8) as u64;
        let needed = HEADER + words(text) + words(head) + words(body);
        let size = self.words.len() as u64;
        let keep = if facts.kind == Kind::End { 0 } else { size / RESERVE };
        let start = self.head.at.load(Relaxed);
        if start + needed + keep > self.head.tail_seen.load(Relaxed) + size {
            let tail = self.tail.load(Acquire);
            self.head.tail_seen.store(tail, Relaxed);
            if start + needed + keep > tail + size {
                return false;
            }
        }
        // Lengths fit: the queue is smaller than that.
        let lengths = (text.len() as u64) << 32 | u64::from(facts.kind as u8) << 8 | u64::from(facts.flags);
        let bytes = (head.len() as u64) << 32 | body.len() as u64;
        for (at, word) in [lengths, bytes, facts.exchange, facts.at].into_iter().enumerate() {
            self.word(start + at as u64).store(word, Relaxed);
        }
        let mut at = start + HEADER;
        for bytes in [text, head, body] {
            self.write(at, bytes);
            at += words(bytes);
        }
        self.head.at.store(at, Release);
        true
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        &self.words[at as usize & (self.words.len() - 1)]
    }

    /// The words from `at` on, in two runs, since the queue is a ring.
    fn runs(&self, at: u64, words: usize) -> (&[AtomicU64], &[AtomicU64]) {
        let start = at as usize & (self.words.len() - 1);
        let first = words.min(self.words.len() - start);
        (&self.words[start..start + first], &self.words[..words - first])
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let (first, second) = self.runs(at, bytes.len().div_ceil(8));
        let (whole, rest) = bytes.as_chunks::<8>();
        let mut words = first.iter().chain(second);
        // Run by run, so that each is a plain loop.
        let cut = whole.len().min(first.len());
        first.iter().zip(&whole[..cut]).for_each(|(word, eight)| word.store(u64::from_le_bytes(*eight), Relaxed));
        second.iter().zip(&whole[cut..]).for_each(|(word, eight)| word.store(u64::from_le_bytes(*eight), Relaxed));
        if !rest.is_empty()
            && let Some(word) = words.nth(whole.len())
        {
            let mut eight = [0; 8];
            eight[..rest.len()].copy_from_slice(rest);
            word.store(u64::from_le_bytes(eight), Relaxed);
        }
    }

    fn read(&self, at: u64, length: usize, into: &mut Vec<u8>) {
        into.clear();
        let (first, second) = self.runs(at, length.div_ceil(8));
        into.reserve(length + 8);
        first.iter().chain(second).for_each(|word| into.extend_from_slice(&word.load(Relaxed).to_le_bytes()));
        into.truncate(length);
    }

    pub fn is_empty(&self) -> bool {
        self.head.at.load(Acquire) == self.tail.load(Relaxed)
    }

    /// When the next event happened; `None`: there is none.
    pub fn next_at(&self) -> Option<u64> {
        let tail = self.tail.load(Relaxed);
        (self.head.at.load(Acquire) != tail).then(|| self.word(tail + 3).load(Relaxed))
    }

    /// Take the next event; `false`: there is none. Of one thread at a time.
    pub fn take(&self, event: &mut Event) -> bool {
        let start = self.tail.load(Relaxed);
        if self.head.at.load(Acquire) == start {
            return false;
        }
        let [lengths, bytes, exchange, at] = [0, 1, 2, 3].map(|word| self.word(start + word).load(Relaxed));
        let kind = KINDS[(lengths >> 8 & 0xff) as usize % KINDS.len()];
        event.facts = Facts { kind, flags: lengths as u8, exchange, at };
        let mut at = start + HEADER;
        let lengths = [lengths >> 32, bytes >> 32, bytes & 0xffff_ffff];
        for (length, into) in lengths.into_iter().zip([&mut event.text, &mut event.head, &mut event.body]) {
            self.read(at, length as usize, into);
            at += length.div_ceil(8);
        }
        self.tail.store(at, Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kind: Kind, exchange: u64) -> Facts {
        Facts { kind, flags: flag::LAST, exchange, at: exchange * 3 }
    }

    #[test]
    fn what_is_put_is_taken_in_order_also_across_the_seam() {
        let (queue, mut event) = (Queue::new(1024), Event::default());
        for n in 0..1000u64 {
            let bytes: Vec<u8> = (0..n % 97).map(|i| (i * 7 + n) as u8).collect();
            let (text, head) = (&bytes[..bytes.len() / 3], &bytes[bytes.len() / 2..]);
            assert!(queue.put(facts(Kind::Response, n), text, head, &bytes));
            assert_eq!(queue.next_at(), Some(n * 3));
            assert!(queue.take(&mut event));
            assert_eq!(event.facts, facts(Kind::Response, n));
            assert_eq!((&event.text[..], &event.head[..], &event.body), (text, head, &bytes));
        }
        assert!(!queue.take(&mut event) && queue.is_empty() && queue.next_at().is_none());
    }

    #[test]
    fn a_full_queue_takes_nothing_but_ends() {
        let (queue, mut event) = (Queue::new(4096), Event::default());
        let mut taken = 0;
        while queue.put(facts(Kind::Request, taken), b"", b"head", &[7; 100]) {
            taken += 1;
        }
        assert!((15..35).contains(&taken), "{taken}");
        assert!(queue.put(facts(Kind::End, 99), b"", b"", b""));
        assert!(queue.take(&mut event) && queue.put(facts(Kind::Request, taken), b"", b"head", &[7; 100]));
        assert!(!queue.put(facts(Kind::Request, 0), b"", b"", &[0; 8192]));
    }

    #[test]
    fn two_threads_see_the_same() {
        let queue = std::sync::Arc::new(Queue::new(2048));
        let other = queue.clone();
        let writing = std::thread::spawn(move || {
            for n in 0..20_000u64 {
                let bytes = n.to_le_bytes().repeat(1 + n as usize % 9);
                while !other.put(facts(Kind::Bytes, n), &bytes[..3], &[], &bytes) {
                    std::thread::yield_now();
                }
            }
        });
        let mut event = Event::default();
        for n in 0..20_000u64 {
            while !queue.take(&mut event) {
                std::thread::yield_now();
            }
            assert_eq!((event.facts.exchange, &event.body), (n, &n.to_le_bytes().repeat(1 + n as usize % 9)));
        }
        writing.join().unwrap();
    }
}
