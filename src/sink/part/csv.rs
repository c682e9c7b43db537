//! A CSV file of rows. Pieces of rows are turned into text in parallel, and compressed on request.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, StructArray, make_array};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use csv::{QuoteStyle, Writer, WriterBuilder};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::Waiting;
use crate::error::{BoxError, Error, Result};
use crate::parallel::{Parallelism, UnderWay};
use crate::rows::vector_fields;
use crate::sink::chunk::Chunk;
use crate::sink::codec::Codec;
use crate::sink::format::FileFormat;
use crate::sink::params::FileParams;
use crate::sink::target::{Target, TargetFile};

/// Rows of a piece.
const PIECE_ROWS: usize = 1024;

/// How rows become text.
#[derive(Clone, Debug)]
struct Style {
    schema: SchemaRef,
    /// Whether each element of a vector has a column.
    wide: bool,
    gzip: bool,
}

/// One open file.
pub(in crate::sink) struct CsvPart {
    uri: String,
    file: TargetFile,
    style: Style,
    rows: u64,
    /// Rows that are not text yet.
    waiting: Waiting,
    /// Pieces in work in the background.
    under_way: Option<UnderWay<Result<Vec<u8>, BoxError>>>,
}

impl std::fmt::Debug for CsvPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CsvPart").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl CsvPart {
    pub fn create(
        target: &Target,
        name: &str,
        schema: &SchemaRef,
        params: &FileParams,
    ) -> Result<Self> {
        let style = Style {
            schema: Arc::clone(schema),
            wide: params.format() == FileFormat::CsvColumns,
            gzip: params.codec() == Codec::Gzip,
        };
        let (mut file, uri) = (target.file(name)?, target.uri(name));
        let header = style.header().map_err(|e| Error::broken(&uri, e))?;
        file.write_all(&header).map_err(|e| Error::broken(&uri, e))?;
        let waiting = Waiting::default();
        Ok(Self { uri, file, style, rows: 0, waiting, under_way: None })
    }

    /// Rows given to this file so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes a range of rows of a chunk, which has the columns of the schema.
    pub fn write(
        &mut self,
        chunk: &Arc<dyn Chunk>,
        range: Range<usize>,
        threads: &Parallelism,
    ) -> Result<()> {
        self.rows += range.len() as u64;
        for start in range.clone().step_by(PIECE_ROWS) {
            self.waiting.push(chunk, start..range.end.min(start + PIECE_ROWS));
        }
        if self.waiting.is_enough() { self.encode(threads) } else { Ok(()) }
    }

    /// Turns the waiting rows into text in the background, once the rows before them are in the file.
    fn encode(&mut self, threads: &Parallelism) -> Result<()> {
        self.settle()?;
        let (pieces, style) = (std::mem::take(&mut self.waiting).ranges, self.style.clone());
        self.under_way = Some(threads.each(pieces, move |_, (chunk, range)| {
            let columns = (0..style.schema.fields().len()).map(|i| chunk.column(i, range.clone()));
            style.text_of(&columns.collect::<Result<Vec<_>, _>>()?)
        }));
        Ok(())
    }

    /// Waits for the pieces in work, and writes them to the file.
    fn settle(&mut self) -> Result<()> {
        let Some(under_way) = self.under_way.take() else { return Ok(()) };
        for piece in under_way.wait() {
            let written = piece.and_then(|piece| Ok(self.file.write_all(&piece)?));
            written.map_err(|e| Error::broken(&self.uri, e))?;
        }
        Ok(())
    }

    /// Completes the file, and returns its length.
    pub fn close(mut self, threads: &Parallelism) -> Result<u64> {
        self.encode(threads)?;
        self.settle()?;
        self.file.close(self.rows).map_err(|e| Error::broken(&self.uri, e))
    }
}

