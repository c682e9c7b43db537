//! Images in a column of a table.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;

use super::TableSource;
use super::files::{FileBatch, TableBatches, missing};
use crate::error::{DecodeCause, Error, Result};
use crate::source::{ImageObject, ImageSource, LabelRule};

/// The images of a column of a Parquet table, one for each row.
///
/// The column holds encoded images, as `content` of Spark's `binaryFile`, or Spark's `image` structs, whose pixels are
/// taken as they are. An image is named by the column `path` or the struct's `origin`, or else by its file and row. It is
/// labelled by the column `label`, if there is one, or else by its path and the rule.
///
/// # Examples
/// ```no_run
/// use orb_features::prelude::*;
/// use orb_features::table::{ImageTable, TableSource};
///
/// let images = ImageTable::new(TableSource::in_folder("photos.parquet"));
/// let orb = OrbParams::default().build()?;
/// let sink = FileSink::create("features", FileParams::default())?;
/// Pipeline::new(images, orb, sink).run()?;
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ImageTable {
    table: TableSource,
    column: Option<String>,
    label: LabelRule,
}

impl ImageTable {
    /// Takes the column `content`, or else `image`, of a table.
    pub fn new(table: TableSource) -> Self {
        Self { table, column: None, label: LabelRule::default() }
    }

    /// Sets the column.
    pub fn with_column(mut self, column: impl Into<String>) -> Self {
        self.column = Some(column.into());
        self
    }

    /// Sets the rule for labels, if there is no column `label` (default [`LabelRule::Parent`]).
    pub fn with_label(mut self, label: LabelRule) -> Self {
        self.label = label;
        self
    }
}

impl ImageSource for ImageTable {
    type Image = ImageObject;
    type Images = TableImages;

    /// Opens the table. A file that is no such table is an [`Error::Table`] item, which ends a job: it is unknown which
    /// images are missing.
    ///
    /// # Errors
    /// [`Error::List`] if the place of the table cannot be listed.
    fn open(self) -> Result<TableImages> {
        let column = self.column.clone();
        let batches = self.table.batches(move |_, schema| {
            let names = [column_of_texts(schema, PATH)?, column_of_texts(schema, LABEL)?];
            let image = column_of_images(schema, column.as_deref())?;
            Ok(names.into_iter().flatten().chain([image]).collect())
        })?;
        Ok(TableImages { options: self, batches, batch: None, retries: 0, ended: false })
    }
}

/// The stream of an [`ImageTable`].
pub struct TableImages {
    options: ImageTable,
    batches: TableBatches,
    /// The batch in progress, and how many of its rows are done.
    batch: Option<(ImageBatch, usize)>,
    /// Repeated requests that no image tells of yet.
    retries: u32,
    ended: bool,
}

impl std::fmt::Debug for TableImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableImages").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The columns of a batch that are used, in the types that they are read in.
struct ImageColumns {
    image: ArrayRef,
    /// The bytes of the images, or of the pixels in their structs.
    data: Option<ArrayRef>,
    path: Option<ArrayRef>,
    label: Option<ArrayRef>,
    /// The names in the structs.
    origin: Option<ArrayRef>,
}

/// Rows of one file.
struct ImageBatch {
    columns: ImageColumns,
    uri: Arc<str>,
    /// The number of the first row in the file.
    first: usize,
}

/// Names of the column of images, if none is given.
const IMAGE_NAMES: [&str; 2] = ["content", "image"];

/// The index of the column of images.
fn column_of_images(schema: &Schema, wanted: Option<&str>) -> Result<usize, String> {
    let has = |name: &&str| schema.index_of(name).is_ok();
    let name = match wanted {
        Some(name) => name,
        None => IMAGE_NAMES.into_iter().find(has).unwrap_or(IMAGE_NAMES[0]),
    };
    let index = schema.index_of(name).map_err(|_| missing(name, schema))?;
    match schema.field(index).data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Ok(index),
        DataType::Struct(fields)
            if ["height", "width", "nChannels", "mode", "data"]
                .iter()
                .all(|name| fields.find(name).is_some()) =>
        {
            Ok(index)
        }
        other => Err(format!("its column {name:?} holds {other}, not images")),
    }
}

/// The index of a column of texts, if there is one of that name. Labels may also be numbers.
fn column_of_texts(schema: &Schema, name: &str) -> Result<Option<usize>, String> {
    let Some((index, field)) = schema.column_with_name(name) else { return Ok(None) };
    let is_text = |of: &DataType| {
        matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
            || (name == LABEL && (of.is_integer() || *of == DataType::Boolean))
    };
    match field.data_type() {
        DataType::Dictionary(_, of) if is_text(of) => Ok(Some(index)),
        of if is_text(of) => Ok(Some(index)),
        other => Err(format!("its column {name:?} holds {other}, not texts")),
    }
}

/// The columns of names and labels.
const PATH: &str = "path";
const LABEL: &str = "label";

