//! The threads of a job, and the stages on them.

#[cfg(feature = "parquet")]
mod each;
mod map;
mod pool;

use std::any::Any;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Error, Result as ResultOf};

#[cfg(feature = "parquet")]
pub(crate) use each::UnderWay;
pub use map::ParMap;
use pool::Pool;

/// Default of [`Parallelism::with_window`], for each thread.
pub const DEFAULT_WINDOW_PER_THREAD: usize = 32;

/// The threads of a job, which all of its stages share, and how far they may run ahead of the consumer.
///
/// Clones share the threads, which start when a stage needs them and end with the last clone. Results depend neither
/// on the number of threads nor on the window.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// let two = Parallelism::new(2)?;
/// let squares = (0..1000_u64).par_map(two.clone(), || (), |(), i| i * i);
/// assert_eq!(squares.sum::<u64>(), 332_833_500);
/// assert!(Parallelism::new(0).is_err());
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Parallelism {
    threads: usize,
    window: usize,
    pool: Arc<OnceLock<Pool>>,
}

impl Default for Parallelism {
    /// One thread for each core that this process may use.
    fn default() -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, NonZero::get))
    }
}

impl Parallelism {
    /// Uses `threads` threads. With one, the consumer's own thread does the work.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for 0 threads.
    pub fn new(threads: usize) -> ResultOf<Self> {
        if threads == 0 {
            return Err(Error::param("threads", 0, "at least 1"));
        }
        Ok(Self::of(threads))
    }

    fn of(threads: usize) -> Self {
        let window = threads.saturating_mul(DEFAULT_WINDOW_PER_THREAD);
        Self { threads, window, pool: Arc::default() }
    }

    /// No threads of its own: the consumer's thread does the work.
    pub(crate) fn none() -> Self {
        Self::of(1)
    }

    /// Sets how many items may be in work or waiting for the consumer (default [`DEFAULT_WINDOW_PER_THREAD`] for each
    /// thread). The window bounds the memory. It is raised to one item for each thread if it is less.
    pub fn with_window(mut self, window: usize) -> Self {
        self.window = window.max(self.threads);
        self
    }

    /// The number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The number of items that may be in work or waiting.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// The pool; `None` if the caller's thread does the work.
    fn pool(&self) -> Option<&Pool> {
        if self.threads == 1 {
            return None;
        }
        // If the system refuses to start any thread, the caller's thread does the work.
        Some(self.pool.get_or_init(|| Pool::start(self.threads))).filter(|pool| pool.threads > 0)
    }
}

/// A result, or the panic that took its place.
type Outcome<R> = Result<R, Box<dyn Any + Send>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only a source may panic while a lock is held, and its panic is passed on: a poisoned lock can be used.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
