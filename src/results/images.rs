//! The lists beside the rows: all images, and those that failed.

use std::collections::VecDeque;

use arrow_array::RecordBatch;

use super::ResultBatches;
use super::value::{int, ints, text, texts};
use crate::error::{Error, Result};
use crate::rows::FailedImage;

/// An image of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageRecord {
    /// The path or key; `None` if the image's name is unknown.
    pub path: Option<String>,
    /// The label, if there is one.
    pub label: Option<String>,
    /// Size of the file in bytes, if it could be read.
    pub byte_len: Option<u64>,
    /// Height and width in pixels, unless it failed.
    pub size: Option<(u32, u32)>,
    /// Keypoints, or other vectors, that were found; `None` if it failed.
    pub n_vectors: Option<u32>,
    /// Why it failed, in a word.
    pub cause: Option<String>,
}

/// The images of a run, in order.
#[derive(Debug)]
pub struct ImageRecords {
    batches: Option<ResultBatches>,
    uri: String,
    ready: VecDeque<ImageRecord>,
}

impl ImageRecords {
    pub(super) fn new(batches: Option<ResultBatches>, uri: &str) -> Self {
        Self { batches, uri: uri.to_owned(), ready: VecDeque::new() }
    }
}

impl Iterator for ImageRecords {
    type Item = Result<ImageRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            match self.batches.as_mut()?.next()? {
                Ok(batch) => match records(&batch) {
                    Ok(records) => self.ready = records,
                    Err(why) => {
                        self.batches = None;
                        return Some(Err(Error::table(&*self.uri, why)));
                    }
                },
                Err(error) => return Some(Err(error)),
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

fn records(batch: &RecordBatch) -> Result<VecDeque<ImageRecord>, String> {
    let (path, label, cause) =
        (texts(batch, "path")?, texts(batch, "label")?, texts(batch, "cause")?);
    let numbers = |name| ints(batch, name);
    let (byte_len, height, width) =
        (numbers("byte_len")?, numbers("image_height")?, numbers("image_width")?);
    let n_vectors = numbers("n_vectors")?;
    let record = |row| {
        let side = |column| int(column, row).and_then(|side| u32::try_from(side).ok());
        ImageRecord {
            path: text(path.as_ref(), row),
            label: text(label.as_ref(), row),
            byte_len: int(byte_len.as_ref(), row).and_then(|len| u64::try_from(len).ok()),
            size: side(height.as_ref()).zip(side(width.as_ref())),
            n_vectors: side(n_vectors.as_ref()),
            cause: text(cause.as_ref(), row),
        }
    };
    Ok((0..batch.num_rows()).map(record).collect())
}

/// The failures of a batch.
pub(super) fn failures(batch: &RecordBatch) -> Result<Vec<FailedImage>, String> {
    let [uri, stage, cause, message] =
        ["uri", "stage", "cause", "message"].map(|name| texts(batch, name));
    let (uri, stage, cause, message) = (uri?, stage?, cause?, message?);
    let failure = |row| {
        let word = |column| text(column, row).unwrap_or_default();
        FailedImage::new(
            text(uri.as_ref(), row),
            word(stage.as_ref()),
            word(cause.as_ref()),
            word(message.as_ref()),
        )
    };
    Ok((0..batch.num_rows()).map(failure).collect())
}
