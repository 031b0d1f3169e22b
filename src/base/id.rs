//! Names of sessions: ours, never the upstream's own. Clients see them as they are, unless ids are sealed (`wire::sealed`):
//! then a session is named by a hash of what its client sees.

use std::fmt;

/// 24 random bytes (192 bits, from the CSPRNG) as 32 characters of base64url (RFC 4648 section 5),
/// which are visible ASCII as MCP asks of `Mcp-Session-Id`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; SessionId::LEN]);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl SessionId {
    /// Length in bytes as text.
    pub const LEN: usize = 32;

    /// The id made of these random bytes.
    pub fn from_random(random: [u8; 24]) -> SessionId {
        SessionId(spelt(random))
    }

    /// The name of a session whose client-visible id is another text, of which these bytes are a hash. It begins with `~`,
    /// so that no client can spell it.
    pub fn from_digest(digest: [u8; 24]) -> SessionId {
        let mut text = spelt(digest);
        text[0] = DERIVED;
        SessionId(text)
    }

    /// Whether it names a session whose client sees another text.
    pub fn is_derived(&self) -> bool {
        self.0[0] == DERIVED
    }

    /// The id that `text` of a client spells; `None` for anything that we cannot have issued.
    pub fn parse(text: &[u8]) -> Option<SessionId> {
        let text: [u8; SessionId::LEN] = text.try_into().ok()?;
        are_digits(&text).then_some(SessionId(text))
    }

    /// The name that these bytes of a store spell, derived ones included.
    pub fn from_stored(text: &[u8]) -> Option<SessionId> {
        let text: [u8; SessionId::LEN] = text.try_into().ok()?;
        let fine = (is_digit(text[0]) || text[0] == DERIVED) && are_digits(&text[1..]);
        fine.then_some(SessionId(text))
    }

    pub fn as_bytes(&self) -> &[u8; SessionId::LEN] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64url is ASCII")
    }

    /// Evenly spread bits. Ids are random, or hashes: nobody chooses those that a table holds, and a part of one is as good as
    /// a hash of it.
    pub fn spread(&self) -> u64 {
        let (words, _) = self.0.as_chunks::<8>();
        // The first character may be the same in all. Digits of base64 leave bits of a byte alone: fold the product
        // (Knuth, The Art of Computer Programming 3, section 6.4).
        let word = u64::from_le_bytes(words[1]) ^ u64::from_le_bytes(words[3]).rotate_left(3);
        let product = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ (product >> 32)
    }
}

/// In the place of the first digit of a derived name; no digit of base64url.
const DERIVED: u8 = b'~';

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() | (byte | 0x20).is_ascii_lowercase() | (byte == b'-') | (byte == b'_')
}

/// All of them looked at, many at once.
fn are_digits(text: &[u8]) -> bool {
    text.iter().fold(true, |all, &byte| all & is_digit(byte))
}

fn spelt(bytes: [u8; 24]) -> [u8; SessionId::LEN] {
    let mut text = [0u8; SessionId::LEN];
    for (three, four) in bytes.chunks_exact(3).zip(text.chunks_exact_mut(4)) {
        let word = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
        for (i, out) in four.iter_mut().enumerate() {
            *out = ALPHABET[(word >> (18 - 6 * i) & 63) as usize];
        }
    }
    text
}

/// An id is a bearer secret: logs get its first six characters only.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}...", &self.as_str()[..6])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_debug_hides_the_secret() {
        let id = SessionId::from_random([0xfb; 24]);
        assert_eq!(SessionId::parse(id.as_bytes()), Some(id));
        assert_eq!(id.as_str().len(), 32);
        assert!(format!("{id:?}").len() < 12);
    }

    #[test]
    fn refuses_what_it_cannot_have_issued() {
        assert_eq!(SessionId::parse(b"short"), None);
        assert_eq!(SessionId::parse(&[b'='; 32]), None);
        assert_eq!(SessionId::parse(&[b'a'; 33]), None);
    }

    #[test]
    fn derived_names_are_for_the_store_alone() {
        let derived = SessionId::from_digest([7; 24]);
        assert!(derived.is_derived() && !SessionId::from_random([7; 24]).is_derived());
        assert_eq!(SessionId::parse(derived.as_bytes()), None);
        assert_eq!(SessionId::from_stored(derived.as_bytes()), Some(derived));
        assert_eq!(SessionId::from_stored(&[b'~'; 32]), None);
        assert_ne!(SessionId::from_digest([8; 24]), derived);
    }
}
