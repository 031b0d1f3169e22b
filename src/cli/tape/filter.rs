//! Which frames are wanted, and what each is about: an answer belongs to its request, which came before.
//!
//! What is remembered for that is bounded, so that a tape of any length is gone over in constant memory.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::wire::tape::{Frame, Head, Http};

/// Requests whose answers are still looked for; the oldest is forgotten first.
const REMEMBERED_MAX: usize = 1 << 16;

#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub method: Option<String>,
    pub name: Option<String>,
    pub session: Option<String>,
    pub since: Option<Moment>,
    pub until: Option<Moment>,
    pub errors: bool,
}

/// A time of day, or one after the tape's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Microseconds since 1970.
    Absolute(i128),
    AfterStart(Duration),
}

impl Moment {
    /// # Errors
    /// Neither of the two.
    pub fn parse(text: &str) -> Result<Moment, String> {
        if let Some(us) = unix_us(text) {
            return Ok(Moment::Absolute(us));
        }
        let after = text.strip_prefix('+').unwrap_or(text);
        humantime::parse_duration(after).map(Moment::AfterStart).map_err(|_| {
            "expected a time such as 2026-11-25T20:00:00Z, or one after the tape's start such as 90s".to_owned()
        })
    }

    fn us_in(self, started: Option<i128>) -> i128 {
        match (self, started) {
            (Moment::AfterStart(after), _) => after.as_micros() as i128,
            (Moment::Absolute(us), Some(started)) => us - started,
            // Without a start nothing can be said of it, so nothing is left out.
            (Moment::Absolute(_), None) => 0,
        }
    }
}

/// RFC 3339 as microseconds since 1970.
pub fn unix_us(text: &str) -> Option<i128> {
    let time = humantime::parse_rfc3339_weak(text).ok()?;
    Some(match time.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => after.as_micros() as i128,
        Err(before) => -(before.duration().as_micros() as i128),
    })
}

impl Filter {
    /// Whether frames may be left out.
    pub fn is_any(&self) -> bool {
        let Filter { method, name, session, since, until, errors } = self;
        let named = method.is_some() || name.is_some() || session.is_some();
        named || since.is_some() || until.is_some() || *errors
    }

    /// Whether lines have to be looked at, and not the head alone.
    pub fn asks_for_frames(&self) -> bool {
        self.method.is_some() || self.name.is_some() || self.since.is_some() || self.until.is_some() || self.errors
    }

    pub fn wants_tape(&self, head: &Head) -> bool {
        let of = |wanted: &String| head.session.as_ref().is_some_and(|session| session.starts_with(wanted.as_str()));
        self.session.as_ref().is_none_or(of)
    }

    /// The frames of this tape.
    pub fn over(&self, head: &Head) -> Sieve<'_> {
        let started = unix_us(&head.started);
        Sieve {
            filter: self,
            since_us: self.since.map(|moment| moment.us_in(started)),
            until_us: self.until.map(|moment| moment.us_in(started)),
            asked: Remembered::default(),
            exchanges: Remembered::default(),
        }
    }
}

/// What a request was.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub us: u64,
    pub method: String,
    pub name: Option<String>,
}

/// What a frame is about.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Its own, or that of the request that it answers.
    pub method: Option<String>,
    pub name: Option<String>,
    /// For an answer, what it answers.
    pub answers: Option<Asked>,
    pub wanted: bool,
}

pub struct Sieve<'a> {
    filter: &'a Filter,
    since_us: Option<i128>,
    until_us: Option<i128>,
    asked: Remembered<Asked>,
    /// What the message of an exchange asks for, or for want of one what HTTP says.
    exchanges: Remembered<Asked>,
}

