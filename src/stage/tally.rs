//! Counters and clocks of a job's stages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::rows::FailedImage;
use crate::source::{ImageObject, ListedImage};

/// The number of failures that a report spells out; all of them are counted.
const FIRST_FAILURES: usize = 10;

/// How far a job has come, for whoever shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Images that are done, failures included.
    pub images: u64,
    /// Images that failed.
    pub failed: u64,
    /// Rows found so far.
    pub rows: u64,
    /// Rows written so far.
    pub written: u64,
}

/// Seconds by stage.
///
/// All but `total` and `write` are sums over the threads. They can therefore exceed `total`, and include the
/// time that threads waited for a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Seconds {
    /// Wall-clock time from start to commit.
    pub total: f64,
    /// Listing and reading images.
    pub read: f64,
    /// Decoding.
    pub decode: f64,
    /// Extracting features: with ORB, keypoints and descriptors.
    pub extract: f64,
    /// Solving the PCA.
    pub fit: f64,
    /// Projecting rows.
    pub project: f64,
    /// Handing rows to the sink, waiting for it, and committing; without the work of the sink's other
    /// threads.
    pub write: f64,
}

/// Counters and clocks of a job's stages; clones share them.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// let tally = Tally::default();
/// let orb = OrbParams::default().build()?;
/// let images = [Ok(ImageObject::new("readme.jpg", &b"not an image"[..]))].into_iter();
/// let policy = ErrorPolicy::new(OnError::Skip).with_allow_empty(true);
/// let outcomes = images.features(&orb).with_tally(&tally).on_error(policy, &tally);
/// assert_eq!(outcomes.count(), 1);
/// assert_eq!((tally.progress().failed, tally.failed_by_cause()["not_an_image"]), (1, 1));
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub(crate) counts: Arc<Counts>,
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub images: Counter,
    pub failed: Counter,
    pub without_features: Counter,
    pub rows: Counter,
    pub written: Counter,
    pub bytes: Counter,
    pub retries: Counter,
    pub read: Clock,
    pub decode: Clock,
    pub extract: Clock,
    pub fit: Clock,
    pub project: Clock,
    pub write: Clock,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    by_cause: BTreeMap<String, u64>,
    first: Vec<FailedImage>,
}

/// A number that threads add to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A sum of durations, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Clock(Counter);

impl Clock {
    pub fn add(&self, time: Duration) {
        self.0.add(time.as_nanos() as u64);
    }

    /// Runs `work` and adds its duration.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.add(start.elapsed());
        done
    }

    fn seconds(&self) -> f64 {
        Duration::from_nanos(self.0.get()).as_secs_f64()
    }
}

impl Tally {
    /// How far the job has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            images: self.counts.images.get(),
            failed: self.counts.failed.get(),
            rows: self.counts.rows.get(),
            written: self.counts.written.get(),
        }
    }

    /// Images without a vector.
    #[must_use]
    pub fn without_features(&self) -> u64 {
        self.counts.without_features.get()
    }

    /// The number of failures by cause ([`Error::code`](crate::Error::code)).
    #[must_use]
    pub fn failed_by_cause(&self) -> BTreeMap<String, u64> {
        self.failures().by_cause.clone()
    }

    /// The first ten failures, in order.
    #[must_use]
    pub fn first_failures(&self) -> Vec<FailedImage> {
        self.failures().first.clone()
    }

    /// Times by stage; `total` is 0, as only the caller knows it.
    #[must_use]
    pub fn seconds(&self) -> Seconds {
        Seconds {
            total: 0.0,
            read: self.counts.read.seconds(),
            decode: self.counts.decode.seconds(),
            extract: self.counts.extract.seconds(),
            fit: self.counts.fit.seconds(),
            project: self.counts.project.seconds(),
            write: self.counts.write.seconds(),
        }
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        // No code panics while it holds the lock.
        self.counts.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failure.
    pub(super) fn fail(&self, failed: &FailedImage) {
        self.counts.failed.add(1);
        let mut failures = self.failures();
        *failures.by_cause.entry(failed.cause.clone()).or_default() += 1;
        if failures.first.len() < FIRST_FAILURES {
            failures.first.push(failed.clone());
        }
    }

    /// Reads an image, and counts its bytes, retries and time.
    pub(super) fn read(&self, image: ListedImage) -> Result<ImageObject> {
        let image = self.counts.read.time(|| image.read());
        let retries = match &image {
            Ok(image) => {
                self.counts.bytes.add(image.bytes.len() as u64);
                image.retries
            }
            Err(error) => error.retries(),
        };
        self.counts.retries.add(retries.into());
        image
    }
}
