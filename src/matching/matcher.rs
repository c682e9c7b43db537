//! Brute-force matching by Hamming distance.

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use super::{Codes, Neighbor};
use crate::arch::{Distances, Kernels};
use crate::choice::choice;
use crate::error::{Error, Result};
use crate::features::{DESCRIPTOR_LEN, Descriptor};

/// The number of bits of a descriptor, and the largest distance.
const BITS: u32 = 8 * DESCRIPTOR_LEN as u32;

/// How descriptors are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HammingNorm {
    /// By the number of bits that differ, 0 to 256 (`cv2.NORM_HAMMING`).
    #[default]
    Hamming,
    /// By the number of pairs of bits that differ, 0 to 128 (`cv2.NORM_HAMMING2`): for descriptors made with `wta_k` 3 or 4.
    Hamming2,
}

choice!(HammingNorm, "norm", Hamming = "hamming", Hamming2 = "hamming2");

impl HammingNorm {
    /// The norm for descriptors made with this `wta_k`.
    #[must_use]
    pub fn of_wta_k(wta_k: u32) -> Self {
        if wta_k > 2 { Self::Hamming2 } else { Self::Hamming }
    }

    /// The distance of two descriptors.
    #[must_use]
    pub fn distance(self, one: &Descriptor, other: &Descriptor) -> u32 {
        let bytes = one.iter().zip(other).map(|(one, other)| one ^ other);
        let bits = bytes.map(|bits| match self {
            Self::Hamming => bits,
            Self::Hamming2 => (bits | (bits >> 1)) & 0x55,
        });
        bits.map(u8::count_ones).sum()
    }

    pub(crate) fn kernel(self, kernels: &Kernels) -> Distances {
        match self {
            Self::Hamming => kernels.hamming,
            Self::Hamming2 => kernels.hamming2,
        }
    }
}

/// A match, as `cv2.DMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DMatch {
    /// Index of the query descriptor.
    pub query_idx: u32,
    /// Index of the train descriptor.
    pub train_idx: u32,
    /// Their distance, 0 to 256.
    pub distance: u32,
}

impl DMatch {
    /// `query_idx` as an index of a slice.
    #[must_use]
    pub fn query_index(&self) -> usize {
        self.query_idx as usize
    }

    /// `train_idx` as an index of a slice.
    #[must_use]
    pub fn train_index(&self) -> usize {
        self.train_idx as usize
    }

    fn new(query: usize, neighbor: Neighbor) -> Self {
        let (query_idx, train_idx) = (query as u32, neighbor.index);
        Self { query_idx, train_idx, distance: neighbor.distance.into() }
    }
}

/// Parameters of a [`Matcher`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct MatchParams {
    norm: HammingNorm,
    ratio: Option<f64>,
    cross_check: bool,
    max_distance: u32,
}

impl Default for MatchParams {
    fn default() -> Self {
        Self { norm: HammingNorm::Hamming, ratio: None, cross_check: false, max_distance: BITS }
    }
}

impl MatchParams {
    /// Sets how descriptors are compared (default: by bits).
    pub fn with_norm(mut self, norm: HammingNorm) -> Self {
        self.norm = norm;
        self
    }

    /// Keeps a match only if its distance is less than `ratio` times that of the second nearest neighbour; 0.75 to 0.8 are
    /// usual (default: keeps all). Without a second neighbour there is nothing to compare with, and no match.
    pub fn with_ratio(mut self, ratio: f64) -> Self {
        self.ratio = Some(ratio);
        self
    }

    /// Keeps only matches whose train descriptor has the query descriptor as its nearest, too, as
    /// `cv2.BFMatcher(crossCheck=True)` (default: no).
    pub fn with_cross_check(mut self, cross_check: bool) -> Self {
        self.cross_check = cross_check;
        self
    }

