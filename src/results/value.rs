//! Values of columns, whatever their types.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_cast::CastOptions;
use arrow_schema::DataType;

fn cast(batch: &RecordBatch, name: &str, to: &DataType) -> Result<Option<ArrayRef>, String> {
    let Some(column) = batch.column_by_name(name) else { return Ok(None) };
    cast_array(column, to).map(Some).map_err(|e| format!("column {name:?}: {e}"))
}

fn cast_array(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    // A text that is no number is an error, and no null.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    arrow_cast::cast_with_options(column, to, &options).map_err(|e| e.to_string())
}

/// A column of texts, if there is one.
pub(super) fn texts(batch: &RecordBatch, name: &str) -> Result<Option<StringArray>, String> {
    let column = cast(batch, name, &DataType::Utf8)?;
    Ok(column.map(|column| column.as_string::<i32>().clone()))
}

/// The text of a row; of CSV, an empty one is none.
pub(super) fn text(column: Option<&StringArray>, row: usize) -> Option<String> {
    let column = column.filter(|column| column.is_valid(row))?;
    Some(column.value(row)).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A column of whole numbers, if there is one.
pub(super) fn ints(batch: &RecordBatch, name: &str) -> Result<Option<Int64Array>, String> {
    let column = cast(batch, name, &DataType::Int64)?;
    Ok(column.map(|column| column.as_primitive::<Int64Type>().clone()))
}

/// The number of a row.
pub(super) fn int(column: Option<&Int64Array>, row: usize) -> Option<i64> {
    column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
}

/// A column of numbers, if there is one.
pub(super) fn floats(batch: &RecordBatch, name: &str) -> Result<Option<Float32Array>, String> {
    let column = cast(batch, name, &DataType::Float32)?;
    Ok(column.map(|column| column.as_primitive::<Float32Type>().clone()))
}
