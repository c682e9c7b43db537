//! `ORB_create` and its class, as cv2 has them, and the same on arrays.

use std::cell::RefCell;

use ndarray::ArrayViewD;
use numpy::{
    PyArray2, PyArrayDyn, PyArrayMethods as _, PyReadonlyArrayDyn, PyUntypedArrayMethods as _,
};
use orb_features::Error;
use orb_features::features::{Feature2D as _, Features};
use orb_features::orb::{OpenCvBuild, Orb, OrbParams, OrbScratch, ScoreType};
use orb_features::pixels::{ColorOrder, GrayImage, GrayView};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::errors::{Failure, Result, param};
use crate::keypoint::{self, Named};

thread_local! {
    /// Buffers that a thread keeps from one image to the next.
    static SCRATCH: RefCell<OrbScratch> = RefCell::default();
}

/// OpenCV's ORB, bit for bit. Make one by `ORB_create`.
#[pyclass(name = "ORB", module = "orb_features")]
#[derive(Debug)]
pub struct PyOrb {
    orb: Orb,
}

/// What cv2 takes as an image: grey, or BGR or BGRA, which becomes grey as by `cv2.cvtColor`.
enum Image<'a> {
    Borrowed(GrayView<'a>),
    Owned(GrayImage),
}

impl<'a> Image<'a> {
    fn of(array: &'a ArrayViewD<'a, u8>) -> Result<Self> {
        let shape = array.shape();
        match *shape {
            [height, width] => Ok(match array.as_slice() {
                Some(pixels) => Self::Borrowed(GrayView::new(pixels, width, height)?),
                None => {
                    Self::Owned(GrayImage::new(array.iter().copied().collect(), width, height)?)
                }
            }),
            [height, width, 1] => {
                Ok(Self::Owned(GrayImage::new(array.iter().copied().collect(), width, height)?))
            }
            [height, width, channels @ (3 | 4)] => {
                let order = if channels == 3 { ColorOrder::Bgr } else { ColorOrder::Bgra };
                let packed = array.as_standard_layout();
                let pixels = packed.as_slice().unwrap_or_default();
                Ok(Self::Owned(GrayImage::from_color(pixels, width, height, order)?))
            }
            _ => Err(Failure(Error::shape(format!(
                "an array of shape {shape:?}, where (height, width) or (height, width, 1, 3 or 4) is due"
            )))),
        }
    }

    fn view(&self) -> GrayView<'_> {
        match self {
            Self::Borrowed(view) => *view,
            Self::Owned(image) => image.view(),
        }
    }
}

/// An argument that is an array of uint8.
struct Pixels<'py>(PyReadonlyArrayDyn<'py, u8>);

impl<'py> FromPyObject<'_, 'py> for Pixels<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let array = object.cast::<PyArrayDyn<u8>>().map_err(|_| {
            let dtype = object.getattr("dtype").and_then(|dtype| dtype.str());
            let found = dtype.or_else(|_| object.get_type().name());
            let found = found.map(|found| found.to_string()).unwrap_or_default();
            PyTypeError::new_err(format!("a numpy array of uint8 is due, not {found}"))
        })?;
        Ok(Self(array.readonly()))
    }
}

impl PyOrb {
    /// Works on an image without the interpreter's lock.
    fn work<T: Send>(
        &self,
        py: Python<'_>,
        image: &Pixels<'_>,
        mask: Option<&Pixels<'_>>,
        work: impl Fn(&Orb, GrayView<'_>, Option<GrayView<'_>>, &mut OrbScratch) -> Result<T, Error>
        + Send
        + Sync,
    ) -> PyResult<T> {
        let is_gray = |mask: &Pixels<'_>| matches!(mask.0.shape(), [_, _] | [_, _, 1]);
        if !mask.is_none_or(is_gray) {
            return Err(PyValueError::new_err("mask: an array of shape (height, width) is due"));
        }
        let (image, mask) = (image.0.as_array(), mask.map(|mask| mask.0.as_array()));
        let done: Result<T> = py.detach(|| {
            let image = Image::of(&image)?;
            let mask = mask.as_ref().map(Image::of).transpose()?;
            let mask = mask.as_ref().map(Image::view);
            SCRATCH
                .with(|scratch| Ok(work(&self.orb, image.view(), mask, &mut scratch.borrow_mut())?))
        });
        Ok(done?)
    }

    fn find(
        &self,
        py: Python<'_>,
        image: &Pixels<'_>,
        mask: Option<&Pixels<'_>>,
    ) -> PyResult<(Named, Features)> {
        let mut found = self.work(py, image, mask, |orb, image, mask, scratch| {
            orb.detect_and_compute_with(image, mask, scratch)
        })?;
        Ok((std::mem::take(&mut found.keypoints).into(), found))
    }

