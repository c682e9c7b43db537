//! Vectors of one element type and length.

use std::fmt;
use std::ops::Range;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::error::{Error, Result};

/// The type of a vector's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Element {
    /// Bytes.
    U8,
    /// 32-bit floats.
    F32,
}

impl Element {
    /// Its size in bytes.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F32 => 4,
        }
    }
}

choice!(Element, "element", U8 = "u8", F32 = "f32");

/// The type and length of vectors, and whether each belongs to a keypoint. The columns of a result follow from the
/// format.
///
/// # Examples
/// ```
/// use orb_features::features::VectorFormat;
///
/// let orb = VectorFormat::u8(32).with_keypoints();
/// assert_eq!(orb.to_string(), "32 x u8 with keypoints");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct VectorFormat {
    element: Element,
    len: usize,
    keypoints: bool,
}

impl VectorFormat {
    /// Vectors of `len` bytes, without keypoints.
    pub fn u8(len: usize) -> Self {
        Self { element: Element::U8, len, keypoints: false }
    }

    /// Vectors of `len` floats, without keypoints.
    pub fn f32(len: usize) -> Self {
        Self { element: Element::F32, len, keypoints: false }
    }

    /// The same with a keypoint for each vector.
    pub fn with_keypoints(mut self) -> Self {
        self.keypoints = true;
        self
    }

    /// The type of the elements.
    #[must_use]
    pub fn element(&self) -> Element {
        self.element
    }

    /// The number of elements of a vector.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // The length of a vector; never 0 in a valid format.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether each vector belongs to a keypoint.
    #[must_use]
    pub fn has_keypoints(&self) -> bool {
        self.keypoints
    }

    /// Checks the format, without an image.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for vectors of 0 or of more than 2^20 elements.
    pub fn check(&self) -> Result<()> {
        if (1..=1 << 20).contains(&self.len) {
            return Ok(());
        }
        Err(Error::param("vector length", self.len, "1 to 1048576"))
    }
}

impl fmt::Display for VectorFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.len, self.element)?;
        f.write_str(if self.keypoints { " with keypoints" } else { "" })
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Elements {
    U8(Vec<u8>),
    F32(Vec<f32>),
}

/// Vectors of one format, stored one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    elements: Elements,
    len: usize,
    keypoints: bool,
}

/// Borrowed vectors: an array of shape (vectors, elements) in standard layout.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum VectorsView<'a> {
    /// Bytes.
    U8(ArrayView2<'a, u8>),
    /// Floats.
    F32(ArrayView2<'a, f32>),
}

impl VectorsView<'_> {
    /// Their format, as vectors without keypoints.
    pub fn format(&self) -> VectorFormat {
        match self {
            Self::U8(rows) => VectorFormat::u8(rows.ncols()),
            Self::F32(rows) => VectorFormat::f32(rows.ncols()),
        }
    }
}

impl Vectors {
    /// An empty list of vectors of a format.
    #[must_use]
    pub fn empty(format: VectorFormat) -> Self {
        let elements = match format.element {
            Element::U8 => Elements::U8(Vec::new()),
            Element::F32 => Elements::F32(Vec::new()),
        };
        Self { elements, len: format.len, keypoints: format.keypoints }
    }

    /// Takes vectors of `len` bytes, one after the other.
    ///
    /// # Errors
    /// [`Error::Shape`] if `len` is 0, or `elements` is not a whole number of vectors.
    pub fn from_u8(elements: Vec<u8>, len: usize) -> Result<Self> {
        whole(elements.len(), len)?;
        Ok(Self { elements: Elements::U8(elements), len, keypoints: false })
    }

    /// Takes vectors of `len` floats, one after the other.
    ///
    /// # Errors
    /// [`Error::Shape`] if `len` is 0, or `elements` is not a whole number of vectors.
    pub fn from_f32(elements: Vec<f32>, len: usize) -> Result<Self> {
        whole(elements.len(), len)?;
        Ok(Self { elements: Elements::F32(elements), len, keypoints: false })
    }

    /// Marks each vector as belonging to a keypoint.
    #[must_use]
    pub fn with_keypoints(mut self) -> Self {
        self.keypoints = true;
        self
    }

    /// Their format.
    pub fn format(&self) -> VectorFormat {
        let element = match self.elements {
            Elements::U8(_) => Element::U8,
            Elements::F32(_) => Element::F32,
        };
        VectorFormat { element, len: self.len, keypoints: self.keypoints }
    }

