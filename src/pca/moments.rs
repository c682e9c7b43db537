//! Count, sums and sums of products of rows: all that a fit needs.

use std::borrow::Cow;

use nalgebra::DMatrix;
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::products::{BLOCK_ROWS, add_products};
use super::{PcaInput, PcaModel, PcaParams, TASK_ROWS, bits_of, solve};
use crate::arch::{GRAM_ROWS, GRAM_SIDE, GramSums, Kernels};
use crate::error::{Error, Result};
use crate::features::{Element, VectorFormat, VectorsView};

/// Count, sum and Gram matrix of rows of bytes or of 32-bit floats.
///
/// For bytes these are exact integers: any split of the rows, in any order, merges to the same moments. For floats
/// these are float64 sums over blocks of 512 rows, in the order of the rows, however many rows are pushed at a time.
/// Merging adds the sums, so the same parts merged in the same order give the same bits. Neither threads nor instruction
/// sets change a bit.
///
/// Products of floats are exact, but for long vectors of many rows, where they take the time: if a row has more than 512
/// elements, rows after the first 2,048 are centred by their block's mean and multiplied in float32. The error of a
/// covariance is then some 1e-8 of the product of the two standard deviations, that of float32 sums over 256 rows.
///
/// # Examples
/// ```
/// use ndarray::array;
/// use orb_features::pca::{Moments, PcaParams};
///
/// let rows = array![[1_u8, 2, 3], [4, 5, 7], [0, 9, 1], [3, 3, 3]];
/// let (top, bottom) = rows.view().split_at(ndarray::Axis(0), 1);
/// let mut moments = Moments::new(3);
/// moments.push_rows(bottom)?;
/// let mut other = Moments::new(3);
/// other.push_rows(top)?;
/// moments.merge(&other)?;
///
/// let model = moments.fit(&PcaParams::new(2))?;
/// assert_eq!(model.components().dim(), (2, 3));
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Moments {
    count: u64,
    dimensions: usize,
    input: PcaInput,
    sums: ElementSums,
}

/// Sums, of shape (dimensions), and sums of products, of shape (dimensions, dimensions): for floats only the upper
/// triangle. `pending` are the rows of a block that is not whole yet, which are in neither.
#[derive(Clone, Debug, PartialEq)]
enum ElementSums {
    U8 { sum: Vec<u64>, gram: Array2<u64> },
    F32 { sum: Vec<f64>, gram: Array2<f64>, pending: Vec<f32> },
}

/// Elements of rows of floats that a thread checks at a time.
const CHECKED_LEN: usize = 256 << 10;

/// Equal if [`Moments::to_bytes`] are.
impl PartialEq for Moments {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

/// The number of rows whose products of bytes sum exactly in float32: 256 * 255^2 < 2^24.
const EXACT_ROWS: usize = 256;

/// Most bytes of the matrices of products that threads fill side by side.
const PARTS_BYTES: usize = 256 << 20;

/// The first bytes of [`Moments::to_bytes`].
const MAGIC: &[u8; 8] = b"orbmom01";
/// The maximum number of rows: all sums fit in 64 bits, and products of two sums in 128 bits.
const MAX_COUNT: u64 = 1 << 48;
/// Bytes before the sums: magic, element, 7 zeros, dimensions, count.
const HEAD_LEN: usize = 32;

impl Moments {
    /// Empty moments, for rows of `dimensions` bytes.
    #[must_use]
    pub fn new(dimensions: usize) -> Self {
        let gram = Array2::zeros((dimensions, dimensions));
        let sums = ElementSums::U8 { sum: vec![0; dimensions], gram };
        Self { count: 0, dimensions, input: PcaInput::Bytes, sums }
    }

    /// Empty moments of the bits of rows of `bytes` bytes: of `8 * bytes` dimensions.
    #[must_use]
    pub fn of_bits(bytes: usize) -> Self {
        Self { input: PcaInput::Bits, ..Self::new(8 * bytes) }
    }

