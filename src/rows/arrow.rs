//! Batches as Arrow: the values of a table's columns.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{
    Array, ArrayRef, BinaryArray, FixedSizeBinaryArray, FixedSizeListArray, Float32Array,
    Float64Array, Int8Array, Int32Array, ListArray, RecordBatch, StructArray, new_null_array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use ndarray::s;

use super::spark::element_of;
use super::table::{Layout, RowShape, ScoreWidth, TableParams, Values};
use super::{ImageRows, RowBatch, spark};
#[cfg(feature = "parquet")]
use crate::features::KeyPoint;
use crate::features::VectorsView;
use crate::pixels::{PixelFormat, Pixels};

impl RowBatch {
    /// The columns of the batch as a table.
    #[must_use]
    pub fn schema(&self, table: &TableParams) -> SchemaRef {
        table.schema(self.format(), self.scores().map(ndarray::Array2::ncols))
    }

    /// Converts it to Arrow, in the columns of [`TableParams::schema`].
    ///
    /// # Errors
    /// Arrow's, for columns beyond its limits, and for an image whose rows continue in another batch where a row is an
    /// image (see [`Explode::with_whole_images`](super::Explode::with_whole_images)).
    pub fn to_record_batch(&self, table: &TableParams) -> Result<RecordBatch, ArrowError> {
        let schema = self.schema(table);
        let all = 0..self.table_rows(table);
        let arrays = (0..schema.fields().len()).map(|i| column(self, all.clone(), i, table));
        let arrays = arrays.collect::<Result<_, _>>()?;
        RecordBatch::try_new(schema, arrays)
    }

    /// The number of rows of the batch as a table.
    pub(crate) fn table_rows(&self, table: &TableParams) -> usize {
        if table.rows().is_of_images() { self.images().len() } else { self.len() }
    }

