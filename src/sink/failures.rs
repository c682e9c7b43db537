//! The Parquet file of the images that failed, beside the rows.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::layout::errors_name;
use super::part::open;
use super::target::{Target, TargetFile};
use crate::error::{Error, Result};
use crate::rows::FailedImage;

/// Rows of a row group, which is held in memory until it is full.
const ROW_GROUP_ROWS: usize = 32_768;

/// Number of failures that are gathered before they are written.
const FAILURES_AT_A_TIME: usize = 1024;

/// `_errors/part-00000-<run id>.parquet`, created when the first failures are written.
pub(super) struct FailureFile {
    name: String,
    open: Option<(String, ArrowWriter<TargetFile>)>,
    waiting: Vec<FailedImage>,
    count: u64,
}

impl std::fmt::Debug for FailureFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailureFile").field("count", &self.count).finish_non_exhaustive()
    }
}

impl FailureFile {
    pub fn new(run_id: &str) -> Self {
        Self { name: errors_name(run_id), open: None, waiting: Vec::new(), count: 0 }
    }

    pub fn push(&mut self, failure: &FailedImage, target: &Target) -> Result<()> {
        self.waiting.push(failure.clone());
        self.count += 1;
        if self.waiting.len() < FAILURES_AT_A_TIME { Ok(()) } else { self.write(target) }
    }

    fn write(&mut self, target: &Target) -> Result<()> {
        let (uri, writer) = match &mut self.open {
            Some(open) => open,
            none => {
                let rows = Some(ROW_GROUP_ROWS);
                let properties =
                    WriterProperties::builder().set_max_row_group_row_count(rows).build();
                none.insert(open(target, &self.name, &schema(), &properties)?)
            }
        };
        let text = |value: fn(&FailedImage) -> Option<&str>| -> ArrayRef {
            Arc::new(self.waiting.iter().map(value).collect::<StringArray>())
        };
        let columns = vec![
            text(|f| f.uri.as_deref()),
            text(|f| Some(&f.stage)),
            text(|f| Some(&f.cause)),
            text(|f| Some(&f.message)),
        ];
        RecordBatch::try_new(schema(), columns)
            .map_err(Into::into)
            .and_then(|batch| writer.write(&batch))
            .map_err(|e| Error::broken(uri, e))?;
        self.waiting.clear();
        Ok(())
    }

    /// Completes the file, if there was any failure, with `notes` in its footer. Returns the number of
    /// failures and the length of the file in bytes.
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

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("uri", DataType::Utf8, true),
        Field::new("stage", DataType::Utf8, false),
        Field::new("cause", DataType::Utf8, false),
        Field::new("message", DataType::Utf8, false),
    ]))
}
