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
use serde::{Deserialize, Serialize};

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
    /// How often the request was repeated after a network failure.
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

/// A reference to a listed image, for a job that several processes or machines share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// The path, or the whole URI of an object.
    pub uri: String,
    /// In bytes, if that is known.
    pub size: Option<u64>,
    /// The ETag of the listed object; reading fails if the object has changed.
    pub etag: Option<String>,
}

/// Something that can be opened as a stream of images.
///
/// Every iterator of results of [`ListedImage`]s or [`ImageObject`]s is a source. A job that ends early waits until
/// `next` returns. It cancels waits for S3; a custom source must limit its own waits.
pub trait ImageSource {
    /// An image: read already, or still to be read by the thread that takes it.
    type Image: Into<ListedImage> + Send + 'static;

    /// The stream.
    type Images: Iterator<Item = Result<Self::Image>> + Send + 'static;

    /// Opens it.
    ///
    /// # Errors
    /// An error that makes the whole source unusable, such as a missing folder. An error of one image comes as an
    /// item; if there is no image, [`Error::NoInput`](crate::Error::NoInput) is the only item.
    fn open(self) -> Result<Self::Images>;
}

impl<T, I> ImageSource for I
where
    T: Into<ListedImage> + Send + 'static,
    I: Iterator<Item = Result<T>> + Send + 'static,
{
    type Image = T;
    type Images = I;

    fn open(self) -> Result<I> {
        Ok(self)
    }
}

/// An image that is still to be read, or read already.
///
/// # Examples
/// Labels can be looked at, or set, before anything is read:
/// ```no_run
/// use orb_features::prelude::*;
///
/// let images = FsSource::new("fruits").open()?;
/// let apples = images.filter(|image| {
///     image.as_ref().map_or(true, |image| image.label.as_deref() == Some("apple"))
/// });
/// # Ok::<(), orb_features::Error>(())
/// ```
#[non_exhaustive]
pub struct ListedImage {
    /// The path or key, unmangled.
    pub uri: String,
    /// The label, if there is one.
    pub label: Option<String>,
    read: ReadImage,
}

type ReadImage = Box<dyn FnOnce() -> Result<ImageObject> + Send>;

impl ListedImage {
    /// Makes an image without a label; `read` reads it.
    pub fn new(
        uri: impl Into<String>,
        read: impl FnOnce() -> Result<ImageObject> + Send + 'static,
    ) -> Self {
        Self { uri: uri.into(), label: None, read: Box::new(read) }
    }

    /// Sets the label.
    #[must_use]
    pub fn with_label(mut self, label: Option<String>) -> Self {
        self.label = label;
        self
    }

    /// Reads the image. Path and label are those of `self`, whatever the reader returns.
    ///
    /// # Errors
    /// The error of this image.
    pub fn read(self) -> Result<ImageObject> {
        let object = (self.read)()?;
        Ok(ImageObject { uri: self.uri, label: self.label, ..object })
    }
}

impl From<ImageObject> for ListedImage {
    fn from(object: ImageObject) -> Self {
        let (uri, label) = (object.uri.clone(), object.label.clone());
        Self::new(uri, move || Ok(object)).with_label(label)
    }
}

impl fmt::Debug for ListedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uri, label, .. } = self;
        f.debug_struct("ListedImage")
            .field("uri", uri)
            .field("label", label)
            .finish_non_exhaustive()
    }
}