    fn describe(
        &self,
        py: Python<'_>,
        image: &Pixels<'_>,
        given: &Named,
    ) -> PyResult<(Named, Features)> {
        let mut found = self.work(py, image, None, |orb, image, _, scratch| {
            orb.compute_with(image, &given.keypoints, scratch)
        })?;
        Ok((given.name(std::mem::take(&mut found.keypoints)), found))
    }

    fn set(&mut self, params: OrbParams) -> Result<()> {
        self.orb = params.build()?;
        Ok(())
    }

    fn params(&self) -> OrbParams {
        self.orb.params().clone()
    }
}

/// Descriptors as an array of shape (n, 32).
fn descriptors<'py>(py: Python<'py>, features: &Features) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let bytes = features.descriptors.as_flattened().to_vec();
    let rows = ndarray::Array2::from_shape_vec((features.descriptors.len(), 32), bytes);
    let rows = rows.map_err(|e| PyValueError::new_err(e.to_string()))?;
    Ok(PyArray2::from_owned_array(py, rows))
}

/// Keypoints and descriptors as cv2 returns them: no descriptors are None.
type Found<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyArray2<u8>>>);

fn as_cv2<'py>(py: Python<'py>, named: &Named, features: &Features) -> PyResult<Found<'py>> {
    let found =
        (!features.descriptors.is_empty()).then(|| descriptors(py, features)).transpose()?;
    Ok((keypoint::to_objects(py, named)?, found))
}

/// Whether an argument is a list of images, rather than one.
fn is_list(images: &Bound<'_, PyAny>) -> bool {
    images.is_instance_of::<PyList>() || images.is_instance_of::<PyTuple>()
}

/// The items of an argument, one for each image.
fn same_len<'py>(
    images: &Bound<'py, PyAny>,
    items: &Bound<'py, PyAny>,
    name: &'static str,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let items = items.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    let images = images.len()?;
    if items.len() == images {
        return Ok(items);
    }
    Err(param(name, format!("{} of them", items.len()), format!("one for each of {images} images")))
}

/// Converts a signed number of cv2 to the unsigned type of a parameter.
fn whole<T: TryFrom<i64>>(name: &'static str, value: i64) -> PyResult<T> {
    let most = (1_u64 << (8 * size_of::<T>())) - 1;
    T::try_from(value).map_err(|_| param(name, value, format!("0 to {most}")))
}

fn score_type(number: i32) -> PyResult<ScoreType> {
    match number {
        0 => Ok(ScoreType::Harris),
        1 => Ok(ScoreType::Fast),
        _ => Err(param("scoreType", number, "HARRIS_SCORE (0) or FAST_SCORE (1)")),
    }
}

#[pymethods]
#[allow(non_snake_case, reason = "cv2's names")]
#[expect(clippy::unused_self, reason = "methods in cv2, too")]
impl PyOrb {
    /// True, as of cv2's ORB: it has nothing to load.
    fn empty(&self) -> bool {
        true
    }

    #[pyo3(name = "getMaxFeatures")]
    fn get_n_features(&self) -> u32 {
        self.orb.params().n_features()
    }

    #[pyo3(name = "setMaxFeatures")]
    fn set_n_features(&mut self, value: i64) -> PyResult<()> {
        Ok(self.set(self.params().with_n_features(whole("n_features", value)?))?)
    }

    #[pyo3(name = "getScaleFactor")]
    fn get_scale_factor(&self) -> f32 {
        self.orb.params().scale_factor()
    }

    #[pyo3(name = "setScaleFactor")]
    fn set_scale_factor(&mut self, value: f32) -> PyResult<()> {
        Ok(self.set(self.params().with_scale_factor(value))?)
    }

    #[pyo3(name = "getNLevels")]
    fn get_n_levels(&self) -> u32 {
        self.orb.params().n_levels()
    }

    #[pyo3(name = "setNLevels")]
    fn set_n_levels(&mut self, value: i64) -> PyResult<()> {
        Ok(self.set(self.params().with_n_levels(whole("n_levels", value)?))?)
    }

    #[pyo3(name = "getEdgeThreshold")]
    fn get_edge_threshold(&self) -> u32 {
        self.orb.params().edge_threshold()
    }

    #[pyo3(name = "setEdgeThreshold")]
    fn set_edge_threshold(&mut self, value: i64) -> PyResult<()> {
        Ok(self.set(self.params().with_edge_threshold(whole("edge_threshold", value)?))?)
    }

    #[pyo3(name = "getFirstLevel")]
    fn get_first_level(&self) -> u32 {
        self.orb.params().first_level()
    }

    #[pyo3(name = "setFirstLevel")]
    fn set_first_level(&mut self, value: i64) -> PyResult<()> {
        Ok(self.set(self.params().with_first_level(whole("first_level", value)?))?)
    }

