//! One Parquet file of rows. Its columns are encoded in parallel while the next rows are gathered.

use std::ops::Range;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::own::Columns;
use super::target::{Target, TargetFile};
use crate::error::{Error, Result};
use crate::parallel::{Parallelism, UnderWay};
use crate::rows::RowBatch;

/// Rows that are gathered before their columns are converted and encoded in parallel: enough work for each thread.
const ROWS_AT_A_TIME: usize = 8192;

/// Columns in work in the background, the last first: the scores take as long as all other columns together.
type Encoding<R> = UnderWay<Result<R, ParquetError>>;

/// Waits for all columns; a panic in one of them is resumed here.
fn settled<R>(columns: Encoding<R>) -> Result<Vec<R>, ParquetError> {
    columns.wait().into_iter().collect()
}

/// The columns of the row group in progress, each with one leaf, and their state.
enum RowGroup {
    /// No row has been encoded yet.
    New(Vec<ArrowColumnWriter>),
    /// Rows are being encoded, and more will follow.
    Open(Encoding<ArrowColumnWriter>),
    /// The last rows of the group are being encoded.
    Complete(Encoding<ArrowColumnChunk>),
}

/// One open file.
pub(super) struct Part {
    uri: String,
    file: SerializedFileWriter<TargetFile>,
    row_groups: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    columns: Columns,
    rows: u64,
    /// The row group in progress; `None` once it is in the file.
    row_group: Option<RowGroup>,
    row_group_rows: usize,
    /// Rows that the open row group still has room for.
    room: usize,
    /// Rows that are not encoded yet.
    waiting: Vec<(Arc<RowBatch>, Range<usize>)>,
    waiting_rows: usize,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Part {
    pub fn create(
        target: &Target,
        name: &str,
        schema: &SchemaRef,
        columns: &Columns,
        properties: &WriterProperties,
    ) -> Result<Self> {
        let (uri, writer) = open(target, name, schema, properties)?;
        let (file, row_groups) =
            writer.into_serialized_writer().map_err(|e| Error::broken(&uri, e))?;
        let row_group_rows = properties.max_row_group_row_count().unwrap_or(usize::MAX);
        // Made in advance, while the first rows are being gathered: this takes half a millisecond.
        let writers = row_groups.create_column_writers(0).map_err(|e| Error::broken(&uri, e))?;
        Ok(Self {
            uri,
            file,
            row_groups,
            schema: Arc::clone(schema),
            columns: columns.clone(),
            rows: 0,
            row_group: Some(RowGroup::New(writers)),
            row_group_rows,
            room: row_group_rows,
            waiting: Vec::new(),
            waiting_rows: 0,
        })
    }

    /// Rows given to this file so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes a range of rows of a batch, which has the columns of the schema.
    pub fn write(
        &mut self,
        batch: &Arc<RowBatch>,
        mut range: Range<usize>,
        threads: &Parallelism,
    ) -> Result<()> {
        self.rows += range.len() as u64;
        while !range.is_empty() {
            let rows = self.room.min(range.len());
            self.waiting.push((Arc::clone(batch), range.start..range.start + rows));
            self.waiting_rows += rows;
            self.room -= rows;
            range.start += rows;
            if self.room == 0 || self.waiting_rows >= ROWS_AT_A_TIME {
                self.encode(threads).map_err(|e| Error::broken(&self.uri, e))?;
            }
        }
        Ok(())
    }

    /// Converts and encodes the waiting rows in the background; completes the row group if it has no room left.
    fn encode(&mut self, threads: &Parallelism) -> Result<(), ParquetError> {
        let mut writers = self.settle()?;
        if writers.is_empty() {
            let index = self.file.flushed_row_groups().len();
            writers = self.row_groups.create_column_writers(index)?;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_rows = 0;
        let (schema, columns) = (Arc::clone(&self.schema), self.columns.clone());
        let take_up = move |place: usize, mut writer: ArrowColumnWriter| {
            for (batch, range) in &waiting {
                let values = columns.array(batch, range.clone(), place, &schema)?;
                for leaf in compute_leaves(&schema.fields()[place], &values)? {
                    writer.write(&leaf)?;
                }
            }
            Ok(writer)
        };
        self.row_group = Some(if self.room > 0 {
            RowGroup::Open(threads.each(writers, take_up))
        } else {
            self.room = self.row_group_rows;
            let complete = move |place, writer| take_up(place, writer)?.close();
            RowGroup::Complete(threads.each(writers, complete))
        });
        Ok(())
    }

    /// Waits for the row group in progress. Returns its columns if it is open; writes it to the file if it is complete.
    fn settle(&mut self) -> Result<Vec<ArrowColumnWriter>, ParquetError> {
        match self.row_group.take() {
            None => {}
            Some(RowGroup::New(columns)) => return Ok(columns),
            Some(RowGroup::Open(columns)) => return settled(columns),
            Some(RowGroup::Complete(chunks)) => {
                let chunks = settled(chunks)?;
                let mut row_group = self.file.next_row_group()?;
                chunks
                    .into_iter()
                    .try_for_each(|chunk| chunk.append_to_row_group(&mut row_group))?;
                row_group.close()?;
            }
        }
        Ok(Vec::new())
    }

    /// Completes the file, with notes in its footer, and returns its length.
    pub fn close(mut self, threads: &Parallelism, notes: &[KeyValue]) -> Result<u64> {
        if self.room < self.row_group_rows {
            self.room = 0;
            self.encode(threads).map_err(|e| Error::broken(&self.uri, e))?;
        }
        self.settle().map_err(|e| Error::broken(&self.uri, e))?;
        for note in notes {
            self.file.append_key_value_metadata(note.clone());
        }
        let file = self.file.into_inner().map_err(|e| Error::broken(&self.uri, e))?;
        file.close(self.rows).map_err(|e| Error::broken(&self.uri, e))
    }
}

/// Begins a file in a target, and returns its path or URI, for messages.
pub(super) fn open(
    target: &Target,
    name: &str,
    schema: &SchemaRef,
    properties: &WriterProperties,
) -> Result<(String, ArrowWriter<TargetFile>)> {
    let (file, uri) = (target.file(name)?, target.uri(name));
    let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties.clone()))
        .map_err(|e| Error::broken(&uri, e))?;
    Ok((uri, writer))
}
