//! bytes to grey
mod gray;
pub use gray::{ColorOrder, GrayImage, GrayView, gray_of};