    /// Empty moments, for rows of `dimensions` floats.
    #[must_use]
    pub fn new_f32(dimensions: usize) -> Self {
        let gram = Array2::zeros((dimensions, dimensions));
        let sums = ElementSums::F32 { sum: vec![0.0; dimensions], gram, pending: Vec::new() };
        Self { count: 0, dimensions, input: PcaInput::Bytes, sums }
    }

    /// Empty moments, for what a PCA gets of vectors of a format.
    ///
    /// # Errors
    /// As [`PcaInput::check`].
    pub fn of_format(format: VectorFormat, input: PcaInput) -> Result<Self> {
        input.check(format)?;
        Ok(match (input, format.element()) {
            (PcaInput::Bits, _) => Self::of_bits(format.len()),
            (PcaInput::Bytes, Element::U8) => Self::new(format.len()),
            (PcaInput::Bytes, Element::F32) => Self::new_f32(format.len()),
        })
    }

    /// What of a vector they are of.
    #[must_use]
    pub fn input(&self) -> PcaInput {
        self.input
    }

    /// The number of rows.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The number of elements of a row.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The type of a row's elements.
    #[must_use]
    pub fn element(&self) -> Element {
        match self.sums {
            ElementSums::U8 { .. } => Element::U8,
            ElementSums::F32 { .. } => Element::F32,
        }
    }

    /// Adds vectors of the same format.
    ///
    /// # Errors
    /// [`Error::Shape`] for vectors of another format.
    pub fn push(&mut self, vectors: VectorsView<'_>) -> Result<()> {
        match vectors {
            VectorsView::U8(rows) => self.push_rows(rows),
            VectorsView::F32(rows) => self.push_rows_f32(rows),
        }
    }

    /// Adds rows of bytes: an array of shape (rows, dimensions), or (rows, dimensions / 8) for moments of their bits.
    /// Many rows are shared out to the threads of rayon's current pool.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows of another length, or for moments of floats.
    pub fn push_rows(&mut self, rows: ArrayView2<'_, u8>) -> Result<()> {
        self.check(Element::U8, self.input.dimensions(rows.ncols()))?;
        let of_a_part = 8 * self.dimensions * self.dimensions;
        let most = (PARTS_BYTES / of_a_part.max(1)).min(rows.nrows() / TASK_ROWS);
        // Few rows start no pool.
        let parts = if most < 2 { 1 } else { most.min(rayon::current_num_threads()) };
        if parts < 2 {
            self.add_rows(rows);
            return Ok(());
        }
        let rows: Vec<_> = rows.axis_chunks_iter(Axis(0), rows.nrows().div_ceil(parts)).collect();
        let parts = rows.into_par_iter().map(|rows| {
            let mut part = Self { input: self.input, ..Self::new(self.dimensions) };
            part.add_rows(rows);
            part
        });
        let parts: Vec<Self> = parts.collect();
        parts.iter().try_for_each(|part| self.merge(part))
    }

    /// Adds rows of bytes on this thread.
    fn add_rows(&mut self, rows: ArrayView2<'_, u8>) {
        // Blocks, as the bits take eight times the memory.
        for rows in rows.axis_chunks_iter(Axis(0), TASK_ROWS) {
            match self.input {
                PcaInput::Bits => self.add(bits_of(rows).view()),
                PcaInput::Bytes => self.add(rows),
            }
        }
    }

    /// Adds rows of floats: an array of shape (rows, dimensions). The products are shared out to the threads of
    /// rayon's current pool.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows of another length or with an element that is not finite, or for moments of bytes.
    pub fn push_rows_f32(&mut self, rows: ArrayView2<'_, f32>) -> Result<()> {
        self.check(Element::F32, rows.ncols())?;
        check_finite(rows)?;
        if self.dimensions == 0 {
            self.count += rows.nrows() as u64;
            return Ok(());
        }
        let rows = rows.as_standard_layout();
        self.add_floats(rows.as_slice().expect("the layout is standard"));
        Ok(())
    }