    /// Bytes of a range of rows of the batch as a table, roughly.
    #[cfg(feature = "parquet")]
    pub(crate) fn table_bytes(&self, table: &TableParams, range: Range<usize>) -> usize {
        let format = self.format();
        let element = match (table.layout(), table.rows()) {
            (Layout::Spark, _) => size_of::<f64>(),
            (_, RowShape::Padded(_)) => size_of::<f32>(),
            _ => format.element().size(),
        };
        let scores = self.scores().map_or(0, ndarray::Array2::ncols) * size_of::<f64>();
        let vector = format.len() * element + scores;
        if !table.rows().is_of_images() {
            return range.len() * (size_of::<KeyPoint>() + vector);
        }
        let images = self.images()[range].iter().map(|image| {
            let n = match table.rows() {
                RowShape::Padded(n) => n,
                _ => image.rows.len(),
            };
            let pixels = image.pixels.as_ref().map_or(0, |pixels| pixels.as_bytes().len());
            image.meta.uri.len() + n * (size_of::<KeyPoint>() + vector) + pixels
        });
        images.sum()
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

/// Converts a range of a table's rows of one column; `place` is its index in the schema.
pub(crate) fn column(
    batch: &RowBatch,
    range: Range<usize>,
    place: usize,
    table: &TableParams,
) -> Result<ArrayRef, ArrowError> {
    let has_scores = batch.scores().is_some();
    // Offsets of Arrow are 32 bits wide.
    let k = batch.scores().map_or(0, ndarray::Array2::ncols);
    let elements = batch.len().saturating_mul(batch.format().len().max(k));
    if i32::try_from(elements).is_err() {
        let why = format!("a batch of {elements} elements is more than Arrow holds");
        return Err(ArrowError::InvalidArgumentError(why));
    }
    let none = || ArrowError::SchemaError("the batch has other columns".to_owned());
    let column = table.columns(batch.format(), has_scores).nth(place).ok_or_else(none)?;
    if table.rows().is_of_images() {
        of_images(batch, &batch.images()[range], column.values, table)
    } else {
        of_vectors(batch, range, column.values, table)
    }
}

/// A column whose rows are vectors.
fn of_vectors(
    batch: &RowBatch,
    range: Range<usize>,
    values: Values,
    table: &TableParams,
) -> Result<ArrayRef, ArrowError> {
    let images = batch.images_of(range.clone());
    Ok(match values {
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
        values => of_each_vector(batch, range, values, table)?,
    })
}

/// The values that each vector has one of: those of its keypoint, its elements, its scores.
fn of_each_vector(
    batch: &RowBatch,
    range: Range<usize>,
    values: Values,
    table: &TableParams,
) -> Result<ArrayRef, ArrowError> {
    let keypoints = || &batch.keypoints()[range.clone()];
    Ok(match values {
        Values::OfKeyPoint(value) => {
            Arc::new(Float32Array::from_iter_values(keypoints().iter().map(value)))
        }
        Values::Octave => {
            Arc::new(Int32Array::from_iter_values(keypoints().iter().map(|k| k.octave)))
        }
        Values::Vector => {
            let vectors = batch.vectors().slice(range);
            let len = batch.format().len();
            match (vectors, table.layout()) {
                (VectorsView::U8(bytes), Layout::Arrow) if table.rows() == RowShape::Image => {
                    let bytes = bytes.as_slice().unwrap_or_default();
                    Arc::new(BinaryArray::from_iter_values(bytes.chunks_exact(len)))
                }
                (VectorsView::U8(bytes), Layout::Arrow) => {
                    let bytes = bytes.as_slice().unwrap_or_default().to_vec().into();
                    Arc::new(FixedSizeBinaryArray::try_new(len as i32, bytes, None)?)
                }
                (VectorsView::F32(floats), Layout::Arrow) => {
                    lists(Arc::new(Float32Array::from_iter_values(floats.iter().copied())), len)?
                }
                (VectorsView::U8(bytes), Layout::Spark) => {
                    spark_vectors(bytes.iter().copied().map(f64::from), len)?
                }
                (VectorsView::F32(floats), Layout::Spark) => {
                    spark_vectors(floats.iter().copied().map(f64::from), len)?
                }
            }
        }
        Values::Scores => {
            let scores = scores_of(batch)?;
            let (scores, len) = (scores.slice(s![range, ..]), scores.ncols());
            match table.layout() {
                Layout::Arrow => lists(floats(scores.iter().copied(), table.score_width())?, len)?,
                Layout::Spark => spark_vectors(scores.iter().copied(), len)?,
            }
        }
        _ => return Err(ArrowError::SchemaError("the column is not of vectors".to_owned())),
    })
}

/// A column whose rows are images.
fn of_images(
    batch: &RowBatch,
    images: &[ImageRows],
    values: Values,
    table: &TableParams,
) -> Result<ArrayRef, ArrowError> {
    if let Some(image) = images.iter().find(|image| !image.is_whole()) {
        let uri = &image.meta.uri;
        let why = format!("the rows of {uri} are not all in one batch, where a row is an image");
        return Err(ArrowError::InvalidArgumentError(why));
    }
    let one_each = || images.iter().map(|image| (image, 0..1));
    Ok(match (values, table.rows()) {
        (Values::Path, _) => texts(one_each(), |image| Some(&image.meta.uri)),
        (Values::Label, _) => texts(one_each(), |image| image.meta.label.as_deref()),
        (Values::OfImage(value), _) => {
            Arc::new(Int32Array::from_iter_values(images.iter().map(value)))
        }
        (Values::Count, _) => {
            Arc::new(Int32Array::from_iter_values(images.iter().map(|i| i.rows.len() as i32)))
        }
        (Values::Image, _) => pictures(images)?,
        (Values::Vector, RowShape::Padded(n)) => {
            let len = batch.format().len();
            let element = |row: usize, i: usize| match batch.vectors().view() {
                VectorsView::U8(bytes) => f64::from(bytes[(row, i)]),
                VectorsView::F32(floats) => f64::from(floats[(row, i)]),
            };
            padded(images, (n, len), element, ScoreWidth::F32, table.layout())?
        }
        (Values::Scores, RowShape::Padded(n)) => {
            let scores = scores_of(batch)?;
            let shape = (n, scores.ncols());
            padded(images, shape, |row, i| scores[(row, i)], table.score_width(), table.layout())?
        }
        (values, _) => {
            let start = images.first().map_or(0, |image| image.rows.start);
            let end = images.last().map_or(0, |image| image.rows.end);
            let of_vectors = of_each_vector(batch, start..end, values, table)?;
            let offsets = OffsetBuffer::from_lengths(images.iter().map(|image| image.rows.len()));
            let element = element_of(of_vectors.data_type().clone());
            Arc::new(ListArray::try_new(element, offsets, of_vectors, None)?)
        }
    })
}

/// Scores as a column, of the type that the table's scores have.
#[cfg(feature = "table")]
pub(crate) fn scores_column(
    scores: &ndarray::Array2<f64>,
    table: &TableParams,
) -> Result<ArrayRef, ArrowError> {
    let (all, len) = (scores.iter().copied(), scores.ncols());
    match table.layout() {
        Layout::Arrow => lists(floats(all, table.score_width())?, len),
        Layout::Spark => spark_vectors(all, len),
    }
}

fn scores_of(batch: &RowBatch) -> Result<&ndarray::Array2<f64>, ArrowError> {
    batch.scores().ok_or_else(|| ArrowError::SchemaError("the batch has no scores".to_owned()))
}

/// The elements of the first `n` vectors of each image in one vector, with zeros at its end.
fn padded(
    images: &[ImageRows],
    (n, len): (usize, usize),
    element: impl Fn(usize, usize) -> f64,
    width: ScoreWidth,
    layout: Layout,
) -> Result<ArrayRef, ArrowError> {
    let element = &element;
    let all = images.iter().flat_map(|image| {
        let rows = image.rows.clone().take(n);
        let zeros = (n - rows.len()) * len;
        rows.flat_map(move |row| (0..len).map(move |i| element(row, i)))
            .chain(std::iter::repeat_n(0.0, zeros))
    });
    match layout {
        Layout::Arrow => lists(floats(all, width)?, n * len),
        Layout::Spark => spark_vectors(all, n * len),
    }
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

fn floats(values: impl Iterator<Item = f64>, width: ScoreWidth) -> Result<ArrayRef, ArrowError> {
    if width == ScoreWidth::F64 {
        return Ok(Arc::new(Float64Array::from_iter_values(values)));
    }
    let narrow = Float32Array::from_iter_values(values.map(|v| v as f32));
    if narrow.values().iter().fold(0.0, |sum: f32, v| sum.max(v.abs())).is_finite() {
        return Ok(Arc::new(narrow));
    }
    Err(ArrowError::ComputeError("a score is beyond the range of float32".to_owned()))
}

/// Lists of `len` values each.
fn lists(values: ArrayRef, len: usize) -> Result<ArrayRef, ArrowError> {
    let element = element_of(values.data_type().clone());
    Ok(Arc::new(FixedSizeListArray::try_new(element, len as i32, values, None)?))
}

/// Dense vectors of Spark of `len` values each.
fn spark_vectors(values: impl Iterator<Item = f64>, len: usize) -> Result<ArrayRef, ArrowError> {
    let values = Float64Array::from_iter_values(values);
    let n = values.len() / len.max(1);
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(len, n));
    let lists = ListArray::try_new(element_of(DataType::Float64), offsets, Arc::new(values), None)?;
    let fields = spark::vector_fields();
    let nulls = |i: usize| new_null_array(fields[i].data_type(), n);
    let dense: ArrayRef = Arc::new(Int8Array::from(vec![1; n]));
    let columns = vec![dense, nulls(1), nulls(2), Arc::new(lists)];
    Ok(Arc::new(StructArray::try_new(fields, columns, None)?))
}

/// The pixels of images, as Spark's data source for images has them. An image whose pixels were not kept is an error.
fn pictures(images: &[ImageRows]) -> Result<ArrayRef, ArrowError> {
    let pixels = images.iter().map(|image| {
        image.pixels.as_deref().ok_or_else(|| {
            let why = format!("the pixels of {} were not kept", image.meta.uri);
            ArrowError::InvalidArgumentError(why)
        })
    });
    let pixels = pixels.collect::<Result<Vec<&Pixels>, _>>()?;
    let bytes: usize = pixels.iter().map(|pixels| pixels.as_bytes().len()).sum();
    if i32::try_from(bytes).is_err() {
        let why = format!("{bytes} bytes of pixels are more than Arrow holds");
        return Err(ArrowError::InvalidArgumentError(why));
    }
    let mut data = BinaryBuilder::new();
    for pixels in &pixels {
        data.append_value(pixels.as_bytes());
    }
    let numbers = |value: fn(&Pixels) -> i32| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(pixels.iter().map(|pixels| value(pixels))))
    };
    let columns = vec![
        texts(images.iter().map(|image| (image, 0..1)), |image| Some(&image.meta.uri)),
        numbers(|p| p.height() as i32),
        numbers(|p| p.width() as i32),
        numbers(|p| p.format().channels() as i32),
        numbers(|p| if p.format() == PixelFormat::Gray { CV_8UC1 } else { CV_8UC3 }),
        Arc::new(data.finish()),
    ];
    Ok(Arc::new(StructArray::try_new(spark::image_fields(), columns, None)?))
}

/// OpenCV's number of images with one channel of bytes.
const CV_8UC1: i32 = 0;
/// The same for three channels.
const CV_8UC3: i32 = 16;
