//! Random choices by a seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A sample of items of unknown number, each as likely as any other.
#[derive(Debug)]
pub(crate) struct Sample<T> {
    random: ChaCha8Rng,
    size: usize,
    seen: u64,
    /// The items with their numbers.
    items: Vec<(u64, T)>,
}

impl<T> Sample<T> {
    pub fn new(size: usize, seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), size, seen: 0, items: Vec::new() }
    }

    /// Offers an item, which is made only if it is taken.
    pub fn push(&mut self, item: impl FnOnce() -> T) {
        self.seen += 1;
        if self.items.len() < self.size {
            self.items.push((self.seen, item()));
        } else if let Some(kept) = self.items.get_mut((self.random.next_u64() % self.seen) as usize)
        {
            *kept = (self.seen, item());
        }
    }

    /// The number of items that were offered.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The sample, in no order.
    pub fn into_items(self) -> Vec<T> {
        self.items.into_iter().map(|(_, item)| item).collect()
    }

    /// The sample, in the order in which its items were offered.
    #[cfg(feature = "report")]
    pub fn into_ordered(mut self) -> Vec<T> {
        self.items.sort_by_key(|(number, _)| *number);
        self.into_items()
    }
}

/// Keeps `n` items, or all if there are fewer, drawn one after the other.
pub(crate) fn draw<T>(items: &mut Vec<T>, n: usize, random: &mut ChaCha8Rng) {
    for i in 0..n.min(items.len()) {
        let other = i + (random.next_u64() % (items.len() - i) as u64) as usize;
        items.swap(i, other);
    }
    items.truncate(n);
}