    /// The number of vectors.
    #[must_use]
    pub fn rows(&self) -> usize {
        let elements = match &self.elements {
            Elements::U8(elements) => elements.len(),
            Elements::F32(elements) => elements.len(),
        };
        elements / self.len.max(1)
    }

    /// Borrows all vectors.
    #[must_use]
    pub fn view(&self) -> VectorsView<'_> {
        self.slice(0..self.rows())
    }

    /// Borrows the vectors `rows`.
    ///
    /// # Panics
    /// If `rows` is out of range.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> VectorsView<'_> {
        const WHOLE: &str = "whole vectors";
        let shape = (rows.len(), self.len);
        let range = rows.start * self.len..rows.end * self.len;
        match &self.elements {
            Elements::U8(all) => {
                VectorsView::U8(ArrayView2::from_shape(shape, &all[range]).expect(WHOLE))
            }
            Elements::F32(all) => {
                VectorsView::F32(ArrayView2::from_shape(shape, &all[range]).expect(WHOLE))
            }
        }
    }

    /// The elements, one vector after the other; `None` unless they are bytes.
    #[must_use]
    pub fn as_u8(&self) -> Option<&[u8]> {
        match &self.elements {
            Elements::U8(elements) => Some(elements),
            Elements::F32(_) => None,
        }
    }

    /// The elements, one vector after the other; `None` unless they are floats.
    #[must_use]
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.elements {
            Elements::F32(elements) => Some(elements),
            Elements::U8(_) => None,
        }
    }

    /// The elements of a vector; none if they are bytes.
    #[cfg(feature = "table")]
    pub(crate) fn row_f32(&self, row: usize) -> &[f32] {
        self.as_f32().map_or(&[], |all| &all[row * self.len..(row + 1) * self.len])
    }

    /// Appends the vectors `rows` of `other`, which has the same format.
    pub(crate) fn append(&mut self, other: &Self, rows: Range<usize>) {
        debug_assert_eq!(self.len, other.len);
        let range = rows.start * self.len..rows.end * self.len;
        match (&mut self.elements, &other.elements) {
            (Elements::U8(all), Elements::U8(more)) => all.extend_from_slice(&more[range]),
            (Elements::F32(all), Elements::F32(more)) => all.extend_from_slice(&more[range]),
            _ => unreachable!("formats are compared before"),
        }
    }

    /// Reserves capacity for `rows` more vectors.
    pub(crate) fn reserve(&mut self, rows: usize) {
        match &mut self.elements {
            Elements::U8(all) => all.reserve(rows * self.len),
            Elements::F32(all) => all.reserve(rows * self.len),
        }
    }

    /// Refuses floats that are not finite: they would make every score a NaN.
    pub(crate) fn check_finite(&self) -> Result<()> {
        match self.as_f32().and_then(|all| all.iter().position(|v| !v.is_finite())) {
            None => Ok(()),
            Some(at) => Err(Error::shape(format!(
                "element {} of vector {} is not finite",
                at % self.len,
                at / self.len
            ))),
        }
    }
}

fn whole(elements: usize, len: usize) -> Result<()> {
    if len > 0 && elements.is_multiple_of(len) {
        return Ok(());
    }
    Err(Error::shape(format!("{elements} elements for vectors of {len}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_whole_and_of_one_format() {
        let mut bytes = Vectors::from_u8(vec![1, 2, 3, 4, 5, 6], 3).unwrap();
        assert_eq!((bytes.rows(), bytes.format()), (2, VectorFormat::u8(3)));
        bytes.append(&bytes.clone(), 1..2);
        assert_eq!(bytes.as_u8().unwrap(), [1, 2, 3, 4, 5, 6, 4, 5, 6]);
        assert!(bytes.as_f32().is_none());
        let VectorsView::U8(view) = bytes.slice(1..3) else { panic!("bytes") };
        assert_eq!(view, ndarray::array![[4, 5, 6], [4, 5, 6]]);
        Vectors::from_u8(vec![0; 5], 3).unwrap_err();
        Vectors::from_f32(vec![0.0], 0).unwrap_err();
        let floats = Vectors::from_f32(vec![1.0, f32::NAN], 1).unwrap();
        let why = floats.check_finite().unwrap_err().to_string();
        assert!(why.contains("element 0 of vector 1"), "{why}");
        assert_eq!(Vectors::empty(VectorFormat::f32(7)).rows(), 0);
        VectorFormat::f32(0).check().unwrap_err();
    }
}
