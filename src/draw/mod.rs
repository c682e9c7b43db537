//! Pictures: keypoints on a photo, matches between two.
//!
//! ```
//! use orb_features::draw::{DrawParams, draw_keypoints};
//! use orb_features::prelude::*;
//!
//! let photo = PixelView::new(&[200; 3 * 100 * 80], 100, 80, PixelFormat::Rgb)?;
//! let keypoint = KeyPoint { x: 40.0, y: 30.0, size: 31.0, angle: 90.0, ..KeyPoint::default() };
//! let drawing = draw_keypoints(photo, &[keypoint], &DrawParams::default())?;
//! assert!(drawing.to_svg().contains("<circle"));
//! assert!(drawing.to_png()?.starts_with(b"\x89PNG"));
//! # Ok::<(), orb_features::Error>(())
//! ```

mod drawing;
mod keypoints;
mod matches;

pub use drawing::{DrawParams, Drawing};
pub use keypoints::draw_keypoints;
pub use matches::{Side, draw_matches};