    /// Keeps matches up to this distance (default 256, which is all).
    pub fn with_max_distance(mut self, max_distance: u32) -> Self {
        self.max_distance = max_distance;
        self
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a ratio that is not above 0 and at most 1.
    pub fn build(self) -> Result<Matcher> {
        match self.ratio {
            Some(ratio) if !(ratio > 0.0 && ratio <= 1.0) => {
                Err(Error::param("ratio", ratio, "above 0, at most 1"))
            }
            _ => Ok(Matcher { params: self }),
        }
    }
}

/// Matches descriptors by brute force: the matches of `cv2.BFMatcher`, ties by the lower train index.
///
/// It takes rayon's threads; the matches do not depend on their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matcher {
    params: MatchParams,
}

/// Which pairs may match: of shape (query, train), 0 for those that may not.
pub type MatchMask<'a> = ArrayView2<'a, u8>;

impl Matcher {
    /// Its parameters.
    pub fn params(&self) -> &MatchParams {
        &self.params
    }

    /// The best match of each query descriptor that has one, in the order of the queries: `cv2.BFMatcher.match`, then the
    /// ratio test.
    #[must_use]
    pub fn matches(&self, query: &[Descriptor], train: &[Descriptor]) -> Vec<DMatch> {
        self.matches_where(query, train, |_, _| true)
    }

    /// [`matches`](Self::matches) among the pairs that the mask allows.
    ///
    /// # Errors
    /// [`Error::Shape`] if the mask's shape is not (query, train).
    pub fn matches_masked(
        &self,
        query: &[Descriptor],
        train: &[Descriptor],
        mask: MatchMask<'_>,
    ) -> Result<Vec<DMatch>> {
        check_mask(query, train, mask)?;
        Ok(self.matches_where(query, train, |query, train| mask[[query, train as usize]] != 0))
    }

    /// The `k` nearest train descriptors of each query descriptor, nearest first, up to the largest distance:
    /// `cv2.BFMatcher.knnMatch`. Fewer if there are fewer. Neither ratio nor cross check has a part in it.
    #[must_use]
    pub fn knn(&self, query: &[Descriptor], train: &[Descriptor], k: usize) -> Vec<Vec<DMatch>> {
        self.knn_where(query, train, k, |_, _| true)
    }

    /// [`knn`](Self::knn) among the pairs that the mask allows.
    ///
    /// # Errors
    /// [`Error::Shape`] if the mask's shape is not (query, train).
    pub fn knn_masked(
        &self,
        query: &[Descriptor],
        train: &[Descriptor],
        k: usize,
        mask: MatchMask<'_>,
    ) -> Result<Vec<Vec<DMatch>>> {
        check_mask(query, train, mask)?;
        Ok(self.knn_where(query, train, k, |query, train| mask[[query, train as usize]] != 0))
    }

    /// All train descriptors up to the largest distance from each query descriptor, nearest first:
    /// `cv2.BFMatcher.radiusMatch`.
    #[must_use]
    pub fn within(&self, query: &[Descriptor], train: &[Descriptor]) -> Vec<Vec<DMatch>> {
        let (codes, kernel) = (Codes::new(train), self.params.norm.kernel(&Kernels::current()));
        let each = query.iter().enumerate().map(|(i, query)| {
            let mut found = Vec::new();
            codes.nearer(kernel, &super::codes::words(query), self.bound(), |neighbor| {
                found.push(DMatch::new(i, neighbor));
                self.bound()
            });
            found.sort_by_key(|found| found.distance);
            found
        });
        each.collect()
    }

    /// Exclusive upper bound of the distances.
    fn bound(&self) -> u16 {
        (self.params.max_distance.min(BITS) + 1) as u16
    }

    fn knn_where(
        &self,
        query: &[Descriptor],
        train: &[Descriptor],
        k: usize,
        allowed: impl Fn(usize, u32) -> bool + Sync,
    ) -> Vec<Vec<DMatch>> {
        let k = k.min(train.len());
        if k == 0 {
            return vec![Vec::new(); query.len()];
        }
        let found = Codes::new(train).nearest(query, k, self.bound(), self.params.norm, allowed);
        lists_of(&found, k)
    }

