//! Decoded images: grey and colour, owned and borrowed, and what is known of each.

mod buffer;
mod gray;
mod meta;
#[cfg(feature = "onnx")]
mod resample;

pub use buffer::{PixelFormat, PixelSpec, PixelView, Pixels};
pub use gray::{ColorOrder, GrayImage, GrayView, gray_of};
pub use meta::ImageMeta;
#[cfg(feature = "onnx")]
pub(crate) use resample::Resampler;
#[cfg(feature = "onnx")]
pub use resample::Resize;
