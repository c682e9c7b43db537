//! A sink that only counts: for benchmarks and dry runs.

use super::{RowSink, SinkReport};
use crate::error::Result;
use crate::rows::RowBatch;

/// Counts rows and failures and keeps none.
#[derive(Clone, Debug, Default)]
pub struct NullSink {
    report: SinkReport,
}

impl RowSink for NullSink {
    fn annotate(&mut self, _key: &str, _value: &str) {}

    fn write(&mut self, batch: RowBatch) -> Result<()> {
        self.report.rows += batch.len() as u64;
        self.report.failures += batch.failed().iter().filter(|f| f.recorded).count() as u64;
        Ok(())
    }

    fn finish(self) -> Result<SinkReport> {
        Ok(self.report)
    }
}
