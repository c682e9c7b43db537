//! Parameters of an index and of a search.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// From how many descriptors on an index has lists, unless told otherwise.
pub(super) const LISTS_FROM: u64 = 10_000_000;

/// Parameters of a new index.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct IndexParams {
    lists: Option<u32>,
    seed: u64,
    overwrite: bool,
    pub(super) stop: Arc<AtomicBool>,
}

impl IndexParams {
    /// Sets the number of lists; 1 is exact search (default: by the number of descriptors, exact up to ten million). Of few
    /// distinct descriptors there are fewer.
    pub fn with_lists(mut self, lists: u32) -> Self {
        self.lists = Some(lists);
        self
    }

    /// Sets the seed by which the centres of lists are chosen (default 0).
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets whether an index of the same name is replaced (default: no). Searches that have it open go on in the old one.
    pub fn with_overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Ends with [`Error::Interrupted`] after the flag is set; nothing is written.
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// The number of lists for some descriptors.
    pub(super) fn lists_for(&self, descriptors: u64) -> usize {
        match self.lists {
            Some(lists) => (lists as usize).min(descriptors.max(1) as usize),
            None if descriptors < LISTS_FROM => 1,
            // Between one and two times the root.
            None => (descriptors.isqrt() as usize).next_power_of_two(),
        }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn overwrite(&self) -> bool {
        self.overwrite
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.lists {
            Some(lists) if !(1..=1 << 20).contains(&lists) => {
                Err(Error::param("lists", lists, "1 to 1048576"))
            }
            _ => Ok(()),
        }
    }
}

/// Parameters of a search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct SearchParams {
    pub(super) photos: usize,
    pub(super) neighbors: usize,
    pub(super) ratio: f64,
    pub(super) verify: usize,
    pub(super) probes: usize,
    pub(super) seed: u64,
}

impl Default for SearchParams {
    fn default() -> Self {
        Self { photos: 10, neighbors: 20, ratio: 0.8, verify: 50, probes: 64, seed: 0 }
    }
}

impl SearchParams {
    /// Sets how many photos are found (default 10).
    pub fn with_photos(mut self, photos: usize) -> Self {
        self.photos = photos;
        self
    }

    /// Sets how many neighbours each descriptor has; the farthest of them is what the others are compared with (default 20).
    pub fn with_neighbors(mut self, neighbors: usize) -> Self {
        self.neighbors = neighbors;
        self
    }

    /// Sets the ratio test: a neighbour votes for its photo if its distance is at most `ratio` times that of the farthest
    /// neighbour (default 0.8).
    pub fn with_ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets how many of the photos with the most votes are compared by a homography (default 50).
    pub fn with_verify(mut self, verify: usize) -> Self {
        self.verify = verify;
        self
    }

    /// Sets how many lists are looked into, if the index has lists (default 64).
    pub fn with_probes(mut self, probes: usize) -> Self {
        self.probes = probes;
        self
    }

    /// Sets the seed of RANSAC (default 0).
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::InvalidParam`].
    pub fn check(&self) -> Result<()> {
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return Err(Error::param("ratio", self.ratio, "above 0, at most 1"));
        }
        let counts = [
            ("photos", self.photos, 1),
            ("neighbors", self.neighbors, 2),
            ("probes", self.probes, 1),
        ];
        match counts.into_iter().find(|(_, n, least)| !(*least..=10_000).contains(n)) {
            Some((name, n, least)) => Err(Error::param(name, n, format!("{least} to 10000"))),
            None => Ok(()),
        }
    }
}