impl ImageColumns {
    fn of(batch: &RecordBatch, column: Option<&str>) -> Result<Self, String> {
        let schema = batch.schema();
        let texts = |name| {
            let Some(index) = column_of_texts(&schema, name)? else { return Ok(None) };
            let texts = arrow_cast::cast(batch.column(index), &DataType::Utf8);
            texts.map(Some).map_err(|e| e.to_string())
        };
        let image = batch.column(column_of_images(&schema, column)?);
        let (path, label) = (texts(PATH)?, texts(LABEL)?);
        let binary = |data: &ArrayRef| arrow_cast::cast(data, &DataType::LargeBinary);
        let Some(pixels) = image.as_struct_opt() else {
            let data = Some(binary(image).map_err(|e| e.to_string())?);
            return Ok(Self { image: Arc::clone(image), data, path, label, origin: None });
        };
        // Of another type than Spark's, a field is missing from every image.
        let data = pixels.column_by_name("data").and_then(|data| binary(data).ok());
        let origin = pixels.column_by_name("origin");
        let origin = origin.and_then(|texts| arrow_cast::cast(texts, &DataType::Utf8).ok());
        Ok(Self { image: Arc::clone(image), data, path, label, origin })
    }

    fn len(&self) -> usize {
        self.image.len()
    }

    /// The encoded image of a row, or why it has none.
    fn bytes(&self, row: usize) -> Result<Bytes, String> {
        if self.image.is_null(row) {
            return Err("the table holds no image here".to_owned());
        }
        let data = self.data.as_ref().filter(|data| data.is_valid(row));
        let data = data.map(|data| data.as_binary::<i64>().value(row));
        let Some(image) = self.image.as_struct_opt() else {
            return Ok(Bytes::copy_from_slice(data.unwrap_or_default()));
        };
        let number = |name| {
            let column = image.column_by_name(name)?.as_primitive_opt::<Int32Type>()?;
            column.is_valid(row).then(|| column.value(row))
        };
        let (Some(height), Some(width), Some(channels), Some(data)) =
            (number("height"), number("width"), number("nChannels"), data)
        else {
            return Err("a field of its struct is null, or not of Spark's type".to_owned());
        };
        netpbm(width, height, channels, data.to_vec())
    }

    fn text(column: Option<&ArrayRef>, row: usize) -> Option<String> {
        let texts = column?.as_string::<i32>();
        texts.is_valid(row).then(|| texts.value(row).to_owned())
    }
}

/// Wraps the pixels of Spark's struct, rows of grey, BGR or BGRA, as a Netpbm file: the decoder then treats them as
/// those of any file.
fn netpbm(width: i32, height: i32, channels: i32, mut data: Vec<u8>) -> Result<Bytes, String> {
    let sides = (u64::try_from(width), u64::try_from(height), u64::try_from(channels));
    let len = match sides {
        (Ok(w), Ok(h), Ok(c @ (1 | 3 | 4))) => w.checked_mul(h).and_then(|n| n.checked_mul(c)),
        _ => None,
    };
    if len != Some(data.len() as u64) || data.is_empty() {
        let n = data.len();
        return Err(format!("{n} bytes for {width} x {height} pixels of {channels} channels"));
    }
    let head = match channels {
        1 => format!("P5 {width} {height} 255\n"),
        3 => {
            data.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
            format!("P6 {width} {height} 255\n")
        }
        _ => {
            data.as_chunks_mut::<4>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
            format!(
                "P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
            )
        }
    };
    Ok([head.into_bytes(), data].concat().into())
}

impl TableImages {
    /// The image of a row.
    fn image(&self, batch: &ImageBatch, row: usize) -> Result<ImageObject> {
        let ImageBatch { columns, uri: file, first } = batch;
        let path = ImageColumns::text(columns.path.as_ref(), row)
            .or_else(|| ImageColumns::text(columns.origin.as_ref(), row));
        // Without a path, only a Hive rule gives a label, from the table file's path.
        let label = match &columns.label {
            Some(labels) => ImageColumns::text(Some(labels), row),
            None => match (&path, &self.options.label) {
                (Some(path), rule) => rule.label("", path),
                (None, rule @ LabelRule::Hive(_)) => rule.label("", file),
                (None, _) => None,
            },
        };
        let uri = path.unwrap_or_else(|| format!("{file}#{}", first + row));
        match columns.bytes(row) {
            Ok(bytes) => Ok(ImageObject { label, ..ImageObject::new(uri, bytes) }),
            Err(why) => Err(Error::decode(uri, DecodeCause::Corrupt, why).with_facts(label, None)),
        }
    }

    /// Goes to the next batch; false at the end.
    fn advance(&mut self) -> Result<bool> {
        let Some(batch) = self.batches.next() else { return Ok(false) };
        let FileBatch { uri, first, retries, rows } = batch?;
        let columns = ImageColumns::of(&rows, self.options.column.as_deref());
        let columns = columns.map_err(|why| Error::table(&*uri, why))?;
        self.retries += retries;
        self.batch = Some((ImageBatch { columns, uri, first }, 0));
        Ok(true)
    }
}

impl Iterator for TableImages {
    type Item = Result<ImageObject>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            if let Some((batch, row)) = &self.batch
                && *row < batch.columns.len()
            {
                let image = self.image(batch, *row);
                if let Some((_, row)) = &mut self.batch {
                    *row += 1;
                }
                let retries = std::mem::take(&mut self.retries);
                return Some(image.map(|image| ImageObject { retries, ..image }));
            }
            match self.advance() {
                Ok(more) => self.ended = !more,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
