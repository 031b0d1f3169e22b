//! Numbers that need to be different, not secret: xoshiro256++ (Blackman and Vigna), from a seed of the caller.

use std::cell::Cell;

/// One thread's generator.
pub struct Random(Cell<[u64; 4]>);

impl Random {
    /// `seed`: random bytes, not all of them zero.
    pub fn new(seed: [u8; 32]) -> Random {
        let mut words = [1; 4];
        for (word, bytes) in words.iter_mut().zip(seed.chunks_exact(8)) {
            *word = bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
        Random(Cell::new(if words == [0; 4] { [1; 4] } else { words }))
    }

    pub fn next(&self) -> u64 {
        let [a, b, c, d] = self.0.get();
        let next = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.0.set([a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)]);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_reference() {
        let mut seed = [0; 32];
        for (index, word) in seed.chunks_exact_mut(8).enumerate() {
            word[7] = index as u8 + 1;
        }
        let random = Random::new(seed);
        // The first numbers of the authors' C code for the state 1, 2, 3, 4.
        let first = [41943041, 58720359, 3588806011781223, 3591011842654386];
        assert_eq!(first.map(|_| random.next()), first);
        assert_ne!(Random::new([0; 32]).next(), 0);
    }
}