    fn matches_where(
        &self,
        query: &[Descriptor],
        train: &[Descriptor],
        allowed: impl Fn(usize, u32) -> bool + Sync,
    ) -> Vec<DMatch> {
        let MatchParams { norm, ratio, cross_check, .. } = self.params;
        let unbounded = BITS as u16 + 1;
        // The second neighbour may be farther than a match.
        let k = 1 + usize::from(ratio.is_some());
        let found = Codes::new(train).nearest(query, k, unbounded, norm, &allowed);
        let mut best: Vec<Neighbor> = found
            .chunks(k)
            .map(|list| match (ratio, list) {
                (Some(ratio), [first, second]) => {
                    let passes = *second != Neighbor::NONE
                        && f64::from(first.distance) < ratio * f64::from(second.distance);
                    if passes { *first } else { Neighbor::NONE }
                }
                _ => list[0],
            })
            .collect();
        if cross_check {
            let codes = Codes::new(query);
            let back =
                codes.nearest(train, 1, unbounded, norm, |t, q| allowed(q as usize, t as u32));
            for (i, neighbor) in best.iter_mut().enumerate() {
                if back.get(neighbor.index as usize).is_some_and(|back| back.index as usize != i) {
                    *neighbor = Neighbor::NONE;
                }
            }
        }
        let near = |neighbor: &Neighbor| neighbor.distance < self.bound();
        let best = best.into_iter().enumerate().filter(|(_, neighbor)| near(neighbor));
        best.map(|(i, neighbor)| DMatch::new(i, neighbor)).collect()
    }
}

/// Lists of `k` neighbours as matches.
pub(crate) fn lists_of(found: &[Neighbor], k: usize) -> Vec<Vec<DMatch>> {
    let list = |(i, list)| some(list).map(|neighbor| DMatch::new(i, neighbor)).collect();
    found.chunks(k).enumerate().map(list).collect()
}

/// The neighbours that are not missing.
fn some(list: &[Neighbor]) -> impl Iterator<Item = Neighbor> {
    list.iter().copied().take_while(|neighbor| *neighbor != Neighbor::NONE)
}

