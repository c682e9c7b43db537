//! Rows by columns: images, keypoints, vectors, scores.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;

use super::FailedImage;
use crate::error::{Error, Result};
use crate::features::{ImageFeatures, KeyPoint, VectorFormat, Vectors};
use crate::pixels::{ImageMeta, Pixels};

/// The rows of one image in a batch.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ImageRows {
    /// The image.
    pub meta: Arc<ImageMeta>,
    /// Its pixels, if they are kept.
    pub pixels: Option<Arc<Pixels>>,
    /// The number of the image's vectors in all batches.
    pub n_vectors: u32,
    /// Index of its first row in this batch among all of the image's vectors; above 0 if the image began in an
    /// earlier batch.
    pub first_index: u32,
    /// Its rows in the batch; empty for an image without features.
    pub rows: Range<usize>,
}

impl ImageRows {
    /// Whether all of the image's rows are in the batch.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.rows.len() == self.n_vectors as usize
    }
}

/// One row of a batch: a vector and where it comes from.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Row<'a> {
    /// The image.
    pub meta: &'a Arc<ImageMeta>,
    /// The vector's place among those of its image, from 0.
    pub index: u32,
    /// Its keypoint, if the extractor has keypoints.
    pub keypoint: Option<&'a KeyPoint>,
    /// The row's index in the batch's columns.
    pub place: usize,
}

/// Rows, one for each vector, by columns: images with the rows of each, keypoints, vectors and, once they are
/// projected, scores. Also the images that failed meanwhile.
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use orb_features::prelude::*;
///
/// let meta = Arc::new(ImageMeta::new("apple/1.jpg"));
/// let features = ImageFeatures::new(meta, Vectors::from_f32(vec![0.5, 1.0, 2.0, 4.0], 2)?);
/// let mut batch = RowBatch::new(features.format());
/// batch.push(&features)?;
/// assert_eq!((batch.len(), batch.images()[0].rows.clone()), (2, 0..2));
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RowBatch {
    format: VectorFormat,
    images: Vec<ImageRows>,
    keypoints: Vec<KeyPoint>,
    vectors: Vectors,
    scores: Option<Array2<f64>>,
    failed: Vec<FailedImage>,
    /// For each failure, the number of `images` before it.
    failed_after: Vec<usize>,
}

impl RowBatch {
    /// A batch without a row.
    #[must_use]
    pub fn new(format: VectorFormat) -> Self {
        Self {
            format,
            images: Vec::new(),
            keypoints: Vec::new(),
            vectors: Vectors::empty(format),
            scores: None,
            failed: Vec::new(),
            failed_after: Vec::new(),
        }
    }

    /// Reserves memory for more rows.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.vectors.reserve(rows);
        if self.format.has_keypoints() {
            self.keypoints.reserve(rows);
        }
    }

    /// Adds the rows of an image.
    ///
    /// # Errors
    /// [`Error::Extract`] unless its features are of the batch's format, with a vector for each keypoint.
    pub fn push(&mut self, image: &ImageFeatures) -> Result<()> {
        self.push_range(image, 0..image.len())
    }

    /// Adds a range of an image's rows; the rest may go to the next batch.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`Error::Shape`] if the range is not within the image's rows.
    pub fn push_range(&mut self, image: &ImageFeatures, some: Range<usize>) -> Result<()> {
        image.check(self.format)?;
        if some.start > some.end || some.end > image.len() {
            return Err(Error::shape(format!("rows {some:?} of {}", image.len())));
        }
        self.push_some(image, some);
        Ok(())
    }

    /// Adds a range of rows of an image that has been checked.
    pub(crate) fn push_some(&mut self, image: &ImageFeatures, some: Range<usize>) {
        let start = self.len();
        self.vectors.append(&image.vectors, some.clone());
        if self.format.has_keypoints() {
            self.keypoints.extend_from_slice(&image.keypoints[some.clone()]);
        }
        self.images.push(ImageRows {
            meta: Arc::clone(&image.meta),
            pixels: image.pixels.clone(),
            n_vectors: image.len() as u32,
            first_index: some.start as u32,
            rows: start..self.len(),
        });
        // The scores do not cover the new rows.
        self.scores = None;
    }

    /// Adds an image that failed.
    pub fn push_failed(&mut self, failed: FailedImage) {
        self.failed_after.push(self.images.len());
        self.failed.push(failed);
    }

    /// Builds a batch from columns that were read from a spool.
    pub(crate) fn from_columns(
        format: VectorFormat,
        images: Vec<ImageRows>,
        keypoints: Vec<KeyPoint>,
        vectors: Vectors,
        failed: Vec<(usize, FailedImage)>,
    ) -> Self {
        let (failed_after, failed) = failed.into_iter().unzip();
        Self { format, images, keypoints, vectors, scores: None, failed, failed_after }
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vectors.rows()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The format of the vectors.
    pub fn format(&self) -> VectorFormat {
        self.format
    }

    /// The images, in order, including those without features.
    #[must_use]
    pub fn images(&self) -> &[ImageRows] {
        &self.images
    }

    /// The keypoints, one for each row; none if the extractor has none.
    #[must_use]
    pub fn keypoints(&self) -> &[KeyPoint] {
        &self.keypoints
    }

    /// The vectors, one for each row.
    #[must_use]
    pub fn vectors(&self) -> &Vectors {
        &self.vectors
    }

    /// Scores of shape (rows, components); none before the projection.
    #[must_use]
    pub fn scores(&self) -> Option<&Array2<f64>> {
        self.scores.as_ref()
    }

    /// The images that failed since the previous batch, in order. Not all are to be [recorded](FailedImage::recorded).
    #[must_use]
    pub fn failed(&self) -> &[FailedImage] {
        &self.failed
    }

    /// The failures, each with the number of images before it.
    pub(crate) fn failed_after(&self) -> impl ExactSizeIterator<Item = (usize, &FailedImage)> {
        self.failed_after.iter().copied().zip(&self.failed)
    }

    /// Iterates over the rows.
    #[must_use]
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> + std::fmt::Debug {
        Rows { batch: self, image: 0, place: 0 }
    }

    /// Sets the scores, of shape (rows, components).
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is one row of scores for each row, and at least one component.
    pub fn with_scores(mut self, scores: Array2<f64>) -> Result<Self> {
        let (rows, components) = scores.dim();
        if rows != self.len() || components == 0 {
            let n = self.len();
            return Err(Error::shape(format!("scores of {rows} x {components} for {n} rows")));
        }
        self.scores = Some(scores);
        Ok(self)
    }
}

#[derive(Debug)]
struct Rows<'a> {
    batch: &'a RowBatch,
    image: usize,
    place: usize,
}

impl<'a> Iterator for Rows<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        let Self { batch, place, .. } = *self;
        let ImageRows { meta, first_index, rows, .. } = loop {
            let image = batch.images.get(self.image)?;
            if place < image.rows.end {
                break image;
            }
            self.image += 1;
        };
        self.place += 1;
        let index = first_index + (place - rows.start) as u32;
        Some(Row { meta, index, keypoint: batch.keypoints.get(place), place })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.batch.len() - self.place;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Rows<'_> {}
