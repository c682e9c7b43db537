//! Decoded images: grey and colour, owned and borrowed, and what is known of each.

mod buffer;
mod gray;
mod meta;
mod resample;

pub use buffer::{PixelFormat, PixelSpec, PixelView, Pixels};
pub use gray::{ColorOrder, GrayImage, GrayView, gray_of};
pub use meta::ImageMeta;
pub(crate) use resample::Resampler;
pub use resample::Resize;
