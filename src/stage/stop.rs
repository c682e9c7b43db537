//! Ends a stream when the caller asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// The iterator of [`StageExt::stop_at`](crate::StageExt::stop_at).
#[derive(Clone, Debug)]
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct StopAt<I> {
    items: I,
    flag: Arc<AtomicBool>,
    is_done: bool,
}

impl<I> StopAt<I> {
    pub(super) fn new(items: I, flag: Arc<AtomicBool>) -> Self {
        Self { items, flag, is_done: false }
    }
}

impl<T, I: Iterator<Item = Result<T>>> Iterator for StopAt<I> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let item = self.items.next();
        // The flag is checked after the pull, as the item may be an error that the interrupt itself has
        // caused.
        if self.flag.load(Ordering::Relaxed) {
            self.is_done = true;
            return Some(Err(Error::Interrupted));
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.items.size_hint().1.and_then(|most| most.checked_add(1)))
    }
}
