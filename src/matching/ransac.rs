//! RANSAC with local optimisation.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use super::{Homography, Point};
use crate::error::{Error, Result};

/// Refits of each better sample.
const REFITS: usize = 10;

/// Most draws of one iteration: a sample that no camera could see is drawn again.
const DRAWS: usize = 100;

/// Parameters of [`Homography::find`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct RansacParams {
    threshold: f64,
    max_iterations: u32,
    confidence: f64,
    min_inliers: u32,
    seed: u64,
}

impl Default for RansacParams {
    fn default() -> Self {
        Self { threshold: 3.0, max_iterations: 2000, confidence: 0.995, min_inliers: 4, seed: 0 }
    }
}

impl RansacParams {
    /// Sets the largest error of an inlier, in pixels of the second image (default 3).
    pub fn with_threshold(mut self, threshold: f64) -> Self {
        self.threshold = threshold;
        self
    }

    /// Sets the most samples that are drawn (default 2000).
    pub fn with_max_iterations(mut self, max_iterations: u32) -> Self {
        self.max_iterations = max_iterations;
        self
    }

    /// Sets the probability of a sample without outliers at which drawing ends (default 0.995).
    pub fn with_confidence(mut self, confidence: f64) -> Self {
        self.confidence = confidence;
        self
    }

    /// Sets the least number of inliers (default 4, which any four pairs are).
    pub fn with_min_inliers(mut self, min_inliers: u32) -> Self {
        self.min_inliers = min_inliers;
        self
    }

    /// Sets the seed of the samples (default 0).
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(self.threshold > 0.0 && self.threshold.is_finite()) {
            return Err(Error::param("threshold", self.threshold, "above 0"));
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(Error::param("confidence", self.confidence, "between 0 and 1"));
        }
        if self.min_inliers < 4 {
            return Err(Error::param("min_inliers", self.min_inliers, "4 or more"));
        }
        if self.max_iterations == 0 {
            return Err(Error::param("max_iterations", 0, "1 or more"));
        }
        Ok(())
    }
}

/// A homography and the pairs that agree with it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FoundHomography {
    /// The map from the first image to the second.
    pub homography: Homography,
    /// For each pair, whether its error is at most the threshold.
    pub inliers: Vec<bool>,
    /// The number of inliers.
    pub n_inliers: usize,
    /// Root of the mean squared error of the inliers, in pixels of the second image.
    pub rms_error: f64,
}

type Pair = (Point, Point);

/// The best model so far.
struct Best {
    homography: Homography,
    cost: f64,
    inliers: usize,
}

struct Scorer<'a> {
    pairs: &'a [Pair],
    limit: f64,
}

impl Scorer<'_> {
    /// The sum of squared errors, each at most the threshold's, and the number of inliers.
    fn score(&self, homography: &Homography) -> (f64, usize) {
        let errors = self.pairs.iter().map(|&pair| homography.error(pair));
        errors.fold((0.0, 0), |(cost, inliers), error| {
            (cost + error.min(self.limit), inliers + usize::from(error <= self.limit))
        })
    }

    fn inliers(&self, homography: &Homography) -> Vec<Pair> {
        let inlier = |pair: &&Pair| homography.error(**pair) <= self.limit;
        self.pairs.iter().filter(inlier).copied().collect()
    }

    /// Takes a model if it is better.
    fn offer(&self, best: &mut Option<Best>, homography: Homography) -> bool {
        let (cost, inliers) = self.score(&homography);
        let is_better = best.as_ref().is_none_or(|best| cost < best.cost);
        if is_better {
            *best = Some(Best { homography, cost, inliers });
        }
        is_better
    }
}

pub(super) fn find(pairs: &[Pair], params: &RansacParams) -> Option<FoundHomography> {
    let n = pairs.len();
    if n < 4 {
        return None;
    }
    let scorer = Scorer { pairs, limit: params.threshold.powi(2) };
    let mut random = ChaCha8Rng::seed_from_u64(params.seed);
    let mut best: Option<Best> = None;
    // With few pairs, three draws for each possible sample of four are enough to draw nearly all of them.
    let (mut iteration, mut due) = (0, f64::from(params.max_iterations).min(3.0 * samples(n)));
    while f64::from(iteration) < due {
        iteration += 1;
        let Some(sample) = sample(pairs, &mut random) else { continue };
        let Some(model) = Homography::through(&sample) else { continue };
        if !scorer.offer(&mut best, model) {
            continue;
        }
        for _ in 0..REFITS {
            let inliers = best.as_ref().map(|best| scorer.inliers(&best.homography));
            let refit = inliers.and_then(|inliers| Homography::fit(&inliers));
            if refit.is_none_or(|refit| !scorer.offer(&mut best, refit)) {
                break;
            }
        }
        if let Some(best) = &best {
            let share = best.inliers as f64 / n as f64;
            let enough = (1.0 - params.confidence).ln() / (-share.powi(4)).ln_1p();
            due = due.min(enough.ceil());
        }
    }
    if let Some(refined) =
        best.as_ref().and_then(|best| best.homography.refined(&scorer.inliers(&best.homography)))
    {
        scorer.offer(&mut best, refined);
    }
    let Best { homography, inliers: n_inliers, .. } = best?;
    if n_inliers < params.min_inliers as usize {
        return None;
    }
    let errors: Vec<f64> = pairs.iter().map(|&pair| homography.error(pair)).collect();
    let inliers: Vec<bool> = errors.iter().map(|&error| error <= scorer.limit).collect();
    let sum: f64 = errors.iter().filter(|&&error| error <= scorer.limit).sum();
    let rms_error = (sum / n_inliers as f64).sqrt();
    Some(FoundHomography { homography, inliers, n_inliers, rms_error })
}

/// The number of ways to take four of some pairs.
fn samples(n: usize) -> f64 {
    (0..4).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

/// Draws four pairs of which no three points are collinear, and every three have the same orientation in both images.
fn sample(pairs: &[Pair], random: &mut ChaCha8Rng) -> Option<[Pair; 4]> {
    for _ in 0..DRAWS {
        let mut places = [usize::MAX; 4];
        for i in 0..4 {
            // The relative bias of the remainder is below 2^-32, for up to 2^32 pairs.
            let place = loop {
                let place = (random.next_u64() % pairs.len() as u64) as usize;
                if !places.contains(&place) {
                    break place;
                }
            };
            places[i] = place;
        }
        let sample = places.map(|place| pairs[place]);
        let triples = [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]];
        let is_seen = |[a, b, c]: [usize; 3]| {
            let first = turn(sample[a].0, sample[b].0, sample[c].0);
            let second = turn(sample[a].1, sample[b].1, sample[c].1);
            first.abs() > 1.0 && second.abs() > 1.0 && (first > 0.0) == (second > 0.0)
        };
        if triples.into_iter().all(is_seen) {
            return Some(sample);
        }
    }
    None
}

/// Twice the area of a triangle, negative if its corners go round the other way.
fn turn(a: Point, b: Point, c: Point) -> f64 {
    (b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0)
}
