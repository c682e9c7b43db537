//! The moments of rows.

use orb_features::pca::Moments;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::errors::{Failure, param};
use crate::extraction::PyExtraction;
use crate::pca::{PyPca, fit};
use crate::rows::{check_dimensions, moments_of, name_of, with_rows};
use crate::run::on_threads;

/// Count, sums and sums of products of rows: all that a fit needs. Moments of parts merge, here or on other machines; for
/// bytes and bits they are whole numbers, so that a model's bits do not depend on how the rows were cut.
#[pyclass(name = "Moments", module = "orb_features")]
#[derive(Clone, Debug)]
pub struct PyMoments {
    moments: Moments,
}

#[pymethods]
impl PyMoments {
    /// Empty moments of rows of `dimensions` elements: "u8", "f32", or "bits" of so many bytes.
    #[new]
    #[pyo3(signature = (dimensions=32, element="u8"))]
    fn new(dimensions: usize, element: &str) -> PyResult<Self> {
        let per_element = if element == "bits" { 8 } else { 1 };
        check_dimensions(dimensions.saturating_mul(per_element))?;
        let moments = match element {
            "u8" => Moments::new(dimensions),
            "f32" => Moments::new_f32(dimensions),
            "bits" => Moments::of_bits(dimensions),
            _ => return Err(param("element", element, "u8, f32 or bits")),
        };
        Ok(Self { moments })
    }

    /// Moments of rows of whatever format these have, with these added.
    #[staticmethod]
    #[pyo3(signature = (rows, *, pca_input="bytes"))]
    fn of(py: Python<'_>, rows: &Bound<'_, PyAny>, pca_input: &str) -> PyResult<Self> {
        Ok(Self { moments: moments_of(py, rows, pca_input)? })
    }

    /// Adds rows: an array of shape (n, d) of uint8 or float32, or a column of Arrow. Returns itself.
    fn push<'py>(
        mut slf: PyRefMut<'py, Self>,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<PyRefMut<'py, Self>> {
        let moments = &mut slf.moments;
        with_rows(py, rows, |rows| Ok(moments.push(rows)?))?;
        Ok(slf)
    }

    /// Adds the moments of other rows. Returns itself.
    fn merge<'py>(
        mut slf: PyRefMut<'py, Self>,
        py: Python<'py>,
        other: &Bound<'py, Self>,
    ) -> PyResult<PyRefMut<'py, Self>> {
        let other = if slf.as_ptr() == other.as_ptr() {
            slf.moments.clone()
        } else {
            other.borrow().moments.clone()
        };
        let moments = &mut slf.moments;
        py.detach(|| on_threads(|| Ok(moments.merge(&other)?)))?;
        Ok(slf)
    }

    /// The number of rows.
    #[getter]
    fn count(&self) -> u64 {
        self.moments.count()
    }

    /// The number of elements of a row that a PCA gets: of bits, eight for each byte.
    #[getter]
    fn dimensions(&self) -> usize {
        self.moments.dimensions()
    }

    /// "u8", "f32" or "bits".
    #[getter]
    fn element(&self) -> &'static str {
        name_of(self.moments.input(), self.moments.element())
    }

    /// Fits a PCA. `n_components`: a number, 20 by default, or a share of the variance such as 0.95. `origin`: the job that made
    /// the descriptors; the model then knows its parameters, and is not applied to descriptors of others.
    #[pyo3(signature = (n_components=None, *, solver=None, seed=None, centering=None, origin=None))]
    fn fit(
        &self,
        py: Python<'_>,
        n_components: Option<&Bound<'_, PyAny>>,
        solver: Option<&str>,
        seed: Option<u64>,
        centering: Option<&str>,
        origin: Option<&Bound<'_, PyExtraction>>,
    ) -> PyResult<PyPca> {
        let mut model = fit(py, &self.moments, n_components, solver, seed, centering)?;
        if let Some(job) = origin {
            model = model.with_origin(job.get().origin());
        }
        Ok(PyPca { model })
    }

    /// The moments as bytes, to merge them elsewhere.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| on_threads(|| Ok(self.moments.to_bytes())))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Reads what `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(bytes: &[u8]) -> PyResult<Self> {
        Ok(Self { moments: Moments::from_bytes(bytes).map_err(Failure)? })
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let bytes = slf.borrow().to_bytes(slf.py())?;
        Ok((slf.get_type().getattr("from_bytes")?, PyTuple::new(slf.py(), [bytes])?))
    }

    fn __eq__(&self, py: Python<'_>, other: &Self) -> PyResult<bool> {
        Ok(py.detach(|| on_threads(|| Ok(self.moments == other.moments)))?)
    }

    fn __repr__(&self) -> String {
        format!("Moments({} rows of {} {})", self.count(), self.dimensions(), self.element())
    }
}
