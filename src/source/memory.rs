//! Images that are in memory already.

use bytes::Bytes;

use super::{ImageObject, ImageSource, LabelRule};
use crate::error::Result;

/// Encoded images in memory, each with a path, in the order given.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// let source = MemorySource::new([("apple/1.pgm", &b"P5 2 1 255\n\x07\xff"[..])]);
/// let image = source.open()?.next().unwrap()?;
/// assert_eq!(image.label.as_deref(), Some("apple"));
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct MemorySource {
    images: Vec<(String, Bytes)>,
    label: LabelRule,
}

impl MemorySource {
    /// Takes paths and encoded images.
    pub fn new<U: Into<String>, B: Into<Bytes>>(images: impl IntoIterator<Item = (U, B)>) -> Self {
        let images = images.into_iter().map(|(uri, bytes)| (uri.into(), bytes.into())).collect();
        Self { images, label: LabelRule::default() }
    }

    /// Sets the label rule (default [`LabelRule::Parent`]).
    pub fn with_label(mut self, label: LabelRule) -> Self {
        self.label = label;
        self
    }
}

impl ImageSource for MemorySource {
    type Image = ImageObject;
    type Images = MemoryImages;

    fn open(self) -> Result<MemoryImages> {
        Ok(MemoryImages { images: self.images.into_iter(), label: self.label })
    }
}

/// The stream of a [`MemorySource`].
#[derive(Clone, Debug)]
pub struct MemoryImages {
    images: std::vec::IntoIter<(String, Bytes)>,
    label: LabelRule,
}

impl Iterator for MemoryImages {
    type Item = Result<ImageObject>;

    fn next(&mut self) -> Option<Self::Item> {
        let (uri, bytes) = self.images.next()?;
        let label = self.label.label("", &uri);
        Some(Ok(ImageObject { uri, label, modified: None, retries: 0, bytes }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.images.size_hint()
    }
}

impl std::iter::FusedIterator for MemoryImages {}
