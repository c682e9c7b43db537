//! The names that options take, and what the library calls them.

use clap::ValueEnum;
use orb_features::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Backend {
    Native,
    Opencv,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Gray {
    Bgr,
    Luma,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Exif {
    Apply,
    Ignore,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SolverName {
    Randomized,
    Covariance,
    Auto,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Center {
    Mean,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum OnErrorName {
    Fail,
    Skip,
    Record,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum ModeName {
    Error,
    Overwrite,
    Append,
}

impl From<Gray> for GrayMode {
    fn from(gray: Gray) -> Self {
        match gray {
            Gray::Bgr => Self::Bgr2Gray,
            Gray::Luma => Self::Luma,
        }
    }
}

impl From<Exif> for ExifOrientation {
    fn from(exif: Exif) -> Self {
        match exif {
            Exif::Apply => Self::Apply,
            Exif::Ignore => Self::Ignore,
        }
    }
}

impl From<Center> for Centering {
    fn from(center: Center) -> Self {
        match center {
            Center::Mean => Self::Mean,
            Center::None => Self::None,
        }
    }
}

impl From<OnErrorName> for OnError {
    fn from(name: OnErrorName) -> Self {
        match name {
            OnErrorName::Fail => Self::Fail,
            OnErrorName::Skip => Self::Skip,
            OnErrorName::Record => Self::Record,
        }
    }
}

impl From<ModeName> for WriteMode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Error => Self::Error,
            ModeName::Overwrite => Self::Overwrite,
            ModeName::Append => Self::Append,
        }
    }
}
