//! What an audit has seen, a number each, so that it takes hardly any room; and how much of it nothing was written to.

use foldhash::quality::RandomState;
use std::hash::{BuildHasher, Hash};

/// Things that were seen, each once. Their numbers are as good as never the same for two. Were they, the kernel would be read for
/// nothing.
#[derive(Debug, Default)]
pub struct Seen {
    hasher: RandomState,
    numbers: Vec<u64>,
}

impl Seen {
    /// With room for so many.
    pub fn with_capacity(count: usize) -> Self {
        Self { numbers: Vec::with_capacity(count), ..Self::default() }
    }

    /// Makes room for so many, where there is none yet.
    pub fn expect(&mut self, count: impl FnOnce() -> usize) {
        if self.numbers.capacity() == 0 {
            self.numbers.reserve_exact(count());
        }
    }

    /// Takes note of a thing.
    pub fn insert(&mut self, thing: &impl Hash) {
        self.numbers.push(self.hasher.hash_one(thing));
    }

    /// How many were seen that are not among these, each of which is there once: whether they were written before they were seen,
    /// or after.
    pub fn others<T: Hash>(&mut self, written: impl Iterator<Item = T>) -> usize {
        self.numbers.sort_unstable();
        let seen = |thing: &T| self.numbers.binary_search(&self.hasher.hash_one(thing)).is_ok();
        self.numbers.len().saturating_sub(written.filter(seen).count())
    }
}
