//! Where images come from and results go.

use std::ffi::OsString;
use std::path::PathBuf;

use orb_features::prelude::*;

/// A folder, or a place in S3.
#[derive(Clone)]
pub enum Place {
    Folder(PathBuf),
    S3(S3Location),
}

impl Place {
    pub fn parse(text: OsString) -> Result<Self> {
        match text.to_str() {
            Some(text) if looks_like_s3(text) => text.parse().map(Self::S3),
            _ => Ok(Self::Folder(text.into())),
        }
    }

    /// A folder in it.
    pub fn join(&self, name: &str) -> Result<Self> {
        Ok(match self {
            Self::Folder(path) => Self::Folder(path.join(name)),
            Self::S3(at) => Self::S3(S3Location::new(at.bucket(), at.folder() + name)?),
        })
    }

    pub fn is_s3(&self) -> bool {
        matches!(self, Self::S3(_))
    }
}

/// Whether a text is meant as an S3 URI. A misspelt one, such as `s3:/x`, counts too: it is hardly a folder's name.
pub fn looks_like_s3(text: &str) -> bool {
    let scheme = text.split_once(":/").map(|(scheme, _)| scheme.to_lowercase());
    scheme.is_some_and(|scheme| ["s3", "s3a", "s3n"].contains(&scheme.as_str()))
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::S3(location) => location.fmt(f),
        }
    }
}
