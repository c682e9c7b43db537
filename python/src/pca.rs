//! Moments that merge, and the PCA that is fitted to them.

use std::path::PathBuf;

use numpy::{PyArray1, PyArray2, PyReadonlyArray2, ToPyArray as _};
use orb_features::Error;
use orb_features::features::{Element, VectorsView};
use orb_features::pca::{Centering, Components, Moments, PcaInput, PcaModel, PcaParams, Solver};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pyo3_arrow::{PyArray, PyChunkedArray};

use crate::errors::{Failure, Result, param};
use crate::extraction::PyExtraction;
use crate::run::on_threads;

/// Count, sums and sums of products of rows: all that a fit needs. Moments of parts merge, here or on other machines; for
/// bytes and bits they are whole numbers, so that a model's bits do not depend on how the rows were cut.
#[pyclass(name = "Moments", module = "orb_features")]
#[derive(Clone, Debug)]
pub struct PyMoments {
    moments: Moments,
}

/// Most dimensions of moments: 2 GiB of sums.
const MOST_DIMENSIONS: usize = 16_384;

fn check_dimensions(dimensions: usize) -> Result<()> {
    if dimensions <= MOST_DIMENSIONS {
        return Ok(());
    }
    Err(Failure(Error::InvalidParam {
        name: "dimensions",
        value: dimensions.to_string().into(),
        allowed: format!("at most {MOST_DIMENSIONS}: the moments of more do not fit in memory")
            .into(),
    }))
}

/// The components that `k` asks for: a whole number, or a share of the variance.
pub fn components(k: &Bound<'_, PyAny>) -> PyResult<Components> {
    if let Ok(number) = k.extract::<usize>() {
        return Ok(Components::Number(number));
    }
    let share = k.extract().map_err(|_| {
        PyTypeError::new_err("n_components: a number such as 20, or a share such as 0.95, is due")
    })?;
    Ok(Components::Share(share))
}

/// Parameters of a fit.
pub fn params(
    n_components: &Bound<'_, PyAny>,
    solver: &str,
    seed: Option<u64>,
    centering: &str,
    input: PcaInput,
) -> PyResult<PcaParams> {
    let components = components(n_components)?;
    let made = || -> Result<PcaParams> {
        let solver = match (solver.parse()?, seed) {
            (Solver::Randomized { .. }, Some(seed)) => Solver::seeded(seed),
            (Solver::Auto { .. }, Some(seed)) => Solver::Auto { seed },
            (solver, _) => solver,
        };
        Ok(PcaParams::of(components)
            .with_solver(solver)
            .with_centering(centering.parse::<Centering>()?)
            .with_input(input))
    };
    Ok(made()?)
}