    /// Adds rows of floats of the right length.
    fn add_floats(&mut self, rows: &[f32]) {
        let d = self.dimensions;
        let ElementSums::F32 { sum, gram, pending } = &mut self.sums else { return };
        let n = |values: &[f32]| (values.len() / d) as u64;
        let mut before = self.count - n(pending);
        self.count += n(rows);
        let block = BLOCK_ROWS * d;
        // Up to a whole block first, then whole blocks as they are.
        let (first, rows) = rows.split_at(rows.len().min((block - pending.len()) % block));
        pending.extend_from_slice(first);
        if pending.len() == block {
            add_products(pending, before, sum, gram);
            before += BLOCK_ROWS as u64;
            pending.clear();
        }
        let (whole, rest) = rows.split_at(rows.len() / block * block);
        add_products(whole, before, sum, gram);
        pending.extend_from_slice(rest);
    }

    /// The same with all rows in the sums.
    fn settled(&self) -> Cow<'_, Self> {
        match &self.sums {
            ElementSums::F32 { pending, .. } if !pending.is_empty() => {
                let mut settled = self.clone();
                settled.settle();
                Cow::Owned(settled)
            }
            _ => Cow::Borrowed(self),
        }
    }

    fn settle(&mut self) {
        match &mut self.sums {
            ElementSums::F32 { sum, gram, pending } if !pending.is_empty() => {
                add_last(pending, self.count, sum, gram);
                pending.clear();
            }
            _ => {}
        }
    }

    /// Adds rows of bytes of the right length.
    fn add(&mut self, rows: ArrayView2<'_, u8>) {
        let ElementSums::U8 { sum, gram } = &mut self.sums else { return };
        let of_descriptors = rows.as_slice().filter(|_| self.dimensions == GRAM_SIDE);
        if let Some(values) = of_descriptors {
            add_descriptors(values.as_chunks().0, sum, gram);
        } else {
            add_blocks(rows, sum, gram);
        }
        self.count += rows.nrows() as u64;
    }

