//! Session ids that any replica of the proxy can serve: what a session is, sealed into the id that its client carries.
//!
//! ```text
//! id        base64url(version, key id, nonce[12], sealed contents, tag[16])
//! contents  flags, created[8], binding[32]?, (length, upstream), (length, protocol), (length, parameter)?, upstream's id
//! ```
//!
//! AES-256-GCM-SIV (RFC 8452) with random nonces: a nonce that comes twice tells at most that two ids hold the same, so
//! that no bound on the number of ids need be watched over all replicas. The keys come from the secrets by HKDF-SHA256
//! (RFC 5869), once.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf};

use super::jose::{decode_base64url, encode_base64url};
use crate::base::{Secret, SessionId};

/// Longest id, bytes of text. Usual ones have 130 to 190; upstream's own may have 1,024 bytes.
pub const TEXT_MAX: usize = 2048;
/// Shortest secret that is taken, characters.
pub const SECRET_MIN: usize = 32;
/// Bytes of a nonce.
pub const NONCE: usize = 12;

const VERSION: u8 = 1;
const HEADER: usize = 2;
const TAG: usize = 16;
/// Flags, time of creation, two lengths.
const CONTENTS_MIN: usize = 1 + 8 + 2;
/// What the sealing is for; nothing that was sealed for another purpose opens here.
const PURPOSE: &[u8; 21] = b"shadowcat session id ";
const SALT: &[u8] = b"shadowcat session.secret";

const FLAG_PARAMETER: u8 = 1;
const FLAG_BINDING: u8 = 2;

/// What an id carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The upstream's name.
    pub upstream: String,
    /// Upstream's own id.
    pub upstream_session: String,
    /// The MCP version of its `initialize`, where the headers told it.
    pub protocol: String,
    /// The query parameter that carries it (HTTP+SSE of 2024-11-05); `None`: a header does.
    pub parameter: Option<String>,
    /// Hash of whose it is.
    pub binding: Option<[u8; 32]>,
    /// Unix seconds.
    pub created: u64,
}

/// The keys: the first seals, all open.
pub struct Seal {
    keys: Vec<Key>,
}

struct Key {
    id: u8,
    key: LessSafeKey,
}

impl Seal {
    pub fn new(secret: &Secret, previous: Option<&Secret>) -> Seal {
        Seal { keys: std::iter::once(secret).chain(previous).map(Key::of).collect() }
    }

    /// The id that carries `contents`; `nonce` is random and never comes twice. `None`: it would be too long.
    pub fn seal(&self, contents: &Contents, nonce: [u8; NONCE]) -> Option<String> {
        let key = &self.keys[0];
        let header = [VERSION, key.id];
        let mut sealed = contents.encode()?;
        let aad = associated(header);
        key.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut sealed).ok()?;
        let text = encode_base64url(&[&header[..], &nonce, &sealed].concat());
        (text.len() <= TEXT_MAX).then_some(text)
    }

    /// What `text` carries; `None` for all that this key, or the one before it, did not seal.
    pub fn open(&self, text: &[u8]) -> Option<Contents> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let bytes = decode_base64url(std::str::from_utf8(text).ok()?)?;
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        let fits = |key: &&Key| *header == [VERSION, key.id];
        self.keys.iter().filter(fits).find_map(|key| {
            let mut sealed = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let plain = key.key.open_in_place(nonce, Aad::from(associated(*header)), &mut sealed).ok()?;
            Contents::decode(plain)
        })
    }
}

/// Nothing for logs.
impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} keys>", self.keys.len())
    }
}

impl Key {
    fn of(secret: &Secret) -> Key {
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret.expose().as_bytes());
        let key = derived.expand(&[b"AES-256-GCM-SIV"], &AES_256_GCM_SIV).expect("32 bytes are within HKDF's bound");
        let mut id = [0];
        derived.expand(&[b"key id"], OneByte).and_then(|id_of| id_of.fill(&mut id)).expect("one byte is too");
        Key { id: id[0], key: LessSafeKey::new(UnboundKey::from(key)) }
    }
}

struct OneByte;

impl hkdf::KeyType for OneByte {
    fn len(&self) -> usize {
        1
    }
}

fn associated(header: [u8; HEADER]) -> [u8; PURPOSE.len() + HEADER] {
    let mut bytes = [0; PURPOSE.len() + HEADER];
    bytes[..PURPOSE.len()].copy_from_slice(PURPOSE);
    bytes[PURPOSE.len()..].copy_from_slice(&header);
    bytes
}

