//! Keypoints as Python has them: `cv2.KeyPoint` where cv2 is, else our own of the same fields; or one structured array.

use numpy::{PyArray1, PyReadonlyArray1};
use orb_features::features::KeyPoint;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyTuple};

/// A keypoint with the fields of `cv2.KeyPoint`.
#[pyclass(name = "KeyPoint", module = "orb_features", get_all, set_all)]
#[derive(Clone, Debug)]
pub struct OwnKeyPoint {
    /// Column and row in pixels.
    pt: (f32, f32),
    /// Diameter of the described patch in pixels.
    size: f32,
    /// Degrees, [0, 360), clockwise.
    angle: f32,
    /// Strength.
    response: f32,
    /// Pyramid level.
    octave: i32,
    /// A number of the caller's; -1 for none.
    class_id: i32,
}

#[pymethods]
impl OwnKeyPoint {
    #[new]
    #[pyo3(signature = (x, y, size, angle=-1.0, response=0.0, octave=0, class_id=-1), text_signature = "(x, y, size, angle=-1.0, response=0.0, octave=0, class_id=-1)")]
    fn new(
        x: f32,
        y: f32,
        size: f32,
        angle: f32,
        response: f32,
        octave: i32,
        class_id: i32,
    ) -> Self {
        Self { pt: (x, y), size, angle, response, octave, class_id }
    }

    fn __repr__(&self) -> String {
        let Self { pt: (x, y), size, angle, response, octave, .. } = self;
        format!(
            "KeyPoint(x={x}, y={y}, size={size}, angle={angle}, response={response:e}, octave={octave})"
        )
    }
}

/// The class of keypoints, found once.
fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || {
        let of_cv2 = py.import("cv2").and_then(|cv2| cv2.getattr("KeyPoint"));
        let class = of_cv2.unwrap_or_else(|_| py.get_type::<OwnKeyPoint>().into_any());
        Ok::<_, PyErr>(class.unbind())
    })?;
    Ok(class.bind(py))
}

/// A tuple of keypoints, as cv2 returns it.
pub fn to_objects<'py>(py: Python<'py>, keypoints: &[KeyPoint]) -> PyResult<Bound<'py, PyTuple>> {
    let class = class(py)?;
    let objects = keypoints
        .iter()
        .map(|k| class.call1((k.x, k.y, k.size, k.angle, k.response, k.octave, -1)));
    PyTuple::new(py, objects.collect::<PyResult<Vec<_>>>()?)
}

/// The fields of the structured array, all of four bytes.
const FIELDS: [(&str, &str); 6] = [
    ("x", "<f4"),
    ("y", "<f4"),
    ("size", "<f4"),
    ("angle", "<f4"),
    ("response", "<f4"),
    ("octave", "<i4"),
];

/// The type of the structured array.
pub fn dtype(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static DTYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let made = DTYPE.get_or_try_init(py, || {
        let fields = PyList::new(py, FIELDS)?;
        Ok::<_, PyErr>(py.import("numpy")?.getattr("dtype")?.call1((fields,))?.unbind())
    })?;
    Ok(made.bind(py))
}

/// A structured array of keypoints: shape (n).
pub fn to_array<'py>(py: Python<'py>, keypoints: &[KeyPoint]) -> PyResult<Bound<'py, PyAny>> {
    let bytes = keypoints.iter().flat_map(|k| {
        let [x, y, size, angle, response] =
            [k.x, k.y, k.size, k.angle, k.response].map(f32::to_le_bytes);
        [x, y, size, angle, response, k.octave.to_le_bytes()]
    });
    let bytes: Vec<u8> = bytes.flatten().collect();
    PyArray1::from_vec(py, bytes).call_method1(intern!(py, "view"), (dtype(py)?,))
}

/// Reads keypoints: a structured array, or objects with the attributes of `cv2.KeyPoint`.
pub fn read(keypoints: &Bound<'_, PyAny>) -> PyResult<Vec<KeyPoint>> {
    let py = keypoints.py();
    if keypoints.hasattr("dtype")? {
        let contiguous = py.import("numpy")?.getattr("ascontiguousarray")?;
        let options = PyDict::new(py);
        options.set_item("dtype", dtype(py)?)?;
        let array = contiguous.call((keypoints,), Some(&options))?;
        let bytes: PyReadonlyArray1<'_, u8> = array.call_method1("view", ("u1",))?.extract()?;
        let numbers = bytes.as_slice()?.as_chunks::<4>().0.as_chunks::<6>().0;
        return Ok(numbers
            .iter()
            .map(|&[x, y, size, angle, response, octave]| {
                let float = f32::from_le_bytes;
                KeyPoint {
                    x: float(x),
                    y: float(y),
                    size: float(size),
                    angle: float(angle),
                    response: float(response),
                    octave: i32::from_le_bytes(octave),
                }
            })
            .collect());
    }
    let one = |k: Bound<'_, PyAny>| {
        let (x, y) = k.getattr(intern!(py, "pt"))?.extract()?;
        Ok(KeyPoint {
            x,
            y,
            size: k.getattr(intern!(py, "size"))?.extract()?,
            angle: k.getattr(intern!(py, "angle"))?.extract()?,
            response: k.getattr(intern!(py, "response"))?.extract()?,
            octave: k.getattr(intern!(py, "octave"))?.extract()?,
        })
    };
    let all = keypoints.try_iter().map_err(|_| {
        PyTypeError::new_err("keypoints: a sequence of KeyPoint, or a structured array, is due")
    })?;
    all.map(|k| one(k?)).collect()
}
