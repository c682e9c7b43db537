//! Where images come from: a folder, memory, or any iterator of [`ImageObject`]s.

mod fs;
mod label;
mod memory;

use std::time::SystemTime;

use bytes::Bytes;

use crate::error::Result;

pub use fs::{DEFAULT_MAX_FILE_BYTES, FsImages, FsSource, IMAGE_EXTENSIONS};
pub use label::LabelRule;
pub use memory::{MemoryImages, MemorySource};

/// One encoded image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageObject {
    /// The path or key, unmangled.
    pub uri: String,
    /// The label, if there is one.
    pub label: Option<String>,
    /// When it was last modified, if that is known.
    pub modified: Option<SystemTime>,
    /// The encoded image, whole.
    pub bytes: Bytes,
}

impl ImageObject {
    /// Makes an object without a label.
    pub fn new(uri: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self { uri: uri.into(), label: None, modified: None, bytes: bytes.into() }
    }
}

/// Something that can be opened as a stream of images.
///
/// Every iterator of `Result<ImageObject>` is one.
pub trait ImageSource {
    /// The stream.
    type Images: Iterator<Item = Result<ImageObject>> + Send + 'static;

    /// Opens it.
    ///
    /// # Errors
    /// Whatever makes the whole source unusable, such as a missing folder; what is wrong with one
    /// image comes as an item.
    fn open(self) -> Result<Self::Images>;
}

impl<I: Iterator<Item = Result<ImageObject>> + Send + 'static> ImageSource for I {
    type Images = I;

    fn open(self) -> Result<I> {
        Ok(self)
    }
}