    #[pyo3(name = "getWTA_K")]
    fn get_wta_k(&self) -> u32 {
        self.orb.params().wta_k()
    }

    #[pyo3(name = "setWTA_K")]
    fn set_wta_k(&mut self, value: i64) -> PyResult<()> {
        Ok(self.set(self.params().with_wta_k(whole("wta_k", value)?))?)
    }

    #[pyo3(name = "getPatchSize")]
    fn get_patch_size(&self) -> u32 {
        self.orb.params().patch_size()
    }

    #[pyo3(name = "setPatchSize")]
    fn set_patch_size(&mut self, value: i64) -> PyResult<()> {
        Ok(self.set(self.params().with_patch_size(whole("patch_size", value)?))?)
    }

    #[pyo3(name = "getFastThreshold")]
    fn get_fast_threshold(&self) -> u8 {
        self.orb.params().fast_threshold()
    }

    #[pyo3(name = "setFastThreshold")]
    fn set_fast_threshold(&mut self, value: i64) -> PyResult<()> {
        Ok(self.set(self.params().with_fast_threshold(whole("fast_threshold", value)?))?)
    }

    #[pyo3(name = "getScoreType")]
    fn get_score_type(&self) -> i32 {
        i32::from(self.orb.params().score_type() == ScoreType::Fast)
    }

    #[pyo3(name = "setScoreType")]
    fn set_score_type(&mut self, scoreType: i32) -> PyResult<()> {
        Ok(self.set(self.params().with_score_type(score_type(scoreType)?))?)
    }

    /// Keypoints of an image, where the mask is not 0, as a tuple; of a list of images, a tuple of those.
    #[pyo3(signature = (image, mask=None))]
    fn detect<'py>(
        &self,
        py: Python<'py>,
        image: &Bound<'py, PyAny>,
        mask: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        if is_list(image) {
            let masks = mask.map(|masks| same_len(image, masks, "mask")).transpose()?;
            let found = image
                .try_iter()?
                .enumerate()
                .map(|(i, image)| self.detect(py, &image?, masks.as_ref().map(|masks| &masks[i])));
            return PyTuple::new(py, found.collect::<PyResult<Vec<_>>>()?);
        }
        let mask = match mask {
            Some(mask) => Some(mask.extract::<Pixels<'py>>()?),
            None => None,
        };
        let found =
            self.work(py, &image.extract()?, mask.as_ref(), |orb, image, mask, scratch| {
                orb.detect_with(image, mask, scratch)
            })?;
        keypoint::to_objects(py, &found.into())
    }

