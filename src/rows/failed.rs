//! Images that failed, as data.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ImageName};

/// An image that could not be processed, as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedImage {
    /// The image, where it is known.
    pub uri: Option<String>,
    /// Its label, if it has one that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Length of the encoded image in bytes, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub byte_len: Option<u64>,
    /// The stage: `source`, `decode`, `orb`, `onnx`.
    pub stage: String,
    /// The cause in a word, to count by: [`Error::code`].
    pub cause: String,
    /// The whole message.
    pub message: String,
    /// Whether it is to be recorded beside the rows, and not only listed with the images.
    #[serde(skip, default = "yes")]
    pub recorded: bool,
}

fn yes() -> bool {
    true
}

impl FailedImage {
    /// Makes a record of a failure for which there is no [`Error`].
    pub fn new(
        uri: Option<String>,
        stage: impl Into<String>,
        cause: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            uri,
            label: None,
            byte_len: None,
            stage: stage.into(),
            cause: cause.into(),
            message: message.into(),
            recorded: true,
        }
    }
}

impl From<&Error> for FailedImage {
    fn from(error: &Error) -> Self {
        let uri = error.uri().map(str::to_owned);
        let image = error.image();
        Self {
            label: image.and_then(ImageName::label).map(str::to_owned),
            byte_len: image.and_then(ImageName::byte_len),
            ..Self::new(uri, error.stage().as_str(), error.code(), error.to_line())
        }
    }
}
