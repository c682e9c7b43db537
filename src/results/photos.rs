//! The rows of a result, put together photo by photo.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Schema};

use super::value::{floats, int, ints, text, texts};
use crate::error::{Error, Result};
use crate::features::{DESCRIPTOR_LEN, Descriptor, KeyPoint, VectorFormat, Vectors};
use crate::table::{FileBatch, TableBatches, TableSource, missing, read_vectors, until_error};

/// A photo of a result, with all its rows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Photo {
    /// The path or key.
    pub path: String,
    /// The label, if there is one.
    pub label: Option<String>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The keypoints; empty if the extractor finds none.
    pub keypoints: Vec<KeyPoint>,
    /// The vectors, one for each keypoint.
    pub vectors: Vectors,
    /// The scores of each vector, if the result has a PCA.
    pub scores: Option<Vectors>,
}

impl Photo {
    /// The vectors as ORB's descriptors.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are of another length, not bytes, or not one for each keypoint.
    pub fn descriptors(&self) -> Result<&[Descriptor]> {
        let format = self.vectors.format();
        let has_points = self.keypoints.len() == self.vectors.rows();
        let is_orb = format.len() == DESCRIPTOR_LEN && has_points;
        let bytes = self.vectors.as_u8().filter(|_| is_orb);
        let bytes = bytes.ok_or_else(|| {
            Error::shape(format!(
                "its vectors are {format}: {DESCRIPTOR_LEN} bytes with keypoints are due"
            ))
        })?;
        Ok(bytes.as_chunks().0)
    }

    fn append(&mut self, other: &Self) {
        self.keypoints.extend_from_slice(&other.keypoints);
        self.vectors.append(&other.vectors, 0..other.vectors.rows());
        if let (Some(scores), Some(more)) = (&mut self.scores, &other.scores) {
            scores.append(more, 0..more.rows());
        }
    }
}

/// The photos of a result, in order.
pub struct Photos(Box<dyn Iterator<Item = Result<Photo>> + Send>);

/// The state of [`Photos`].
struct State {
    batches: TableBatches,
    /// The rest of a batch, its next row, and its file.
    batch: Option<(Columns, usize, Arc<str>)>,
    /// The photo whose rows may go on.
    photo: Option<Photo>,
    /// The formats of the vectors and scores, once they are known.
    formats: Option<Formats>,
}

/// The formats of a photo's vectors and scores.
#[derive(Clone, PartialEq)]
struct Formats {
    vectors: VectorFormat,
    scores: Option<VectorFormat>,
}

impl Formats {
    fn of(photo: &Photo) -> Self {
        let scores = photo.scores.as_ref().map(Vectors::format);
        Self { vectors: photo.vectors.format(), scores }
    }
}

impl std::fmt::Display for Formats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "vectors of {}", self.vectors)?;
        match self.scores {
            Some(scores) => write!(f, " with scores of {scores}"),
            None => f.write_str(" without scores"),
        }
    }
}

impl std::fmt::Debug for Photos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Photos").finish_non_exhaustive()
    }
}

impl Photos {
    pub(super) fn new(table: &TableSource) -> Result<Self> {
        let batches = table.batches(|_, schema| {
            vector_column(schema)?;
            let fields = schema.fields().iter().enumerate();
            Ok(fields.filter(|(_, field)| field.name() != "image").map(|(i, _)| i).collect())
        })?;
        let mut state = State { batches, batch: None, photo: None, formats: None };
        Ok(Self(Box::new(until_error(move || state.step()))))
    }
}

impl State {
    fn step(&mut self) -> Result<Option<Photo>> {
        loop {
            if let Some((columns, row, uri)) = &mut self.batch {
                if *row < columns.len() {
                    let rows = columns.rows_of_photo(*row);
                    let (mut found, is_first) =
                        columns.photo(rows.clone()).map_err(|why| Error::table(&**uri, why))?;
                    *row = rows.end;
                    let formats = Formats::of(&found);
                    if found.vectors.rows() == 0 {
                        // A list without an element does not tell its format.
                        let known = self.formats.as_ref().unwrap_or(&formats);
                        found.vectors = Vectors::empty(known.vectors);
                        found.scores = known.scores.map(Vectors::empty);
                    } else {
                        let before = self.formats.get_or_insert_with(|| formats.clone());
                        if *before != formats {
                            let why = format!("{}: {formats} after some of {before}", found.path);
                            return Err(Error::table(&**uri, why));
                        }
                    }
                    match &mut self.photo {
                        Some(photo) if !is_first && photo.path == found.path => {
                            photo.append(&found);
                        }
                        slot => {
                            if let Some(photo) = slot.replace(found) {
                                return Ok(Some(photo));
                            }
                        }
                    }
                    continue;
                }
                self.batch = None;
            }
            let Some(batch) = self.batches.next() else { return Ok(self.photo.take()) };
            let FileBatch { uri, rows, .. } = batch?;
            let columns = Columns::of(&rows).map_err(|why| Error::table(&*uri, why))?;
            self.batch = Some((columns, 0, uri));
        }
    }
}

