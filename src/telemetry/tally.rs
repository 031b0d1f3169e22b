//! Counts by a label: one that the program names, or one that clients choose.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Longest label that clients choose, bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// What the rest is counted under, so that nobody has this name for himself.
pub const OTHER: &str = "other";

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts by a label of few values. Written by one thread, which never waits; read by any.
#[derive(Debug)]
pub struct Tally<L> {
    slots: [(OnceLock<L>, Count); 48],
    /// Of labels that found no slot.
    rest: Count,
}

impl<L> Default for Tally<L> {
    fn default() -> Tally<L> {
        Tally { slots: std::array::from_fn(|_| (OnceLock::new(), Count::default())), rest: Count::default() }
    }
}

impl<L: Copy + PartialEq> Tally<L> {
    pub fn count(&self, label: L) {
        let slot = self.slots.iter().find(|(known, _)| *known.get_or_init(|| label) == label);
        slot.map_or(&self.rest, |(_, count)| count).add(1);
    }

    /// The labels that were counted, and what found no slot.
    pub fn values(&self) -> impl Iterator<Item = (Option<L>, u64)> {
        let known =
            self.slots.iter().map_while(|(label, count)| label.get().map(|label| (Some(*label), count.value())));
        known.chain((self.rest.value() > 0).then(|| (None, self.rest.value())))
    }
}

/// Cells by names that clients choose, the same names on all workers: the first that come get cells of their own, and keep
/// them; the rest is for the caller to count together.
pub struct Named<T> {
    names_max: usize,
    known: AtomicUsize,
    /// Replaced as a whole where somebody reads, so that the lock is never held for longer than it takes to say so.
    entries: Mutex<Arc<Vec<Entry<T>>>>,
}

/// A name and the cells of each worker that met it.
pub struct Entry<T> {
    pub name: Arc<str>,
    pub cells: Vec<(usize, Arc<T>)>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Entry<T> {
        Entry { name: self.name.clone(), cells: self.cells.clone() }
    }
}

impl<T: Default> Named<T> {
    pub fn new(names_max: usize) -> Named<T> {
        Named { names_max, known: AtomicUsize::new(0), entries: Mutex::default() }
    }

    /// All of them, for a scrape.
    pub fn entries(&self) -> Arc<Vec<Entry<T>>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Vec<Entry<T>>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker knows of the names: its own cells of all of them.
pub struct Mirror<T> {
    /// The name before this one: callers repeat themselves.
    last: Option<(Arc<str>, Arc<T>)>,
    cells: HashMap<Arc<str>, Arc<T>>,
    /// How many of the names it has seen.
    seen: usize,
}

impl<T> Default for Mirror<T> {
    fn default() -> Mirror<T> {
        Mirror { last: None, cells: HashMap::new(), seen: 0 }
    }
}

impl<T: Default> Mirror<T> {
    /// The cells of worker `index` for this name, if it has or gets some. It may join while less than `part` of the
    /// names are taken. Locks when a name is new.
    pub fn find(&mut self, named: &Named<T>, index: usize, name: &str, part: f64) -> Option<&T> {
        if self.last.as_ref().is_none_or(|(last, _)| **last != *name) {
            self.last = self.find_other(named, index, name, part);
        }
        self.last.as_ref().map(|(_, cells)| &**cells)
    }

    fn find_other(&mut self, named: &Named<T>, index: usize, name: &str, part: f64) -> Option<(Arc<str>, Arc<T>)> {
        if !self.cells.contains_key(name) {
            let may_join = named.known.load(Acquire) < (named.names_max as f64 * part) as usize
                && name.len() <= NAME_BYTES_MAX
                && name != OTHER;
            if may_join || self.seen < named.known.load(Acquire) {
                self.look(named, index, may_join.then_some(name));
            }
        }
        self.cells.get_key_value(name).map(|(name, cells)| (name.clone(), cells.clone()))
    }

    /// See what others named, and add a name of our own.
    #[cold]
    fn look(&mut self, named: &Named<T>, index: usize, new: Option<&str>) {
        let mut entries = named.lock();
        let entries = Arc::make_mut(&mut entries);
        if let Some(name) = new
            && !entries[self.seen..].iter().any(|entry| *entry.name == *name)
            && entries.len() < named.names_max
        {
            entries.push(Entry { name: name.into(), cells: Vec::new() });
        }
        for entry in &mut entries[self.seen..] {
            // A worker before this one may have had the place.
            let found = entry.cells.iter().find(|(worker, _)| *worker == index).map(|(_, cells)| cells.clone());
            let cells = found.unwrap_or_else(|| {
                let new: Arc<T> = Arc::default();
                entry.cells.push((index, new.clone()));
                new
            });
            self.cells.insert(entry.name.clone(), cells);
        }
        self.seen = entries.len();
        named.known.store(entries.len(), Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_beyond_the_slots_are_counted_together() {
        let tally = Tally::default();
        (0..60).for_each(|label| tally.count(label));
        tally.count(3);
        let values: Vec<_> = tally.values().collect();
        assert_eq!((values[3], values[48]), ((Some(3), 2), (None, 12)));
        assert_eq!(values.iter().map(|(_, count)| count).sum::<u64>(), 61);
    }

    #[test]
    fn the_first_names_have_cells_on_all_workers_and_others_none() {
        let named: Named<Count> = Named::new(4);
        let (mut one, mut two) = (Mirror::default(), Mirror::default());
        for name in ["a", "b", OTHER, "c"] {
            one.find(&named, 1, name, 0.5).into_iter().for_each(|count| count.add(1));
        }
        // Half of them are taken; the other half is for those that may.
        two.find(&named, 2, "b", 0.5).unwrap().add(5);
        assert!(two.find(&named, 2, "c", 0.5).is_none() && two.find(&named, 2, "c", 1.0).is_some());
        two.find(&named, 2, "d", 1.0).unwrap().add(1);
        assert!(one.find(&named, 1, "e", 1.0).is_none());
        // What another worker named is known here too.
        one.find(&named, 1, "d", 0.5).unwrap().add(1);
        // A worker that took the place of another goes on with its cells.
        Mirror::default().find(&named, 1, "d", 0.5).unwrap().add(1);
        let sum = |entry: &Entry<Count>| entry.cells.iter().map(|(_, count)| count.value()).sum::<u64>();
        let sums: Vec<(String, u64)> = named.entries().iter().map(|e| (e.name.to_string(), sum(e))).collect();
        assert_eq!(sums, [("a", 1), ("b", 6), ("c", 0), ("d", 3)].map(|(name, sum)| (name.to_owned(), sum)));
    }

    #[test]
    fn names_that_many_workers_bring_at_once_stand_once() {
        let named: Named<Count> = Named::new(64);
        std::thread::scope(|scope| {
            for index in 0..4 {
                let named = &named;
                scope.spawn(move || {
                    let mut mirror = Mirror::default();
                    for round in 0..1000 {
                        let name = format!("name {}", round % 100);
                        mirror.find(named, index, &name, 1.0).into_iter().for_each(|count| count.add(1));
                    }
                });
            }
        });
        let entries = named.entries();
        let mut names: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        names.sort();
        names.dedup();
        assert_eq!((entries.len(), names.len()), (64, 64));
    }
}
