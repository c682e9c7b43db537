//! The columns of the result, and the conversion of rows to Arrow.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    RecordBatch, StringArray,
};
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use ndarray::{Array2, ArrayView2, s};
use serde::{Deserialize, Serialize};

use crate::orb::DESCRIPTOR_LEN;
use crate::rows::{DescriptorRow, RowBatch, descriptors};

/// The type of the scores in the column `pca`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreWidth {
    /// Float32: seven digits, half the space.
    #[default]
    F32,
    /// Float64, as they are computed.
    F64,
}

impl ScoreWidth {
    fn data_type(self) -> DataType {
        match self {
            Self::F32 => DataType::Float32,
            Self::F64 => DataType::Float64,
        }
    }
}

/// The schema of the result, with a column `pca` of so many components if there are any.
///
/// | column | type | |
/// |---|---|---|
/// | `path` | Utf8 | path or key of the image |
/// | `label` | Utf8, nullable | |
/// | `image_height`, `image_width`, `image_channels` | Int32 | |
/// | `keypoint_index` | Int32 | place within its image, from 0 |
/// | `x`, `y` | Float32 | pixels of the image |
/// | `size` | Float32 | diameter of the patch, pixels of the image |
/// | `angle` | Float32 | degrees, [0, 360) |
/// | `response` | Float32 | |
/// | `octave` | Int32 | |
/// | `descriptor` | FixedSizeBinary(32) | |
/// | `pca` | FixedSizeList of Float32 (Float64 on request) | the scores |
#[must_use]
pub fn schema(n_components: Option<usize>, width: ScoreWidth) -> SchemaRef {
    let mut fields: Vec<Field> = COLUMNS
        .iter()
        .map(|(name, values)| {
            let data_type = match values {
                Values::Path(_) | Values::Label(_) => DataType::Utf8,
                Values::Int(_) => DataType::Int32,
                Values::Float(_) => DataType::Float32,
                Values::Descriptor => DataType::FixedSizeBinary(DESCRIPTOR_LEN as i32),
            };
            Field::new(*name, data_type, matches!(values, Values::Label(_)))
        })
        .collect();
    if let Some(k) = n_components {
        let list = DataType::FixedSizeList(score_field(width), k as i32);
        fields.push(Field::new("pca", list, false));
    }
    Arc::new(Schema::new(fields))
}

fn score_field(width: ScoreWidth) -> Arc<Field> {
    Arc::new(Field::new("element", width.data_type(), false))
}

/// The values of a column, by row.
enum Values {
    Path(fn(&DescriptorRow) -> &str),
    Label(fn(&DescriptorRow) -> Option<&str>),
    Int(fn(&DescriptorRow) -> i32),
    Float(fn(&DescriptorRow) -> f32),
    Descriptor,
}

/// All columns but the scores, which come last.
const COLUMNS: [(&str, Values); 13] = [
    ("path", Values::Path(|r| &r.meta.uri)),
    ("label", Values::Label(|r| r.meta.label.as_deref())),
    ("image_height", Values::Int(|r| r.meta.height as i32)),
    ("image_width", Values::Int(|r| r.meta.width as i32)),
    ("image_channels", Values::Int(|r| r.meta.channels.into())),
    ("keypoint_index", Values::Int(|r| r.index as i32)),
    ("x", Values::Float(|r| r.keypoint.x)),
    ("y", Values::Float(|r| r.keypoint.y)),
    ("size", Values::Float(|r| r.keypoint.size)),
    ("angle", Values::Float(|r| r.keypoint.angle)),
    ("response", Values::Float(|r| r.keypoint.response)),
    ("octave", Values::Int(|r| r.keypoint.octave)),
    ("descriptor", Values::Descriptor),
];

/// Converts rows and their scores to Arrow, in the columns of [`schema`].
///
/// # Errors
/// Arrow's, if the scores do not have one row for each row, or no column.
pub fn to_record_batch(batch: &RowBatch, width: ScoreWidth) -> Result<RecordBatch, ArrowError> {
    let schema = schema_of(batch, width)?;
    let all = 0..batch.rows.len();
    let columns = (0..schema.fields().len()).map(|i| column(batch, all.clone(), i, width));
    RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<_, _>>()?)
}

