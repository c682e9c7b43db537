//! Matching and homographies, on arrays.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewD, Ix2};
use numpy::{IntoPyArray as _, PyArray1, PyArray2, PyReadonlyArray2, PyReadonlyArrayDyn};
use orb_features::Error;
use orb_features::features::Descriptor;
use orb_features::matching::{DMatch, Homography, MatchParams, Matcher, Point, RansacParams};
use pyo3::prelude::*;

use crate::errors::{Failure, Result};

/// Matches descriptors by Hamming distance, as ``cv2.BFMatcher`` does, in all threads and many times faster.
///
/// ``norm`` is ``"hamming"``, or ``"hamming2"`` for ``wta_k`` 3 and 4.
#[pyclass(name = "Matcher", module = "orb_features", frozen)]
#[derive(Debug)]
pub struct PyMatcher {
    matcher: Matcher,
}

/// The descriptors of an array of shape (n, 32).
fn descriptors<'a>(array: &'a ArrayViewD<'_, u8>) -> Result<std::borrow::Cow<'a, [Descriptor]>> {
    let failed = || {
        Failure(Error::shape(format!(
            "descriptors of shape {:?}, where (n, 32) is due",
            array.shape()
        )))
    };
    let array = array.view().into_dimensionality::<Ix2>().map_err(|_| failed())?;
    if array.ncols() != 32 {
        return Err(failed());
    }
    let standard = array.is_standard_layout();
    Ok(if standard && let Some(bytes) = array.to_slice() {
        bytes.as_chunks().0.into()
    } else {
        let bytes: Vec<u8> = array.iter().copied().collect();
        bytes.as_chunks().0.to_vec().into()
    })
}

/// Columns of the matches: query, train, distance.
type Columns<'py> =
    (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<i32>>);

/// Tables of train indices and distances.
type Tables<'py> = (Bound<'py, PyArray2<i32>>, Bound<'py, PyArray2<i32>>);

/// A matrix, and a flag for each pair.
type Found<'py> = (Option<Bound<'py, PyArray2<f64>>>, Bound<'py, PyArray1<bool>>);

#[pymethods]
impl PyMatcher {
    #[new]
    #[pyo3(signature = (norm = "hamming", *, ratio = None, cross_check = false, max_distance = 256))]
    fn new(norm: &str, ratio: Option<f64>, cross_check: bool, max_distance: u32) -> Result<Self> {
        let params = MatchParams::default()
            .with_norm(norm.parse().map_err(Failure)?)
            .with_cross_check(cross_check)
            .with_max_distance(max_distance);
        let params = ratio.map_or(params, |ratio| params.with_ratio(ratio));
        Ok(Self { matcher: params.build()? })
    }

    /// The best match of each query descriptor that has one: arrays of query index, train index and distance.
    #[pyo3(signature = (query, train, mask = None))]
    fn r#match<'py>(
        &self,
        py: Python<'py>,
        query: PyReadonlyArrayDyn<'py, u8>,
        train: PyReadonlyArrayDyn<'py, u8>,
        mask: Option<PyReadonlyArray2<'py, u8>>,
    ) -> PyResult<Columns<'py>> {
        let (query, train, mask) =
            (query.as_array(), train.as_array(), mask.as_ref().map(PyReadonlyArray2::as_array));
        let found: Result<Vec<DMatch>> = py.detach(|| {
            let (query, train) = (descriptors(&query)?, descriptors(&train)?);
            Ok(match mask {
                Some(mask) => self.matcher.matches_masked(&query, &train, mask)?,
                None => self.matcher.matches(&query, &train),
            })
        });
        let found = found?;
        let column = |value: fn(&DMatch) -> u32| {
            found.iter().map(|m| value(m) as i32).collect::<Array1<_>>().into_pyarray(py)
        };
        Ok((column(|m| m.query_idx), column(|m| m.train_idx), column(|m| m.distance)))
    }

    /// The k nearest train descriptors of each query descriptor: arrays of shape (n, min(k, len(train))) of train index and
    /// distance, with -1 where the mask or the distance leaves fewer.
    #[pyo3(signature = (query, train, k, mask = None))]
    fn knn<'py>(
        &self,
        py: Python<'py>,
        query: PyReadonlyArrayDyn<'py, u8>,
        train: PyReadonlyArrayDyn<'py, u8>,
        k: usize,
        mask: Option<PyReadonlyArray2<'py, u8>>,
    ) -> PyResult<Tables<'py>> {
        let (query, train, mask) =
            (query.as_array(), train.as_array(), mask.as_ref().map(PyReadonlyArray2::as_array));
        let n_train = train.shape().first().map_or(0, |&n| n);
        let found: Result<Vec<Vec<DMatch>>> = py.detach(|| {
            let (query, train) = (descriptors(&query)?, descriptors(&train)?);
            Ok(match mask {
                Some(mask) => self.matcher.knn_masked(&query, &train, k, mask)?,
                None => self.matcher.knn(&query, &train, k),
            })
        });
        let found = found?;
        let columns = k.min(n_train);
        let table = |value: fn(&DMatch) -> u32| {
            let value = |(row, column): (usize, usize)| {
                found[row].get(column).map_or(-1, |m| value(m) as i32)
            };
            Array2::from_shape_fn((found.len(), columns), value).into_pyarray(py)
        };
        Ok((table(|m| m.train_idx), table(|m| m.distance)))
    }
}

/// Finds the homography from one image's places to another's, arrays of shape (n, 2), by seeded RANSAC with local
/// optimisation: the matrix (or None) and, for each pair, whether it is an inlier.
#[pyfunction]
#[pyo3(signature = (source, target, *, threshold = 3.0, max_iterations = 2000, confidence = 0.995, seed = 0))]
pub fn find_homography<'py>(
    py: Python<'py>,
    source: PyReadonlyArray2<'py, f64>,
    target: PyReadonlyArray2<'py, f64>,
    threshold: f64,
    max_iterations: u32,
    confidence: f64,
    seed: u64,
) -> PyResult<Found<'py>> {
    let (source, target) = (source.as_array(), target.as_array());
    let params = RansacParams::default()
        .with_threshold(threshold)
        .with_max_iterations(max_iterations)
        .with_confidence(confidence)
        .with_seed(seed);
    let found: Result<_> = py.detach(|| {
        if source.dim() != target.dim() || source.ncols() != 2 {
            let shapes = format!(
                "places of shapes {:?} and {:?}, where (n, 2) is due",
                source.dim(),
                target.dim()
            );
            return Err(Failure(Error::shape(shapes)));
        }
        let places = |array: ArrayView2<'_, f64>| -> Vec<Point> {
            array.rows().into_iter().map(|row| (row[0], row[1])).collect()
        };
        let pairs: Vec<_> = places(source).into_iter().zip(places(target)).collect();
        Ok(Homography::find(&pairs, &params)?)
    });
    Ok(match found? {
        None => (None, Array1::from_elem(source.nrows(), false).into_pyarray(py)),
        Some(found) => {
            let rows = found.homography.rows();
            let matrix = Array2::from_shape_fn((3, 3), |(i, j)| rows[i][j]);
            (Some(matrix.into_pyarray(py)), Array1::from(found.inliers).into_pyarray(py))
        }
    })
}
