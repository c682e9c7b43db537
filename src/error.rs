//! The one error type of the crate.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A boxed foreign error: the cause behind an [`Error`], without making its crate part of our API.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The stage of the flow in which an error arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Checking parameters, before any work.
    Params,
    /// Listing and reading images.
    Source,
    /// Bytes to pixels.
    Decode,
    /// Pixels to keypoints and descriptors.
    Orb,
    /// Pixels to the vectors of a network.
    Onnx,
    /// Rows, batches and the spool between the two passes.
    Rows,
    /// Fit, projection and the model file.
    Pca,
    /// Writing the result.
    Sink,
    /// The index and the search in it.
    Search,
}

impl Stage {
    /// The stage's name, as the module of the same name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Params => "params",
            Self::Source => "source",
            Self::Decode => "decode",
            Self::Orb => "orb",
            Self::Onnx => "onnx",
            Self::Rows => "rows",
            Self::Pca => "pca",
            Self::Sink => "sink",
            Self::Search => "search",
        }
    }
}

/// Why an image could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecodeCause {
    /// The object holds no byte.
    Empty,
    /// The bytes are of no known image format.
    NotAnImage,
    /// The format or a variant of it is not supported.
    Unsupported,
    /// The bytes break off or contradict the format.
    Corrupt,
    /// The image is larger than the limits allow.
    TooLarge,
}

impl DecodeCause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotAnImage => "not_an_image",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too_large",
        }
    }
}

/// Why a listed object could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ObjectCause {
    /// It no longer exists.
    Vanished,
    /// It differs from the object that was listed.
    Changed,
    /// Its bytes do not match its checksum, even after retries.
    Corrupt,
    /// We lack the right to read it.
    Denied,
    /// The server refuses to return it for another reason: for example, it is archived.
    Refused,
    /// The server fails, even after retries.
    Unavailable,
}

impl ObjectCause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Vanished => "vanished",
            Self::Changed => "changed",
            Self::Corrupt => "wrong_checksum",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

/// An image that has failed: its path or key, and what else was known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName(Box<Facts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    uri: Box<str>,
    label: Option<Box<str>>,
    byte_len: Option<u64>,
}

impl ImageName {
    /// The label, if it has one that was known.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.0.label.as_deref()
    }

    /// Length of the encoded image in bytes, if it could be read.
    #[must_use]
    pub fn byte_len(&self) -> Option<u64> {
        self.0.byte_len
    }
}

impl<T: Into<Box<str>>> From<T> for ImageName {
    fn from(uri: T) -> Self {
        Self(Box::new(Facts { uri: uri.into(), label: None, byte_len: None }))
    }
}

impl Deref for ImageName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.uri
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.uri.fmt(f)
    }
}

