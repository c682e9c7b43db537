//! Matches between the descriptors of two images, and the homography that they tell of.
//!
//! ```
//! use orb_features::matching::{Homography, MatchParams, RansacParams};
//! use orb_features::prelude::*;
//!
//! # let texture = |x: usize, y: usize| (((x / 5 * 73_856_093) ^ (y / 5 * 19_349_663)).wrapping_mul(2_654_435_761) >> 24) as u8;
//! # let image = |left: usize| -> Vec<u8> { (0..200 * 200).map(|i| texture(i % 200 + left, i / 200)).collect() };
//! # let (first, second) = (image(40), image(27));
//! let orb = OrbParams::default().with_n_features(500).build()?;
//! let first = orb.detect_and_compute(GrayView::new(&first, 200, 200)?, None)?;
//! let second = orb.detect_and_compute(GrayView::new(&second, 200, 200)?, None)?;
//! let matcher = MatchParams::default().with_ratio(0.8).build()?;
//! let matches = matcher.matches(&first.descriptors, &second.descriptors);
//! let pairs: Vec<_> = matches
//!     .iter()
//!     .map(|m| (first.keypoints[m.query_index()].into(), second.keypoints[m.train_index()].into()))
//!     .collect();
//! let found = Homography::find(&pairs, &RansacParams::default())?;
//! # let found = found.unwrap();
//! # let (x, y) = found.homography.apply((50.0, 60.0)).unwrap();
//! # assert!((x - 63.0).abs() < 0.5 && (y - 60.0).abs() < 0.5, "{x} {y}");
//! # Ok::<(), orb_features::Error>(())
//! ```

mod codes;
mod homography;
mod matcher;
mod ransac;

pub(crate) use codes::{Codes, Neighbor};
#[cfg(feature = "search")]
pub(crate) use codes::{block_of, insert, nearest, scan, words};
pub use homography::{Homography, Point};
#[cfg(feature = "search")]
pub(crate) use matcher::lists_of;
pub use matcher::{DMatch, HammingNorm, MatchParams, Matcher};
pub use ransac::{FoundHomography, RansacParams};
