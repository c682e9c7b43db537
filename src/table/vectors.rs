//! Vectors in a column of a table.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Float64Type, Int8Type, Int32Type};
use arrow_array::{Array, ArrayRef, StructArray};
use arrow_schema::DataType;

use crate::error::{Error, Result};
use crate::features::Vectors;

/// Collects vectors of equal lengths.
struct Collected {
    /// The length of a vector, once it is known.
    len: Option<usize>,
    rows: usize,
}

impl Collected {
    /// Takes the length of the next vector.
    fn take(&mut self, len: usize) -> Result<(), String> {
        let row = self.rows;
        self.rows += 1;
        match self.len {
            _ if len == 0 => Err(format!("row {row} has a vector without an element")),
            Some(first) if first != len => {
                Err(format!("row {row} has {len} elements, the rows before it have {first}"))
            }
            _ => {
                self.len = Some(len);
                Ok(())
            }
        }
    }
}

/// The vectors of a column without a null: bytes of binary values; else float32, of lists of numbers of one length, of
/// Spark's vectors, dense or sparse, or of texts such as `[0.5, 1]`.
///
/// # Errors
/// [`Error::Shape`], naming the row, counted from 0.
pub fn vectors_of(column: &ArrayRef) -> Result<Vectors> {
    read_vectors(column, None, 0).map_err(Error::shape)
}

/// The vectors of a column: bytes of binary values; else floats, of lists of numbers, of Spark's vectors, dense or sparse,
/// or of texts such as `[0.5, 1]`. `len` is their length if it is known; the first row has the number `first`.
///
/// # Errors
/// Why a row has no such vector.
pub(crate) fn read_vectors(
    column: &ArrayRef,
    len: Option<usize>,
    first: usize,
) -> Result<Vectors, String> {
    if let Some(row) = (0..column.len()).find(|&row| column.is_null(row)) {
        return Err(format!("row {} is null", first + row));
    }
    let mut all = Collected { len, rows: first };
    if matches!(
        column.data_type(),
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
    ) {
        let column = cast(column, &DataType::LargeBinary)?;
        let column = column.as_binary::<i64>();
        let mut bytes = Vec::new();
        for value in column.iter().flatten() {
            all.take(value.len())?;
            bytes.extend_from_slice(value);
        }
        return Vectors::from_u8(bytes, all.len.unwrap_or(1)).map_err(|e| e.to_string());
    }
    let floats = match column.data_type() {
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _)
            if of.data_type().is_numeric() =>
        {
            of_lists(column, &mut all)?
        }
        DataType::Struct(_) => of_spark(column.as_struct(), &mut all)?,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => of_texts(column, &mut all)?,
        other => return Err(format!("it holds {other}, not vectors")),
    };
    let vectors = Vectors::from_f32(floats, all.len.unwrap_or(1)).map_err(|e| e.to_string())?;
    let is_bad = |row: &usize| vectors.row_f32(*row).iter().any(|v| !v.is_finite());
    match (0..vectors.rows()).find(is_bad) {
        Some(row) => {
            Err(format!("row {} has an element that is not finite in float32", first + row))
        }
        None => Ok(vectors),
    }
}

fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    arrow_cast::cast(column, to).map_err(|e| e.to_string())
}

/// Numbers as float32. A list with a null has no vector.
fn floats(values: &ArrayRef, row: usize) -> Result<Vec<f32>, String> {
    if values.null_count() > 0 {
        return Err(format!("row {row} has an element that is null"));
    }
    Ok(cast(values, &DataType::Float32)?.as_primitive::<Float32Type>().values().to_vec())
}

fn of_lists(column: &ArrayRef, all: &mut Collected) -> Result<Vec<f32>, String> {
    let mut elements = Vec::new();
    for row in 0..column.len() {
        let list = match column.data_type() {
            DataType::List(_) => column.as_list::<i32>().value(row),
            DataType::LargeList(_) => column.as_list::<i64>().value(row),
            _ => column.as_fixed_size_list().value(row),
        };
        all.take(list.len())?;
        elements.extend(floats(&list, all.rows - 1)?);
    }
    Ok(elements)
}