impl Style {
    fn header(&self) -> Result<Vec<u8>, BoxError> {
        let mut names: Vec<String> = Vec::new();
        for field in self.schema.fields() {
            match self.width_of(field.data_type()) {
                Some(len) => names.extend((0..len).map(|i| format!("{}_{i}", field.name()))),
                None => names.push(field.name().clone()),
            }
        }
        let mut seen = HashSet::new();
        if let Some(name) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(format!("two columns have the name {name:?}").into());
        }
        self.finish(|writer| Ok(writer.write_record(&names)?))
    }

    /// The number of columns of a vector's elements; `None` for a value with one column.
    fn width_of(&self, data_type: &DataType) -> Option<usize> {
        match data_type {
            DataType::FixedSizeList(_, len) | DataType::FixedSizeBinary(len) if self.wide => {
                Some(*len as usize)
            }
            _ => None,
        }
    }

    fn text_of(&self, columns: &[ArrayRef]) -> Result<Vec<u8>, BoxError> {
        let rows = columns.first().map_or(0, Array::len);
        let mut text = String::new();
        self.finish(|writer| {
            for row in 0..rows {
                for column in columns {
                    let width = self.width_of(column.data_type());
                    for i in 0..width.unwrap_or(1) {
                        text.clear();
                        match width {
                            _ if column.is_null(row) => {}
                            Some(_) => push_element(&mut text, column, row, i)?,
                            None => push(&mut text, column, row)?,
                        }
                        writer.write_field(&text)?;
                    }
                }
                writer.write_record(None::<&[u8]>)?;
            }
            Ok(())
        })
    }

    /// Makes the bytes of some records: with gzip, a member of their own.
    fn finish(
        &self,
        write: impl FnOnce(&mut Writer<Vec<u8>>) -> Result<(), BoxError>,
    ) -> Result<Vec<u8>, BoxError> {
        let mut writer = WriterBuilder::new()
            .quote_style(QuoteStyle::Necessary)
            .flexible(false)
            .has_headers(false)
            .from_writer(Vec::new());
        write(&mut writer)?;
        let text = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
        if !self.gzip || text.is_empty() {
            return Ok(text);
        }
        let mut member = GzEncoder::new(Vec::new(), Compression::default());
        member.write_all(&text)?;
        Ok(member.finish()?)
    }
}

