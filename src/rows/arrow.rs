//! Batches as Arrow: the columns of a result.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{
    ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    RecordBatch,
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use ndarray::{ArrayView2, s};
use serde::{Deserialize, Serialize};

use super::{ImageRows, RowBatch};
use crate::choice::choice;
use crate::features::{Element, KeyPoint, VectorFormat, VectorsView};

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

choice!(ScoreWidth, "score_width", F32 = "f32", F64 = "f64");

impl ScoreWidth {
    fn data_type(self) -> DataType {
        match self {
            Self::F32 => DataType::Float32,
            Self::F64 => DataType::Float64,
        }
    }
}

/// The columns of a result, for a format of the vectors and the number of PCA components, if any.
///
/// | column | type | of |
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
/// | `descriptor` | FixedSizeBinary, or FixedSizeList of Float32 | the vector |
/// | `pca` | FixedSizeList of Float32 (Float64 on request) | the scores |
///
/// Without keypoints there is `vector_index` instead of `keypoint_index`, nothing from `x` to `octave`, and
/// `vector` instead of `descriptor`.
#[must_use]
pub fn schema(format: VectorFormat, n_components: Option<usize>, width: ScoreWidth) -> SchemaRef {
    let fields = columns(format).map(|column| {
        let data_type = match column.values {
            Values::Path | Values::Label => DataType::Utf8,
            Values::OfImage(_) | Values::Index | Values::Octave => DataType::Int32,
            Values::OfKeyPoint(_) => DataType::Float32,
            Values::Vector => match format.element() {
                Element::U8 => DataType::FixedSizeBinary(format.len() as i32),
                Element::F32 => list_of(DataType::Float32, format.len()),
            },
        };
        Field::new(column.name, data_type, matches!(column.values, Values::Label))
    });
    let scores = n_components.map(|k| Field::new(SCORES, list_of(width.data_type(), k), false));
    Arc::new(Schema::new(fields.chain(scores).collect::<Vec<_>>()))
}

/// The name of the column of scores, which comes last.
const SCORES: &str = "pca";

fn list_of(data_type: DataType, len: usize) -> DataType {
    DataType::FixedSizeList(element_of(data_type), len as i32)
}

fn element_of(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", data_type, false))
}

/// Where a column's values come from.
#[derive(Clone, Copy)]
enum Values {
    Path,
    Label,
    OfImage(fn(&ImageRows) -> i32),
    Index,
    OfKeyPoint(fn(&KeyPoint) -> f32),
    Octave,
    Vector,
}

#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    values: Values,
    /// `Some(true)`: only for vectors with keypoints. `Some(false)`: only for vectors without. `None`: always.
    keypoints: Option<bool>,
}

const fn column_of(name: &'static str, values: Values, keypoints: Option<bool>) -> Column {
    Column { name, values, keypoints }
}

/// All columns except the scores.
const COLUMNS: [Column; 15] = [
    column_of("path", Values::Path, None),
    column_of("label", Values::Label, None),
    column_of("image_height", Values::OfImage(|i| i.meta.height as i32), None),
    column_of("image_width", Values::OfImage(|i| i.meta.width as i32), None),
    column_of("image_channels", Values::OfImage(|i| i.meta.channels.into()), None),
    column_of("keypoint_index", Values::Index, Some(true)),
    column_of("vector_index", Values::Index, Some(false)),
    column_of("x", Values::OfKeyPoint(|k| k.x), Some(true)),
    column_of("y", Values::OfKeyPoint(|k| k.y), Some(true)),
    column_of("size", Values::OfKeyPoint(|k| k.size), Some(true)),
    column_of("angle", Values::OfKeyPoint(|k| k.angle), Some(true)),
    column_of("response", Values::OfKeyPoint(|k| k.response), Some(true)),
    column_of("octave", Values::Octave, Some(true)),
    column_of("descriptor", Values::Vector, Some(true)),
    column_of("vector", Values::Vector, Some(false)),
];

/// The columns of a format, except the scores.
fn columns(format: VectorFormat) -> impl Iterator<Item = Column> {
    COLUMNS.into_iter().filter(move |c| c.keypoints.is_none_or(|k| k == format.has_keypoints()))
}

