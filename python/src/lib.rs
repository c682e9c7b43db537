//! The extension module `orb_features._lib`.

mod errors;
mod extraction;
mod job;
mod keypoint;
mod matching;
mod moments;
mod orb;
mod pca;
mod place;
mod rows;
mod run;

use pyo3::prelude::*;

#[pymodule]
mod _lib {
    #[pymodule_export]
    use crate::extraction::PyExtraction;
    #[pymodule_export]
    use crate::keypoint::OwnKeyPoint;
    #[pymodule_export]
    use crate::matching::{PyMatcher, find_homography};
    #[pymodule_export]
    use crate::moments::PyMoments;
    #[pymodule_export]
    use crate::orb::{PyOrb, orb_create};
    #[pymodule_export]
    use crate::pca::PyPca;
    use pyo3::prelude::*;
    use pyo3::types::PyTuple;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("STORAGE_OPTIONS", PyTuple::new(module.py(), crate::job::STORAGE_OPTIONS)?)?;
        module.add("KEYPOINT_DTYPE", crate::keypoint::dtype(module.py())?)
    }
}
