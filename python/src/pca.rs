//! The PCA of rows or of their moments.

use std::path::PathBuf;

use numpy::{PyArray1, PyArray2, ToPyArray as _};
use orb_features::pca::{Centering, Components, Moments, PcaInput, PcaModel, PcaParams, Solver};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors::{Failure, param, parsed};
use crate::rows::{moments_of, name_of, with_rows};
use crate::run::on_threads;

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
    solver: Option<&str>,
    seed: Option<u64>,
    centering: Option<&str>,
    input: PcaInput,
) -> PyResult<PcaParams> {
    let components = components(n_components)?;
    let allowed = "none with a share, which takes all components";
    match (components, solver, seed) {
        (Components::Share(_), Some(solver), _) => return Err(param("solver", solver, allowed)),
        (Components::Share(_), None, Some(seed)) => return Err(param("seed", seed, allowed)),
        _ => {}
    }
    let solver = match (solver.map(parsed).transpose()?.unwrap_or_default(), seed) {
        (Solver::Randomized { .. }, Some(seed)) => Solver::seeded(seed),
        (Solver::Auto { .. }, Some(seed)) => Solver::Auto { seed },
        (solver, Some(seed)) => {
            return Err(param("seed", seed, format!("none with the solver {solver}")));
        }
        (solver, None) => solver,
    };
    let centering: Option<Centering> = centering.map(parsed).transpose()?;
    Ok(PcaParams::of(components)
        .with_solver(solver)
        .with_centering(centering.unwrap_or_default())
        .with_input(input))
}

/// Fits a PCA to moments, to 20 components by default.
pub fn fit(
    py: Python<'_>,
    moments: &Moments,
    n_components: Option<&Bound<'_, PyAny>>,
    solver: Option<&str>,
    seed: Option<u64>,
    centering: Option<&str>,
) -> PyResult<PcaModel> {
    let default = 20_usize.into_pyobject(py)?.into_any();
    let k = n_components.unwrap_or(&default);
    let params = params(k, solver, seed, centering, moments.input())?;
    Ok(py.detach(|| on_threads(|| Ok(moments.fit(&params)?)))?)
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
    /// bits of bytes. `solver`: "randomized" (the default), "covariance" or "auto". `centering`: "mean" (the default) or "none".
    #[staticmethod]
    #[pyo3(signature = (rows, n_components=None, *, solver=None, seed=None, centering=None, pca_input="bytes"))]
    fn fit(
        py: Python<'_>,
        rows: &Bound<'_, PyAny>,
        n_components: Option<&Bound<'_, PyAny>>,
        solver: Option<&str>,
        seed: Option<u64>,
        centering: Option<&str>,
        pca_input: &str,
    ) -> PyResult<Self> {
        let moments = moments_of(py, rows, pca_input)?;
        Ok(Self { model: fit(py, &moments, n_components, solver, seed, centering)? })
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
        name_of(self.model.input(), self.model.element())
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
