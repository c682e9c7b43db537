//! The columns of the result, and the conversion of rows to Arrow.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
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