impl Sieve<'_> {
    /// To be shown every frame, in order.
    pub fn look(&mut self, frame: &Frame<'_>) -> About {
        let mut about = About::default();
        if let Some(rpc) = &frame.rpc {
            about.method = Some(rpc.method.to_string());
            about.name = rpc.name.as_ref().map(ToString::to_string);
            let asked = Asked { us: frame.us, method: rpc.method.to_string(), name: about.name.clone() };
            if rpc.id.is_some() {
                self.asked.keep(frame.seq, asked.clone());
            }
            if let Some(exchange) = frame.exchange.filter(|_| frame.from == crate::wire::tape::Side::Client) {
                self.exchanges.keep(exchange, asked);
            }
        } else if let Some(asked) = frame.answers.and_then(|seq| self.asked.find(seq)) {
            about.method = Some(asked.method.clone());
            about.name = asked.name.clone();
            about.answers = Some(asked.clone());
        } else if let (Some(exchange), Some(Http::Request { method, target, .. })) = (frame.exchange, &frame.http) {
            let method = format!("{method} {target}");
            self.exchanges.keep(exchange, Asked { us: frame.us, method, name: None });
        } else if let Some(asked) = frame.exchange.and_then(|exchange| self.exchanges.find(exchange)) {
            about.method = Some(asked.method.clone());
            about.name = asked.name.clone();
            if matches!(frame.http, Some(Http::Response { .. })) {
                about.answers = Some(asked.clone());
            }
        }
        about.wanted = self.wants(frame, &about);
        // What has its answer is asked for no more.
        if let Some(answered) = frame.answers.filter(|_| frame.message.is_some()) {
            self.asked.forget(answered);
        }
        if let (Some(exchange), Some(Http::End { .. })) = (frame.exchange, &frame.http) {
            self.exchanges.forget(exchange);
        }
        about
    }

    fn wants(&self, frame: &Frame<'_>, about: &About) -> bool {
        let (us, filter) = (i128::from(frame.us), self.filter);
        let fits = |wanted: &Option<String>, is: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| is.as_ref().is_some_and(|is| matches(wanted, is)))
        };
        self.since_us.is_none_or(|since| us >= since)
            && self.until_us.is_none_or(|until| us <= until)
            && fits(&filter.method, &about.method)
            && fits(&filter.name, &about.name)
            && (!filter.errors || frame.error)
    }
}

fn matches(wanted: &str, is: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => is.starts_with(beginning),
        None => is == wanted,
    }
}

/// The latest, by number.
#[derive(Debug)]
struct Remembered<T> {
    values: HashMap<u64, T>,
    order: VecDeque<u64>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Remembered { values: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Remembered<T> {
    fn keep(&mut self, number: u64, value: T) {
        if self.values.insert(number, value).is_none() {
            self.order.push_back(number);
        }
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
    }

    fn forget(&mut self, number: u64) {
        if self.values.remove(&number).is_some() && self.order.front() == Some(&number) {
            self.order.pop_front();
        }
        // What was forgotten out of order leaves its number behind.
        while self.order.front().is_some_and(|oldest| !self.values.contains_key(oldest)) {
            self.order.pop_front();
        }
    }

    fn find(&self, number: u64) -> Option<&T> {
        self.values.get(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_or_times_after_the_start() {
        assert_eq!(Moment::parse("90s"), Ok(Moment::AfterStart(Duration::from_secs(90))));
        assert_eq!(Moment::parse("+2m"), Ok(Moment::AfterStart(Duration::from_secs(120))));
        assert_eq!(Moment::parse("1970-01-01T00:00:01Z"), Ok(Moment::Absolute(1_000_000)));
        assert!(Moment::parse("yesterday").unwrap_err().contains("2026-11-25T20:00:00Z"));
        assert_eq!(Moment::Absolute(5_000_000).us_in(Some(2_000_000)), 3_000_000);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut remembered = Remembered::default();
        (0..REMEMBERED_MAX as u64 * 2).for_each(|number| remembered.keep(number, number));
        assert_eq!(remembered.values.len(), REMEMBERED_MAX);
        assert_eq!((remembered.find(0), remembered.find(REMEMBERED_MAX as u64 * 2 - 1).is_some()), (None, true));
    }

    #[test]
    fn names_may_end_with_a_star() {
        assert!(matches("tools/*", "tools/call") && matches("tools/call", "tools/call"));
        assert!(!matches("tools", "tools/call") && !matches("tools/*", "ping"));
    }
}
