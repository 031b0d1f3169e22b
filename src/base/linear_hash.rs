//! A hash table for things of which there are many, so that none is in a cache: to find one, the CPU waits for two places of
//! memory, a bucket, which is one cache line, and the thing itself.
//!
//! Linear hashing (Litwin, "Linear hashing: a new tool for file and table addressing", VLDB 1980): the table grows by one bucket at a
//! time, so nobody waits while a whole table is moved, and its pages stay where they are (`docs/adr/0024-tables-grow-by-pages.md`).

use std::rc::Rc;

use super::SessionId;

/// Buckets of a page.
const PAGE: usize = 64;
/// Things in a bucket.
const WAYS: usize = 6;
/// Things in a bucket on average. Buckets that were not split yet hold twice as many as those that were.
const LOAD: usize = 3;

/// Something that is kept by the id that it has in itself.
pub trait Identified {
    fn id(&self) -> &SessionId;
}

/// A part of each hash beside what it belongs to: the thing itself is looked at if that is equal.
#[repr(align(64))]
struct Bucket<T> {
    things: [Option<Rc<T>>; WAYS],
    /// One that was full is continued.
    more: Option<Box<Bucket<T>>>,
    tags: [u8; WAYS],
}

impl<T> Default for Bucket<T> {
    fn default() -> Bucket<T> {
        const { assert!(size_of::<Bucket<T>>() == 64, "one cache line") }
        Bucket { things: Default::default(), more: None, tags: [0; WAYS] }
    }
}

/// Things by their ids, each once.
pub struct LinearHash<T> {
    pages: Vec<Box<[Bucket<T>]>>,
    /// Buckets in use, of those in the pages.
    buckets: usize,
    len: usize,
}

impl<T> Default for LinearHash<T> {
    fn default() -> LinearHash<T> {
        LinearHash { pages: Vec::new(), buckets: 0, len: 0 }
    }
}

impl<T: Identified> LinearHash<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, id: &SessionId) -> Option<&Rc<T>> {
        if self.is_empty() {
            return None;
        }
        let hash = id.spread();
        let at = self.place(hash);
        let mut bucket = &self.pages[at / PAGE][at % PAGE];
        loop {
            if let Some(way) = bucket.position(id, tag(hash)) {
                return bucket.things[way].as_ref();
            }
            bucket = bucket.more.as_deref()?;
        }
    }

    /// Keep `thing`, in the place of one of the same id.
    pub fn insert(&mut self, thing: Rc<T>) {
        self.remove(thing.id());
        self.len += 1;
        self.put(thing);
        if self.len > self.buckets * LOAD {
            self.split();
        }
    }

    pub fn remove(&mut self, id: &SessionId) -> Option<Rc<T>> {
        if self.is_empty() {
            return None;
        }
        let hash = id.spread();
        let at = self.place(hash);
        let mut bucket = &mut self.pages[at / PAGE][at % PAGE];
        loop {
            if let Some(way) = bucket.position(id, tag(hash)) {
                self.len -= 1;
                return bucket.things[way].take();
            }
            bucket = bucket.more.as_deref_mut()?;
        }
    }

    /// Which bucket: the lowest bits of a hash, one fewer for buckets that are not there yet.
    fn place(&self, hash: u64) -> usize {
        let mask = self.buckets.next_power_of_two() - 1;
        let at = hash as usize & mask;
        if at < self.buckets { at } else { at & (mask >> 1) }
    }

    fn put(&mut self, thing: Rc<T>) {
        if self.buckets == 0 {
            self.grow();
        }
        let hash = thing.id().spread();
        let at = self.place(hash);
        let mut bucket = &mut self.pages[at / PAGE][at % PAGE];
        loop {
            if let Some(way) = bucket.things.iter().position(Option::is_none) {
                bucket.tags[way] = tag(hash);
                bucket.things[way] = Some(thing);
                return;
            }
            bucket = bucket.more.get_or_insert_default();
        }
    }

    /// One bucket more: of those in the bucket whose hash had a bit too few, about half go there.
    fn split(&mut self) {
        let half = self.buckets.next_power_of_two() >> usize::from(!self.buckets.is_power_of_two());
        let from = self.buckets - half;
        self.grow();
        let mut bucket = std::mem::take(&mut self.pages[from / PAGE][from % PAGE]);
        loop {
            bucket.things.into_iter().flatten().for_each(|thing| self.put(thing));
            let Some(more) = bucket.more else { return };
            bucket = *more;
        }
    }

    fn grow(&mut self) {
        if self.buckets == self.pages.len() * PAGE {
            self.pages.push((0..PAGE).map(|_| Bucket::default()).collect());
        }
        self.buckets += 1;
    }
}

impl<T: Identified> Bucket<T> {
    fn position(&self, id: &SessionId, tag: u8) -> Option<usize> {
        let is_it =
            |way: &usize| self.tags[*way] == tag && self.things[*way].as_ref().is_some_and(|thing| thing.id() == id);
        (0..WAYS).find(is_it)
    }
}

/// Of bits that choose no bucket.
fn tag(hash: u64) -> u8 {
    (hash >> 56) as u8
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::base::Random;

    struct Thing(SessionId, u64);

    impl Identified for Thing {
        fn id(&self) -> &SessionId {
            &self.0
        }
    }

    fn id(number: u64) -> SessionId {
        let random = Random::new(std::array::from_fn(|at| number.to_le_bytes()[at % 8] ^ at as u8));
        let mut bytes = [0; 24];
        bytes.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&random.next().to_le_bytes()));
        SessionId::from_random(bytes)
    }

    /// Those that are there, and those that continue them.
    fn all<T>(table: &LinearHash<T>) -> impl Iterator<Item = &Bucket<T>> {
        let chain = |first| std::iter::successors(Some(first), |bucket: &&Bucket<T>| bucket.more.as_deref());
        table.pages.iter().flatten().flat_map(chain)
    }

    #[test]
    fn holds_what_a_map_would_hold() {
        let (mut table, mut map, random) = (LinearHash::default(), HashMap::new(), Random::new([3; 32]));
        for step in 0..60_000u64 {
            // At first it grows, then as many go as come.
            let id = id(random.next() % 20_000);
            if step < 30_000 || random.next() % 2 == 0 {
                table.insert(Rc::new(Thing(id, step)));
                map.insert(id, step);
            } else {
                assert_eq!(table.remove(&id).map(|thing| thing.1), map.remove(&id));
            }
            assert_eq!(table.len(), map.len());
        }
        for id in (0..20_000).map(id) {
            assert_eq!(table.get(&id).map(|thing| thing.1), map.get(&id).copied());
        }
        // Nothing is kept that is not found.
        assert_eq!(all(&table).flat_map(|bucket| bucket.things.iter().flatten()).count(), map.len());
    }

    #[test]
    fn few_buckets_need_more_than_one_line() {
        let mut table = LinearHash::default();
        (0..100_000).for_each(|number| table.insert(Rc::new(Thing(id(number), number))));
        let continued = all(&table).filter(|bucket| bucket.more.is_some()).count();
        assert!(continued * 12 < table.buckets, "{continued} of {}", table.buckets);
    }
}