fn check_mask(query: &[Descriptor], train: &[Descriptor], mask: MatchMask<'_>) -> Result<()> {
    let due = (query.len(), train.len());
    if mask.dim() == due {
        return Ok(());
    }
    Err(Error::shape(format!("a mask of {:?} for {due:?} descriptors", mask.dim())))
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    /// Descriptors with many ties: few of their bits vary.
    fn descriptors(seed: u64, n: usize) -> Vec<Descriptor> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..n)
            .map(|_| {
                let mut descriptor = [0x5a; DESCRIPTOR_LEN];
                descriptor[..3].copy_from_slice(&random.u32(..).to_le_bytes()[..3]);
                descriptor
            })
            .collect()
    }

    fn naive(
        query: &[Descriptor],
        train: &[Descriptor],
        norm: HammingNorm,
        mask: &Array2<u8>,
    ) -> Vec<Vec<DMatch>> {
        let list = |(query_idx, query): (usize, &Descriptor)| {
            let all = train.iter().enumerate().filter(|(t, _)| mask[[query_idx, *t]] != 0);
            let all = all.map(|(train_idx, train)| DMatch {
                query_idx: query_idx as u32,
                train_idx: train_idx as u32,
                distance: norm.distance(query, train),
            });
            let mut all: Vec<_> = all.collect();
            all.sort_by_key(|m| (m.distance, m.train_idx));
            all
        };
        query.iter().enumerate().map(list).collect()
    }

    #[test]
    fn neighbours_are_the_nearest_by_distance_and_index() {
        for (n, m) in [(0, 5), (5, 0), (1, 1), (3, 15), (40, 16), (33, 17), (70, 300), (2, 1000)] {
            let (query, train) = (descriptors(n as u64, n), descriptors(1000 + m as u64, m));
            let mut random = fastrand::Rng::with_seed(7);
            let mask = Array2::from_shape_fn((n, m), |_| u8::from(random.u8(..) > 90));
            for norm in HammingNorm::ALL {
                let matcher = MatchParams::default().with_norm(norm).build().unwrap();
                let all = Array2::ones((n, m));
                let cut = |lists: Vec<Vec<DMatch>>, k: usize| -> Vec<Vec<DMatch>> {
                    lists
                        .into_iter()
                        .map(|mut list| {
                            list.truncate(k);
                            list
                        })
                        .collect()
                };
                for k in [0, 1, 2, 5, 2000] {
                    assert_eq!(
                        matcher.knn(&query, &train, k),
                        cut(naive(&query, &train, norm, &all), k)
                    );
                    let masked = matcher.knn_masked(&query, &train, k, mask.view()).unwrap();
                    assert_eq!(masked, cut(naive(&query, &train, norm, &mask), k));
                }
                let best = naive(&query, &train, norm, &mask);
                let best: Vec<_> = best.iter().filter_map(|list| list.first().copied()).collect();
                assert_eq!(matcher.matches_masked(&query, &train, mask.view()).unwrap(), best);
                let near = matcher.params().with_max_distance(9).build().unwrap();
                let mut lists = naive(&query, &train, norm, &all);
                for list in &mut lists {
                    list.retain(|m| m.distance <= 9);
                }
                assert_eq!(near.within(&query, &train), lists);
                assert_eq!(near.knn(&query, &train, 3), cut(lists, 3));
                if n > 0 {
                    matcher
                        .knn_masked(&query, &train, 1, Array2::ones((1, m + 1)).view())
                        .unwrap_err();
                }
            }
        }
    }

    #[test]
    fn the_ratio_is_of_the_second_neighbour() {
        let of_bits = |n: usize| {
            let mut descriptor = [0; DESCRIPTOR_LEN];
            (0..n).for_each(|bit| descriptor[bit / 8] |= 1 << (bit % 8));
            descriptor
        };
        let query = [of_bits(0)];
        let matches = |ratio: f64, train: &[Descriptor]| {
            MatchParams::default().with_ratio(ratio).build().unwrap().matches(&query, train).len()
        };
        assert_eq!(matches(0.8, &[of_bits(7), of_bits(10)]), 1);
        // Strictly less.
        assert_eq!(matches(0.8, &[of_bits(10), of_bits(8)]), 0);
        assert_eq!(matches(1.0, &[of_bits(8), of_bits(8)]), 0);
        // Nothing to compare with.
        assert_eq!(matches(0.8, &[of_bits(1)]), 0);
        for bad in [0.0, -1.0, 1.1, f64::NAN] {
            MatchParams::default().with_ratio(bad).build().unwrap_err();
        }
    }

    #[test]
    fn cross_checked_matches_are_nearest_from_both_sides() {
        let (query, train) = (descriptors(3, 90), descriptors(4, 120));
        let matcher = MatchParams::default().with_cross_check(true).build().unwrap();
        let all = Array2::ones((90, 120));
        let from_query = naive(&query, &train, HammingNorm::Hamming, &all);
        let from_train = naive(&train, &query, HammingNorm::Hamming, &all.reversed_axes());
        let both = from_query.iter().map(|list| list[0]);
        let both = both.filter(|m| from_train[m.train_index()][0].train_idx == m.query_idx);
        let found = matcher.matches(&query, &train);
        assert_eq!(found, both.collect::<Vec<_>>());
        assert!(found.len() > 20 && found.len() < 90);
        let near = matcher.params().with_max_distance(3).build().unwrap().matches(&query, &train);
        assert_eq!(near, found.iter().copied().filter(|m| m.distance <= 3).collect::<Vec<_>>());
        let both = matcher.params().with_ratio(0.9).build().unwrap().matches(&query, &train);
        let ratio = MatchParams::default().with_ratio(0.9).build().unwrap().matches(&query, &train);
        assert_eq!(both, ratio.into_iter().filter(|m| found.contains(m)).collect::<Vec<_>>());
        assert!(!both.is_empty());
    }
}