/// Calls `work` with rows: a numpy array of shape (n, d) of bytes or float32, or a column of Arrow.
fn with_rows<T: Send>(
    py: Python<'_>,
    rows: &Bound<'_, PyAny>,
    mut work: impl FnMut(VectorsView<'_>) -> Result<T> + Send,
) -> PyResult<Vec<T>> {
    if let Ok(bytes) = rows.extract::<PyReadonlyArray2<'_, u8>>() {
        let bytes = bytes.as_array();
        let packed = bytes.as_standard_layout();
        return Ok(vec![py.detach(|| on_threads(|| work(VectorsView::U8(packed.view()))))?]);
    }
    if rows.cast::<PyArray2<f32>>().is_ok() {
        // rust-numpy takes strides in whole elements: a field of a structured array may have others.
        let packed = py.import("numpy")?.call_method1("require", (rows, py.None(), "CA"))?;
        let floats = packed.extract::<PyReadonlyArray2<'_, f32>>()?;
        let floats = floats.as_array();
        return Ok(vec![py.detach(|| on_threads(|| work(VectorsView::F32(floats))))?]);
    }
    let chunks = if rows.hasattr("__arrow_c_array__")? {
        Some(vec![rows.extract::<PyArray>()?.into_inner().0])
    } else if rows.hasattr("__arrow_c_stream__")? {
        Some(rows.extract::<PyChunkedArray>()?.into_inner().0)
    } else {
        None
    };
    if let Some(chunks) = chunks {
        return Ok(py.detach(|| {
            let some = chunks.iter().filter(|chunk| !chunk.is_empty());
            on_threads(|| {
                some.map(|chunk| work(orb_features::table::vectors_of(chunk)?.view()))
                    .collect::<Result<_>>()
            })
        })?);
    }
    let dtype = rows.getattr("dtype").and_then(|dtype| dtype.str());
    let kind = dtype.or_else(|_| rows.get_type().name())?;
    Err(PyTypeError::new_err(format!(
        "rows: an array of shape (n, d) of uint8 or float32, or a column of Arrow, is due, not {kind}"
    )))
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
        let input: PcaInput = pca_input.parse().map_err(Failure)?;
        let mut moments: Option<Moments> = None;
        with_rows(py, rows, |rows| {
            let format = rows.format();
            let moments = match &mut moments {
                Some(moments) => moments,
                none => {
                    check_dimensions(input.dimensions(format.len()))?;
                    none.insert(Moments::of_format(format, input)?)
                }
            };
            Ok(moments.push(rows)?)
        })?;
        Ok(Self { moments: moments.unwrap_or_else(|| Moments::new(32)) })
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
        match self.moments.input() {
            PcaInput::Bits => "bits",
            PcaInput::Bytes => self.moments.element().as_str(),
        }
    }

    /// Fits a PCA. `n_components`: a number, 20 by default, or a share of the variance such as 0.95. `origin`: the job that made
    /// the descriptors; the model then knows its parameters, and is not applied to descriptors of others.
    #[pyo3(signature = (n_components=None, *, solver="randomized", seed=None, centering="mean", origin=None))]
    fn fit(
        &self,
        py: Python<'_>,
        n_components: Option<&Bound<'_, PyAny>>,
        solver: &str,
        seed: Option<u64>,
        centering: &str,
        origin: Option<&Bound<'_, PyExtraction>>,
    ) -> PyResult<PyPca> {
        let default = 20_usize.into_pyobject(py)?.into_any();
        let k = n_components.unwrap_or(&default);
        let params = params(k, solver, seed, centering, self.moments.input())?;
        let mut model = py.detach(|| on_threads(|| Ok(self.moments.fit(&params)?)))?;
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

/// A fitted PCA, with scikit-learn's names and conventions.
#[pyclass(name = "Pca", module = "orb_features", frozen)]
#[derive(Clone, Debug)]
pub struct PyPca {
    pub model: PcaModel,
}

#[pymethods]
impl PyPca {
    /// Fits a PCA to rows: an array of shape (n, d) of uint8 or float32, or a column of Arrow. `pca_input="bits"` takes the
    /// bits of bytes.
    #[staticmethod]
    #[pyo3(signature = (rows, n_components=None, *, solver="randomized", seed=None, centering="mean", pca_input="bytes"))]
    fn fit(
        py: Python<'_>,
        rows: &Bound<'_, PyAny>,
        n_components: Option<&Bound<'_, PyAny>>,
        solver: &str,
        seed: Option<u64>,
        centering: &str,
        pca_input: &str,
    ) -> PyResult<Self> {
        PyMoments::of(py, rows, pca_input)?.fit(py, n_components, solver, seed, centering, None)
    }

    /// Scores of rows: an array of shape (n, k), float64.
    fn transform<'py>(
        &self,
        py: Python<'py>,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let parts = with_rows(py, rows, |rows| Ok(self.model.project_vectors(rows)?))?;
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        if views.is_empty() {
            return Ok(PyArray2::zeros(py, [0, self.model.n_components()], false));
        }
        let all = ndarray::concatenate(ndarray::Axis(0), &views);
        let all = all.map_err(|e| PyValueError::new_err(e.to_string()))?;
        Ok(PyArray2::from_owned_array(py, all))
    }

    /// A Spark frame with the scores of a column as one more: `orb_features.spark.transform`.
    #[pyo3(signature = (frame, column="descriptor", output="pca", *, vectors=false))]
    fn transform_df<'py>(
        slf: &Bound<'py, Self>,
        frame: &Bound<'py, PyAny>,
        column: &str,
        output: &str,
        vectors: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let options = PyDict::new(py);
        options.set_item("vectors", vectors)?;
        let transform = py.import("orb_features.spark")?.getattr("transform")?;
        transform.call((frame, slf, column, output), Some(&options))
    }

    /// The components: shape (k, d), one unit vector a row.
    #[getter]
    fn components_<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray2<f64>> {
        self.model.components().to_pyarray(py)
    }

    /// The mean row: shape (d).
    #[getter]
    fn mean_<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.model.mean().to_pyarray(py)
    }

    /// The variance along each component, over n - 1: shape (k).
    #[getter]
    fn explained_variance_<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.model.explained_variance().to_pyarray(py)
    }

    /// The explained variances as fractions of the whole: shape (k).
    #[getter]
    fn explained_variance_ratio_<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.model.explained_variance_ratio().to_pyarray(py)
    }

    /// The singular values of the centred rows: shape (k).
    #[getter]
    fn singular_values_<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.model.singular_values().to_pyarray(py)
    }

    /// The number of components, k.
    #[getter]
    fn n_components_(&self) -> usize {
        self.model.n_components()
    }

    /// The number of elements of a row, d.
    #[getter]
    fn n_features_in_(&self) -> usize {
        self.model.dimensions()
    }

    /// The number of rows of the fit.
    #[getter]
    fn n_samples_(&self) -> u64 {
        self.model.n_rows()
    }

    /// "u8", "f32" or "bits": what the rows must be.
    #[getter]
    fn element(&self) -> &'static str {
        match (self.model.input(), self.model.element()) {
            (PcaInput::Bits, _) => "bits",
            (PcaInput::Bytes, Element::F32) => "f32",
            _ => "u8",
        }
    }

    /// The model as JSON, as the library and the program save it.
    fn to_json(&self) -> PyResult<String> {
        serde_json::to_string(&self.model).map_err(|e| PyValueError::new_err(e.to_string()))
    }

    /// Reads what `to_json` wrote.
    #[staticmethod]
    fn from_json(json: &str) -> PyResult<Self> {
        let model = serde_json::from_str(json);
        Ok(Self { model: model.map_err(|e| PyValueError::new_err(e.to_string()))? })
    }

    /// Writes the model to a file.
    fn save(&self, path: PathBuf) -> PyResult<()> {
        Ok(self.model.save(path).map_err(Failure)?)
    }

    /// Reads a model that `save`, the library or the program wrote.
    #[staticmethod]
    fn load(path: PathBuf) -> PyResult<Self> {
        Ok(Self { model: PcaModel::load(path).map_err(Failure)? })
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let json = slf.get().to_json()?;
        Ok((slf.get_type().getattr("from_json")?, PyTuple::new(slf.py(), [json])?))
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.model == other.model
    }

    fn __repr__(&self) -> String {
        let (k, d, n) = (self.n_components_(), self.n_features_in_(), self.n_samples_());
        format!("Pca({k} components of {d} elements, fitted to {n} rows)")
    }
}