/// Everything that can go wrong, by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter is out of its range: fix the call.
    #[error("invalid {name}: {value} ({allowed})")]
    InvalidParam {
        /// The parameter's name.
        name: &'static str,
        /// The value that was given.
        value: Box<str>,
        /// What is allowed.
        allowed: Box<str>,
    },
    /// A buffer's length does not fit the shape it was given with.
    #[error("wrong shape: {0}")]
    Shape(Box<str>),
    /// The source holds nothing to work on.
    #[error("no image in {uri}: {reason}")]
    NoInput {
        /// The folder that was searched.
        uri: Box<str>,
        /// What was searched for, and what was there instead.
        reason: Box<str>,
    },
    /// Object storage cannot be used at all: no credentials, no such profile.
    #[error("cannot connect to S3: {source}")]
    Connect {
        /// What is missing.
        source: BoxError,
    },
    /// A folder, bucket or listing cannot be read to its end, so it is unknown which images are missing.
    #[error("cannot list {uri}: {source}")]
    List {
        /// The place, or the listing's file.
        uri: Box<str>,
        /// The answer.
        source: BoxError,
    },
    /// A file is no index of photos that this version can use.
    #[error("cannot use the index {path}: {source}")]
    Index {
        /// The file.
        path: Box<str>,
        /// What is wrong with it.
        source: BoxError,
    },
    /// A file is no table that can be used, so it is unknown which of its rows are missing.
    #[error("cannot read the table {uri}: {source}")]
    Table {
        /// The file.
        uri: Box<str>,
        /// What is wrong with it.
        source: BoxError,
    },
    /// A listed object cannot be read.
    #[error("cannot read {uri}: {source}")]
    Object {
        /// The object.
        uri: ImageName,
        /// The kind of failure.
        cause: ObjectCause,
        /// The number of retries.
        retries: u32,
        /// The answer.
        source: BoxError,
    },
    /// A file cannot be read.
    #[error("cannot read {uri}: {source}")]
    Read {
        /// The path or key.
        uri: ImageName,
        /// The system's answer.
        source: io::Error,
    },
    /// A path is not valid UTF-8, so no text column can hold it unchanged.
    #[error("cannot use {uri}: the path is not valid UTF-8")]
    NotUtf8 {
        /// The path, with invalid bytes escaped.
        uri: ImageName,
    },
    /// An image cannot be decoded.
    #[error("cannot decode {uri}: {source}")]
    Decode {
        /// The image.
        uri: ImageName,
        /// The kind of failure.
        cause: DecodeCause,
        /// What the decoder said.
        source: BoxError,
    },
    /// An image is too small (or the pyramid too deep): one of its levels has no pixel.
    ///
    /// OpenCV throws on the same images.
    #[error("pyramid level {level} of the {width} x {height} image has no pixel")]
    EmptyLevel {
        /// Width of the image in pixels.
        width: u32,
        /// Height of the image in pixels.
        height: u32,
        /// The first level without a pixel.
        level: u32,
    },
    /// A pyramid level would be larger than [`crate::orb::MAX_LEVEL_PIXELS`].
    #[error("pyramid level {level} of the {width} x {height} image would be too large")]
    HugeLevel {
        /// Width of the image in pixels.
        width: u32,
        /// Height of the image in pixels.
        height: u32,
        /// The level.
        level: u32,
    },
    /// The buffer of a pyramid level cannot be allocated.
    #[error("no memory for {bytes} bytes of a pyramid level")]
    NoMemory {
        /// Bytes of the buffer.
        bytes: usize,
    },
    /// More keypoints were found in an image than [`crate::orb::OrbParams::max_keypoints`] allows.
    #[error("{found} keypoints, more than the {limit} allowed (max_keypoints)")]
    TooManyKeypoints {
        /// The number of keypoints up to the level that exceeds the limit.
        found: usize,
        /// The limit.
        limit: u32,
    },
    /// A given keypoint cannot be described.
    #[error("keypoint {index}: {reason}")]
    KeyPoint {
        /// Its position in the caller's list.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An extractor panicked.
    #[error("the extractor panicked: {0}")]
    Panic(Box<str>),
    /// OpenCV itself failed (the optional backend).
    #[error("opencv: {0}")]
    OpenCv(BoxError),
    /// A network cannot be used: its file cannot be read or is no network, or it is not one for images.
    #[error("cannot use the network {uri}: {reason}")]
    Network {
        /// The network's file.
        uri: Box<str>,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// A network failed on an image, or gave a number that is not finite.
    #[error("the network failed: {0}")]
    Inference(Box<str>),
    /// Extraction failed on one image.
    #[error("cannot extract features from {uri}: {source}")]
    Extract {
        /// The image.
        uri: ImageName,
        /// What the extractor said.
        source: Box<Error>,
    },
    /// Every image failed, so there is nothing to make a result of.
    #[error("all {images} images failed ({}); the first: {source}", counts(causes))]
    AllFailed {
        /// The number of images.
        images: u64,
        /// The number of failures by cause ([`Error::code`]).
        causes: Box<BTreeMap<String, u64>>,
        /// The first failure.
        source: Box<Error>,
    },
    /// More images failed than the caller allows.
    #[error(
        "{failed} of {images} images failed ({}), more than the limit of {limit}; the first: {source}",
        counts(causes)
    )]
    TooManyFailures {
        /// The limit, as it was given.
        limit: Box<str>,
        /// The number of failures so far.
        failed: u64,
        /// The number of images so far.
        images: u64,
        /// The number of failures by cause ([`Error::code`]).
        causes: Box<BTreeMap<String, u64>>,
        /// The first failure.
        source: Box<Error>,
    },
    /// Every image so far was refused: the images may be listed, but not read.
    #[error("no access: all {images} images so far were refused; the first: {source}")]
    NoAccess {
        /// The number of images so far.
        images: u64,
        /// The first refusal.
        source: Box<Error>,
    },
    /// The rows cannot be spooled to a temporary file between the two passes.
    #[error("cannot spool rows in {path}: {source}")]
    Spool {
        /// The folder of the temporary file.
        path: Box<str>,
        /// The system's answer.
        source: io::Error,
    },
    /// The PCA cannot be fitted to these rows.
    #[error("cannot fit the PCA: {0}")]
    Fit(Box<str>),
    /// A model does not fit the data, or its file is not a model.
    #[error("cannot use the model {uri}: {reason}")]
    Model {
        /// The model's file; for a model in memory, `given` or `fitted`.
        uri: Box<str>,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// Bytes cannot be read as moments.
    #[error("these bytes are no moments: {0}")]
    Moments(Box<str>),
    /// The output exists already, and the write mode forbids touching it.
    #[error(
        "output {path} exists and is not empty (choose another, or the mode overwrite or append){}",
        .kept.as_ref().map_or_else(String::new, |kept| {
            format!("; the finished files of this run are kept in {kept}")
        })
    )]
    OutputExists {
        /// The output folder.
        path: Box<str>,
        /// Where this run's finished files are kept, if the output appeared during the job.
        kept: Option<Box<str>>,
    },
    /// The result cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or folder.
        path: Box<str>,
        /// The cause.
        source: BoxError,
    },
    /// It is unknown whether the result was committed: the store failed in the middle of the commit.
    ///
    /// The next run that writes there finishes the commit, if it had begun. To be safe, repeat the work under the same
    /// run id (see `FileParams::with_run_id`): a committed run is then recognised and not done twice.
    #[error(
        "it is in doubt whether {path} was written: {source} (the same work again as run {run_id} is done once, \
         and settles it)"
    )]
    InDoubt {
        /// The output.
        path: Box<str>,
        /// The run id.
        run_id: Box<str>,
        /// The cause.
        source: BoxError,
    },
    /// A run with the same id has already committed its result: nothing is left to do.
    #[error("run {run_id} is part of {path} already")]
    AlreadyCommitted {
        /// The output.
        path: Box<str>,
        /// The run id.
        run_id: Box<str>,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl Error {
    #[cold]
    pub(crate) fn param(
        name: &'static str,
        value: impl std::fmt::Display,
        allowed: impl Into<Box<str>>,
    ) -> Self {
        Self::InvalidParam { name, value: value.to_string().into(), allowed: allowed.into() }
    }

    /// Makes an [`Error::Shape`], for custom extractors.
    #[cold]
    pub fn shape(what: impl Into<Box<str>>) -> Self {
        Self::Shape(what.into())
    }

    /// Makes an [`Error::Read`], for custom sources.
    #[cold]
    pub fn read(uri: impl Into<ImageName>, source: io::Error) -> Self {
        Self::Read { uri: uri.into(), source }
    }

    #[cold]
    pub(crate) fn write(path: &Path, source: impl Into<BoxError>) -> Self {
        Self::write_to(path.display().to_string(), source)
    }

    /// Makes an [`Error::Write`], for custom sinks.
    #[cold]
    pub fn write_to(path: impl Into<Box<str>>, source: impl Into<BoxError>) -> Self {
        Self::Write { path: path.into(), source: source.into() }
    }

    /// The error for a failed write to `uri`: [`Error::Interrupted`] if that is among its causes.
    #[cfg(feature = "parquet")]
    #[cold]
    pub(crate) fn broken(uri: &str, error: impl Into<BoxError>) -> Self {
        let error = error.into();
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&*error);
        while let Some(at) = cause {
            let inner = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if inner.and_then(|e| e.downcast_ref()).is_some_and(|e| matches!(e, Self::Interrupted))
            {
                return Self::Interrupted;
            }
            cause = at.source();
        }
        Self::write_to(uri, error)
    }

    #[cfg(feature = "search")]
    #[cold]
    pub(crate) fn index(path: &Path, source: impl Into<BoxError>) -> Self {
        Self::Index { path: path.display().to_string().into(), source: source.into() }
    }

    #[cfg(feature = "s3")]
    #[cold]
    pub(crate) fn connect(source: impl Into<BoxError>) -> Self {
        Self::Connect { source: source.into() }
    }

    #[cold]
    pub(crate) fn list(uri: impl Into<Box<str>>, source: impl Into<BoxError>) -> Self {
        Self::List { uri: uri.into(), source: source.into() }
    }

    #[cfg(feature = "table")]
    #[cold]
    pub(crate) fn table(uri: impl Into<Box<str>>, source: impl Into<BoxError>) -> Self {
        Self::Table { uri: uri.into(), source: source.into() }
    }

    #[cold]
    pub(crate) fn decode(
        uri: impl Into<ImageName>,
        cause: DecodeCause,
        source: impl Into<BoxError>,
    ) -> Self {
        Self::Decode { uri: uri.into(), cause, source: source.into() }
    }

    /// The stage in which the error arose.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::InvalidParam { .. } | Self::Shape(_) | Self::Interrupted => Stage::Params,
            Self::Connect { .. }
            | Self::NoInput { .. }
            | Self::List { .. }
            | Self::Table { .. }
            | Self::Object { .. }
            | Self::Read { .. }
            | Self::NotUtf8 { .. } => Stage::Source,
            Self::Decode { .. } => Stage::Decode,
            Self::Network { .. } | Self::Inference(_) => Stage::Onnx,
            Self::Extract { source, .. } if matches!(**source, Self::Inference(_)) => Stage::Onnx,
            Self::EmptyLevel { .. }
            | Self::HugeLevel { .. }
            | Self::NoMemory { .. }
            | Self::TooManyKeypoints { .. }
            | Self::KeyPoint { .. }
            | Self::Panic(_)
            | Self::OpenCv(_)
            | Self::Extract { .. } => Stage::Orb,
            Self::AllFailed { source, .. }
            | Self::TooManyFailures { source, .. }
            | Self::NoAccess { source, .. } => source.stage(),
            Self::Spool { .. } => Stage::Rows,
            Self::Fit(_) | Self::Model { .. } | Self::Moments(_) => Stage::Pca,
            Self::Index { .. } => Stage::Search,
            Self::OutputExists { .. }
            | Self::Write { .. }
            | Self::InDoubt { .. }
            | Self::AlreadyCommitted { .. } => Stage::Sink,
        }
    }

    /// A short, stable word for the cause, to count by: `corrupt`, `unreadable`, `empty_level`..
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidParam { .. } => "invalid_param",
            Self::Shape(_) => "wrong_shape",
            Self::NoInput { .. } => "no_input",
            Self::Connect { .. } => "no_connection",
            Self::List { .. } => "unlistable",
            Self::Table { .. } => "table",
            Self::Index { .. } => "index",
            Self::Object { cause, .. } => cause.as_str(),
            Self::Read { .. } => "unreadable",
            Self::NotUtf8 { .. } => "not_utf8",
            Self::Decode { cause, .. } => cause.as_str(),
            Self::EmptyLevel { .. } => "empty_level",
            Self::HugeLevel { .. } => "huge_level",
            Self::NoMemory { .. } => "no_memory",
            Self::TooManyKeypoints { .. } => "too_many_keypoints",
            Self::KeyPoint { .. } => "bad_keypoint",
            Self::Panic(_) => "panic",
            Self::OpenCv(_) => "opencv",
            Self::Network { .. } => "network",
            Self::Inference(_) => "inference",
            Self::Extract { source, .. } => source.code(),
            Self::AllFailed { .. } => "all_failed",
            Self::TooManyFailures { .. } => "too_many_failures",
            Self::NoAccess { .. } => "no_access",
            Self::Spool { .. } => "spool",
            Self::Fit(_) => "fit",
            Self::Model { .. } => "model",
            Self::Moments(_) => "moments",
            Self::OutputExists { .. } => "output_exists",
            Self::Write { .. } => "write",
            Self::InDoubt { .. } => "in_doubt",
            Self::AlreadyCommitted { .. } => "already_committed",
            Self::Interrupted => "interrupted",
        }
    }

    /// The object, file or folder that the error is about, if there is one.
    #[must_use]
    pub fn uri(&self) -> Option<&str> {
        match self {
            Self::AllFailed { source, .. }
            | Self::TooManyFailures { source, .. }
            | Self::NoAccess { source, .. } => source.uri(),
            Self::Object { uri, .. }
            | Self::Read { uri, .. }
            | Self::NotUtf8 { uri }
            | Self::Decode { uri, .. }
            | Self::Extract { uri, .. } => Some(uri),
            Self::NoInput { uri, .. }
            | Self::List { uri, .. }
            | Self::Table { uri, .. }
            | Self::Network { uri, .. }
            | Self::Model { uri, .. } => Some(uri),
            Self::Index { path, .. }
            | Self::Spool { path, .. }
            | Self::OutputExists { path, .. }
            | Self::Write { path, .. }
            | Self::InDoubt { path, .. }
            | Self::AlreadyCommitted { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The image that the error is about, if it is about one, so that a job can go on without it.
    #[must_use]
    pub fn image(&self) -> Option<&ImageName> {
        match self {
            Self::Object { uri, .. }
            | Self::Read { uri, .. }
            | Self::NotUtf8 { uri }
            | Self::Decode { uri, .. }
            | Self::Extract { uri, .. } => Some(uri),
            _ => None,
        }
    }

    /// Whether the error is about one image, so that a job can go on without that image.
    #[must_use]
    pub fn is_of_one_image(&self) -> bool {
        self.image().is_some()
    }

    /// Adds what is known of the image, if the error is about one.
    pub(crate) fn with_facts(mut self, label: Option<String>, byte_len: Option<u64>) -> Self {
        match &mut self {
            Self::Object { uri, .. }
            | Self::Read { uri, .. }
            | Self::NotUtf8 { uri }
            | Self::Decode { uri, .. }
            | Self::Extract { uri, .. } => {
                uri.0.label = label.map(Into::into);
                uri.0.byte_len = byte_len;
            }
            _ => {}
        }
        self
    }

    /// The number of retries before the object was given up; 0 for other errors.
    #[must_use]
    pub fn retries(&self) -> u32 {
        match self {
            Self::Object { retries, .. } => *retries,
            _ => 0,
        }
    }

    /// The whole chain of causes on one line. Control characters, which names may contain, are escaped.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = StdError::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            // Several variants show their cause already, and foreign errors repeat theirs.
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        if !line.contains(char::is_control) {
            return line;
        }
        let escaped = |c: char| {
            if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
        };
        line.chars().map(escaped).collect()
    }
}

/// The number of failures by cause, as text for people.
pub(crate) fn counts(causes: &BTreeMap<String, u64>) -> String {
    causes.iter().map(|(cause, n)| format!("{cause} {n}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_small_enough_to_return_by_value() {
        assert!(size_of::<Error>() <= 64, "{}", size_of::<Error>());
    }

    #[test]
    fn a_line_names_object_and_cause_once() {
        let error = Error::read("a/b.jpg", io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(error.to_line(), "cannot read a/b.jpg: permission denied");
        let error = Error::read("a\nb\u{1b}ü.jpg", io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(error.to_line(), "cannot read a\\nb\\u{1b}ü.jpg: entity not found");
        let error = Error::Extract {
            uri: "a/b.jpg".into(),
            source: Box::new(Error::EmptyLevel { width: 1, height: 1, level: 4 }),
        };
        assert_eq!(
            error.to_line(),
            "cannot extract features from a/b.jpg: pyramid level 4 of the 1 x 1 image has no pixel"
        );
        assert_eq!((error.stage(), error.code()), (Stage::Orb, "empty_level"));
    }
}