impl Iterator for Photos {
    type Item = Result<Photo>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// Names of the columns of vectors.
const VECTORS: [&str; 2] = ["descriptor", "vector"];

/// The name of the column of vectors, and whether each element has a column of its own, such as `vector_0`.
fn vector_column(schema: &Schema) -> Result<(String, bool), String> {
    if schema.index_of("path").is_err() {
        return Err(missing("path", schema));
    }
    for name in VECTORS {
        if let Ok(field) = schema.field_with_name(name) {
            let is_padded = schema.index_of("keypoint_index").is_err()
                && schema.index_of("vector_index").is_err()
                && !matches!(field.data_type(), DataType::List(_) | DataType::LargeList(_));
            return if is_padded {
                Err(format!(
                    "its rows are of images and hold no lists in {name:?} (--rows padded, or lists in CSV): keypoints are lost"
                ))
            } else {
                Ok((name.to_owned(), false))
            };
        }
        if schema.index_of(&format!("{name}_0")).is_ok() {
            return Ok((name.to_owned(), true));
        }
    }
    Err(format!("it has no vectors: {}", missing(VECTORS[0], schema)))
}

/// The columns of a batch.
struct Columns {
    path: StringArray,
    label: Option<StringArray>,
    sides: [Option<Int64Array>; 2],
    rows: Values,
}

/// The columns from the index on.
enum Values {
    /// One row for each vector.
    Vectors {
        index: Option<Int64Array>,
        keypoints: Option<Vec<KeyPoint>>,
        vectors: Vectors,
        scores: Option<Vectors>,
    },
    /// One row for each image: lists.
    Images(Box<RecordBatch>, String),
}

impl Columns {
    fn of(batch: &RecordBatch) -> Result<Self, String> {
        let schema = batch.schema();
        let (name, is_spread) = vector_column(&schema)?;
        let path = texts(batch, "path")?.ok_or_else(|| missing("path", &schema))?;
        let sides = [ints(batch, "image_width")?, ints(batch, "image_height")?];
        let index = match ints(batch, "keypoint_index")? {
            Some(index) => Some(index),
            None => ints(batch, "vector_index")?,
        };
        let rows = if index.is_none() {
            Values::Images(Box::new(batch.clone()), name)
        } else {
            let vectors = if is_spread { spread(batch, &name)? } else { column(batch, &name)? };
            let scores = if is_spread {
                batch.column_by_name("pca_0").map(|_| spread(batch, "pca")).transpose()?
            } else {
                batch.column_by_name("pca").map(|_| column(batch, "pca")).transpose()?
            };
            let keypoints = keypoints(batch)?;
            let vectors = of_bytes(vectors, &name);
            Values::Vectors { index, keypoints, vectors, scores }
        };
        Ok(Self { path, label: texts(batch, "label")?, sides, rows })
    }

    fn len(&self) -> usize {
        self.path.len()
    }

    /// The rows from `first` on that are of one photo.
    fn rows_of_photo(&self, first: usize) -> Range<usize> {
        let Values::Vectors { index, .. } = &self.rows else { return first..first + 1 };
        let goes_on = |row: &usize| {
            self.path.value(*row) == self.path.value(first) && int(index.as_ref(), *row) != Some(0)
        };
        first..(first + 1..self.len()).find(|row| !goes_on(row)).unwrap_or(self.len())
    }