/// The name of the session whose id is `text`, whoever sealed it. `None`: it is too short or too long to be an id.
pub fn name_of(text: &[u8]) -> Option<SessionId> {
    const TEXT_MIN: usize = (HEADER + NONCE + CONTENTS_MIN + TAG) * 4 / 3;
    if !(TEXT_MIN..=TEXT_MAX).contains(&text.len()) {
        return None;
    }
    let hash = digest::digest(&digest::SHA256, text);
    hash.as_ref().first_chunk().copied().map(SessionId::from_digest)
}

/// Whether `text` will do as a secret.
///
/// # Errors
/// What is wrong with it, without the text.
pub fn check_secret(text: &str) -> Result<(), &'static str> {
    const DISTINCT_MIN: usize = 8;
    let bytes = text.as_bytes();
    let mut distinct = bytes.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let repeats = |period: usize| bytes[period..] == bytes[..bytes.len() - period];
    match bytes.len() {
        0 => Err("is empty; make one with `openssl rand -base64 32`"),
        1..SECRET_MIN => Err("is too short: at least 32 characters, as `openssl rand -base64 32` makes them"),
        _ if distinct.len() < DISTINCT_MIN => Err("can be guessed: it has fewer than 8 different characters"),
        length if (1..=length / 2).any(repeats) => Err("can be guessed: it repeats itself"),
        _ => Ok(()),
    }
}