/// Spark's `vector`: type 1 is dense; type 0 is sparse, with a size, and indices of the values.
fn of_spark(column: &StructArray, all: &mut Collected) -> Result<Vec<f32>, String> {
    let field = |name: &str| {
        column.column_by_name(name).ok_or_else(|| "it holds a struct that is no vector".to_owned())
    };
    let (kinds, sizes, indices, values) =
        (field("type")?, field("size")?, field("indices")?, field("values")?);
    let bad = || "it holds a struct that is no vector".to_owned();
    let kinds = kinds.as_primitive_opt::<Int8Type>().ok_or_else(bad)?;
    let sizes = sizes.as_primitive_opt::<Int32Type>().ok_or_else(bad)?;
    let indices = indices.as_list_opt::<i32>().ok_or_else(bad)?;
    let values = values.as_list_opt::<i32>().ok_or_else(bad)?;
    let mut elements = Vec::new();
    for row in 0..column.len() {
        let values = values.value(row);
        let values = values.as_primitive_opt::<Float64Type>().ok_or_else(bad)?;
        if values.null_count() > 0 {
            return Err(format!("row {} has an element that is null", all.rows));
        }
        if kinds.value(row) != 0 {
            all.take(values.len())?;
            elements.extend(values.values().iter().map(|&v| v as f32));
            continue;
        }
        let size = usize::try_from(sizes.value(row)).map_err(|_| bad())?;
        all.take(size)?;
        let start = elements.len();
        let at = indices.value(row);
        let at = at.as_primitive_opt::<Int32Type>().ok_or_else(bad)?;
        if size > 1 << 20 || at.len() != values.len() || at.null_count() > 0 {
            return Err(format!("row {} is no sparse vector", all.rows - 1));
        }
        elements.resize(start + size, 0.0);
        for (&i, &value) in at.values().iter().zip(values.values()) {
            let i = usize::try_from(i).ok().filter(|&i| i < size);
            let row = all.rows - 1;
            let i = i.ok_or_else(|| format!("row {row} has an index outside its vector"))?;
            elements[start + i] = value as f32;
        }
    }
    Ok(elements)
}

/// Texts such as `[0.5, 1e-3]`.
fn of_texts(column: &ArrayRef, all: &mut Collected) -> Result<Vec<f32>, String> {
    let column = cast(column, &DataType::Utf8)?;
    let mut elements = Vec::new();
    for text in column.as_string::<i32>().iter().flatten() {
        let row = all.rows;
        let inner = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let shown: String = text.chars().take(40).collect();
        let bad = || format!("row {row} is no vector: {shown:?}");
        let before = elements.len();
        for number in inner.ok_or_else(bad)?.split(',') {
            elements.push(number.trim().parse::<f32>().map_err(|_| bad())?);
        }
        all.take(elements.len() - before)?;
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{BinaryArray, Float64Array, ListArray, StringArray};

    use super::*;
    use crate::rows::{Layout, RowBatch, TableParams};

    fn texts(texts: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(texts.to_vec()))
    }

    #[test]
    fn vectors_are_read_from_any_column_of_them() {
        let rows = ["[0.5, -1e-3]", " [1,2] "];
        let vectors = read_vectors(&texts(&rows), None, 0).unwrap();
        assert_eq!(vectors.as_f32().unwrap(), [0.5, -1e-3, 1.0, 2.0]);
        let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"ab", b"cd"]));
        assert_eq!(read_vectors(&bytes, Some(2), 0).unwrap().as_u8().unwrap(), b"abcd");
        // What we write is read back.
        let mut batch = RowBatch::new(vectors.format());
        let meta = Arc::new(crate::pixels::ImageMeta::new("a"));
        batch.push(&crate::features::ImageFeatures::new(meta, vectors.clone())).unwrap();
        for layout in Layout::ALL {
            let table = TableParams::default().with_layout(layout);
            let batch = batch.to_record_batch(&table).unwrap();
            let column = batch.column_by_name("vector").unwrap();
            assert_eq!(read_vectors(column, None, 0).unwrap(), vectors);
        }
    }

    #[test]
    fn what_is_no_vector_is_named_by_its_row() {
        for (rows, why) in [
            (&["[1]", "1, 2"][..], "row 1 is no vector"),
            (&["[1]", "[1, 2]"], "row 1 has 2 elements, the rows before it have 1"),
            (&["[]"], "row 0 is no vector"),
            (&["[1, x]"], "row 0 is no vector"),
            (&["[1]", "[NaN]"], "row 1 has an element that is not finite in float32"),
        ] {
            let error = read_vectors(&texts(rows), None, 0).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        assert!(read_vectors(&numbers, None, 0).unwrap_err().contains("not vectors"));
        let lists = [Some(vec![Some(1), None])];
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
        assert!(read_vectors(&lists, None, 0).unwrap_err().contains("null"));
    }
}