    /// The photo of some rows, and whether the first of them is the photo's first row.
    fn photo(&self, rows: Range<usize>) -> Result<(Photo, bool), String> {
        let row = rows.start;
        let side = |column: &Option<Int64Array>| {
            int(column.as_ref(), row).and_then(|side| u32::try_from(side).ok()).unwrap_or_default()
        };
        let (keypoints, vectors, scores, is_first) = match &self.rows {
            Values::Vectors { index, keypoints, vectors, scores } => {
                let some = |all: &Vectors| {
                    let mut some = Vectors::empty(all.format());
                    some.append(all, rows.clone());
                    some
                };
                let keypoints = keypoints.as_ref().map(|all| all[rows.clone()].to_vec());
                let is_first = int(index.as_ref(), row) == Some(0);
                (keypoints.unwrap_or_default(), some(vectors), scores.as_ref().map(some), is_first)
            }
            Values::Images(batch, name) => {
                let path = self.path.value(row);
                let of_photo = |why: String| format!("{path}: {why}");
                let (keypoints, vectors, scores) = of_lists(batch, name, row).map_err(of_photo)?;
                let n = vectors.rows();
                let is_one = |len: usize| len == n;
                if !scores.as_ref().is_none_or(|scores| is_one(scores.rows()))
                    || (batch.column_by_name("x").is_some() && !is_one(keypoints.len()))
                {
                    return Err(of_photo("its lists have different lengths".to_owned()));
                }
                (keypoints, vectors, scores, true)
            }
        };
        let path = text(Some(&self.path), row).ok_or("a row has no path")?;
        let label = text(self.label.as_ref(), row);
        let [width, height] = [side(&self.sides[0]), side(&self.sides[1])];
        Ok((Photo { path, label, width, height, keypoints, vectors, scores }, is_first))
    }
}

/// Vectors that are in one column.
fn column(batch: &RecordBatch, name: &str) -> Result<Vectors, String> {
    let column = batch.column_by_name(name).ok_or_else(|| missing(name, &batch.schema()))?;
    read_vectors(column, None, 0).map_err(|why| format!("column {name:?}: {why}"))
}

/// Vectors whose elements have a column each.
fn spread(batch: &RecordBatch, name: &str) -> Result<Vectors, String> {
    let mut columns: Vec<Float32Array> = Vec::new();
    while let Some(column) = floats(batch, &format!("{name}_{}", columns.len()))? {
        if column.null_count() > 0 {
            return Err(format!("column \"{name}_{}\" has a null", columns.len()));
        }
        columns.push(column);
    }
    let rows = 0..batch.num_rows();
    let elements =
        rows.flat_map(|row| columns.iter().map(move |column| column.value(row))).collect();
    Vectors::from_f32(elements, columns.len()).map_err(|e| e.to_string())
}

/// Converts ORB's descriptors back to bytes where CSV, Spark's types or lists hold them as numbers.
fn of_bytes(vectors: Vectors, name: &str) -> Vectors {
    let len = vectors.format().len();
    let is_bytes = |v: &f32| (0.0..256.0).contains(v) && v.fract() == 0.0;
    match vectors.as_f32() {
        Some(all) if name == VECTORS[0] && len == DESCRIPTOR_LEN && all.iter().all(is_bytes) => {
            let bytes = all.iter().map(|&v| v as u8).collect();
            Vectors::from_u8(bytes, len).unwrap_or(vectors)
        }
        _ => vectors,
    }
}

/// The keypoints of a batch, if it has them.
fn keypoints(batch: &RecordBatch) -> Result<Option<Vec<KeyPoint>>, String> {
    if batch.column_by_name("x").is_none() {
        return Ok(None);
    }
    let column = |name| {
        let column = floats(batch, name)?.ok_or_else(|| missing(name, &batch.schema()))?;
        let is_number = |row: &usize| column.is_valid(*row) && column.value(*row).is_finite();
        match (0..column.len()).find(|row| !is_number(row)) {
            Some(row) => Err(format!("column {name:?}: row {row} of a batch is no number")),
            None => Ok(column),
        }
    };
    let (x, y, size) = (column("x")?, column("y")?, column("size")?);
    let (angle, response, octave) = (column("angle")?, column("response")?, column("octave")?);
    let keypoint = |row: usize| KeyPoint {
        x: x.value(row),
        y: y.value(row),
        size: size.value(row),
        angle: angle.value(row),
        response: response.value(row),
        octave: octave.value(row) as i32,
    };
    Ok(Some((0..batch.num_rows()).map(keypoint).collect()))
}

/// The lists of an image's row.
fn of_lists(
    batch: &RecordBatch,
    name: &str,
    row: usize,
) -> Result<(Vec<KeyPoint>, Vectors, Option<Vectors>), String> {
    let list = |column: &ArrayRef| match column.data_type() {
        DataType::List(_) => Ok(column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => Ok(column.as_list::<i64>().value(row)),
        other => Err(format!("a column holds {other}, not lists")),
    };
    let mut fields = Vec::new();
    for field in ["x", "y", "size", "angle", "response", "octave"] {
        if let Some(column) = batch.column_by_name(field) {
            fields.push((field, list(column)?));
        }
    }
    let keypoints = if fields.is_empty() {
        Vec::new()
    } else {
        let all = RecordBatch::try_from_iter(fields).map_err(|e| e.to_string())?;
        keypoints(&all)?.unwrap_or_default()
    };
    let vectors = |name: &str| -> Result<Option<Vectors>, String> {
        let Some(column) = batch.column_by_name(name) else { return Ok(None) };
        let all = list(column)?;
        let read = read_vectors(&all, None, 0).map_err(|why| format!("column {name:?}: {why}"))?;
        Ok(Some(read))
    };
    let found = vectors(name)?.ok_or_else(|| missing(name, &batch.schema()))?;
    Ok((keypoints, of_bytes(found, name), vectors("pca")?))
}