/// Appends a value. Floats are the shortest numbers that read back to the same bits; vectors and lists are
/// `[1.0, 2.0]`.
fn push(text: &mut String, column: &ArrayRef, row: usize) -> Result<(), ArrowError> {
    let shown = match column.data_type() {
        DataType::Utf8 => text.write_str(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text.write_str(column.as_string::<i64>().value(row)),
        DataType::Boolean => write!(text, "{}", column.as_boolean().value(row)),
        DataType::Int8 => write!(text, "{}", column.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => write!(text, "{}", column.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => write!(text, "{}", column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => write!(text, "{}", column.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => write!(text, "{:?}", column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => write!(text, "{:?}", column.as_primitive::<Float64Type>().value(row)),
        DataType::FixedSizeBinary(_) => {
            write!(text, "{:?}", column.as_fixed_size_binary().value(row))
        }
        DataType::Binary => write!(text, "{:?}", column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => write!(text, "{:?}", column.as_binary::<i64>().value(row)),
        DataType::BinaryView => write!(text, "{:?}", column.as_binary_view().value(row)),
        // In UTC, whatever the zone is: its table is not built in.
        DataType::Timestamp(unit, Some(_)) => {
            let plain = column.slice(row, 1).to_data().into_builder();
            let plain = make_array(plain.data_type(DataType::Timestamp(*unit, None)).build()?);
            push(text, &plain, 0)?;
            text.write_char('Z')
        }
        DataType::FixedSizeList(..) => {
            return push_list(text, &column.as_fixed_size_list().value(row));
        }
        DataType::List(_) => return push_list(text, &column.as_list::<i32>().value(row)),
        DataType::Struct(fields) if *fields == vector_fields() => {
            return push_vector(text, column.as_struct(), row);
        }
        // Only in a column of the caller's.
        _ => text.write_str(&text_of(column, row)?),
    };
    shown.map_err(|e| ArrowError::InvalidArgumentError(e.to_string()))
}

/// A value of a type that none of our own columns has.
#[cfg(feature = "table")]
fn text_of(column: &ArrayRef, row: usize) -> Result<String, ArrowError> {
    arrow_cast::display::array_value_to_string(column, row)
}

#[cfg(not(feature = "table"))]
fn text_of(column: &ArrayRef, _row: usize) -> Result<String, ArrowError> {
    let name = column.data_type();
    Err(ArrowError::CastError(format!("a column of {name} as CSV needs the feature `table`")))
}

fn push_list(text: &mut String, elements: &ArrayRef) -> Result<(), ArrowError> {
    text.push('[');
    for i in 0..elements.len() {
        if i > 0 {
            text.push_str(", ");
        }
        if elements.is_null(i) {
            text.push_str("null");
        } else {
            push(text, elements, i)?;
        }
    }
    text.push(']');
    Ok(())
}

/// Appends a vector of Spark as Spark shows it: `[1.0, 2.0]`, or `(3, [0, 2], [1.0, 2.0])` for a sparse one.
fn push_vector(text: &mut String, vectors: &StructArray, row: usize) -> Result<(), ArrowError> {
    let list = |i: usize| vectors.column(i).as_list::<i32>().value(row);
    if vectors.column(0).as_primitive::<Int8Type>().value(row) != 0 {
        return push_list(text, &list(3));
    }
    text.push('(');
    push(text, vectors.column(1), row)?;
    text.push_str(", ");
    push_list(text, &list(2))?;
    text.push_str(", ");
    push_list(text, &list(3))?;
    text.push(')');
    Ok(())
}

/// Appends one element of a vector.
fn push_element(
    text: &mut String,
    column: &ArrayRef,
    row: usize,
    i: usize,
) -> Result<(), ArrowError> {
    if let Some(bytes) = column.as_fixed_size_binary_opt() {
        let shown = write!(text, "{}", bytes.value(row)[i]);
        return shown.map_err(|e| ArrowError::InvalidArgumentError(e.to_string()));
    }
    let lists = column.as_fixed_size_list();
    let at = lists.value_offset(row) as usize + i;
    if lists.values().is_null(at) { Ok(()) } else { push(text, lists.values(), at) }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Float32Array, RecordBatch, StringArray};
    use arrow_schema::{Field, Schema};

    use super::*;
    use crate::features::VectorFormat;
    use crate::rows::{RowBatch, TableParams};

    fn style(columns: &[ArrayRef], wide: bool) -> Style {
        let fields = columns.iter().enumerate();
        let fields = fields.map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Style { schema, wide, gzip: false }
    }

    #[test]
    fn texts_are_quoted_and_floats_read_back() {
        let texts = ["a", "a,b", "say \"x\"", "two\nlines", ""];
        let floats = [0.1_f32, -1.0e-30, f32::MAX, f32::MIN_POSITIVE / 4.0, 16_777_216.0];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(texts.iter().map(|t| Some(*t)).chain([None]).collect::<StringArray>()),
            Arc::new(floats.iter().map(|f| Some(*f)).chain([None]).collect::<Float32Array>()),
        ];
        let bytes = style(&columns, false).text_of(&columns).unwrap();
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&bytes[..]);
        let records: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!(records.len(), 6);
        for (record, (text, float)) in records.iter().zip(texts.iter().zip(floats)) {
            assert_eq!((&record[0], record[1].parse()), (*text, Ok(float)));
        }
        assert_eq!((&records[5][0], &records[5][1]), ("", ""));
    }

    #[test]
    fn vectors_are_one_column_or_one_for_each_element() {
        let table = TableParams::default();
        let batch = RowBatch::new(VectorFormat::u8(2)).to_record_batch(&table).unwrap();
        let columns: Vec<ArrayRef> = vec![Arc::new(
            arrow_array::FixedSizeBinaryArray::try_from_iter([[1_u8, 255], [0, 7]].iter()).unwrap(),
        )];
        let lists = style(&columns, false).text_of(&columns).unwrap();
        assert_eq!(String::from_utf8(lists).unwrap(), "\"[1, 255]\"\n\"[0, 7]\"\n");
        let wide = style(&columns, true);
        assert_eq!(wide.header().unwrap(), b"c0_0,c0_1\n");
        assert_eq!(wide.text_of(&columns).unwrap(), b"1,255\n0,7\n");
        let none: RecordBatch = batch.slice(0, 0);
        assert_eq!(style(none.columns(), true).text_of(none.columns()).unwrap(), b"");
    }
}
