//! API keys. Configuration holds only their hashes, as `sha256:<64 hex digits>`.
//!
//! A plain hash, where a password would need a slow one: keys are made by us from 256 random bits, so there is nothing
//! to guess, and a slow hash on every request would be a way to exhaust the server. Keys that people made up are refused
//! by `hash_key` if they are short.

use std::sync::Arc;

use aws_lc_rs::{constant_time, digest, rand};

use super::error::AuthError;
use super::principal::Principal;
use crate::base::KeyHash;
use crate::wire::jose::encode_base64url;

/// What `issuer` says of principals with a key.
const ISSUER: &str = "api-key";
/// Shorter keys may be guessed.
pub const KEY_BYTES_MIN: usize = 24;
const KEY_BYTES_MAX: usize = 1024;

fn hash(key: &[u8]) -> KeyHash {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
    KeyHash(bytes)
}

/// The line for `[[auth.api_keys]] hash`.
///
/// # Errors
/// The key is too short, too long, or cannot stand in a header field.
pub fn hash_key(key: &str) -> Result<String, &'static str> {
    if key.len() < KEY_BYTES_MIN {
        return Err("a key of less than 24 characters can be guessed: let `--generate` make one");
    }
    if key.len() > KEY_BYTES_MAX || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("a key has at most 1024 characters, all of them visible ASCII without spaces");
    }
    Ok(hash(key.as_bytes()).to_string())
}

/// A new key of 256 random bits. The prefix lets scanners of repositories find it.
///
/// # Errors
/// The system has no random bytes.
pub fn generate_key() -> Result<String, &'static str> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| "no random bytes from the system")?;
    Ok(format!("shadowcat_{}", encode_base64url(&bytes)))
}

/// The keys of the configuration.
#[derive(Debug)]
pub struct ApiKeys {
    keys: Vec<(KeyHash, Principal)>,
}

impl ApiKeys {
    /// Name, hash and scopes of each.
    pub fn new(keys: impl IntoIterator<Item = (String, KeyHash, Vec<Box<str>>)>) -> ApiKeys {
        let issuer: Arc<str> = ISSUER.into();
        let principal =
            |(name, hash, scopes): (String, _, _)| (hash, Principal::new(issuer.clone(), &name, scopes, None));
        ApiKeys { keys: keys.into_iter().map(principal).collect() }
    }

    /// Whose key this is. Takes as long for a wrong key as for a right one, wherever in the list that stands.
    ///
    /// # Errors
    /// Nobody's.
    pub fn verify(&self, key: &[u8]) -> Result<&Principal, AuthError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let hash = hash(key);
        let mut found = None;
        for (own, principal) in &self.keys {
            if constant_time::verify_slices_are_equal(&own.0, &hash.0).is_ok() {
                found = Some(principal);
            }
        }
        found.ok_or(AuthError::UnknownKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> (Vec<String>, ApiKeys) {
        let made: Vec<String> = names.iter().map(|_| generate_key().unwrap()).collect();
        let hashed = names.iter().zip(&made).map(|(name, key)| {
            let hash = KeyHash::parse(&hash_key(key).unwrap()).unwrap();
            (name.to_string(), hash, vec!["read".into()])
        });
        (made.clone(), ApiKeys::new(hashed.collect::<Vec<_>>()))
    }

    #[test]
    fn a_key_is_found_by_its_hash_and_nothing_else_is() {
        let (made, keys) = keys(&["ci", "robot"]);
        for (key, name) in made.iter().zip(["ci", "robot"]) {
            let principal = keys.verify(key.as_bytes()).unwrap();
            assert_eq!((&*principal.issuer, &*principal.name, principal.expires), ("api-key", name, None));
            assert!(principal.has_scope("read"));
            let hash = hash_key(key).unwrap();
            assert_eq!(keys.verify(hash.as_bytes()), Err(AuthError::UnknownKey), "the hash is not the key");
            assert_eq!(keys.verify(&key.as_bytes()[1..]), Err(AuthError::UnknownKey));
        }
        assert_eq!(keys.verify(b""), Err(AuthError::UnknownKey));
        assert_eq!(keys.verify(&[b'a'; 1025]), Err(AuthError::TooLong));
        assert_ne!(made[0], made[1]);
    }

    #[test]
    fn hashes_say_what_they_are() {
        let key = "correct-horse-battery-staple";
        let hash = hash_key(key).unwrap();
        // printf correct-horse-battery-staple | sha256sum
        assert_eq!(hash, "sha256:87cbebfeebc05f7c54ac9336c4b4bbec831227a641951a4bde7edd56020f8590");
        for bad in ["short", "with spaces between the words of it", "no-ascii-\u{e9}-in-the-name-of-it"] {
            assert!(hash_key(bad).is_err(), "{bad}");
        }
    }
}