/// Whether a column is written with a dictionary. Vectors, scores and the float values of keypoints hardly
/// repeat, so the writer would build a dictionary and then discard it.
#[cfg(feature = "parquet")]
pub(crate) fn is_dictionary(name: &str) -> bool {
    let column = COLUMNS.iter().find(|column| column.name == name);
    column.is_some_and(|c| !matches!(c.values, Values::OfKeyPoint(_) | Values::Vector))
}

impl RowBatch {
    /// The columns of the batch, as [`schema`] has them.
    #[must_use]
    pub fn schema(&self, width: ScoreWidth) -> SchemaRef {
        schema(self.format(), self.scores().map(ndarray::Array2::ncols), width)
    }

    /// Converts it to Arrow, in the columns of [`schema`].
    ///
    /// # Errors
    /// Arrow's, for columns beyond its limits.
    pub fn to_record_batch(&self, width: ScoreWidth) -> Result<RecordBatch, ArrowError> {
        let schema = self.schema(width);
        let all = 0..self.len();
        let arrays = (0..schema.fields().len()).map(|i| column(self, all.clone(), i, width));
        let arrays = arrays.collect::<Result<_, _>>()?;
        RecordBatch::try_new(schema, arrays)
    }

    /// The images of a range of rows, each with the part of its rows within the range.
    fn images_of(&self, range: Range<usize>) -> impl Iterator<Item = (&ImageRows, Range<usize>)> {
        let first = self.images().partition_point(|image| image.rows.end <= range.start);
        self.images()[first..]
            .iter()
            .map(move |i| (i, i.rows.start.max(range.start)..i.rows.end.min(range.end)))
            .take_while(|(_, rows)| rows.start <= rows.end)
    }
}

/// Converts a range of rows of one column; `place` is its index in [`schema`].
pub(crate) fn column(
    batch: &RowBatch,
    range: Range<usize>,
    place: usize,
    width: ScoreWidth,
) -> Result<ArrayRef, ArrowError> {
    let Some(column) = columns(batch.format()).nth(place) else {
        let none = || ArrowError::SchemaError("the batch has no scores".to_owned());
        return scores(batch.scores().ok_or_else(none)?.slice(s![range, ..]), width);
    };
    let keypoints = || &batch.keypoints()[range.clone()];
    let images = batch.images_of(range.clone());
    Ok(match column.values {
        Values::Path => texts(images, |image| Some(&image.meta.uri)),
        Values::Label => texts(images, |image| image.meta.label.as_deref()),
        Values::OfImage(value) => Arc::new(Int32Array::from_iter_values(
            images.flat_map(|(image, rows)| rows.map(move |_| value(image))),
        )),
        Values::Index => {
            Arc::new(Int32Array::from_iter_values(images.flat_map(|(image, rows)| {
                let first = image.first_index as usize;
                rows.map(move |row| (first + row - image.rows.start) as i32)
            })))
        }
        Values::OfKeyPoint(value) => {
            Arc::new(Float32Array::from_iter_values(keypoints().iter().map(value)))
        }
        Values::Octave => {
            Arc::new(Int32Array::from_iter_values(keypoints().iter().map(|k| k.octave)))
        }
        Values::Vector => vectors(batch.vectors().slice(range), batch.format().len() as i32)?,
    })
}

/// A column of texts: the text of each image, repeated for each of its rows.
fn texts<'a>(
    images: impl Iterator<Item = (&'a ImageRows, Range<usize>)>,
    text: impl Fn(&'a ImageRows) -> Option<&'a str>,
) -> ArrayRef {
    let mut texts = StringBuilder::new();
    for (image, rows) in images {
        let text = text(image);
        rows.for_each(|_| texts.append_option(text));
    }
    Arc::new(texts.finish())
}

fn vectors(vectors: VectorsView<'_>, len: i32) -> Result<ArrayRef, ArrowError> {
    Ok(match vectors {
        VectorsView::U8(bytes) => {
            let bytes = bytes.as_slice().unwrap_or_default().to_vec().into();
            Arc::new(FixedSizeBinaryArray::try_new(len, bytes, None)?)
        }
        VectorsView::F32(floats) => {
            let values = Float32Array::from_iter_values(floats.iter().copied());
            let element = element_of(DataType::Float32);
            Arc::new(FixedSizeListArray::try_new(element, len, Arc::new(values), None)?)
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
    let (element, len) = (element_of(width.data_type()), scores.ncols() as i32);
    Ok(Arc::new(FixedSizeListArray::try_new(element, len, values, None)?))
}
