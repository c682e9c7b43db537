//! The tables beside the rows: all images, and the images that failed.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::layout::side_name;
use super::part::open;
use super::target::{Target, TargetFile};
use crate::error::{Error, Result};
use crate::rows::{FailedImage, RowBatch, Seen};

/// Rows of a row group, which is held in memory until it is full.
const ROW_GROUP_ROWS: usize = 16_384;

/// Number of rows that are gathered before they are written.
const ROWS_AT_A_TIME: usize = 1024;

/// A file of a table beside the rows, begun with its first rows.
pub(super) struct SideFile<T> {
    name: String,
    open: Option<(String, ArrowWriter<TargetFile>)>,
    waiting: Vec<T>,
    count: u64,
}

impl<T> std::fmt::Debug for SideFile<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SideFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A row of such a table.
pub(super) trait SideRow: Sized {
    fn schema() -> SchemaRef;

    /// The columns of some rows.
    fn columns(rows: &[Self]) -> Vec<ArrayRef>;
}

impl<T: SideRow> SideFile<T> {
    /// A file of a run in the folder `side`.
    pub fn new(side: &str, run: &str) -> Self {
        Self { name: side_name(side, run), open: None, waiting: Vec::new(), count: 0 }
    }

    pub fn push(&mut self, row: T, target: &Target) -> Result<()> {
        self.waiting.push(row);
        self.count += 1;
        if self.waiting.len() < ROWS_AT_A_TIME { Ok(()) } else { self.write(target) }
    }

    /// Writes the rows that wait; begins the file even if there are none.
    pub fn write(&mut self, target: &Target) -> Result<()> {
        let (uri, writer) = match &mut self.open {
            Some(open) => open,
            none => {
                let rows = Some(ROW_GROUP_ROWS);
                let properties =
                    WriterProperties::builder().set_max_row_group_row_count(rows).build();
                none.insert(open(target, &self.name, &T::schema(), &properties)?)
            }
        };
        RecordBatch::try_new(T::schema(), T::columns(&self.waiting))
            .map_err(Into::into)
            .and_then(|batch| writer.write(&batch))
            .map_err(|e| Error::broken(uri, e))?;
        self.waiting.clear();
        Ok(())
    }

    /// Completes the file, if it was begun, with `notes` in its footer. Returns the number of rows and the length of
    /// the file in bytes.
    pub fn close(mut self, target: &Target, notes: &[KeyValue]) -> Result<(u64, u64)> {
        if !self.waiting.is_empty() {
            self.write(target)?;
        }
        let Some((uri, mut writer)) = self.open else { return Ok((0, 0)) };
        for note in notes {
            writer.append_key_value_metadata(note.clone());
        }
        let file = writer.into_inner().map_err(|e| Error::broken(&uri, e))?;
        let bytes = file.close(self.count).map_err(|e| Error::broken(&uri, e))?;
        Ok((self.count, bytes))
    }
}

fn texts<'a, T>(rows: &'a [T], text: impl Fn(&'a T) -> Option<&'a str>) -> ArrayRef {
    Arc::new(rows.iter().map(text).collect::<StringArray>())
}

impl SideRow for FailedImage {
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
    /// The images that a batch tells of for the first time.
    pub fn of_batch(batch: &RowBatch) -> impl Iterator<Item = Self> {
        batch.seen().map(|seen| match seen {
            Seen::Image(image) => {
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
            Seen::Failed(failed) => Self {
                path: failed.uri.clone(),
                label: failed.label.clone(),
                byte_len: failed.byte_len.map(|len| len as i64),
                shape: [None; 3],
                n_vectors: None,
                cause: Some(failed.cause.clone()),
            },
        })
    }
}

impl SideRow for ListedRow {
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
