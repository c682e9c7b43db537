//! Results, read back: what a [`FileSink`](crate::sink::FileSink) has written.
//!
//! ```no_run
//! use orb_features::results::ResultReader;
//!
//! let result = ResultReader::open("features")?;
//! println!("{} images, PCA: {}", result.images()?.count(), result.model()?.is_some());
//! for photo in result.photos()? {
//!     let photo = photo?;
//!     println!("{}: {} keypoints", photo.path, photo.keypoints.len());
//! }
//! # Ok::<(), orb_features::Error>(())
//! ```

mod images;
mod photos;
mod reader;
mod value;

pub use images::{ImageRecord, ImageRecords};
pub use photos::{Photo, Photos};
#[cfg(feature = "search")]
pub(crate) use reader::params_of_note;
pub use reader::{ResultBatches, ResultReader};
