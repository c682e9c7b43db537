//! An index of a result's photos, search in it, and duplicates among them.
//!
//! The index is one file of descriptors and keypoints, mapped into memory. Up to some ten million descriptors, each of a
//! query's descriptors is compared with all of them; above that, descriptors are in lists around binary centres, and a query
//! looks into the nearest lists.
//!
//! ```no_run
//! use orb_features::prelude::*;
//! use orb_features::results::ResultReader;
//! use orb_features::search::{Index, IndexParams, SearchParams};
//!
//! Index::create("fruits.index", &ResultReader::open("features")?, &IndexParams::default())?;
//! let index = Index::open("fruits.index")?;
//! let orb = index.orb_params()?.unwrap_or_default().build()?;
//! let photo = GrayImage::new(vec![0; 100 * 100], 100, 100)?;
//! let found = index.search(&orb.detect_and_compute(photo.view(), None)?, &SearchParams::default())?;
//! if let Some(first) = found.labels.first() {
//!     println!("{} ({:.0} %)", first.label, 100.0 * first.share);
//! }
//! # Ok::<(), orb_features::Error>(())
//! ```

mod build;
mod centroids;
mod duplicates;
mod file;
mod find;
mod index;
mod params;

pub use build::IndexReport;
#[cfg(feature = "report")]
pub(crate) use build::index_of;
pub use duplicates::{Duplicate, DuplicateKind, DuplicateParams, duplicates};
pub use find::{Found, FoundPhoto, LabelShare};
pub use index::{Index, IndexedPhoto};
pub use params::{IndexParams, SearchParams};
