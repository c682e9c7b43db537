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

    /// Opens it as a list of the same images, each to be read when it is its turn, by whichever thread
    /// that is. Unless a source has a better way, the list reads them as it goes.
    ///
    /// # Errors
    /// As [`ImageSource::open`].
    fn list(self) -> Result<ListedImages>
    where
        Self: Sized,
    {
        Ok(ListedImages::new(self.open()?.map(|image| ListedImage::new(move || image))))
    }
}

impl<I: Iterator<Item = Result<ImageObject>> + Send + 'static> ImageSource for I {
    type Images = I;

    fn open(self) -> Result<I> {
        Ok(self)
    }
}

/// An image that is still to be read.
pub struct ListedImage(Box<dyn FnOnce() -> Result<ImageObject> + Send>);

impl ListedImage {
    /// Makes one that is read by `read`.
    pub fn new(read: impl FnOnce() -> Result<ImageObject> + Send + 'static) -> Self {
        Self(Box::new(read))
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with this image, or [`Error::NoInput`](crate::Error::NoInput) in place of the first
    /// one where there is none.
    pub fn read(self) -> Result<ImageObject> {
        (self.0)()
    }
}

impl fmt::Debug for ListedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListedImage").finish_non_exhaustive()
    }
}

/// The list of [`ImageSource::list`]; a source as well, which is open already.
pub struct ListedImages(Box<dyn Iterator<Item = ListedImage> + Send>);

impl ListedImages {
    /// Makes a list of any iterator.
    pub fn new(images: impl Iterator<Item = ListedImage> + Send + 'static) -> Self {
        Self(Box::new(images))
    }
}

impl fmt::Debug for ListedImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListedImages").finish_non_exhaustive()
    }
}

impl Iterator for ListedImages {
    type Item = ListedImage;

    fn next(&mut self) -> Option<ListedImage> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ImageSource for ListedImages {
    type Images = std::iter::Map<Self, fn(ListedImage) -> Result<ImageObject>>;

    fn open(self) -> Result<Self::Images> {
        Ok(self.map(ListedImage::read))
    }

    fn list(self) -> Result<Self> {
        Ok(self)
    }
}