    /// Adds the moments of other rows.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows of another format, [`Error::Moments`] for more than 2^48 rows in all.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.check(other.element(), other.dimensions)?;
        if self.input != other.input {
            let (own, others) = (self.input, other.input);
            return Err(Error::Moments(format!("they are of {others}, not of {own}").into()));
        }
        self.settle();
        let other = other.settled();
        let count = self.count.checked_add(other.count).filter(|&count| count <= MAX_COUNT);
        self.count = count.ok_or_else(|| Error::Moments("they are of too many rows".into()))?;
        match (&mut self.sums, &other.sums) {
            (ElementSums::U8 { sum, gram }, ElementSums::U8 { sum: others, gram: more }) => {
                sum.iter_mut().zip(others).for_each(|(a, b)| *a += b);
                *gram += more;
            }
            (
                ElementSums::F32 { sum, gram, .. },
                ElementSums::F32 { sum: others, gram: more, .. },
            ) => {
                sum.iter_mut().zip(others).for_each(|(a, b)| *a += b);
                *gram += more;
            }
            _ => {}
        }
        Ok(())
    }

    /// Finds the principal components.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for more components than dimensions and for another [`PcaInput`], [`Error::Fit`] for fewer rows than components, for
    /// fewer than two rows, or for variances beyond the range of float64.
    pub fn fit(&self, params: &PcaParams) -> Result<PcaModel> {
        params.check(self.dimensions)?;
        if params.input() != self.input {
            let allowed = format!("these moments are of {}", self.input);
            return Err(Error::param("pca_input", params.input(), allowed));
        }
        if self.count < params.needed() {
            return Err(params.too_few_rows(self.count));
        }
        let (mean, covariance) = self.mean_and_covariance();
        if !covariance.iter().all(|v| v.is_finite()) {
            return Err(Error::Fit("the variances are beyond what float64 holds".into()));
        }
        Ok(solve::fit(self.element(), self.count(), mean, covariance, params))
    }

    /// Serializes the moments, for example to merge them in another process.
    ///
    /// The format, with little-endian numbers: the eight characters `orbmom01`; the size of an element in bytes (1 for
    /// `u8`, 4 for `f32`, 0 for bits) and seven zero bytes; dimensions d and count as u64; d sums; d (d + 1) / 2 sums of products,
    /// the upper triangle row by row. Sums are u64 for bytes and f64 for floats.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let d = self.dimensions;
        let mut bytes = Vec::with_capacity(HEAD_LEN + 8 * (d + d * (d + 1) / 2));
        bytes.extend_from_slice(MAGIC);
        let size = match self.input {
            PcaInput::Bytes => self.element().size(),
            PcaInput::Bits => 0,
        };
        let numbers = [size as u64, d as u64, self.count];
        bytes.extend_from_slice(numbers.map(u64::to_le_bytes).as_flattened());
        let upper = || (0..d).flat_map(|i| (i..d).map(move |j| (i, j)));
        match &self.settled().sums {
            ElementSums::U8 { sum, gram } => {
                let all = sum.iter().copied().chain(upper().map(|at| gram[at]));
                all.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
            }
            ElementSums::F32 { sum, gram, .. } => {
                let all = sum.iter().copied().chain(upper().map(|at| gram[at]));
                all.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
            }
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`Error::Moments`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bad = |why: &str| Error::Moments(why.into());
        let numbers = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("they begin otherwise"))?;
        let (numbers, rest) = numbers.as_chunks::<8>();
        let (&[element, d, count], sums) =
            numbers.split_first_chunk().ok_or_else(|| bad("they are too short"))?;
        let [element, d, count] = [element, d, count].map(u64::from_le_bytes);
        let wanted = u128::from(d) + u128::from(d) * (u128::from(d) + 1) / 2;
        if !rest.is_empty() || wanted != sums.len() as u128 {
            return Err(bad(&format!("their length is not that of {d} dimensions")));
        }
        if count > MAX_COUNT {
            return Err(bad(&format!("they are of more than {MAX_COUNT} rows")));
        }
        let d = d as usize;
        let mut moments = match element {
            0 if d.is_multiple_of(8) => Self::of_bits(d / 8),
            1 => Self::new(d),
            4 => Self::new_f32(d),
            _ => return Err(bad(&format!("they are of elements of {element} bytes"))),
        };
        moments.count = count;
        let (first, mut products) = (&sums[..d], sums[d..].iter());
        let upper = (0..d).flat_map(|i| (i..d).map(move |j| (i, j)));
        match &mut moments.sums {
            ElementSums::U8 { sum, gram } => {
                let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
                sum.iter_mut().zip(first).for_each(|(sum, bytes)| *sum = number(bytes));
                for ((i, j), bytes) in upper.zip(products.by_ref()) {
                    (gram[(i, j)], gram[(j, i)]) = (number(bytes), number(bytes));
                }
                let greatest = if element == 0 { 1 } else { 255 };
                let most = u128::from(count) * greatest;
                let is_above = |sum: &u64, most| u128::from(*sum) > most;
                if sum.iter().any(|sum| is_above(sum, most))
                    || gram.iter().any(|sum| is_above(sum, most * greatest))
                {
                    return Err(bad("so many rows of bytes do not have such sums"));
                }
                // A variance is not negative.
                let is_off = |(i, &sum): (usize, &u64)| {
                    u128::from(count) * u128::from(gram[(i, i)]) < u128::from(sum).pow(2)
                };
                if sum.iter().enumerate().any(is_off) {
                    return Err(bad("its sums do not fit its sums of squares"));
                }
            }
            ElementSums::F32 { sum, gram, .. } => {
                let number = |bytes: &[u8; 8]| f64::from_le_bytes(*bytes);
                sum.iter_mut().zip(first).for_each(|(sum, bytes)| *sum = number(bytes));
                for (at, bytes) in upper.zip(products.by_ref()) {
                    gram[at] = number(bytes);
                }
                if !sum.iter().chain(gram.iter()).all(|sum| sum.is_finite()) {
                    return Err(bad("a sum is not finite"));
                }
            }
        }
        Ok(moments)
    }

    /// The mean of each element, and the covariance matrix over n - 1. The sums of bytes are exact; rounding happens only
    /// in the final conversion and division. For floats the relative error of a variance grows with the square of
    /// mean / standard deviation.
    pub(super) fn mean_and_covariance(&self) -> (Vec<f64>, DMatrix<f64>) {
        let (d, n, wide) = (self.dimensions, self.count as f64, i128::from(self.count));
        match &self.sums {
            ElementSums::U8 { sum, gram } => {
                let scale = n * (n - 1.0);
                let covariance = DMatrix::from_fn(d, d, |i, j| {
                    let sums = i128::from(sum[i]) * i128::from(sum[j]);
                    (wide * i128::from(gram[(i, j)]) - sums) as f64 / scale
                });
                (sum.iter().map(|&s| s as f64 / n).collect(), covariance)
            }
            ElementSums::F32 { sum, gram, pending } => {
                let (mut sum, mut gram) = (sum.clone(), gram.clone());
                add_last(pending, self.count, &mut sum, &mut gram);
                let sizes: Vec<f64> = gram.diag().iter().map(|square| square.sqrt()).collect();
                let mut values = gram.into_raw_vec_and_offset().0;
                values.par_chunks_mut(d.max(1)).enumerate().for_each(|(i, row)| {
                    for j in i..d {
                        let difference = row[j] - sum[i] * (sum[j] / n);
                        // Each sum is rounded up to n times. A difference no larger than this noise counts as 0.
                        let noise = n * f64::EPSILON * sizes[i] * sizes[j];
                        row[j] =
                            if difference.abs() <= noise { 0.0 } else { difference / (n - 1.0) };
                    }
                });
                let mut covariance = DMatrix::from_vec(d, d, values);
                covariance.fill_upper_triangle_with_lower_triangle();
                (sum.iter().map(|&s| s / n).collect(), covariance)
            }
        }
    }

    fn check(&self, element: Element, dimensions: usize) -> Result<()> {
        if (element, dimensions) == (self.element(), self.dimensions) {
            return Ok(());
        }
        let (own, d) = (self.element(), self.dimensions);
        Err(Error::shape(format!("rows of {dimensions} x {element} for moments of {d} x {own}")))
    }
}