impl Contents {
    fn encode(&self) -> Option<Vec<u8>> {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let flags = flag(self.parameter.is_some(), FLAG_PARAMETER) | flag(self.binding.is_some(), FLAG_BINDING);
        let mut out = Vec::with_capacity(128 + self.upstream_session.len() + TAG);
        out.push(flags);
        out.extend_from_slice(&self.created.to_be_bytes());
        out.extend(self.binding.iter().flatten());
        for text in [Some(&self.upstream), Some(&self.protocol), self.parameter.as_ref()].into_iter().flatten() {
            out.push(u8::try_from(text.len()).ok()?);
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(self.upstream_session.as_bytes());
        Some(out)
    }

    fn decode(bytes: &[u8]) -> Option<Contents> {
        let (&[flags], rest) = bytes.split_first_chunk::<1>()?;
        let (created, mut rest) = rest.split_first_chunk::<8>()?;
        if flags & !(FLAG_PARAMETER | FLAG_BINDING) != 0 {
            return None;
        }
        let mut binding = None;
        if flags & FLAG_BINDING != 0 {
            let (bytes, after) = rest.split_first_chunk::<32>()?;
            (binding, rest) = (Some(*bytes), after);
        }
        let mut text = || {
            let (&length, after) = rest.split_first()?;
            let (text, after) = after.split_at_checked(usize::from(length))?;
            rest = after;
            String::from_utf8(text.to_vec()).ok()
        };
        let (upstream, protocol) = (text()?, text()?);
        let parameter = if flags & FLAG_PARAMETER != 0 { Some(text()?) } else { None };
        let upstream_session = String::from_utf8(rest.to_vec()).ok()?;
        let created = u64::from_be_bytes(*created);
        Some(Contents { upstream, upstream_session, protocol, parameter, binding, created })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "0123456789abcdefghijklmnopqrstuv";
    const OTHER: &str = "vutsrqponmlkjihgfedcba9876543210";

    fn seal_of(secret: &str, previous: Option<&str>) -> Seal {
        Seal::new(&Secret::new(secret), previous.map(Secret::new).as_ref())
    }

    fn contents() -> Contents {
        Contents {
            upstream: "primary".into(),
            upstream_session: "5f0c8f5e-7f5b-4b0e-9d9f-0f4d2b0f8f11".into(),
            protocol: "2025-11-25".into(),
            parameter: None,
            binding: None,
            created: 1_790_000_000,
        }
    }

    fn any_contents() -> impl Strategy<Value = Contents> {
        let parts = ("[^\r\n]{0,60}", "[!-~]{1,300}", "[0-9-]{0,10}", any::<Option<[u8; 32]>>(), any::<u64>());
        (parts, proptest::option::of("[a-zA-Z_]{1,20}")).prop_map(|(parts, parameter)| {
            let (upstream, upstream_session, protocol, binding, created) = parts;
            Contents { upstream, upstream_session, protocol, parameter, binding, created }
        })
    }

    proptest! {
        #[test]
        fn opens_what_it_sealed(contents in any_contents(), nonce: [u8; NONCE]) {
            let text = seal_of(ONE, None).seal(&contents, nonce).unwrap();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')));
            prop_assert_eq!(seal_of(OTHER, Some(ONE)).open(text.as_bytes()), Some(contents));
            prop_assert_eq!(seal_of(OTHER, None).open(text.as_bytes()), None);
        }

        #[test]
        fn another_nonce_makes_another_id(one: [u8; NONCE], other: [u8; NONCE]) {
            let seal = seal_of(ONE, None);
            prop_assert_eq!(seal.seal(&contents(), one) == seal.seal(&contents(), other), one == other);
        }

        #[test]
        fn opens_nothing_else(text: Vec<u8>) {
            prop_assert_eq!(seal_of(ONE, Some(OTHER)).open(&text), None);
            let spelt = encode_base64url(&[&[VERSION, Key::of(&Secret::new(ONE)).id], &text[..]].concat());
            prop_assert_eq!(seal_of(ONE, Some(OTHER)).open(spelt.as_bytes()), None);
        }
    }

    #[test]
    fn any_change_of_any_byte_any_cut_and_any_more_is_refused() {
        let seal = seal_of(ONE, Some(OTHER));
        let text = seal.seal(&Contents { binding: Some([9; 32]), ..contents() }, [7; NONCE]).unwrap().into_bytes();
        for at in 0..text.len() {
            assert_eq!(seal.open(&text[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut changed = text.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(seal.open(&changed), None, "bit {bit} of byte {at}");
                assert_ne!(name_of(&changed), name_of(&text));
            }
        }
        for more in [&b"A"[..], b"AA", b"AAAA", b"=", b" "] {
            assert_eq!(seal.open(&[&text[..], more].concat()), None);
        }
    }

    #[test]
    fn ids_are_short_and_of_bounded_length() {
        let seal = seal_of(ONE, None);
        let length = |contents: &Contents| seal.seal(contents, [0; NONCE]).map(|text| text.len());
        assert_eq!(length(&contents()), Some(126));
        assert_eq!(length(&Contents { binding: Some([0; 32]), ..contents() }), Some(168));
        let long = |bytes| Contents { upstream_session: "x".repeat(bytes), ..contents() };
        assert!(length(&long(1024)).is_some_and(|length| length <= 1536));
        assert_eq!(length(&long(TEXT_MAX)), None);
        assert_eq!(length(&Contents { upstream: "x".repeat(256), ..contents() }), None);
        assert_eq!(seal.open(&vec![b'A'; 1 << 20]), None);
        assert_eq!((name_of(&vec![b'A'; 1 << 20]), name_of(b"short")), (None, None));
        let smallest = Contents { upstream: String::new(), protocol: String::new(), ..long(0) };
        let text = seal.seal(&smallest, [0; NONCE]).unwrap();
        assert!(name_of(text.as_bytes()).is_some_and(|name| name.is_derived()));
    }

    #[test]
    fn keys_rotate() {
        let (old, both, new) = (seal_of(ONE, None), seal_of(OTHER, Some(ONE)), seal_of(OTHER, None));
        let before = old.seal(&contents(), [1; NONCE]).unwrap();
        let after = both.seal(&contents(), [1; NONCE]).unwrap();
        assert_eq!(both.open(before.as_bytes()), Some(contents()));
        assert_eq!(new.open(after.as_bytes()), Some(contents()));
        assert_eq!((new.open(before.as_bytes()), old.open(after.as_bytes())), (None, None));
    }

    #[test]
    fn keys_of_one_key_id_are_both_tried() {
        let id = |secret: &str| Key::of(&Secret::new(secret)).id;
        let twin = (0..).map(|n| format!("{OTHER}{n}")).find(|secret| id(secret) == id(ONE)).unwrap();
        let text = seal_of(ONE, None).seal(&contents(), [1; NONCE]).unwrap();
        assert_eq!(seal_of(&twin, Some(ONE)).open(text.as_bytes()), Some(contents()));
        assert_eq!(seal_of(&twin, None).open(text.as_bytes()), None);
    }

    #[test]
    fn secrets_that_can_be_guessed_are_refused() {
        for bad in
            ["", "short", &ONE[1..], &"a".repeat(64), "abababababababababababababababababab", &ONE[..16].repeat(2)]
        {
            assert!(check_secret(bad).is_err(), "{bad}");
        }
        for good in [ONE, "b3f1c2d4e5a697887766554433221100", "correct horse battery staple, and more"] {
            assert_eq!(check_secret(good), Ok(()), "{good}");
        }
        assert_eq!(format!("{:?}", seal_of(ONE, Some(OTHER))), "<2 keys>");
    }
}
