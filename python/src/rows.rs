//! Rows that Python gives: numpy arrays and columns of Arrow, and their moments.

use numpy::{PyArray2, PyReadonlyArray2};
use orb_features::Error;
use orb_features::features::{Element, VectorsView};
use orb_features::pca::{Moments, PcaInput};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3_arrow::{PyArray, PyChunkedArray};

use crate::errors::{Failure, Result};
use crate::run::on_threads;

/// Most dimensions of moments: 2 GiB of sums.
const MOST_DIMENSIONS: usize = 16_384;

pub fn check_dimensions(dimensions: usize) -> Result<()> {
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

/// The element of the rows, as Python names it: "u8", "f32" or "bits".
pub fn name_of(input: PcaInput, element: Element) -> &'static str {
    match input {
        PcaInput::Bits => "bits",
        PcaInput::Bytes => element.as_str(),
    }
}

/// Calls `work` with rows: a numpy array of shape (n, d) of bytes or float32, or a column of Arrow.
pub fn with_rows<T: Send>(
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

/// The moments of rows of whatever format these have.
pub fn moments_of(py: Python<'_>, rows: &Bound<'_, PyAny>, pca_input: &str) -> PyResult<Moments> {
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
    Ok(moments.unwrap_or_else(|| Moments::new(32)))
}
