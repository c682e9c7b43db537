//! The columns of a result: which there are, and of which types.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ImageRows;
use super::spark::element_of;
use crate::choice::choice;
use crate::error::{Error, Result};
use crate::features::{Element, KeyPoint, VectorFormat};

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

/// What a row of a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowShape {
    /// One vector: with ORB, a descriptor.
    #[default]
    Descriptor,
    /// One image; keypoints, vectors and scores are lists, empty for an image without features.
    Image,
    /// One image; its first N vectors concatenated to one vector and padded with zeros, and their scores
    /// likewise. Keypoints are left out.
    Padded(usize),
}

impl RowShape {
    /// Whether a row is an image.
    #[must_use]
    pub fn is_of_images(self) -> bool {
        self != Self::Descriptor
    }
}

impl fmt::Display for RowShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor => f.pad("descriptor"),
            Self::Image => f.pad("image"),
            Self::Padded(n) => write!(f, "padded:{n}"),
        }
    }
}

impl FromStr for RowShape {
    type Err = Error;

    /// Accepts `descriptor`, `image` and `padded:N`.
    fn from_str(text: &str) -> Result<Self> {
        let padded = || text.strip_prefix("padded:")?.parse().ok().map(Self::Padded);
        match text {
            "descriptor" => Ok(Self::Descriptor),
            "image" => Ok(Self::Image),
            _ => {
                padded().ok_or_else(|| Error::param("rows", text, "descriptor, image or padded:N"))
            }
        }
    }
}

impl Serialize for RowShape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RowShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Whose types the columns have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Arrow's: vectors are lists of a fixed length, or bytes.
    #[default]
    Arrow,
    /// Spark ML's: every vector is a `vector` (`VectorUDT`), of float64.
    Spark,
}

choice!(Layout, "layout", Arrow = "arrow", Spark = "spark");

/// How batches become a table.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// let table = TableParams::default().with_rows(RowShape::Image);
/// let schema = table.schema(VectorFormat::u8(32).with_keypoints(), None);
/// assert_eq!(schema.field(5).name(), "n_keypoints");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct TableParams {
    rows: RowShape,
    layout: Layout,
    score_width: ScoreWidth,
    image: bool,
}

impl TableParams {
    /// Sets what a row is (default [`RowShape::Descriptor`]).
    pub fn with_rows(mut self, rows: RowShape) -> Self {
        self.rows = rows;
        self
    }

    /// Sets whose types the columns have (default [`Layout::Arrow`]).
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Sets the type of the scores in Arrow's layout (default [`ScoreWidth::F32`]); Spark's has float64.
    pub fn with_score_width(mut self, width: ScoreWidth) -> Self {
        self.score_width = width;
        self
    }

    /// Sets whether there is a column `image` of the pixels, as Spark's data source for images has it (default: no). For
    /// rows of images only.
    pub fn with_image(mut self, image: bool) -> Self {
        self.image = image;
        self
    }

    /// What a row is.
    #[must_use]
    pub fn rows(&self) -> RowShape {
        self.rows
    }

    /// Whose types the columns have.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The type of the scores in Arrow's layout.
    #[must_use]
    pub fn score_width(&self) -> ScoreWidth {
        self.score_width
    }

    /// Whether there is a column of the pixels.
    #[must_use]
    pub fn has_image(&self) -> bool {
        self.image
    }

    /// Checks the parameters, before there is a batch.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for rows of no or of more than 2^20 vectors, and for pixels in rows of descriptors.
    pub fn check(&self) -> Result<()> {
        if let RowShape::Padded(n) = self.rows
            && !(1..=1 << 20).contains(&n)
        {
            return Err(Error::param("rows", self.rows, "padded:N of 1 to 1048576 vectors"));
        }
        if self.image && !self.rows.is_of_images() {
            let allowed =
                "only with one row for each image: it would repeat the pixels in every row";
            return Err(Error::param("image", true, allowed));
        }
        Ok(())
    }

    /// Checks the parameters for a format of the vectors and the number of PCA components, if any.
    ///
    /// # Errors
    /// As [`check`](Self::check), and [`Error::InvalidParam`] for padded rows of more than 2^24 numbers.
    pub fn check_for(&self, format: VectorFormat, n_components: Option<usize>) -> Result<()> {
        self.check()?;
        let RowShape::Padded(n) = self.rows else { return Ok(()) };
        let longest = format.len().max(n_components.unwrap_or(0)).max(1);
        let most = (1 << 24) / longest;
        if n > most {
            let allowed = format!("padded:N of 1 to {most} vectors of {longest} numbers");
            return Err(Error::param("rows", self.rows, allowed));
        }
        Ok(())
    }

