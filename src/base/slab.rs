//! A table whose entries stay where they are: things of a thread by number.
//!
//! It grows by a page at a time. A `Vec` that grows copies all its entries, and the allocator keeps each of its sizes in memory of its
//! own: with huge pages the tables of 2,000 streams took more than the streams (`docs/adr/0024-tables-grow-by-pages.md`).

use std::num::NonZeroU32;

/// Entries of a page.
const PAGE: usize = 64;
/// No vacant slot.
const NONE: u32 = u32::MAX;

/// Where something stands, and which of those that stood there in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    generation: NonZeroU32,
    place: u32,
}

impl Key {
    /// Of what [`Slab::insert`] gave.
    pub fn new(generation: u32, place: u32) -> Option<Key> {
        Some(Key { generation: NonZeroU32::new(generation)?, place })
    }

    pub fn generation(self) -> u32 {
        self.generation.get()
    }

    pub fn place(self) -> u32 {
        self.place
    }
}

struct Slot<T> {
    /// Of what is here, or will be next.
    generation: NonZeroU32,
    /// The next vacant slot.
    next: u32,
    value: Option<T>,
}

/// Things by [`Key`], in no order.
pub struct Slab<T> {
    pages: Vec<Box<[Slot<T>]>>,
    vacant: u32,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { pages: Vec::new(), vacant: NONE, len: 0 }
    }
}

impl<T> Slab<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn insert(&mut self, value: T) -> Key {
        if self.vacant == NONE {
            self.grow();
        }
        let place = self.vacant;
        let slot = &mut self.pages[place as usize / PAGE][place as usize % PAGE];
        self.vacant = slot.next;
        self.len += 1;
        slot.value = Some(value);
        Key { generation: slot.generation, place }
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.pages.get(key.place as usize / PAGE)?.get(key.place as usize % PAGE)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slot_mut(key)?.value.as_mut()
    }

    /// What stood there, if it still did.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let vacant = self.vacant;
        let slot = self.slot_mut(key)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        slot.next = vacant;
        self.vacant = key.place;
        self.len -= 1;
        Some(value)
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten().filter_map(|slot| slot.value.as_ref())
    }

    fn slot_mut(&mut self, key: Key) -> Option<&mut Slot<T>> {
        let slot = self.pages.get_mut(key.place as usize / PAGE)?.get_mut(key.place as usize % PAGE)?;
        (slot.generation == key.generation).then_some(slot)
    }

    fn grow(&mut self) {
        let first = (self.pages.len() * PAGE) as u32;
        let next = |place: u32| if place + 1 == first + PAGE as u32 { NONE } else { place + 1 };
        let slot = |place| Slot { generation: NonZeroU32::MIN, next: next(place), value: None };
        self.pages.push((first..first + PAGE as u32).map(slot).collect());
        self.vacant = first;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::base::Random;

    #[test]
    fn keys_of_what_is_gone_find_nothing() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(second.place(), first.place());
        assert_eq!((slab.remove(first), slab.get(first), slab.get(second)), (None, None, Some(&"second")));
        assert_eq!(Key::new(second.generation(), second.place()), Some(second));
        assert_eq!(slab.get(Key::new(1, 10_000).unwrap()), None);
    }

    #[test]
    fn holds_what_a_map_would_hold() {
        let (mut slab, mut map, random) = (Slab::default(), HashMap::new(), Random::new([7; 32]));
        let mut keys = Vec::new();
        for step in 0..20_000u64 {
            if random.next() % 5 < 3 || keys.is_empty() {
                let key = slab.insert(step);
                map.insert((key.place(), key.generation()), step);
                keys.push(key);
            } else {
                let key = keys.swap_remove(random.next() as usize % keys.len());
                assert_eq!(slab.remove(key), map.remove(&(key.place(), key.generation())));
            }
        }
        assert_eq!(slab.len(), map.len());
        assert!(keys.iter().all(|key| slab.get(*key) == map.get(&(key.place(), key.generation()))));
        let (mut held, mut expected) = (slab.values().collect::<Vec<_>>(), map.values().collect::<Vec<_>>());
        held.sort();
        expected.sort();
        assert_eq!(held, expected);
    }
}