/// Adds the last of `count` rows, of the block that is not whole yet.
fn add_last(pending: &[f32], count: u64, sum: &mut [f64], gram: &mut Array2<f64>) {
    let rows = pending.len() / sum.len().max(1);
    add_products(pending, count - rows as u64, sum, gram);
}

/// Refuses rows with an element that is not finite.
pub(super) fn check_finite(rows: ArrayView2<'_, f32>) -> Result<()> {
    let is_finite = |values: &[f32]| values.iter().fold(true, |all, v| all & v.is_finite());
    if rows.as_slice().is_some_and(|values| values.par_chunks(CHECKED_LEN).all(is_finite)) {
        return Ok(());
    }
    let found = rows.indexed_iter().find(|(_, v)| !v.is_finite());
    match found {
        Some(((row, at), _)) => {
            Err(Error::shape(format!("element {at} of row {row} is not finite")))
        }
        None => Ok(()),
    }
}

fn add_descriptors(rows: &[[u8; GRAM_SIDE]], sum: &mut [u64], gram: &mut Array2<u64>) {
    let kernels = Kernels::current();
    for rows in rows.chunks(GRAM_ROWS) {
        let mut sums = GramSums::ZERO;
        (kernels.gram)(rows, &mut sums);
        for i in 0..GRAM_SIDE {
            sum[i] += u64::from(sums.of_elements[i]);
            for j in 0..GRAM_SIDE {
                gram[(i, j)] += u64::from(sums.of_products[i.min(j)][i.max(j)]);
            }
        }
    }
}

