//! One Parquet file of rows, whose columns are encoded side by side, while the next rows are gathered.

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

/// Rows that are gathered before their columns are converted and encoded, side by side: enough for each
/// thread.
const ROWS_AT_A_TIME: usize = 8192;

/// Columns that are worked on while the caller goes on, the last first: the scores take as long as all the others.
type Encoding<R> = UnderWay<Result<R, ParquetError>>;

/// Waits for all columns; a panic goes on here.
fn settled<R>(columns: Encoding<R>) -> Result<Vec<R>, ParquetError> {
    columns.wait().into_iter().collect()
}

/// The columns of the last row group, each with one leaf, and what is done to them.
enum RowGroup {
    /// Nothing yet.
    New(Vec<ArrowColumnWriter>),
    /// They take up rows, and will take more.
    Open(Encoding<ArrowColumnWriter>),
    /// They take up the last of their rows.
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
    /// The rows that the open row group has room for.
    room: usize,
    /// Rows that are still to be encoded.
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
        // Now, while the first rows are still gathered: it takes half a millisecond.
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

    /// The rows that it has been given.
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

    /// Has the rows that are waiting converted and encoded; the row group is complete if it has no room left.
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

    /// Waits for the last row group: its columns if it is open; if it is complete, it goes into the file.
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

/// Begins a file of a target, and says where it will be found.
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
