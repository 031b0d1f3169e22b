//! Cookies that only this process reads and writes: sealed with a key that never leaves it.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;

use crate::wire::jose::{decode_base64url, encode_base64url};

/// A key for one purpose. The purpose is authenticated as well, so that what was sealed for one never opens for another.
///
/// AES-256-GCM-SIV (RFC 8452), since everybody may have as many values sealed as they like: a random nonce that comes
/// twice tells an attacker no more than that the same text was sealed twice.
pub struct Seal {
    key: RandomizedNonceKey,
    purpose: &'static [u8],
}

impl Seal {
    /// With a new random key.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn new(purpose: &'static [u8]) -> Result<Seal, &'static str> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| "no random bytes from the system")?;
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, &bytes).map_err(|_| "no key to seal with")?;
        Ok(Seal { key, purpose })
    }

    /// base64url of nonce, text and tag; `None`: the system has no random bytes.
    pub fn seal(&self, text: &[u8]) -> Option<String> {
        let mut sealed = text.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(self.purpose), &mut sealed).ok()?;
        let whole = [nonce.as_ref().as_slice(), &sealed].concat();
        Some(encode_base64url(&whole))
    }

    /// What was sealed; `None`: not by this key, for another purpose, or changed since.
    pub fn open(&self, sealed: &str) -> Option<Vec<u8>> {
        let whole = decode_base64url(sealed)?;
        let (nonce, rest) = whole.split_first_chunk::<NONCE_LEN>()?;
        let mut rest = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, Aad::from(self.purpose), &mut rest).ok()?.len();
        rest.truncate(length);
        Some(rest)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let seal = Seal::new(b"a").unwrap();
        for text in [b"".as_slice(), b"x", &[7; 1000]] {
            let sealed = seal.seal(text).unwrap();
            assert_eq!(seal.open(&sealed).as_deref(), Some(text));
            assert_ne!(seal.seal(text).unwrap(), sealed, "a nonce of its own each time");
            assert_eq!(Seal::new(b"a").unwrap().open(&sealed), None, "another key");
            let same_key = Seal { key: seal_key(), purpose: b"a" };
            let other_purpose = Seal { key: seal_key(), purpose: b"b" };
            assert_eq!(other_purpose.open(&same_key.seal(text).unwrap()), None);
        }
        for bad in ["", "A", "AAAA", "====", "caf\u{e9}"] {
            assert_eq!(seal.open(bad), None, "{bad}");
        }
    }

    fn seal_key() -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM_SIV, &[9; 32]).unwrap()
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let seal = Seal::new(b"a").unwrap();
        let good = seal.seal(b"who it is").unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(seal.open(std::str::from_utf8(&bytes).unwrap()), None, "character {at}");
        }
    }
}
