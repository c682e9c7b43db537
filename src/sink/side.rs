//! The tables beside the rows: all images, and the images that failed.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::layout::side_name;
use super::part::open;
use super::target::{Target, TargetFile};
use crate::error::{Error, Result};
use crate::rows::{FailedImage, ImageRows, RowBatch};

/// Rows of a row group, which is held in memory until it is full: with four times as many, a job takes 5 MB more.
const ROW_GROUP_ROWS: usize = 2048;

/// Most rows of a file. The footer, which is in memory until the end, names every row group.
const FILE_ROWS: u64 = 2 << 20;

/// Number of rows that are gathered before they are written.
const ROWS_AT_A_TIME: usize = 256;

/// The files of a table beside the rows, the first begun with the first rows.
pub(super) struct SideFile<T> {
    side: &'static str,
    run: String,
    open: Option<(String, ArrowWriter<TargetFile>)>,
    waiting: Vec<T>,
    /// Rows and bytes of the files that are complete.
    rows: u64,
    bytes: u64,
    files: u64,
    /// Rows of the open file.
    count: u64,
}

impl<T> std::fmt::Debug for SideFile<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SideFile").field("side", &self.side).finish_non_exhaustive()
    }
}

/// A row of such a table.
pub(super) trait SideRow: Sized {
    /// Columns whose values repeat.
    const REPEATED: &'static [&'static str];

    fn schema() -> SchemaRef;

    /// The columns of some rows.
    fn columns(rows: &[Self]) -> Vec<ArrayRef>;
}

impl<T: SideRow> SideFile<T> {
    /// A table of a run in the folder `side`.
    pub fn new(side: &'static str, run: &str) -> Self {
        let (run, open, waiting) = (run.to_owned(), None, Vec::new());
        Self { side, run, open, waiting, rows: 0, bytes: 0, files: 0, count: 0 }
    }

    /// Adds a row. `notes` are for the footer of a file that it completes.
    pub fn push(&mut self, row: T, target: &Target, notes: &[KeyValue]) -> Result<()> {
        self.waiting.push(row);
        self.count += 1;
        if self.waiting.len() < ROWS_AT_A_TIME {
            return Ok(());
        }
        self.write(target)?;
        if self.count < FILE_ROWS { Ok(()) } else { self.close_file(notes) }
    }

    /// Begins the first file, even if there are no rows.
    pub fn begin(&mut self, target: &Target) -> Result<()> {
        if self.files == 0 && self.open.is_none() { self.write(target) } else { Ok(()) }
    }

    /// Writes the rows that wait.
    fn write(&mut self, target: &Target) -> Result<()> {
        let (uri, writer) = match &mut self.open {
            Some(open) => open,
            none => {
                let mut properties = WriterProperties::builder()
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .set_dictionary_enabled(false)
                    .set_statistics_enabled(EnabledStatistics::Chunk)
                    .set_compression(Compression::SNAPPY);
                for name in T::REPEATED {
                    properties = properties.set_column_dictionary_enabled((*name).into(), true);
                }
                let properties = properties.build();
                let name = side_name(self.side, self.files, &self.run);
                none.insert(open(target, &name, &T::schema(), &properties)?)
            }
        };
        RecordBatch::try_new(T::schema(), T::columns(&self.waiting))
            .map_err(Into::into)
            .and_then(|batch| writer.write(&batch))
            .map_err(|e| Error::broken(uri, e))?;
        self.waiting.clear();
        Ok(())
    }

    fn close_file(&mut self, notes: &[KeyValue]) -> Result<()> {
        let Some((uri, mut writer)) = self.open.take() else { return Ok(()) };
        for note in notes {
            writer.append_key_value_metadata(note.clone());
        }
        let file = writer.into_inner().map_err(|e| Error::broken(&uri, e))?;
        self.bytes += file.close(self.count).map_err(|e| Error::broken(&uri, e))?;
        self.rows += std::mem::take(&mut self.count);
        self.files += 1;
        Ok(())
    }

