//! What a head has in common with the one before it on its connection, so that it need not be parsed again.

use super::field::{Fields, Name};
use super::head::RequestHead;
use crate::base::Span;

/// What a head has in common with the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    Nothing,
    /// Everything stands where it stood, and differs at most in [what each request has of its own](RequestHead::OWN).
    Form {
        same_session: bool,
    },
    /// It is the same but for the digits of its length.
    All,
}

impl RequestHead {
    /// What the head of `bytes` has in common with `before`, which this was parsed from. Clients that keep a connection mostly
    /// send the same head again and again.
    pub fn repeats(&self, bytes: &[u8], before: &[u8]) -> Repeats {
        if self.len == 0 || before.len() != self.len {
            Repeats::Nothing
        } else if repeats(&self.fields, bytes, before) {
            Repeats::All
        } else {
            self.differences(bytes, before).map_or(Repeats::Nothing, |same_session| Repeats::Form { same_session })
        }
    }

    /// Fields by which a request says how long it is, and names its session, its trace and itself.
    pub const OWN: [Name; 4] = [Name::ContentLength, Name::McpSessionId, Name::Traceparent, Name::XRequestId];

    /// Whether the session is the same, if nothing differs but values of [`OWN`](RequestHead::OWN) fields, which are as plain
    /// and as long as they were.
    fn differences(&self, bytes: &[u8], before: &[u8]) -> Option<bool> {
        let now = bytes.get(..self.len)?;
        let mut own = Self::OWN.map(|name| {
            let may_differ = self.fields.has(name) && !self.fields.is_repeated(name);
            (if may_differ { self.fields.first_of(name).value } else { Span::EMPTY }, name)
        });
        own.sort_unstable_by_key(|(value, _)| value.start);
        let (mut equal, mut same_session) = (0, true);
        for (value, name) in own {
            let (new, old) = (value.of(now), value.of(before));
            if new == old {
                continue;
            }
            let start = value.start as usize;
            let is_plain = if name == Name::ContentLength { are_digits } else { is_graphic };
            if !is_plain(new) || !is_plain(old) || now[equal..start] != before[equal..start] {
                return None;
            }
            same_session &= name != Name::McpSessionId;
            equal = start + new.len();
        }
        (now[equal..] == before[equal..]).then_some(same_session)
    }

    /// Let `before` be what the head says now, which repeats [all](Repeats::All) of it.
    pub fn restate(&self, bytes: &[u8], before: &mut [u8]) {
        if self.fields.has(Name::ContentLength) {
            let digits = self.fields.first_of(Name::ContentLength).value;
            let digits = digits.start as usize..(digits.start + digits.len) as usize;
            before[digits.clone()].copy_from_slice(&bytes[digits]);
        }
    }
}

/// Whether `bytes` begin with the head `before`, which has these fields, but for the digits of its length.
pub(super) fn repeats(fields: &Fields, bytes: &[u8], before: &[u8]) -> bool {
    let Some(now) = bytes.get(..before.len()) else { return false };
    if !fields.has(Name::ContentLength) {
        return now == before;
    }
    let digits = fields.first_of(Name::ContentLength).value;
    let (start, end) = (digits.start as usize, (digits.start + digits.len) as usize);
    now[..start] == before[..start]
        && now[end..] == before[end..]
        && are_digits(&now[start..end])
        && are_digits(&before[start..end])
}

/// All of them looked at, many at once: most texts are what they are hoped to be.
fn are_digits(text: &[u8]) -> bool {
    text.iter().fold(true, |all, byte| all & byte.is_ascii_digit())
}

/// Visible ASCII.
fn is_graphic(text: &[u8]) -> bool {
    text.iter().fold(true, |all, byte| all & byte.is_ascii_graphic())
}
