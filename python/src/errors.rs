//! Errors as Python's exceptions: one hierarchy, each with `uri`, `stage` and `code`.

use orb_features::{Error, Stage};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

/// An error of the library on its way to Python.
#[derive(Debug)]
pub struct Failure(pub Error);

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<Failure> for PyErr {
    fn from(Failure(error): Failure) -> Self {
        if matches!(error, Error::Interrupted) {
            return PyKeyboardInterrupt::new_err("interrupted");
        }
        let class = match error.stage() {
            Stage::Params => "ParamError",
            Stage::Source => "SourceError",
            Stage::Decode => "DecodeError",
            Stage::Orb | Stage::Onnx => "ExtractError",
            Stage::Pca => "PcaError",
            _ => "SinkError",
        };
        Python::attach(|py| {
            let made = py.import("orb_features.errors").and_then(|errors| {
                let facts = (error.to_line(), error.uri(), error.stage().as_str(), error.code());
                errors.getattr(class)?.call1(facts)
            });
            made.map_or_else(|failed| failed, PyErr::from_value)
        })
    }
}

/// The error of a parameter that is not allowed.
pub fn param(name: &'static str, value: impl Into<String>, allowed: impl Into<String>) -> PyErr {
    let (value, allowed): (String, String) = (value.into(), allowed.into());
    Failure(Error::InvalidParam { name, value: value.into(), allowed: allowed.into() }).into()
}
