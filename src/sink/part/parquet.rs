//! A Parquet file of rows. Its columns are encoded in parallel while the next rows are gathered.

use std::ops::Range;
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::LogicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::Waiting;
use crate::error::{BoxError, Error, Result};
use crate::parallel::{Parallelism, UnderWay};
use crate::rows::is_dictionary;
use crate::sink::chunk::Chunk;
use crate::sink::params::FileParams;
use crate::sink::target::{Target, TargetFile};

/// The leaves of a column: one for plain values and lists of them, one for each field of a struct.
type Leaves<T> = Vec<T>;

/// Columns in work in the background, the last first: the scores take as long as all other columns together.
type Encoding<R> = UnderWay<Result<Leaves<R>, ParquetError>>;

/// Waits for all columns; a panic in one of them is resumed here.
fn settled<R>(columns: Encoding<R>) -> Result<Vec<Leaves<R>>, ParquetError> {
    columns.wait().into_iter().collect()
}

/// The columns of the row group in progress, and their state.
enum RowGroup {
    /// No row has been encoded yet.
    New(Vec<Leaves<ArrowColumnWriter>>),
    /// Rows are being encoded, and more will follow.
    Open(Encoding<ArrowColumnWriter>),
    /// The last rows of the group are being encoded.
    Complete(Encoding<ArrowColumnChunk>),
}

/// One open file.
pub(in crate::sink) struct ParquetPart {
    uri: String,
    file: SerializedFileWriter<TargetFile>,
    row_groups: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    rows: u64,
    /// The row group in progress; `None` once it is in the file.
    row_group: Option<RowGroup>,
    row_group_rows: usize,
    /// Rows that the open row group still has room for.
    room: usize,
    /// Bytes of its rows, roughly.
    row_group_bytes: usize,
    /// Rows that are not encoded yet.
    waiting: Waiting,
}

/// Bytes of rows after which a row group ends, as one is held in memory.
const ROW_GROUP_BYTES: usize = 64 << 20;

impl std::fmt::Debug for ParquetPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetPart").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl ParquetPart {
    pub fn create(
        target: &Target,
        name: &str,
        schema: &SchemaRef,
        properties: &WriterProperties,
    ) -> Result<Self> {
        let (uri, writer) = open(target, name, schema, properties)?;
        let (file, row_groups) =
            writer.into_serialized_writer().map_err(|e| Error::broken(&uri, e))?;
        let row_group_rows = properties.max_row_group_row_count().unwrap_or(usize::MAX);
        // Made in advance, while the first rows are being gathered: this takes half a millisecond.
        let writers = row_groups.create_column_writers(0).map_err(|e| Error::broken(&uri, e))?;
        let writers = by_column(&file, writers);
        Ok(Self {
            uri,
            file,
            row_groups,
            schema: Arc::clone(schema),
            rows: 0,
            row_group: Some(RowGroup::New(writers)),
            row_group_rows,
            room: row_group_rows,
            row_group_bytes: 0,
            waiting: Waiting::default(),
        })
    }

    /// Rows given to this file so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes a range of rows of a chunk, which has the columns of the schema.
    pub fn write(
        &mut self,
        chunk: &Arc<dyn Chunk>,
        mut range: Range<usize>,
        threads: &Parallelism,
    ) -> Result<()> {
        self.rows += range.len() as u64;
        while !range.is_empty() {
            let rows = self.room.min(range.len());
            self.waiting.push(chunk, range.start..range.start + rows);
            self.room -= rows;
            range.start += rows;
            // Row groups grow with their number, which has a limit.
            let most = ROW_GROUP_BYTES << (self.file.flushed_row_groups().len() / 8192).min(8);
            if self.row_group_bytes + self.waiting.bytes >= most {
                self.room = 0;
            }
            if self.room == 0 || self.waiting.is_enough() {
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
            writers = by_column(&self.file, self.row_groups.create_column_writers(index)?);
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.row_group_bytes += waiting.bytes;
        let schema = Arc::clone(&self.schema);
        let take_up = move |place: usize, mut writers: Leaves<ArrowColumnWriter>| {
            for (chunk, range) in &waiting.ranges {
                let values = chunk.column(place, range.clone())?;
                let leaves = compute_leaves(&schema.fields()[place], &values)?;
                writers
                    .iter_mut()
                    .zip(leaves)
                    .try_for_each(|(writer, leaf)| writer.write(&leaf))?;
            }
            Ok(writers)
        };
        self.row_group = Some(if self.room > 0 {
            RowGroup::Open(threads.each(writers, take_up))
        } else {
            (self.room, self.row_group_bytes) = (self.row_group_rows, 0);
            let complete = move |place, writers| {
                take_up(place, writers)?.into_iter().map(ArrowColumnWriter::close).collect()
            };
            RowGroup::Complete(threads.each(writers, complete))
        });
        Ok(())
    }

    /// Waits for the row group in progress. Returns its columns if it is open; writes it to the file if it is complete.
    fn settle(&mut self) -> Result<Vec<Leaves<ArrowColumnWriter>>, ParquetError> {
        match self.row_group.take() {
            None => {}
            Some(RowGroup::New(columns)) => return Ok(columns),
            Some(RowGroup::Open(columns)) => return settled(columns),
            Some(RowGroup::Complete(chunks)) => {
                let chunks = settled(chunks)?;
                let mut row_group = self.file.next_row_group()?;
                let mut chunks = chunks.into_iter().flatten();
                chunks.try_for_each(|chunk| chunk.append_to_row_group(&mut row_group))?;
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
pub(in crate::sink) fn open(
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

/// Groups writers of leaves by the columns of the file.
fn by_column(
    file: &SerializedFileWriter<TargetFile>,
    writers: Vec<ArrowColumnWriter>,
) -> Vec<Leaves<ArrowColumnWriter>> {
    let mut columns: Vec<Leaves<_>> = Vec::new();
    for (leaf, writer) in writers.into_iter().enumerate() {
        let column = file.schema_descr().get_column_root_idx(leaf);
        columns.resize_with(columns.len().max(column + 1), Vec::new);
        columns[column].push(writer);
    }
    columns
}

/// How files of these columns are encoded.
pub(in crate::sink) fn properties(
    params: &FileParams,
    schema: &Schema,
) -> Result<WriterProperties> {
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("orb-features ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(params.codec().compression()?)
        .set_max_row_group_row_count(Some(params.row_group_rows()));
    let leaves = ArrowSchemaConverter::new().convert(schema);
    let leaves = leaves.map_err(|e| Error::write_to("the columns", BoxError::from(e)))?;
    for (i, leaf) in leaves.columns().iter().enumerate() {
        // A table of others may have text under the name of a column of numbers.
        let is_text = matches!(leaf.logical_type_ref(), Some(LogicalType::String));
        if !is_text && let Some(is_dictionary) = is_dictionary(leaves.get_column_root(i).name()) {
            builder = builder.set_column_dictionary_enabled(leaf.path().clone(), is_dictionary);
        }
    }
    Ok(builder.build())
}
