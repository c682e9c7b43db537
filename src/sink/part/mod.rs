//! One file of rows, in any format.

mod csv;
mod parquet;

use std::ops::Range;
use std::sync::Arc;

use ::parquet::file::metadata::KeyValue;
use arrow_schema::SchemaRef;

use self::csv::CsvPart;
use self::parquet::ParquetPart;
use super::chunk::Chunk;
use super::format::FileFormat;
use super::params::FileParams;
use super::target::Target;
use crate::error::Result;
use crate::parallel::Parallelism;

pub(super) use self::parquet::{open, properties};

/// Rows that are gathered before they are converted and encoded in parallel: enough work for each thread.
const ROWS_AT_A_TIME: usize = 8192;
/// Bytes of the rows that are gathered, if they are fewer.
const BYTES_AT_A_TIME: usize = 4 << 20;

/// Rows that wait to be encoded.
#[derive(Default)]
struct Waiting {
    /// Ranges of chunks.
    ranges: Vec<(Arc<dyn Chunk>, Range<usize>)>,
    rows: usize,
    bytes: usize,
}

impl Waiting {
    fn push(&mut self, chunk: &Arc<dyn Chunk>, range: Range<usize>) {
        self.rows += range.len();
        self.bytes += chunk.bytes(range.clone());
        self.ranges.push((Arc::clone(chunk), range));
    }

    /// Whether these are enough to be encoded.
    fn is_enough(&self) -> bool {
        self.rows >= ROWS_AT_A_TIME || self.bytes >= BYTES_AT_A_TIME
    }
}

/// An open file of rows.
#[derive(Debug)]
pub(super) enum Part {
    Parquet(Box<ParquetPart>),
    Csv(CsvPart),
}

impl Part {
    pub fn create(
        target: &Target,
        name: &str,
        schema: &SchemaRef,
        params: &FileParams,
    ) -> Result<Self> {
        Ok(match params.format() {
            FileFormat::Parquet => {
                let properties = properties(params, schema)?;
                Self::Parquet(Box::new(ParquetPart::create(target, name, schema, &properties)?))
            }
            FileFormat::Csv | FileFormat::CsvColumns => {
                Self::Csv(CsvPart::create(target, name, schema, params)?)
            }
        })
    }

    /// Rows given to this file so far.
    pub fn rows(&self) -> u64 {
        match self {
            Self::Parquet(part) => part.rows(),
            Self::Csv(part) => part.rows(),
        }
    }

    /// Writes a range of rows of a chunk, which has the columns of the schema.
    pub fn write(
        &mut self,
        chunk: &Arc<dyn Chunk>,
        range: Range<usize>,
        threads: &Parallelism,
    ) -> Result<()> {
        // Long rows are encoded a few at a time.
        let of_a_row = chunk.bytes(range.clone()) / range.len().max(1);
        let step = (BYTES_AT_A_TIME / of_a_row.max(1)).max(1);
        for start in range.clone().step_by(step) {
            let some = start..range.end.min(start.saturating_add(step));
            match self {
                Self::Parquet(part) => part.write(chunk, some, threads)?,
                Self::Csv(part) => part.write(chunk, some, threads)?,
            }
        }
        Ok(())
    }

    /// Completes the file, with notes in its footer if it has one, and returns its length.
    pub fn close(self, threads: &Parallelism, notes: &[KeyValue]) -> Result<u64> {
        match self {
            Self::Parquet(part) => part.close(threads, notes),
            Self::Csv(part) => part.close(threads),
        }
    }
}