    /// Descriptors of given keypoints, and the keypoints that have one; of lists of images and of keypoints, tuples of both.
    fn compute<'py>(
        &self,
        py: Python<'py>,
        image: &Bound<'py, PyAny>,
        keypoints: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyAny>>)> {
        if is_list(image) {
            let given = same_len(image, keypoints, "keypoints")?;
            let (mut found, mut descriptors) = (Vec::new(), Vec::new());
            for (image, given) in image.try_iter()?.zip(&given) {
                let (keypoints, some) = self.compute(py, &image?, given)?;
                found.push(keypoints);
                descriptors.push(some);
            }
            let descriptors = PyTuple::new(py, descriptors)?.into_any();
            return Ok((PyTuple::new(py, found)?, Some(descriptors)));
        }
        let (named, found) = self.describe(py, &image.extract()?, &keypoint::read(keypoints)?)?;
        let (keypoints, descriptors) = as_cv2(py, &named, &found)?;
        Ok((keypoints, descriptors.map(Bound::into_any)))
    }

    /// Keypoints as a tuple, and descriptors of shape (n, 32), or None if there are none. The last two arguments are
    /// only for cv2's signature, and must have its defaults: `compute` takes keypoints.
    #[pyo3(name = "detectAndCompute", signature = (image, mask=None, descriptors=None, useProvidedKeypoints=false))]
    fn detect_and_compute<'py>(
        &self,
        py: Python<'py>,
        image: Pixels<'py>,
        mask: Option<Pixels<'py>>,
        descriptors: Option<&Bound<'py, PyAny>>,
        useProvidedKeypoints: bool,
    ) -> PyResult<Found<'py>> {
        if descriptors.is_some() {
            return Err(param("descriptors", "an array", "None: they are returned"));
        }
        if useProvidedKeypoints {
            return Err(param("useProvidedKeypoints", "True", "False: compute takes keypoints"));
        }
        let (named, found) = self.find(py, &image, mask.as_ref())?;
        as_cv2(py, &named, &found)
    }

    /// Keypoints as one structured array: shape (n), fields x, y, size, angle, response, octave.
    #[pyo3(signature = (image, mask=None))]
    fn detect_array<'py>(
        &self,
        py: Python<'py>,
        image: Pixels<'py>,
        mask: Option<Pixels<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let found = self.work(py, &image, mask.as_ref(), |orb, image, mask, scratch| {
            orb.detect_with(image, mask, scratch)
        })?;
        keypoint::to_array(py, &found.into())
    }

    /// Keypoints as one structured array, and descriptors of shape (n, 32); of shape (0, 32) if there are none.
    #[pyo3(signature = (image, mask=None))]
    fn detect_and_compute_array<'py>(
        &self,
        py: Python<'py>,
        image: Pixels<'py>,
        mask: Option<Pixels<'py>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyArray2<u8>>)> {
        let (named, found) = self.find(py, &image, mask.as_ref())?;
        Ok((keypoint::to_array(py, &named)?, descriptors(py, &found)?))
    }

    /// Descriptors of given keypoints, and the keypoints that have one, as arrays.
    fn compute_array<'py>(
        &self,
        py: Python<'py>,
        image: Pixels<'py>,
        keypoints: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyArray2<u8>>)> {
        let (named, found) = self.describe(py, &image, &keypoint::read(keypoints)?)?;
        Ok((keypoint::to_array(py, &named)?, descriptors(py, &found)?))
    }

    #[pyo3(name = "descriptorSize")]
    fn descriptor_size(&self) -> usize {
        32
    }

    /// `cv2.CV_8U`.
    #[pyo3(name = "descriptorType")]
    fn descriptor_type(&self) -> i32 {
        0
    }

    /// `cv2.NORM_HAMMING`, or `cv2.NORM_HAMMING2` for a WTA_K of 3 or 4.
    #[pyo3(name = "defaultNorm")]
    fn default_norm(&self) -> i32 {
        if self.orb.params().wta_k() == 2 { 6 } else { 7 }
    }

    #[pyo3(name = "getDefaultName")]
    fn default_name(&self) -> &'static str {
        "Feature2D.ORB"
    }

    /// The OpenCV build whose results these are.
    #[getter]
    fn compat(&self) -> &'static str {
        self.orb.params().compat().as_str()
    }

    /// `ORB_create`, as `cv2.ORB.create`.
    #[classattr]
    fn create(py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(wrap_pyfunction!(orb_create, py)?.into_any().unbind())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let orb = self.orb.params();
        let compat = PyDict::new(py);
        compat.set_item("compat", orb.compat().as_str())?;
        let create = py.import("orb_features")?.getattr("ORB_create")?;
        let make = py.import("functools")?.getattr("partial")?.call((create,), Some(&compat))?;
        let args = (
            orb.n_features(),
            orb.scale_factor(),
            orb.n_levels(),
            orb.edge_threshold(),
            orb.first_level(),
            orb.wta_k(),
            self.get_score_type(),
            orb.patch_size(),
            orb.fast_threshold(),
        );
        Ok((make, args.into_pyobject(py)?.into_any()))
    }

    fn __repr__(&self) -> String {
        format!("ORB({})", serde_json::to_string(self.orb.params()).unwrap_or_default())
    }
}

/// cv2's `ORB_create`, with its names and defaults. `compat` names the OpenCV build whose results are wanted: pypi-4.13
/// (wheels of 4.13 to 5.0, the default), pypi-4.6 or debian-4.6.
#[pyfunction]
#[pyo3(name = "ORB_create", signature = (nfeatures=500, scaleFactor=1.2, nlevels=8, edgeThreshold=31, firstLevel=0, WTA_K=2, scoreType=0, patchSize=31, fastThreshold=20, *, compat="pypi-4.13"))]
#[expect(clippy::too_many_arguments, reason = "as many as cv2's has")]
#[allow(non_snake_case, reason = "cv2's names")]
pub fn orb_create(
    nfeatures: i64,
    scaleFactor: f32,
    nlevels: i64,
    edgeThreshold: i64,
    firstLevel: i64,
    WTA_K: i64,
    scoreType: i32,
    patchSize: i64,
    fastThreshold: i64,
    compat: &str,
) -> PyResult<PyOrb> {
    let params = OrbParams::default()
        .with_n_features(whole("n_features", nfeatures)?)
        .with_scale_factor(scaleFactor)
        .with_n_levels(whole("n_levels", nlevels)?)
        .with_edge_threshold(whole("edge_threshold", edgeThreshold)?)
        .with_first_level(whole("first_level", firstLevel)?)
        .with_wta_k(whole("wta_k", WTA_K)?)
        .with_score_type(score_type(scoreType)?)
        .with_patch_size(whole("patch_size", patchSize)?)
        .with_fast_threshold(whole("fast_threshold", fastThreshold)?)
        .with_compat(compat.parse::<OpenCvBuild>().map_err(Failure)?);
    Ok(PyOrb { orb: params.build().map_err(Failure)? })
}
