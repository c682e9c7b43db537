//! Errors as Python's exceptions: one hierarchy, each with `uri`, `stage` and `code`.

use std::fmt::Display;

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
pub fn param(name: &'static str, value: impl Display, allowed: impl Into<Box<str>>) -> PyErr {
    let value = value.to_string().into();
    Failure(Error::InvalidParam { name, value, allowed: allowed.into() }).into()
}

/// The choice of this name.
pub fn parsed<T: std::str::FromStr<Err = Error>>(name: &str) -> PyResult<T> {
    Ok(name.parse().map_err(Failure)?)
}
