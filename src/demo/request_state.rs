//! The opaque `requestState` of an `input_required` result: an expiry, sealed together with what was
//! asked, so that it serves no other request, no other server and no later time (MRTR page,
//! "Server Requirements").

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

/// How long a user may take to answer.
const LIFETIME: Duration = Duration::from_secs(600);

pub struct Sealer {
    key: hmac::Key,
}

impl Sealer {
    /// A key of its own: another process refuses this one's states.
    pub fn new() -> Sealer {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Sealer { key: key.expect("the system's random source works") }
    }

    /// `<expiry, Unix seconds>.<HMAC-SHA256 in hex>`
    pub fn seal(&self, question: &str, now: SystemTime) -> String {
        let expiry = seconds(now) + LIFETIME.as_secs();
        let tag = hmac::sign(&self.key, message(expiry, question).as_bytes());
        let hex = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{expiry}.{hex}")
    }

    /// Whether this key sealed `state` for `question`, and lately.
    pub fn verify(&self, state: &str, question: &str, now: SystemTime) -> bool {
        let Some((expiry, hex)) = state.split_once('.') else { return false };
        let (Ok(expiry), Some(tag)) = (expiry.parse::<u64>(), unhex(hex)) else { return false };
        let sealed = hmac::verify(&self.key, message(expiry, question).as_bytes(), &tag).is_ok();
        sealed && seconds(now) <= expiry
    }
}

fn message(expiry: u64, question: &str) -> String {
    format!("tools/call ask {expiry} {question}")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_serves_one_question_one_server_and_ten_minutes() {
        let (sealer, now) = (Sealer::new(), SystemTime::now());
        let state = sealer.seal("name?", now);
        assert!(sealer.verify(&state, "name?", now + LIFETIME));
        assert!(!sealer.verify(&state, "name?", now + LIFETIME + Duration::from_secs(2)));
        assert!(!sealer.verify(&state, "age?", now));
        assert!(!Sealer::new().verify(&state, "name?", now));
    }

    #[test]
    fn refuses_what_was_tampered_with() {
        let (sealer, now) = (Sealer::new(), SystemTime::now());
        let state = sealer.seal("name?", now);
        let (expiry, tag) = state.split_once('.').expect("sealed");
        let later = expiry.parse::<u64>().expect("seconds") + 1;
        for bad in ["", ".", "x.y", &state[..state.len() - 1], &format!("{later}.{tag}"), &format!("{state}00"), "1.é"]
        {
            assert!(!sealer.verify(bad, "name?", now), "{bad}");
        }
    }
}
