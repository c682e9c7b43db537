//! One row for each descriptor: explode, batches, and the spool between the two passes.

mod spool;

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use crate::decode::ImageMeta;
use crate::error::{Error, Result};
use crate::orb::{DESCRIPTOR_LEN, Descriptor, ImageFeatures, KeyPoint};
use crate::pca::PcaModel;

pub(crate) use spool::SpooledFit;
pub use spool::{DEFAULT_SPOOL_MEMORY, Spool, SpooledRows};

/// The number of rows that stages gather into a batch.
pub const DEFAULT_BATCH_ROWS: usize = 1024;

/// One descriptor and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct DescriptorRow {
    /// The image.
    pub meta: Arc<ImageMeta>,
    /// The keypoint's place among those of its image, from 0.
    pub index: u32,
    /// The keypoint.
    pub keypoint: KeyPoint,
    /// Its descriptor.
    pub descriptor: Descriptor,
}

/// Rows and, once they are projected, their scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowBatch {
    /// The rows.
    pub rows: Vec<DescriptorRow>,
    /// Shape (rows, components), one row of scores for each row; none without a PCA.
    pub scores: Option<Array2<f64>>,
}

/// The descriptors of rows, one behind the other.
pub(crate) fn descriptors(rows: &[DescriptorRow]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.len() * DESCRIPTOR_LEN);
    for row in rows {
        bytes.extend_from_slice(&row.descriptor);
    }
    bytes
}

impl RowBatch {
    /// Projects the descriptors onto a model's components.
    ///
    /// # Errors
    /// [`Error::Model`] if the model is not for vectors of 32 elements.
    pub fn project(mut self, model: &PcaModel) -> Result<Self> {
        let descriptors = descriptors(&self.rows);
        // The buffer has just that many elements.
        let view = ArrayView2::from_shape((self.rows.len(), DESCRIPTOR_LEN), &descriptors)
            .expect("each row has one descriptor");
        self.scores = Some(model.project(view)?);
        Ok(self)
    }
}

impl ImageFeatures {
    /// Itself, if it has one descriptor for each keypoint.
    pub(crate) fn checked(self) -> Result<Self> {
        let (keypoints, descriptors) = (self.keypoints.len(), self.descriptors.len());
        if keypoints == descriptors {
            return Ok(self);
        }
        let what = Error::shape(format!("{keypoints} keypoints and {descriptors} descriptors"));
        Err(Error::Extract { uri: self.meta.uri.as_str().into(), source: Box::new(what) })
    }

    /// The rows of this image, one for each keypoint that has a descriptor.
    #[must_use]
    pub fn into_rows(self) -> impl ExactSizeIterator<Item = DescriptorRow> + std::fmt::Debug {
        ImageRows { image: self, next: 0 }
    }
}

#[derive(Debug)]
struct ImageRows {
    image: ImageFeatures,
    next: usize,
}

impl Iterator for ImageRows {
    type Item = DescriptorRow;

    fn next(&mut self) -> Option<DescriptorRow> {
        let at = self.next;
        let keypoint = *self.image.keypoints.get(at)?;
        let descriptor = *self.image.descriptors.get(at)?;
        self.next += 1;
        Some(DescriptorRow {
            meta: Arc::clone(&self.image.meta),
            index: at as u32,
            keypoint,
            descriptor,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.image.keypoints.len().min(self.image.descriptors.len()) - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for ImageRows {}

/// The iterator of [`StageExt::explode`](crate::StageExt::explode).
///
/// An image that has not as many descriptors as keypoints is an [`Error::Extract`].
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
#[derive(Debug)]
pub struct Explode<I> {
    images: I,
    current: Option<ImageRows>,
}

impl<I> Explode<I> {
    pub(crate) fn new(images: I) -> Self {
        Self { images, current: None }
    }
}

impl<I: Iterator<Item = Result<ImageFeatures>>> Iterator for Explode<I> {
    type Item = Result<DescriptorRow>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.current.as_mut().and_then(ImageRows::next) {
                return Some(Ok(row));
            }
            self.current = None;
            match self.images.next()?.and_then(ImageFeatures::checked) {
                Ok(image) => self.current = Some(ImageRows { image, next: 0 }),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.current.as_ref().map_or(0, ImageRows::len);
        match self.images.size_hint() {
            (_, Some(0)) => (left, Some(left)),
            _ => (left, None),
        }
    }
}

/// The iterator of [`StageExt::batches`](crate::StageExt::batches).
///
/// An error ends the batch before it, which comes first.
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
#[derive(Debug)]
pub struct Batches<I> {
    rows: I,
    size: usize,
    error: Option<crate::Error>,
}

impl<I> Batches<I> {
    pub(crate) fn new(rows: I, size: usize) -> Self {
        Self { rows, size: size.max(1), error: None }
    }
}

impl<I: Iterator<Item = Result<DescriptorRow>>> Iterator for Batches<I> {
    type Item = Result<RowBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        // The caller's size may be one that is never reached.
        let most = self.rows.size_hint().1.unwrap_or(usize::MAX).min(DEFAULT_BATCH_ROWS);
        let mut rows = Vec::with_capacity(self.size.min(most));
        while rows.len() < self.size {
            match self.rows.next() {
                Some(Ok(row)) => rows.push(row),
                Some(Err(error)) if rows.is_empty() => return Some(Err(error)),
                Some(Err(error)) => {
                    self.error = Some(error);
                    break;
                }
                None => break,
            }
        }
        (!rows.is_empty()).then_some(Ok(RowBatch { rows, scores: None }))
    }
}

/// The iterator of [`StageExt::project`](crate::StageExt::project): batches with scores.
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
#[derive(Debug)]
pub struct Project<I> {
    batches: Batches<I>,
    model: PcaModel,
}

impl<I> Project<I> {
    pub(crate) fn new(rows: I, model: PcaModel) -> Self {
        Self { batches: Batches::new(rows, DEFAULT_BATCH_ROWS), model }
    }
}

impl<I: Iterator<Item = Result<DescriptorRow>>> Iterator for Project<I> {
    type Item = Result<RowBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.batches.next()?.and_then(|batch| batch.project(&self.model)))
    }
}
