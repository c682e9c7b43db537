//! The caller's columns, after this crate's.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};

use crate::rows::{RowBatch, ScoreWidth, column};

type Values = dyn Fn(&RowBatch) -> Result<ArrayRef, ArrowError> + Send + Sync;

/// The columns of the files: first this crate's, which follow from the batches, then the caller's.
#[derive(Clone)]
pub(super) struct Columns {
    pub score_width: ScoreWidth,
    own: Vec<(FieldRef, Arc<Values>)>,
}

/// Whether a type is a single leaf column in Parquet: plain values, or lists of them.
fn has_one_leaf(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) => {
            has_one_leaf(of.data_type())
        }
        other => !other.is_nested(),
    }
}

impl std::fmt::Debug for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.own.iter().map(|(field, _)| field)).finish()
    }
}

impl Columns {
    pub fn new(score_width: ScoreWidth) -> Self {
        Self { score_width, own: Vec::new() }
    }

    pub fn add(
        &mut self,
        field: Field,
        values: impl Fn(&RowBatch) -> Result<ArrayRef, ArrowError> + Send + Sync + 'static,
    ) {
        self.own.push((Arc::new(field), Arc::new(values)));
    }

    /// Whether a column is the caller's.
    pub fn is_own(&self, name: &str) -> bool {
        self.own.iter().any(|(field, _)| field.name() == name)
    }

    /// The schema of a batch, the caller's columns last.
    ///
    /// # Errors
    /// Arrow's, for a caller's column of a nested type other than a list, and for two columns of the same name.
    pub fn schema(&self, batch: &RowBatch) -> Result<SchemaRef, ArrowError> {
        let ours = batch.schema(self.score_width);
        let own = self.own.iter().map(|(field, _)| Arc::clone(field));
        let fields: Vec<FieldRef> = ours.fields().iter().cloned().chain(own).collect();
        for (field, _) in &self.own {
            if !has_one_leaf(field.data_type()) {
                let why = format!("the column {:?} has fields within", field.name());
                return Err(ArrowError::SchemaError(why));
            }
        }
        for (i, field) in fields.iter().enumerate() {
            if fields[..i].iter().any(|other| other.name() == field.name()) {
                let why = format!("two columns have the name {:?}", field.name());
                return Err(ArrowError::SchemaError(why));
            }
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// The rows `range` of the column at index `place` of the schema.
    pub fn array(
        &self,
        batch: &RowBatch,
        range: Range<usize>,
        place: usize,
        schema: &Schema,
    ) -> Result<ArrayRef, ArrowError> {
        let ours = schema.fields().len() - self.own.len();
        let Some((field, values)) = place.checked_sub(ours).map(|own| &self.own[own]) else {
            return column(batch, range, place, self.score_width);
        };
        let array = values(batch)?;
        let (name, rows) = (field.name(), batch.len());
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
