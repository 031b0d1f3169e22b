//! Which replica issued an opaque `requestState` or task: a bounded, lossy, lock-free map.
//!
//! Modern MCP (2026-07-28) lets any replica serve any request, but servers whose keys are per process refuse each
//! other's `requestState`. A lost entry costs affinity, never correctness of the proxy, so old entries are overwritten.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Entries, each eight bytes; a power of two.
const SLOTS: usize = 1 << 16;
/// Slots that one key may live in.
const WAYS: usize = 8;
/// Low bits of a word: the upstream plus one; 0 is an empty slot. The high bits are of the key's hash.
const UPSTREAM_BITS: u32 = 16;

/// Keys are 64-bit hashes, values are upstream numbers below 65,535.
pub struct Affinity {
    slots: Box<[AtomicU64]>,
}

impl Default for Affinity {
    fn default() -> Affinity {
        Affinity { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Affinity {
    pub fn remember(&self, key: u64, upstream: usize) {
        let word = tag(key) | (upstream as u64 + 1);
        let set = self.set(key);
        let place = set
            .iter()
            .position(|slot| slot.load(Relaxed) == 0 || same_key(slot.load(Relaxed), key))
            .unwrap_or((key >> 20) as usize % WAYS);
        set[place].store(word, Relaxed);
    }

    pub fn find(&self, key: u64) -> Option<usize> {
        let word = self.set(key).iter().map(|slot| slot.load(Relaxed)).find(|&word| same_key(word, key))?;
        Some((word & ((1 << UPSTREAM_BITS) - 1)) as usize - 1)
    }

    fn set(&self, key: u64) -> &[AtomicU64] {
        let first = (key as usize % (SLOTS / WAYS)) * WAYS;
        &self.slots[first..first + WAYS]
    }
}

fn tag(key: u64) -> u64 {
    key & !((1 << UPSTREAM_BITS) - 1)
}

fn same_key(word: u64, key: u64) -> bool {
    word != 0 && tag(word) == tag(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(i: u64) -> u64 {
        (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn remembers_the_latest_upstream_of_a_key() {
        let affinity = Affinity::default();
        affinity.remember(hash(1), 0);
        affinity.remember(hash(1), 7);
        assert_eq!(affinity.find(hash(1)), Some(7));
        assert_eq!(affinity.find(hash(2)), None);
    }

    #[test]
    fn a_flood_overwrites_but_never_grows_or_lies() {
        let affinity = Affinity::default();
        for i in 0..1_000_000 {
            affinity.remember(hash(i), (i % 5) as usize);
        }
        for i in 990_000..1_000_000u64 {
            assert!(affinity.find(hash(i)).is_none_or(|upstream| upstream == (i % 5) as usize));
        }
        assert_eq!(affinity.find(hash(999_999)), Some(4));
    }
}
