//! A search: votes of descriptors, then homographies.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;
use serde::Serialize;

use super::{Index, SearchParams};
use crate::error::Result;
use crate::features::{Descriptor, Features};
use crate::matching::{Homography, MatchParams, Neighbor, Point, RansacParams};

/// Least number of pairs that agree with a homography. Four always do.
const MIN_INLIERS: u32 = 6;
/// Samples of RANSAC for one photo.
const ITERATIONS: u32 = 500;
/// Largest error of an inlier: 3 pixels, or this share of the photo's longer side.
const THRESHOLD: f64 = 0.01;

/// What a search has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Found {
    /// The nearest photos: by inliers of a homography, then by votes.
    pub photos: Vec<FoundPhoto>,
    /// The labels of the descriptors' neighbours, the likeliest first; empty if nothing in the index has a label, or the query
    /// has no descriptor.
    pub labels: Vec<LabelShare>,
}

/// A photo that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FoundPhoto {
    /// The number in the index.
    #[serde(skip)]
    pub number: u32,
    /// The path or key.
    pub path: String,
    /// The label, if there is one.
    pub label: Option<String>,
    /// Descriptors of the query that voted for it.
    pub votes: u32,
    /// Pairs of descriptors that agree with a homography; 0 if there is none.
    pub inliers: u32,
    /// The homography from the query to it, if there is one.
    pub homography: Option<Homography>,
}

/// A label and its share of the votes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LabelShare {
    /// The label.
    pub label: String,
    /// Its share of all votes, 0 to 1. A vote's weight is the farthest neighbour's distance less its own neighbour's.
    pub share: f64,
}

impl Index {
    /// Searches for the photos most like a query, whose features must be made with [these](Self::orb_params) parameters.
    ///
    /// The result depends on neither threads nor instruction sets. A query without a descriptor finds nothing.
    ///
    /// # Errors
    /// [`Error::InvalidParam`](crate::Error::InvalidParam).
    pub fn search(&self, query: &Features, params: &SearchParams) -> Result<Found> {
        let points: Vec<_> = query.keypoints.iter().map(|k| [k.x, k.y]).collect();
        self.find(&query.descriptors, &points, params, 0..0)
    }

    /// Searches with a photo of the index for all others.
    #[cfg(feature = "report")]
    pub(crate) fn search_photo(&self, number: u32, params: &SearchParams) -> Result<Found> {
        let (descriptors, points) = self.content(number);
        self.find(&descriptors, &points, params, number..number + 1)
    }

    /// Searches with a photo of the index for those before it.
    pub(super) fn search_before(&self, number: u32, params: &SearchParams) -> Result<Found> {
        let (descriptors, points) = self.content(number);
        self.find(&descriptors, &points, params, number..self.len() as u32)
    }

    fn find(
        &self,
        descriptors: &[Descriptor],
        points: &[[f32; 2]],
        params: &SearchParams,
        without: Range<u32>,
    ) -> Result<Found> {
        params.check()?;
        let k = params.neighbors;
        let neighbors = self.neighbors(descriptors, k, params.probes, without);
        let mut votes: BTreeMap<u32, u32> = BTreeMap::new();
        let mut weights: BTreeMap<&str, u64> = BTreeMap::new();
        for list in neighbors.chunks(k) {
            let found = list.partition_point(|neighbor| *neighbor != Neighbor::NONE);
            let Some(farthest) = list[..found].last().filter(|_| found > 1) else { continue };
            let limit = params.ratio * f64::from(farthest.distance);
            // A descriptor has one vote for each photo and label.
            let (mut photos, mut labels): (Vec<u32>, Vec<&str>) = (Vec::new(), Vec::new());
            for neighbor in &list[..found] {
                let photo = self.photo_of(neighbor.index);
                if f64::from(neighbor.distance) <= limit && !photos.contains(&photo) {
                    photos.push(photo);
                    *votes.entry(photo).or_default() += 1;
                }
                let Some(label) = self.photo(photo).label else { continue };
                if !labels.contains(&label) {
                    labels.push(label);
                    // If all neighbours are at the same distance, each label has the weight 1.
                    let margin = u64::from(farthest.distance - neighbor.distance);
                    let weight = if farthest.distance == list[0].distance { 1 } else { margin };
                    *weights.entry(label).or_default() += weight;
                }
            }
        }
        let mut best: Vec<(u32, u32)> = votes.into_iter().collect();
        best.sort_by_key(|&(photo, votes)| (std::cmp::Reverse(votes), photo));
        best.truncate(params.photos.max(params.verify));
        let found = |(rank, (number, votes)): (usize, (u32, u32))| {
            let verified = if rank < params.verify {
                self.verify(descriptors, points, number, params)?
            } else {
                None
            };
            let (inliers, homography) =
                verified.map_or((0, None), |(inliers, map)| (inliers, Some(map)));
            let photo = self.photo(number);
            let (path, label) = (photo.path.to_owned(), photo.label.map(str::to_owned));
            Ok(FoundPhoto { number, path, label, votes, inliers, homography })
        };
        let photos: Result<Vec<FoundPhoto>> = best.into_par_iter().enumerate().map(found).collect();
        let mut photos = photos?;
        photos.sort_by_key(|found| (std::cmp::Reverse((found.inliers, found.votes)), found.number));
        photos.truncate(params.photos);
        let total: u64 = weights.values().sum();
        let mut labels: Vec<LabelShare> = weights
            .into_iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(label, weight)| LabelShare {
                label: label.to_owned(),
                share: weight as f64 / total as f64,
            })
            .collect();
        labels.sort_by(|one, other| {
            other.share.total_cmp(&one.share).then_with(|| one.label.cmp(&other.label))
        });
        Ok(Found { photos, labels })
    }

    /// The homography from a query to a photo, and its inliers.
    pub(super) fn verify(
        &self,
        descriptors: &[Descriptor],
        points: &[[f32; 2]],
        number: u32,
        params: &SearchParams,
    ) -> Result<Option<(u32, Homography)>> {
        let (theirs, places) = self.content(number);
        if descriptors.len().min(theirs.len()) < MIN_INLIERS as usize {
            return Ok(None);
        }
        let matcher = MatchParams::default()
            .with_norm(self.norm())
            .with_ratio(params.ratio)
            .with_cross_check(true)
            .build()?;
        let place = |[x, y]: [f32; 2]| -> Point { (x.into(), y.into()) };
        let pairs: Vec<_> = matcher
            .matches(descriptors, &theirs)
            .iter()
            .filter_map(|m| {
                Some((place(*points.get(m.query_index())?), place(places[m.train_index()])))
            })
            .collect();
        if pairs.len() < MIN_INLIERS as usize {
            return Ok(None);
        }
        let photo = self.photo(number);
        let side = f64::from(photo.width.max(photo.height));
        let ransac = RansacParams::default()
            .with_threshold((THRESHOLD * side).max(3.0))
            .with_max_iterations(ITERATIONS)
            .with_min_inliers(MIN_INLIERS)
            .with_seed(params.seed);
        let found = Homography::find(&pairs, &ransac)?;
        Ok(found.map(|found| (found.n_inliers as u32, found.homography)))
    }
}