/// The schema of a batch.
///
/// # Errors
/// Arrow's, if the scores do not have one row for each row, or no column.
pub(super) fn schema_of(batch: &RowBatch, width: ScoreWidth) -> Result<SchemaRef, ArrowError> {
    let rows = batch.rows.len();
    match batch.scores.as_ref().map(Array2::dim) {
        Some((scores, _)) if scores != rows => {
            Err(ArrowError::InvalidArgumentError(format!("{rows} rows have scores for {scores}")))
        }
        Some((_, 0)) => {
            Err(ArrowError::InvalidArgumentError("the rows have scores of no component".into()))
        }
        dim => Ok(schema(dim.map(|(_, components)| components), width)),
    }
}

/// The columns as a manifest names them: `label: string, nullable`. Two schemas have the same if and only if their
/// columns are the same, whatever arrow calls its types.
#[cfg(feature = "s3")]
pub(super) fn column_types(schema: &Schema) -> Vec<String> {
    fn name_of(data_type: &DataType) -> String {
        match data_type {
            DataType::Utf8 => "string".to_owned(),
            DataType::Int32 => "int32".to_owned(),
            DataType::Float32 => "float32".to_owned(),
            DataType::Float64 => "float64".to_owned(),
            DataType::FixedSizeBinary(len) => format!("binary[{len}]"),
            DataType::FixedSizeList(of, len) => {
                format!("list[{len}] of {}{}", name_of(of.data_type()), null(of))
            }
            other => unreachable!("the sink has no column of type {other:?}"),
        }
    }
    fn null(field: &Field) -> &'static str {
        if field.is_nullable() { ", nullable" } else { "" }
    }
    let fields = schema.fields().iter();
    fields.map(|f| format!("{}: {}{}", f.name(), name_of(f.data_type()), null(f))).collect()
}

/// Converts some rows of one column, which has that place in [`schema`].
pub(super) fn column(
    batch: &RowBatch,
    range: Range<usize>,
    place: usize,
    width: ScoreWidth,
) -> Result<ArrayRef, ArrowError> {
    let Some((_, values)) = COLUMNS.get(place) else {
        let none = || ArrowError::SchemaError("the batch has no scores".to_owned());
        return scores(batch.scores.as_ref().ok_or_else(none)?.slice(s![range, ..]), width);
    };
    let rows = &batch.rows[range];
    Ok(match values {
        Values::Path(value) => Arc::new(StringArray::from_iter_values(rows.iter().map(value))),
        Values::Label(value) => Arc::new(rows.iter().map(value).collect::<StringArray>()),
        Values::Int(value) => Arc::new(Int32Array::from_iter_values(rows.iter().map(value))),
        Values::Float(value) => Arc::new(Float32Array::from_iter_values(rows.iter().map(value))),
        Values::Descriptor => {
            let bytes = descriptors(rows).into();
            Arc::new(FixedSizeBinaryArray::try_new(DESCRIPTOR_LEN as i32, bytes, None)?)
        }
    })
}

fn scores(scores: ArrayView2<'_, f64>, width: ScoreWidth) -> Result<ArrayRef, ArrowError> {
    let values: ArrayRef = match width {
        ScoreWidth::F32 => {
            Arc::new(Float32Array::from_iter_values(scores.iter().map(|&s| s as f32)))
        }
        ScoreWidth::F64 => Arc::new(Float64Array::from_iter_values(scores.iter().copied())),
    };
    let size = scores.ncols() as i32;
    Ok(Arc::new(FixedSizeListArray::try_new(score_field(width), size, values, None)?))
}

#[cfg(all(test, feature = "s3"))]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_tells_columns_by_names_that_stay() {
        let types = column_types(&schema(Some(20), ScoreWidth::F32));
        assert_eq!(
            types,
            [
                "path: string",
                "label: string, nullable",
                "image_height: int32",
                "image_width: int32",
                "image_channels: int32",
                "keypoint_index: int32",
                "x: float32",
                "y: float32",
                "size: float32",
                "angle: float32",
                "response: float32",
                "octave: int32",
                "descriptor: binary[32]",
                "pca: list[20] of float32",
            ]
        );
        for other in
            [(Some(21), ScoreWidth::F32), (Some(20), ScoreWidth::F64), (None, ScoreWidth::F32)]
        {
            assert_ne!(column_types(&schema(other.0, other.1)), types);
        }
    }
}
