//! One Parquet file of rows, whose columns are encoded side by side.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::schema::{ScoreWidth, column};
use super::target::{Target, TargetFile};
use crate::error::{BoxError, Error, Result};
use crate::rows::RowBatch;
use crate::stage::Parallelism;

/// Rows that are gathered before their columns are converted and encoded, side by side: enough for each
/// thread.
const ROWS_AT_A_TIME: usize = 8192;

/// The threads that encode columns, once there are any to encode.
#[derive(Debug)]
pub(super) struct Encoders {
    threads: usize,
    pool: OnceLock<Option<ThreadPool>>,
}

impl Encoders {
    pub fn new(parallelism: Parallelism) -> Self {
        Self { threads: parallelism.threads(), pool: OnceLock::new() }
    }

    /// Does the work on each column, on several threads if there are.
    fn for_each<T: Send, R: Send>(
        &self,
        columns: Vec<T>,
        work: impl Fn(usize, T) -> Result<R, ParquetError> + Send + Sync,
    ) -> Result<Vec<R>, ParquetError> {
        let pool = self.pool.get_or_init(|| {
            // A machine that refuses threads still gets the work done.
            let pool = ThreadPoolBuilder::new()
                .num_threads(self.threads)
                .thread_name(|i| format!("orb-parquet-{i}"));
            if self.threads > 1 { pool.build().ok() } else { None }
        });
        let columns = columns.into_iter().enumerate();
        let Some(pool) = pool else {
            return columns.map(|(place, column)| work(place, column)).collect();
        };
        // Handed out one at a time, the last first: the scores, which take as long as all the others, then
        // the descriptors.
        let mut done: Vec<_> = pool.install(|| {
            let columns = columns.rev().par_bridge();
            columns.map(|(place, column)| (place, work(place, column))).collect()
        });
        done.sort_unstable_by_key(|(place, _)| *place);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

/// One open file.
pub(super) struct Part {
    uri: String,
    file: SerializedFileWriter<TargetFile>,
    row_groups: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    score_width: ScoreWidth,
    rows: u64,
    /// The columns of the open row group, each with one leaf.
    columns: Vec<ArrowColumnWriter>,
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
        score_width: ScoreWidth,
        properties: &WriterProperties,
    ) -> Result<Self> {
        let (uri, writer) = open(target, name, schema, properties)?;
        let (file, row_groups) = writer.into_serialized_writer().map_err(|e| broken(&uri, e))?;
        let row_group_rows = properties.max_row_group_row_count().unwrap_or(usize::MAX);
        Ok(Self {
            uri,
            file,
            row_groups,
            schema: Arc::clone(schema),
            score_width,
            rows: 0,
            columns: Vec::new(),
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
        encoders: &Encoders,
    ) -> Result<()> {
        self.rows += range.len() as u64;
        while !range.is_empty() {
            let rows = self.room.min(range.len());
            self.waiting.push((Arc::clone(batch), range.start..range.start + rows));
            self.waiting_rows += rows;
            self.room -= rows;
            range.start += rows;
            if self.room == 0 {
                self.end_row_group(encoders).map_err(|e| broken(&self.uri, e))?;
            } else if self.waiting_rows >= ROWS_AT_A_TIME {
                self.encode(encoders).map_err(|e| broken(&self.uri, e))?;
            }
        }
        Ok(())
    }

    /// Converts and encodes the rows that are waiting.
    fn encode(&mut self, encoders: &Encoders) -> Result<(), ParquetError> {
        if self.columns.is_empty() {
            let index = self.file.flushed_row_groups().len();
            self.columns = self.row_groups.create_column_writers(index)?;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_rows = 0;
        let (fields, width) = (self.schema.fields(), self.score_width);
        encoders.for_each(self.columns.iter_mut().collect(), |place, writer| {
            for (batch, range) in &waiting {
                let values = column(batch, range.clone(), place, width)?;
                for leaf in compute_leaves(&fields[place], &values)? {
                    writer.write(&leaf)?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    fn end_row_group(&mut self, encoders: &Encoders) -> Result<(), ParquetError> {
        self.encode(encoders)?;
        let columns = std::mem::take(&mut self.columns);
        let chunks = encoders.for_each(columns, |_, column| column.close())?;
        self.room = self.row_group_rows;
        let mut row_group = self.file.next_row_group()?;
        chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(&mut row_group))?;
        row_group.close()?;
        Ok(())
    }

    /// Completes the file, with notes in its footer, and returns its length.
    pub fn close(mut self, encoders: &Encoders, notes: &[KeyValue]) -> Result<u64> {
        if self.room < self.row_group_rows {
            self.end_row_group(encoders).map_err(|e| broken(&self.uri, e))?;
        }
        for note in notes {
            self.file.append_key_value_metadata(note.clone());
        }
        let file = self.file.into_inner().map_err(|e| broken(&self.uri, e))?;
        file.close(self.rows).map_err(|e| broken(&self.uri, e))
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
        .map_err(|e| broken(&uri, e))?;
    Ok((uri, writer))
}

/// What a failed write means: the file is broken, or the caller asked to stop.
pub(super) fn broken(uri: &str, error: impl Into<BoxError>) -> Error {
    let error = error.into();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(at) = cause {
        let inner = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.and_then(|e| e.downcast_ref()).is_some_and(|e| matches!(e, Error::Interrupted)) {
            return Error::Interrupted;
        }
        cause = at.source();
    }
    Error::write_to(uri, error)
}
