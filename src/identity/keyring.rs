//! All issuers with the keys they have now; replaced whole, never changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::claims::{IssuerName, Policy};
use super::keyset::KeySet;

/// What tokens are verified against. Verdicts that were remembered count only while `generation` is the same.
#[derive(Debug)]
pub struct Keyring {
    /// Another one, larger than all before, whenever keys or issuers' names changed.
    pub generation: u64,
    /// In the order of the configuration; [`super::AuthError::UnknownKid`] and [`super::Introspect`] count in it.
    pub issuers: Vec<Issuer>,
}

#[derive(Clone, Debug)]
pub struct Issuer {
    pub policy: Arc<Policy>,
    pub name: IssuerName,
    /// `None`: never fetched, or out of date for longer than is allowed.
    pub keys: Option<Arc<KeySet>>,
}

/// Unique in the process, so that what was remembered under one plan never counts under the next.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Keyring {
    pub fn new(issuers: Vec<Issuer>) -> Keyring {
        Keyring { generation: next_generation(), issuers }
    }

    /// The issuer that `iss` names: one of that very name, else one of its origin.
    pub fn find(&self, iss: &str) -> Option<(usize, &Issuer)> {
        let matching = || self.issuers.iter().enumerate().filter(|(_, issuer)| issuer.name.matches(iss));
        matching().find(|(_, issuer)| matches!(issuer.name, IssuerName::Exactly(_))).or_else(|| matching().next())
    }

    /// Whether any issuer can be asked about opaque tokens.
    pub fn introspects(&self) -> bool {
        self.issuers.iter().any(|issuer| issuer.policy.introspects)
    }

    /// This with one issuer replaced; the same generation if nothing that verifies changed.
    pub fn with(&self, at: usize, issuer: Issuer) -> Keyring {
        let changed = self.issuers.get(at).is_some_and(|old| {
            let same_keys = match (&old.keys, &issuer.keys) {
                (Some(old), Some(new)) => old.is_same(new),
                (None, None) => true,
                _ => false,
            };
            !same_keys || old.name != issuer.name
        });
        let mut issuers = self.issuers.clone();
        if let Some(old) = issuers.get_mut(at) {
            *old = issuer;
        }
        let generation = if changed { next_generation() } else { self.generation };
        Keyring { generation, issuers }
    }
}