fn add_blocks(rows: ArrayView2<'_, u8>, sum: &mut [u64], gram: &mut Array2<u64>) {
    for block in rows.axis_chunks_iter(Axis(0), EXACT_ROWS) {
        let floats = block.mapv(f32::from);
        // Every product and sum is a whole number below 2^24: exact, in whatever order.
        let products = floats.t().dot(&floats);
        gram.zip_mut_with(&products, |g, &p| *g += p as u64);
        for (sum, column) in sum.iter_mut().zip(block.columns()) {
            *sum += column.iter().map(|&v| u64::from(v)).sum::<u64>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, d: usize) -> Array2<u8> {
        Array2::from_shape_fn((n, d), |(i, j)| ((i * 7919 + j * 104_729) % 251 + (i + j) % 5) as u8)
    }

    #[test]
    fn sums_are_those_of_the_definition() {
        for (n, d) in [(0, 3), (1, 1), (255, 32), (256, 32), (257, 5), (1000, 33), (70_001, 7)] {
            let rows = rows(n, d);
            let mut moments = Moments::new(d);
            moments.push_rows(rows.view()).unwrap();
            assert_eq!(moments.count(), n as u64);
            let wide = rows.mapv(u64::from);
            let ElementSums::U8 { sum, gram } = &moments.sums else { panic!("bytes") };
            assert_eq!(gram, wide.t().dot(&wide));
            assert_eq!(*sum, wide.sum_axis(Axis(0)).to_vec());
        }
    }

    #[test]
    fn the_largest_values_stay_exact() {
        let mut moments = Moments::new(2);
        moments.push_rows(Array2::from_elem((100_000, 2), 255).view()).unwrap();
        let ElementSums::U8 { gram, .. } = &moments.sums else { panic!("bytes") };
        assert_eq!(gram[(0, 1)], 100_000 * 255 * 255);
    }

    #[test]
    fn any_split_merges_to_the_same() {
        let rows = rows(700, 9);
        let mut whole = Moments::new(9);
        whole.push_rows(rows.view()).unwrap();
        for cut in [0, 1, 255, 256, 300, 700] {
            let (a, b) = rows.view().split_at(Axis(0), cut);
            let (mut x, mut y) = (Moments::new(9), Moments::new(9));
            x.push_rows(b).unwrap();
            y.push_rows(a).unwrap();
            x.merge(&y).unwrap();
            assert_eq!(x, whole);
        }
        assert!(whole.merge(&Moments::new(8)).is_err());
        assert!(whole.push_rows(Array2::zeros((1, 8)).view()).is_err());
    }

    fn floats(n: usize, d: usize) -> Array2<f32> {
        Array2::from_shape_fn((n, d), |(i, j)| ((i * 7919 + j * 104_729) % 1009) as f32 / 97.0)
    }

    #[test]
    fn sums_of_floats_do_not_depend_on_pushes() {
        let (n, d) = (300, 26);
        let rows = floats(n, d);
        let mut whole = Moments::new_f32(d);
        whole.push_rows_f32(rows.view()).unwrap();
        let mut pieces = Moments::new_f32(d);
        for piece in rows.axis_chunks_iter(Axis(0), 7) {
            pieces.push(VectorsView::F32(piece)).unwrap();
        }
        assert_eq!(pieces.to_bytes(), whole.to_bytes());
        // Against the definition, in two passes.
        let wide = rows.mapv(f64::from);
        let centred = &wide - &wide.mean_axis(Axis(0)).unwrap();
        let want = centred.t().dot(&centred) / (n as f64 - 1.0);
        let got = whole.mean_and_covariance().1;
        assert!(want.indexed_iter().all(|(at, &v)| (got[at] - v).abs() < 1e-10));
        whole.push_rows(Array2::zeros((1, d)).view()).unwrap_err();
        whole.push_rows_f32(Array2::from_elem((1, d), f32::NAN).view()).unwrap_err();
        assert_eq!(whole.count(), n as u64);
    }

    #[test]
    fn rows_of_any_layout_and_without_variance_are_right() {
        let rows = floats(40, 5);
        let turned = rows.t().as_standard_layout().to_owned();
        let (mut plain, mut other) = (Moments::new_f32(5), Moments::new_f32(5));
        plain.push_rows_f32(rows.view()).unwrap();
        other.push_rows_f32(turned.t()).unwrap();
        assert_eq!(plain, other);
        for n in [2, 100, 1000, 4321] {
            let mut same = Moments::new_f32(2);
            let rows = Array2::from_shape_fn((n, 2), |(_, j)| [0.2_f32, 0.9][j]);
            same.push_rows_f32(rows.view()).unwrap();
            let model = same.fit(&PcaParams::new(2)).unwrap();
            assert_eq!((model.rank(), model.total_variance()), (0, 0.0), "{n}");
            let json = serde_json::to_string(&model).unwrap();
            assert_eq!(serde_json::from_str::<PcaModel>(&json).unwrap(), model);
        }
        let mut huge = Moments::new_f32(1);
        huge.push_rows_f32(Array2::from_elem((3, 1), f32::MAX).view()).unwrap();
        huge.fit(&PcaParams::new(1)).unwrap();
        let mut bytes = huge.to_bytes();
        bytes[HEAD_LEN..].copy_from_slice([1e300_f64; 2].map(f64::to_le_bytes).as_flattened());
        let huge = Moments::from_bytes(&bytes).unwrap();
        assert!(matches!(huge.fit(&PcaParams::new(1)), Err(Error::Fit(_))));
        let mut many = Moments::new(1).to_bytes();
        many[24..32].copy_from_slice(&(1_u64 << 48).to_le_bytes());
        let mut many = Moments::from_bytes(&many).unwrap();
        let one = many.clone();
        assert!(matches!(many.merge(&one), Err(Error::Moments(_))));
    }

    #[test]
    fn bytes_read_back_and_merge_to_the_same() {
        let (bytes, numbers) = (rows(40, 5), floats(40, 5));
        let mut both = [Moments::new(5), Moments::new_f32(5)];
        both[0].push_rows(bytes.view()).unwrap();
        both[1].push_rows_f32(numbers.view()).unwrap();
        for moments in &both {
            let bytes = moments.to_bytes();
            assert_eq!(bytes.len(), HEAD_LEN + 8 * (5 + 15));
            let back = Moments::from_bytes(&bytes).unwrap();
            assert_eq!((back.to_bytes(), back.count()), (bytes.clone(), 40));
            let mut sum = back.clone();
            sum.merge(&back).unwrap();
            let mut other = moments.clone();
            other.merge(moments).unwrap();
            assert_eq!(sum.to_bytes(), other.to_bytes());
            let params = PcaParams::new(3);
            assert_eq!(back.fit(&params).unwrap(), moments.fit(&params).unwrap());
            for cut in [0, 7, 31, bytes.len() - 1] {
                Moments::from_bytes(&bytes[..cut]).unwrap_err();
            }
            let mut odd = bytes.clone();
            odd[8] = 2;
            Moments::from_bytes(&odd).unwrap_err();
            odd = bytes;
            let end = odd.len();
            odd[end - 8..].fill(0xff);
            Moments::from_bytes(&odd).unwrap_err();
        }
        let [mut first, second] = both;
        first.merge(&second).unwrap_err();
        let of_format = |format| Moments::of_format(format, PcaInput::Bytes).unwrap();
        assert_eq!(of_format(VectorFormat::f32(5)), Moments::new_f32(5));
    }
}
