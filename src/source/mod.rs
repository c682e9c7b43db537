//! Where images come from: a folder, S3, memory, or any iterator of [`ImageObject`]s.

mod fs;
mod label;
#[cfg(feature = "s3")]
mod listing;
mod memory;
#[cfg(feature = "s3")]
mod s3;
mod selection;

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;

use crate::error::Result;

pub use fs::{DEFAULT_MAX_FILE_BYTES, FsImages, FsSource};
pub use label::LabelRule;
pub use memory::{MemoryImages, MemorySource};
#[cfg(feature = "s3")]
pub use s3::{
    DEFAULT_BYTES_IN_FLIGHT, DEFAULT_MAX_OBJECT_BYTES, DEFAULT_REQUESTS_IN_FLIGHT, S3Images,
    S3Source,
};
pub use selection::{IMAGE_EXTENSIONS, Selection};

/// One encoded image.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageObject {
    /// The path or key, unmangled.
    pub uri: String,
    /// The label, if there is one.
    pub label: Option<String>,
    /// When it was last modified, if that is known.
    pub modified: Option<SystemTime>,
    /// How often it had to be asked for again, over a network that failed.
    pub retries: u32,
    /// The encoded image, whole.
    pub bytes: Bytes,
}

impl ImageObject {
    /// Makes an object without a label.
    pub fn new(uri: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self { uri: uri.into(), label: None, modified: None, retries: 0, bytes: bytes.into() }
    }
}

impl fmt::Debug for ImageObject {
    /// Shows all but the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uri, label, modified, retries, bytes } = self;
        f.debug_struct("ImageObject")
            .field("uri", uri)
            .field("label", label)
            .field("modified", modified)
            .field("retries", retries)
            .field("bytes", &format_args!("{} bytes", bytes.len()))
            .finish()
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
