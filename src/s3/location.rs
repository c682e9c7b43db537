//! `s3://bucket/prefix`.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A bucket and a key or prefix in it, written `s3://bucket/prefix` (or `s3a://`, as Spark does).
///
/// Everything after the bucket is taken as it is: nothing is decoded, and `//`, `..`, `%` and `+` are
/// characters of the key.
///
/// # Examples
/// ```
/// use orb_features::s3::S3Location;
///
/// let location: S3Location = "s3://fruits/Training".parse()?;
/// assert_eq!((location.bucket(), location.key()), ("fruits", "Training"));
/// assert_eq!(location.folder(), "Training/");
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Location {
    bucket: String,
    key: String,
}

impl S3Location {
    /// Takes a bucket and a key or prefix.
    pub(crate) fn new(bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), key: key.into() }
    }

    /// Whether a text means a place in S3 rather than a path.
    #[must_use]
    pub fn is_uri(text: &str) -> bool {
        strip_scheme(text).is_some()
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key or prefix, with no slash before it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The key as a folder: empty for the whole bucket, otherwise with a slash at its end.
    #[must_use]
    pub fn folder(&self) -> String {
        if self.key.is_empty() || self.key.ends_with('/') {
            self.key.clone()
        } else {
            format!("{}/", self.key)
        }
    }

    /// The URI of a key of the same bucket.
    pub(crate) fn uri_of(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("s3://").or_else(|| text.strip_prefix("s3a://"))
}

impl FromStr for S3Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rest = strip_scheme(text)
            .ok_or_else(|| Error::param("location", text, "s3://bucket/prefix"))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains(char::is_whitespace) {
            return Err(Error::param("location", text, "s3://bucket/prefix, with a bucket"));
        }
        Ok(Self::new(bucket, key))
    }
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_as_they_are() {
        for (text, bucket, key, folder) in [
            ("s3://b", "b", "", ""),
            ("s3://b/", "b", "", ""),
            ("s3a://b/a%20b+c//d", "b", "a%20b+c//d", "a%20b+c//d/"),
            ("s3://b/à é/", "b", "à é/", "à é/"),
            ("s3://b//x", "b", "/x", "/x/"),
        ] {
            let location: S3Location = text.parse().unwrap();
            assert_eq!(
                (location.bucket(), location.key(), location.folder().as_str()),
                (bucket, key, folder)
            );
        }
        for bad in ["", "b/c", "s3://", "s3:///key", "https://b/c", "s3://a b/c"] {
            assert!(bad.parse::<S3Location>().is_err(), "{bad}");
        }
    }
}
