//! Threads with a queue.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::lock;

/// A provider of tasks for the pool.
pub(super) trait Tasks: Send + Sync {
    /// Runs one due task; false if no task is due (any more).
    fn run_due(self: Arc<Self>) -> bool;
}

/// Threads with a queue, first in, first out.
#[derive(Debug)]
pub(super) struct Pool {
    pub threads: usize,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    entries: Mutex<Entries>,
    wake: Condvar,
}

#[derive(Default)]
struct Entries {
    tasks: VecDeque<Arc<dyn Tasks>>,
    /// Threads that wait for an entry.
    idle: usize,
    is_closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

thread_local! {
    /// Whether this is one of a pool's threads.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// Starts `threads` threads, or as many as the system allows.
    pub fn start(threads: usize) -> Self {
        let queue = Arc::<Queue>::default();
        let begin = |i: &usize| {
            let queue = Arc::clone(&queue);
            let builder = std::thread::Builder::new().name(format!("orb-features-{i}"));
            builder.spawn(move || queue.work()).is_ok()
        };
        let threads = (0..threads).take_while(begin).count();
        Self { threads, queue }
    }

    pub fn push(&self, tasks: Arc<dyn Tasks>) {
        let mut entries = lock(&self.queue.entries);
        entries.tasks.push_back(tasks);
        let wake = entries.idle > 0;
        drop(entries);
        if wake {
            self.queue.wake.notify_one();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.queue.entries).is_closed = true;
        self.queue.wake.notify_all();
    }
}

impl Queue {
    /// The loop of a pool's thread: runs tasks until the queue is closed and empty.
    fn work(&self) {
        IS_WORKER.set(true);
        let mut entries = lock(&self.entries);
        loop {
            if let Some(tasks) = entries.tasks.pop_front() {
                drop(entries);
                // Tasks catch panics of their work for the waiting caller. Any other panic must not end this thread.
                let _ = catch_unwind(AssertUnwindSafe(|| tasks.run_due()));
                entries = lock(&self.entries);
            } else if entries.is_closed {
                return;
            } else {
                entries.idle += 1;
                entries = self.wake.wait(entries).unwrap_or_else(PoisonError::into_inner);
                entries.idle -= 1;
            }
        }
    }
}

/// Whether this is one of a pool's threads.
pub(super) fn is_worker() -> bool {
    IS_WORKER.get()
}
