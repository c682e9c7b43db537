//! `s3://bucket/prefix`.

use std::fmt;
use std::str::FromStr;

use super::endpoint::shown;
use crate::error::Error;

/// Longest key that S3 allows, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 1024;

/// Longest name of a bucket, in bytes. Only old buckets have such long names.
const MAX_BUCKET_BYTES: usize = 255;

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
    /// Takes a bucket and a key or prefix, as they are.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a bucket that is empty, of more than 255 bytes or with a slash, white space, `@` or
    /// `:`, and for a key of more than 1,024 bytes.
    pub fn new(bucket: impl Into<String>, key: impl Into<String>) -> Result<Self, Error> {
        let (bucket, key) = (bucket.into(), key.into());
        if bucket.contains(['@', ':']) {
            // Not shown: it may be a secret.
            let allowed = "s3://bucket/prefix, without credentials or a port";
            return Err(Error::param("location", "s3://..", allowed));
        }
        if bucket.len() > MAX_BUCKET_BYTES || key.len() > MAX_KEY_BYTES {
            let allowed = format!(
                "a bucket of at most {MAX_BUCKET_BYTES} bytes and a key of at most {MAX_KEY_BYTES}"
            );
            let given = format!("s3://.. of {} and {} bytes", bucket.len(), key.len());
            return Err(Error::param("location", given, allowed));
        }
        if bucket.is_empty() || bucket.contains(|c: char| c.is_whitespace() || c == '/') {
            let given = format!("s3://{bucket}/{key}");
            return Err(Error::param("location", given, "s3://bucket/prefix, with a bucket"));
        }
        Ok(Self { bucket, key })
    }

    /// Whether a text begins with `s3://` or `s3a://`, so that it is not a path.
    #[must_use]
    pub fn is_uri(text: &str) -> bool {
        strip_scheme(text).is_some()
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key or prefix, without the slash that ends the bucket.
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
            .ok_or_else(|| Error::param("location", shown(text), "s3://bucket/prefix"))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        Self::new(bucket, key)
    }
}

impl TryFrom<&str> for S3Location {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        text.parse()
    }
}

impl TryFrom<String> for S3Location {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl TryFrom<&String> for S3Location {
    type Error = Error;

    fn try_from(text: &String) -> Result<Self, Error> {
        text.parse()
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
        assert!(format!("s3://b/{}", "k".repeat(1024)).parse::<S3Location>().is_ok());
        let longest = "b".repeat(MAX_BUCKET_BYTES);
        assert_eq!(format!("s3://{longest}/k").parse::<S3Location>().unwrap().bucket(), longest);
        for bad in
            [format!("s3://b/{}", "k".repeat(1025)), format!("s3://{}/k", "b".repeat(1 << 17))]
        {
            let line = bad.parse::<S3Location>().unwrap_err().to_line();
            assert!(line.contains("at most 1024") && line.len() < 200, "{line}");
        }
    }

    #[test]
    fn credentials_in_a_location_are_refused_and_not_shown() {
        for text in [
            "s3://AKIA:SECRET@bucket/key",
            "s3://AKIA:SEC/RET@bucket/key",
            "s3a://SECRET@bucket",
            "s3://SEC RET@bucket/key",
            "https://AKIA:SECRET@bucket/key",
        ] {
            let line = text.parse::<S3Location>().unwrap_err().to_line();
            assert!(
                line.contains("location") && !line.contains("SEC") && !line.contains("AKIA"),
                "{line}"
            );
        }
    }
}