    /// The columns for a format of the vectors and the number of PCA components, if any.
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
    ///
    /// In rows of images, `n_keypoints` or `n_vectors` stands in place of the index, and the columns after it are lists of
    /// these types; padded, `descriptor` or `vector` and `pca` are one FixedSizeList of floats. In Spark's layout, each
    /// vector is a struct of `type`, `size`, `indices` and `values`. `image`, on request, comes last.
    #[must_use]
    pub fn schema(&self, format: VectorFormat, n_components: Option<usize>) -> SchemaRef {
        let fields = self.columns(format, n_components.is_some()).map(|column| {
            let data_type = self.data_type(column.values, format, n_components.unwrap_or_default());
            let is_nullable = matches!(column.values, Values::Label);
            Field::new(column.name, data_type, is_nullable)
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The columns of a format.
    pub(super) fn columns(
        self,
        format: VectorFormat,
        has_scores: bool,
    ) -> impl Iterator<Item = Column> {
        COLUMNS.into_iter().filter(move |column| {
            let is_of_images = self.rows.is_of_images();
            column.keypoints.is_none_or(|k| k == format.has_keypoints())
                && match column.values {
                    Values::Index => !is_of_images,
                    Values::Count => is_of_images,
                    Values::OfKeyPoint(_) | Values::Octave => {
                        !matches!(self.rows, RowShape::Padded(_))
                    }
                    Values::Scores => has_scores,
                    Values::Image => self.image,
                    _ => true,
                }
        })
    }

    fn data_type(self, values: Values, format: VectorFormat, n_components: usize) -> DataType {
        let (element, len) = match values {
            Values::Path | Values::Label => return DataType::Utf8,
            Values::OfImage(_) | Values::Index | Values::Count => return DataType::Int32,
            Values::Image => return DataType::Struct(super::spark::image_fields()),
            Values::OfKeyPoint(_) => return self.repeated(DataType::Float32),
            Values::Octave => return self.repeated(DataType::Int32),
            Values::Vector => (format.element(), format.len()),
            Values::Scores => (Element::F32, n_components),
        };
        if self.layout == Layout::Spark {
            let vector = DataType::Struct(super::spark::vector_fields());
            return if self.rows == RowShape::Image { list_of(vector) } else { vector };
        }
        let float = match values {
            Values::Scores => self.score_width.data_type(),
            _ => DataType::Float32,
        };
        match (self.rows, element) {
            (RowShape::Padded(n), _) => fixed_list_of(float, n * len),
            // pandas knows no list of binary of a fixed length.
            (RowShape::Image, Element::U8) => list_of(DataType::Binary),
            (_, Element::U8) => DataType::FixedSizeBinary(len as i32),
            (_, Element::F32) => self.repeated(fixed_list_of(float, len)),
        }
    }

    /// The type of what each vector has one of: a list of them in rows of images.
    fn repeated(self, of: DataType) -> DataType {
        if self.rows.is_of_images() { list_of(of) } else { of }
    }
}

fn fixed_list_of(data_type: DataType, len: usize) -> DataType {
    DataType::FixedSizeList(element_of(data_type), i32::try_from(len).unwrap_or(i32::MAX))
}

fn list_of(data_type: DataType) -> DataType {
    DataType::List(element_of(data_type))
}

/// Where a column's values come from.
#[derive(Clone, Copy)]
pub(super) enum Values {
    Path,
    Label,
    OfImage(fn(&ImageRows) -> i32),
    Index,
    Count,
    OfKeyPoint(fn(&KeyPoint) -> f32),
    Octave,
    Vector,
    Scores,
    Image,
}

#[derive(Clone, Copy)]
pub(super) struct Column {
    pub name: &'static str,
    pub values: Values,
    /// `Some(true)`: only for vectors with keypoints. `Some(false)`: only for vectors without. `None`: always.
    keypoints: Option<bool>,
}

const fn column_of(name: &'static str, values: Values, keypoints: Option<bool>) -> Column {
    Column { name, values, keypoints }
}

const COLUMNS: [Column; 19] = [
    column_of("path", Values::Path, None),
    column_of("label", Values::Label, None),
    column_of("image_height", Values::OfImage(|i| i.meta.height as i32), None),
    column_of("image_width", Values::OfImage(|i| i.meta.width as i32), None),
    column_of("image_channels", Values::OfImage(|i| i.meta.channels.into()), None),
    column_of("keypoint_index", Values::Index, Some(true)),
    column_of("vector_index", Values::Index, Some(false)),
    column_of("n_keypoints", Values::Count, Some(true)),
    column_of("n_vectors", Values::Count, Some(false)),
    column_of("x", Values::OfKeyPoint(|k| k.x), Some(true)),
    column_of("y", Values::OfKeyPoint(|k| k.y), Some(true)),
    column_of("size", Values::OfKeyPoint(|k| k.size), Some(true)),
    column_of("angle", Values::OfKeyPoint(|k| k.angle), Some(true)),
    column_of("response", Values::OfKeyPoint(|k| k.response), Some(true)),
    column_of("octave", Values::Octave, Some(true)),
    column_of("descriptor", Values::Vector, Some(true)),
    column_of("vector", Values::Vector, Some(false)),
    column_of("pca", Values::Scores, None),
    column_of("image", Values::Image, None),
];

/// Whether a column of ours is written with a dictionary; `None` for other columns. Vectors, scores, pixels and the
/// float values of keypoints hardly repeat, so the writer would build a dictionary and then discard it.
#[cfg(feature = "parquet")]
pub(crate) fn is_dictionary(name: &str) -> Option<bool> {
    let column = COLUMNS.iter().find(|column| column.name == name);
    column.map(|c| {
        !matches!(c.values, Values::OfKeyPoint(_) | Values::Vector | Values::Scores | Values::Image)
    })
}
