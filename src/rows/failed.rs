//! Images that failed, as data.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// An image that could not be processed, as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedImage {
    /// The image, where it is known.
    pub uri: Option<String>,
    /// The stage: `source`, `decode`, `orb`.
    pub stage: String,
    /// The cause in a word, to count by: [`Error::code`].
    pub cause: String,
    /// The whole message.
    pub message: String,
}

impl FailedImage {
    /// Makes a record of a failure for which there is no [`Error`].
    pub fn new(
        uri: Option<String>,
        stage: impl Into<String>,
        cause: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { uri, stage: stage.into(), cause: cause.into(), message: message.into() }
    }
}

impl From<&Error> for FailedImage {
    fn from(error: &Error) -> Self {
        Self {
            uri: error.uri().map(str::to_owned),
            stage: error.stage().as_str().to_owned(),
            cause: error.code().to_owned(),
            message: error.to_line(),
        }
    }
}
