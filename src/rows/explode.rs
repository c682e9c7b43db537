//! From images to batches of rows.

use super::{FailedImage, RowBatch};
use crate::error::{Error, Result};
use crate::features::{ImageFeatures, VectorFormat};

/// The number of rows that stages gather into a batch.
pub const DEFAULT_BATCH_ROWS: usize = 1024;
/// Most bytes of the vectors of a batch, unless the caller sets its rows.
const BATCH_BYTES: usize = 4 << 20;

/// Bytes of pixels, where they are kept, after which a batch ends.
const PIXEL_BYTES: usize = 4 << 20;

/// Most images in a batch; those without rows and those that failed count too.
const MAX_IMAGES: usize = 1024;

/// Most images that may fail while the format of the vectors is unknown.
const MAX_FAILED_FIRST: usize = 64 << 10;

/// An image after the policy on errors: its features, or a record of its failure.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ImageOutcome {
    /// Its features.
    Features(ImageFeatures),
    /// The record of its failure.
    Failed(FailedImage),
}

impl From<ImageFeatures> for ImageOutcome {
    fn from(features: ImageFeatures) -> Self {
        Self::Features(features)
    }
}

/// The iterator of [`StageExt::explode`](crate::StageExt::explode): batches of rows, one for each vector.
///
/// The rows of an image may continue in the next batch. An image whose features are not of the stream's format, or
/// not one vector for each keypoint, is an [`Error::Extract`]. Errors keep their order: one comes after the rows
/// before it.
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
#[derive(Debug)]
pub struct Explode<I> {
    images: I,
    /// Rows of a batch, if the caller has set them.
    size: Option<usize>,
    whole_images: bool,
    format: Option<VectorFormat>,
    /// The batch in progress.
    batch: Option<RowBatch>,
    /// Bytes of the pixels in it.
    pixels: usize,
    /// The image whose rows are next, and how many of its rows are already in batches.
    current: Option<(ImageFeatures, usize)>,
    /// Images that failed before the format was known.
    failed: Vec<FailedImage>,
    /// An error to be returned after the batch.
    error: Option<Error>,
    is_first: bool,
}

impl<I> Explode<I> {
    pub(crate) fn new(images: I) -> Self {
        Self {
            images,
            size: None,
            whole_images: false,
            format: None,
            batch: None,
            pixels: 0,
            current: None,
            failed: Vec::new(),
            error: None,
            is_first: true,
        }
    }

    /// Sets the rows of a batch (default [`DEFAULT_BATCH_ROWS`], or fewer if their vectors exceed 4 MiB). A batch may
    /// have fewer. 0 ends the stream with an [`Error::InvalidParam`].
    pub fn with_batch_rows(mut self, rows: usize) -> Self {
        self.size = Some(rows);
        self
    }

    /// Sets whether the rows of an image stay together (default: no). A batch then ends with the image that reaches its
    /// number of rows, and may exceed it.
    pub fn with_whole_images(mut self, whole: bool) -> Self {
        self.whole_images = whole;
        self
    }

    /// Sets the format of the vectors (default: that of the first image). If every image fails, the stream then still
    /// yields a batch without rows, from which a sink learns the columns; otherwise it ends with an [`Error::Shape`], as
    /// it does if the first 65,536 images fail.
    pub fn with_format(mut self, format: VectorFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// Rows of a batch.
    fn size_of(&self, format: VectorFormat) -> usize {
        let bytes = format.len().max(1) * format.element().size();
        self.size.unwrap_or_else(|| DEFAULT_BATCH_ROWS.min((BATCH_BYTES / bytes).max(1)))
    }

    /// The batch in progress.
    fn open(&mut self, format: VectorFormat) -> &mut RowBatch {
        let size = self.size_of(format);
        let failed = &mut self.failed;
        self.batch.get_or_insert_with(|| {
            let mut batch = RowBatch::new(format);
            // Capped: the caller's size may be far more rows than will come.
            batch.reserve(size.min(DEFAULT_BATCH_ROWS));
            failed.drain(..).for_each(|failed| batch.push_failed(failed));
            batch
        })
    }

    /// Whether the batch has reached its limit of rows or of images.
    fn is_full(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| {
            batch.len() >= self.size_of(batch.format())
                || batch.images().len() + batch.failed().len() >= MAX_IMAGES
                || self.pixels >= PIXEL_BYTES
        })
    }

    /// Moves rows of the current image to the batch.
    fn fill(&mut self) {
        let Some((image, taken)) = self.current.take() else { return };
        let format = self.format.unwrap_or_else(|| image.format());
        let size = self.size_of(format);
        let whole_images = self.whole_images;
        let batch = self.open(format);
        let room = if whole_images { usize::MAX } else { size - batch.len() };
        let end = image.len().min(taken.saturating_add(room));
        batch.push_some(&image, taken..end);
        self.pixels += image.pixels.as_ref().map_or(0, |pixels| pixels.as_bytes().len());
        if end < image.len() {
            self.current = Some((image, end));
        }
    }
}

impl<T: Into<ImageOutcome>, I: Iterator<Item = Result<T>>> Iterator for Explode<I> {
    type Item = Result<RowBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        if self.size == Some(0) {
            return self.is_first.then(|| {
                self.is_first = false;
                Err(Error::param("batch_rows", 0, "at least 1"))
            });
        }
        let mut ended = false;
        while !ended && !self.is_full() {
            if self.current.is_some() {
                self.fill();
                continue;
            }
            match self.images.next().map(|image| image.map(Into::into)) {
                Some(Ok(ImageOutcome::Features(image))) => {
                    let format = *self.format.get_or_insert_with(|| image.format());
                    match image.check(format) {
                        Ok(()) => self.current = Some((image, 0)),
                        Err(error) => self.error = Some(error),
                    }
                }
                Some(Ok(ImageOutcome::Failed(failed))) => {
                    if let Some(format) = self.format {
                        self.open(format).push_failed(failed);
                    } else {
                        self.failed.push(failed);
                        ended = self.failed.len() == MAX_FAILED_FIRST;
                    }
                }
                Some(Err(error)) => self.error = Some(error),
                None => ended = true,
            }
            if self.error.is_some() {
                break;
            }
        }
        if let Some(batch) = self.batch.take() {
            self.is_first = false;
            self.pixels = 0;
            return Some(Ok(batch));
        }
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        let is_first = std::mem::replace(&mut self.is_first, false);
        match self.format {
            Some(format) => is_first.then(|| Ok(RowBatch::new(format))),
            None if self.failed.is_empty() => None,
            None => {
                let n = std::mem::take(&mut self.failed).len();
                let which = if n == MAX_FAILED_FIRST { "the first" } else { "all" };
                let why = format!("{which} {n} images failed, so no format is known: set it");
                Some(Err(Error::shape(why)))
            }
        }
    }
}
