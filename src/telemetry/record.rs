//! What is told of one request that ended: plain memory of a fixed size, which a worker fills and others format.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::account::{Account, By, MethodId, Outcome, Split, Trace};
use super::text::{Kept, Texts};
use crate::base::SessionId;
use crate::wire::answer::Said;
use crate::wire::http1::head::Method;
use crate::wire::mcp::Era;

/// Of the access log, the audit log and spans alike.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub ended: Instant,
    pub times: Times,
    pub client: IpAddr,
    pub verb: Method,
    pub status: u16,
    pub era: Era,
    pub method: Option<MethodId>,
    pub outcome: Outcome,
    pub said: Said,
    pub termination: Termination,
    /// Why it was refused or cut short; empty for a good end.
    pub reason: &'static str,
    pub retries: u32,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// A bearer secret: only a hash of it is ever told.
    pub session: Option<SessionId>,
    pub trace: Trace,
    /// By [`place`].
    pub texts: Texts<160, 5>,
}

/// Which of a record's texts is what, and how long it may be.
pub mod place {
    /// Who asked; never a credential.
    pub const PRINCIPAL: (usize, usize) = (0, 64);
    pub const UPSTREAM: (usize, usize) = (1, 48);
    /// The tool, the prompt, or the resource.
    pub const NAME: (usize, usize) = (2, 64);
    /// Without its query, which may hold secrets.
    pub const PATH: (usize, usize) = (3, 64);
    /// As the client calls it (`X-Request-Id`).
    pub const REQUEST_ID: (usize, usize) = (4, 40);
}

/// Where the time went, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub total: u64,
    pub queue: u32,
    pub connect: u32,
    pub upstream: u32,
}

/// A tool call, for the audit log.
#[derive(Clone, Copy, Debug)]
pub struct Audited {
    pub record: Record,
    /// SHA-256 of its arguments as they were received.
    pub arguments: Option<[u8; 32]>,
    /// The rule that denied it, as it stands in the configuration, from 1.
    pub rule: Option<u16>,
}

impl Record {
    pub fn text(&self, (place, _): (usize, usize)) -> Kept<'_> {
        self.texts.kept(place)
    }

    /// As MCP spells it.
    pub fn method(&self) -> Option<&'static str> {
        self.method.map(MethodId::label)
    }
}

impl From<Split> for Times {
    fn from(split: Split) -> Times {
        let short = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Times {
            total: u64::try_from(split.total.as_micros()).unwrap_or(u64::MAX),
            queue: short(split.queue),
            connect: short(split.connect),
            upstream: short(split.upstream),
        }
    }
}

/// Who ended a request, and when: two letters in the manner of HAProxy.
///
/// The first is who: `-` nobody, it came to its end; `C` the client, `P` the proxy, `U` upstream, `D` the drain. The second
/// is when: `-` at its end, `R` while it was read and checked, `Q` while it waited for a place, `C` while it waited for a
/// connection, `H` while upstream's answer was awaited, `D` while the answer was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination(pub [u8; 2]);

impl Termination {
    pub fn of(account: &Account) -> Termination {
        let ended = account.ended.get();
        let who = match ended.by {
            By::Nobody => return Termination(*b"--"),
            By::Client => b'C',
            By::Proxy => b'P',
            By::Upstream => b'U',
            By::Drain => b'D',
        };
        let when = match ended.reason {
            _ if !ended.early => b'D',
            "upstream_busy" => b'Q',
            _ if account.sent.get().is_some() => b'H',
            "upstream_connect" | "upstream_timeout" | "no_resources" => b'C',
            _ => b'R',
        };
        Termination([who, when])
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("??")
    }
}

/// Whether it counts as an error: refused, cut short, or answered with 400 or above.
pub fn is_error(account: &Account) -> bool {
    account.status.get() >= 400 || !matches!(account.ended.get().by, By::Nobody | By::Drain)
}

/// What is told of a session: the first 64 bits of the SHA-256 of its id, which lead nowhere near the id.
pub fn session_hash(id: &SessionId) -> [u8; 16] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes());
    let mut digits = [0; 16];
    crate::wire::trace_context::spell(&digest.as_ref()[..8], &mut digits);
    digits
}

/// Hashes of the sessions that were told of lately, since one asks many times.
pub struct Hashes(Vec<Option<(SessionId, [u8; 16])>>);

/// How many.
const HASHES: usize = 256;

impl Default for Hashes {
    fn default() -> Hashes {
        Hashes(vec![None; HASHES])
    }
}

impl Hashes {
    pub fn of(&mut self, id: &SessionId) -> [u8; 16] {
        let [.., one, other] = *id.as_bytes();
        let place = &mut self.0[(usize::from(one) << 2 ^ usize::from(other)) % HASHES];
        match place {
            Some((known, hash)) if known == id => *hash,
            _ => place.insert((*id, session_hash(id))).1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::account::Ended;

    #[test]
    fn the_code_says_who_and_when() {
        let account = Account::new(Instant::now());
        let code = |by, reason, early| {
            account.ended.set(Ended { by, reason, early });
            Termination::of(&account).as_str().to_owned()
        };
        assert_eq!(code(By::Nobody, "", false), "--");
        assert_eq!(code(By::Proxy, "unauthorized", true), "PR");
        assert_eq!(code(By::Client, "body_timeout", true), "CR");
        assert_eq!(code(By::Proxy, "upstream_busy", true), "PQ");
        assert_eq!(code(By::Upstream, "upstream_connect", true), "UC");
        assert_eq!(code(By::Upstream, "upstream_timeout", true), "UC");
        account.sent.set(Some(Instant::now()));
        assert_eq!(code(By::Upstream, "upstream_timeout", true), "UH");
        assert_eq!(code(By::Client, "client_gone", true), "CH");
        assert_eq!(code(By::Upstream, "upstream_closed", false), "UD");
        assert_eq!(code(By::Drain, "drain", false), "DD");
    }

    #[test]
    fn a_session_is_told_by_a_hash() {
        let id = SessionId::from_random([9; 24]);
        let hash = String::from_utf8(session_hash(&id).to_vec()).unwrap();
        assert!(!hash.contains(&id.as_str()[..6]) && hash.len() == 16);
        let mut hashes = Hashes::default();
        for _ in 0..2 {
            assert_eq!(hashes.of(&id), session_hash(&id));
            let other = SessionId::from_random([8; 24]);
            assert_eq!(hashes.of(&other), session_hash(&other));
        }
        assert_ne!(session_hash(&SessionId::from_random([8; 24])), session_hash(&id));
    }
}
