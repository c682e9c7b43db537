//! Rows that are due to be written, by columns: this crate's, and the caller's after them.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, Field, FieldRef, Schema, SchemaRef};

use crate::rows::{RowBatch, TableParams, column};

/// Rows in the columns of a schema.
pub(super) trait Chunk: Send + Sync {
    /// The rows `range` of the column at index `place`.
    fn column(&self, place: usize, range: Range<usize>) -> Result<ArrayRef, ArrowError>;

    /// Bytes of the rows `range`, roughly.
    fn bytes(&self, range: Range<usize>) -> usize;
}

impl Chunk for RecordBatch {
    fn column(&self, place: usize, range: Range<usize>) -> Result<ArrayRef, ArrowError> {
        Ok(RecordBatch::column(self, place).slice(range.start, range.len()))
    }

    fn bytes(&self, range: Range<usize>) -> usize {
        let columns = self.columns().iter();
        let bytes = columns.map(|c| c.to_data().get_slice_memory_size().unwrap_or_default());
        bytes.sum::<usize>() / self.num_rows().max(1) * range.len()
    }
}

/// A batch as a table. Columns are converted only when they are encoded.
pub(super) struct Batch {
    pub rows: RowBatch,
    pub columns: Columns,
    pub schema: SchemaRef,
}

impl Chunk for Batch {
    fn column(&self, place: usize, range: Range<usize>) -> Result<ArrayRef, ArrowError> {
        self.columns.array(&self.rows, range, place, &self.schema)
    }

    fn bytes(&self, range: Range<usize>) -> usize {
        self.rows.table_bytes(&self.columns.table, range)
    }
}

type Values = dyn Fn(&RowBatch) -> Result<ArrayRef, ArrowError> + Send + Sync;

/// The columns of the files: first this crate's, which follow from the batches, then the caller's.
#[derive(Clone)]
pub(super) struct Columns {
    table: TableParams,
    own: Vec<(FieldRef, Arc<Values>)>,
}

impl std::fmt::Debug for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.own.iter().map(|(field, _)| field)).finish()
    }
}

impl Columns {
    pub fn new(table: TableParams) -> Self {
        Self { table, own: Vec::new() }
    }

    pub fn add(
        &mut self,
        field: Field,
        values: impl Fn(&RowBatch) -> Result<ArrayRef, ArrowError> + Send + Sync + 'static,
    ) {
        self.own.push((Arc::new(field), Arc::new(values)));
    }

    /// The schema of a batch, the caller's columns last.
    ///
    /// # Errors
    /// Arrow's, for two columns of the same name.
    pub fn schema(&self, batch: &RowBatch) -> Result<SchemaRef, ArrowError> {
        let k = batch.scores().map(ndarray::Array2::ncols);
        let refused = |e: crate::error::Error| ArrowError::InvalidArgumentError(e.to_line());
        self.table.check_for(batch.format(), k).map_err(refused)?;
        let ours = batch.schema(&self.table);
        let own = self.own.iter().map(|(field, _)| Arc::clone(field));
        let fields: Vec<FieldRef> = ours.fields().iter().cloned().chain(own).collect();
        for (i, field) in fields.iter().enumerate() {
            if fields[..i].iter().any(|other| other.name() == field.name()) {
                let why = format!("two columns have the name {:?}", field.name());
                return Err(ArrowError::SchemaError(why));
            }
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// The rows `range` of the column at index `place` of the schema.
    fn array(
        &self,
        batch: &RowBatch,
        range: Range<usize>,
        place: usize,
        schema: &Schema,
    ) -> Result<ArrayRef, ArrowError> {
        let ours = schema.fields().len() - self.own.len();
        let Some((field, values)) = place.checked_sub(ours).map(|own| &self.own[own]) else {
            return column(batch, range, place, &self.table);
        };
        let array = values(batch)?;
        let (name, rows) = (field.name(), batch.table_rows(&self.table));
        if array.len() != rows || array.data_type() != field.data_type() {
            let (len, given) = (array.len(), array.data_type());
            let why = format!("the column {name:?} has {len} values of {given} for {rows} rows");
            return Err(ArrowError::InvalidArgumentError(why));
        }
        if array.null_count() > 0 && !field.is_nullable() {
            let why = format!("the column {name:?} has a null, which its field rules out");
            return Err(ArrowError::InvalidArgumentError(why));
        }
        Ok(array.slice(range.start, range.len()))
    }
}
