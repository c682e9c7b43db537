//! The columns of the result, and the conversion of rows to Arrow.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryBuilder, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    RecordBatch, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use crate::orb::DESCRIPTOR_LEN;
use crate::rows::{DescriptorRow, RowBatch};

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
    let column = |name, data_type| Field::new(name, data_type, false);
    let mut fields = vec![
        column("path", DataType::Utf8),
        Field::new("label", DataType::Utf8, true),
        column("image_height", DataType::Int32),
        column("image_width", DataType::Int32),
        column("image_channels", DataType::Int32),
        column("keypoint_index", DataType::Int32),
        column("x", DataType::Float32),
        column("y", DataType::Float32),
        column("size", DataType::Float32),
        column("angle", DataType::Float32),
        column("response", DataType::Float32),
        column("octave", DataType::Int32),
        column("descriptor", DataType::FixedSizeBinary(DESCRIPTOR_LEN as i32)),
    ];
    if let Some(k) = n_components {
        fields.push(column("pca", DataType::FixedSizeList(score_field(width), k as i32)));
    }
    Arc::new(Schema::new(fields))
}

fn score_field(width: ScoreWidth) -> Arc<Field> {
    Arc::new(Field::new("element", width.data_type(), false))
}

/// Converts rows and their scores to Arrow, in the columns of [`schema`].
///
/// # Errors
/// Arrow's, if the scores do not have one row for each row.
pub fn to_record_batch(batch: &RowBatch, width: ScoreWidth) -> Result<RecordBatch, ArrowError> {
    let rows = &batch.rows;
    let n = rows.len();
    let int = |value: fn(&DescriptorRow) -> i32| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<Int32Array>())
    };
    let float = |value: fn(&DescriptorRow) -> f32| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<Float32Array>())
    };
    let mut paths = StringBuilder::with_capacity(n, 64 * n);
    let mut labels = StringBuilder::with_capacity(n, 16 * n);
    let mut descriptors = FixedSizeBinaryBuilder::with_capacity(n, DESCRIPTOR_LEN as i32);
    for row in rows {
        paths.append_value(&row.meta.uri);
        labels.append_option(row.meta.label.as_deref());
        descriptors.append_value(row.descriptor)?;
    }
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(paths.finish()),
        Arc::new(labels.finish()),
        int(|r| r.meta.height as i32),
        int(|r| r.meta.width as i32),
        int(|r| r.meta.channels.into()),
        int(|r| r.index as i32),
        float(|r| r.keypoint.x),
        float(|r| r.keypoint.y),
        float(|r| r.keypoint.size),
        float(|r| r.keypoint.angle),
        float(|r| r.keypoint.response),
        int(|r| r.keypoint.octave),
        Arc::new(descriptors.finish()),
    ];
    let components = batch.scores.as_ref().map(ndarray::ArrayBase::ncols);
    if let Some(scores) = &batch.scores {
        let values: ArrayRef = match width {
            ScoreWidth::F32 => {
                Arc::new(Float32Array::from_iter_values(scores.iter().map(|&s| s as f32)))
            }
            ScoreWidth::F64 => Arc::new(Float64Array::from_iter_values(scores.iter().copied())),
        };
        let list =
            FixedSizeListArray::try_new(score_field(width), scores.ncols() as i32, values, None)?;
        columns.push(Arc::new(list));
    }
    RecordBatch::try_new(schema(components, width), columns)
}
