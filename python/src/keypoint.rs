//! Keypoints as Python has them: `cv2.KeyPoint` where cv2 is, else our own of the same fields; or one structured array.

use std::collections::{HashMap, VecDeque};

use numpy::{Element, PyArray1, PyReadonlyArray1};
use orb_features::features::KeyPoint;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple};

use crate::errors::param;

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

/// Keypoints with the numbers that cv2 calls `class_id`.
#[derive(Clone, Debug, Default)]
pub struct Named {
    pub keypoints: Vec<KeyPoint>,
    pub class_ids: Vec<i32>,
}

/// The `class_id` of a keypoint to which its caller gave none.
const NO_CLASS: i32 = -1;

impl From<Vec<KeyPoint>> for Named {
    fn from(keypoints: Vec<KeyPoint>) -> Self {
        let class_ids = vec![NO_CLASS; keypoints.len()];
        Self { keypoints, class_ids }
    }
}

impl Named {
    /// Restores the `class_id`s of a reordered subset of these keypoints. Equal keypoints get theirs in order.
    pub fn name(&self, keypoints: Vec<KeyPoint>) -> Self {
        if self.class_ids.iter().all(|&id| id == NO_CLASS) {
            return keypoints.into();
        }
        let bits =
            |k: &KeyPoint| ([k.x, k.y, k.size, k.angle, k.response].map(f32::to_bits), k.octave);
        let mut ids: HashMap<_, VecDeque<i32>> = HashMap::new();
        for (keypoint, &id) in self.keypoints.iter().zip(&self.class_ids) {
            ids.entry(bits(keypoint)).or_default().push_back(id);
        }
        let id_of = |k| ids.get_mut(&bits(k)).and_then(VecDeque::pop_front).unwrap_or(NO_CLASS);
        let class_ids = keypoints.iter().map(id_of).collect();
        Self { keypoints, class_ids }
    }
}

/// A tuple of keypoints, as cv2 returns it.
pub fn to_objects<'py>(py: Python<'py>, named: &Named) -> PyResult<Bound<'py, PyTuple>> {
    let class = class(py)?;
    let objects = named
        .keypoints
        .iter()
        .zip(&named.class_ids)
        .map(|(k, id)| class.call1((k.x, k.y, k.size, k.angle, k.response, k.octave, *id)));
    PyTuple::new(py, objects.collect::<PyResult<Vec<_>>>()?)
}

/// The fields of the structured array, all of four bytes.
const FIELDS: [(&str, &str); 7] = [
    ("x", "<f4"),
    ("y", "<f4"),
    ("size", "<f4"),
    ("angle", "<f4"),
    ("response", "<f4"),
    ("octave", "<i4"),
    ("class_id", "<i4"),
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
pub fn to_array<'py>(py: Python<'py>, named: &Named) -> PyResult<Bound<'py, PyAny>> {
    let bytes = named.keypoints.iter().zip(&named.class_ids).flat_map(|(k, id)| {
        let [x, y, size, angle, response] =
            [k.x, k.y, k.size, k.angle, k.response].map(f32::to_le_bytes);
        [x, y, size, angle, response, k.octave.to_le_bytes(), id.to_le_bytes()]
    });
    let bytes: Vec<u8> = bytes.flatten().collect();
    PyArray1::from_vec(py, bytes).call_method1(intern!(py, "view"), (dtype(py)?,))
}

/// A field of a structured array, by its name.
fn field<T: Element + Copy>(array: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<T>> {
    let py = array.py();
    let values = array.get_item(name).map_err(|_| {
        param(
            "keypoints",
            format!("an array without {name}"),
            "a structured array of KEYPOINT_DTYPE",
        )
    })?;
    let values = py.import("numpy")?.call_method1("array", (values, T::get_dtype(py)))?;
    Ok(values.extract::<PyReadonlyArray1<'_, T>>()?.as_slice()?.to_vec())
}

/// Reads keypoints: a structured array, or objects with the attributes of `cv2.KeyPoint`.
pub fn read(keypoints: &Bound<'_, PyAny>) -> PyResult<Named> {
    let py = keypoints.py();
    if keypoints.hasattr("dtype")? {
        let floats = ["x", "y", "size", "angle", "response"];
        let [x, y, size, angle, response] = floats.map(|name| field::<f32>(keypoints, name));
        let (x, y, size, angle, response) = (x?, y?, size?, angle?, response?);
        let octave: Vec<i32> = field(keypoints, "octave")?;
        let class_ids = field(keypoints, "class_id").unwrap_or_else(|_| vec![NO_CLASS; x.len()]);
        let one = |i: usize| KeyPoint {
            x: x[i],
            y: y[i],
            size: size[i],
            angle: angle[i],
            response: response[i],
            octave: octave[i],
        };
        return Ok(Named { keypoints: (0..x.len()).map(one).collect(), class_ids });
    }
    let mut named = Named::default();
    let all = keypoints.try_iter().map_err(|_| {
        PyTypeError::new_err("keypoints: a sequence of KeyPoint, or a structured array, is due")
    })?;
    for k in all {
        let k = k?;
        let (x, y) = k.getattr(intern!(py, "pt"))?.extract()?;
        named.keypoints.push(KeyPoint {
            x,
            y,
            size: k.getattr(intern!(py, "size"))?.extract()?,
            angle: k.getattr(intern!(py, "angle"))?.extract()?,
            response: k.getattr(intern!(py, "response"))?.extract()?,
            octave: k.getattr(intern!(py, "octave"))?.extract()?,
        });
        named.class_ids.push(k.getattr(intern!(py, "class_id"))?.extract()?);
    }
    Ok(named)
}