    /// Completes the files, with `notes` in their footers. Returns the number of rows and the length of all files in
    /// bytes.
    pub fn close(mut self, target: &Target, notes: &[KeyValue]) -> Result<(u64, u64)> {
        if !self.waiting.is_empty() {
            self.write(target)?;
        }
        self.close_file(notes)?;
        Ok((self.rows, self.bytes))
    }
}

fn texts<'a, T>(rows: &'a [T], text: impl Fn(&'a T) -> Option<&'a str>) -> ArrayRef {
    Arc::new(rows.iter().map(text).collect::<StringArray>())
}

impl SideRow for FailedImage {
    const REPEATED: &'static [&'static str] = &["stage", "cause"];

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("uri", DataType::Utf8, true),
            Field::new("stage", DataType::Utf8, false),
            Field::new("cause", DataType::Utf8, false),
            Field::new("message", DataType::Utf8, false),
        ]))
    }

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            texts(rows, |f| f.uri.as_deref()),
            texts(rows, |f| Some(&f.stage)),
            texts(rows, |f| Some(&f.cause)),
            texts(rows, |f| Some(&f.message)),
        ]
    }
}

/// A row of the table of all images.
pub(super) struct ListedRow {
    path: Option<String>,
    label: Option<String>,
    byte_len: Option<i64>,
    /// Height, width and channels.
    shape: [Option<i32>; 3],
    n_vectors: Option<i32>,
    cause: Option<String>,
}

impl ListedRow {
    /// The images that a batch tells of for the first time, good and failed, in order.
    pub fn of_batch(batch: &RowBatch) -> impl Iterator<Item = Self> {
        let mut failed = batch.failed_after().peekable();
        let ends = (0..=batch.images().len()).map(move |at| {
            let before = std::iter::from_fn(|| failed.next_if(|(after, _)| *after == at));
            (before.map(|(_, failed)| Self::of_failed(failed)).collect::<Vec<_>>(), at)
        });
        ends.flat_map(|(failed, at)| {
            let image = batch.images().get(at).filter(|image| image.first_index == 0);
            failed.into_iter().chain(image.map(Self::of_image))
        })
    }

    fn of_image(image: &ImageRows) -> Self {
        let meta = &image.meta;
        let shape = [meta.height as i32, meta.width as i32, meta.channels.into()];
        Self {
            path: Some(meta.uri.clone()),
            label: meta.label.clone(),
            byte_len: Some(meta.byte_len as i64),
            shape: shape.map(Some),
            n_vectors: Some(image.n_vectors as i32),
            cause: None,
        }
    }

    fn of_failed(failed: &FailedImage) -> Self {
        Self {
            path: failed.uri.clone(),
            label: failed.label.clone(),
            byte_len: failed.byte_len.map(|len| len as i64),
            shape: [None; 3],
            n_vectors: None,
            cause: Some(failed.cause.clone()),
        }
    }
}

impl SideRow for ListedRow {
    const REPEATED: &'static [&'static str] = &["label", "status", "cause"];

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("path", DataType::Utf8, true),
            Field::new("label", DataType::Utf8, true),
            Field::new("byte_len", DataType::Int64, true),
            Field::new("image_height", DataType::Int32, true),
            Field::new("image_width", DataType::Int32, true),
            Field::new("image_channels", DataType::Int32, true),
            Field::new("n_vectors", DataType::Int32, true),
            Field::new("status", DataType::Utf8, false),
            Field::new("cause", DataType::Utf8, true),
        ]))
    }

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        let ints = |value: fn(&Self) -> Option<i32>| -> ArrayRef {
            Arc::new(rows.iter().map(value).collect::<Int32Array>())
        };
        vec![
            texts(rows, |row| row.path.as_deref()),
            texts(rows, |row| row.label.as_deref()),
            Arc::new(rows.iter().map(|row| row.byte_len).collect::<Int64Array>()),
            ints(|row| row.shape[0]),
            ints(|row| row.shape[1]),
            ints(|row| row.shape[2]),
            ints(|row| row.n_vectors),
            texts(rows, |row| Some(if row.cause.is_none() { "ok" } else { "failed" })),
            texts(rows, |row| row.cause.as_deref()),
        ]
    }
}
