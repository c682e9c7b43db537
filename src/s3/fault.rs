//! Failures of requests, grouped by the right reaction to them.

use std::error::Error as StdError;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use http_body_util::LengthLimitError;

/// The kind of a failure, which decides how the caller reacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Throttled, a server's error, a timeout, a broken body: another attempt may pass.
    Transient,
    /// The server cannot be reached, or breaks the connection.
    Network,
    /// The body does not fit its checksum.
    Corrupt,
    /// No object, or no upload, of that name; or one whose parts will never make an object.
    Missing,
    /// No such bucket.
    NoBucket,
    /// A condition on the object's state does not hold (412).
    Precondition,
    /// The server does not support the request (501).
    Unsupported,
    /// Credentials, region or clock are wrong: no request will pass.
    Account,
    /// The credentials have expired: no request will pass with them.
    Expired,
    /// Access to the object, key or bucket is denied.
    Denied,
    /// The object is longer than the caller's limit.
    TooLarge,
    /// Any other failure that a retry does not mend.
    Refused,
}

/// A failed request.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub kind: Kind,
    message: String,
    /// Number of attempts made.
    pub attempts: u32,
}

impl Fault {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), attempts: 1 }
    }

    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Transient | Kind::Network | Kind::Corrupt)
    }

    /// Appends to the message.
    pub fn add(&mut self, what: &str) {
        self.message.push_str(what);
    }

    /// Classifies a server's error answer.
    pub fn of_response(status: u16, code: &str, message: &str, region: Option<&str>) -> Self {
        let answer = match (code, message) {
            ("", "") => format!("HTTP {status}"),
            ("", text) | (text, "") => format!("{text}, HTTP {status}"),
            (code, message) => format!("{code}: {}, HTTP {status}", message.trim_end_matches('.')),
        };
        let (kind, what) = match (status, code) {
            (_, "NoSuchBucket") => (Kind::NoBucket, "the bucket does not exist"),
            (_, "NoSuchKey" | "NoSuchUpload") | (404, _) => (Kind::Missing, "it does not exist"),
            (_, "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall") => {
                (Kind::Missing, "the server does not take the parts of the upload")
            }
            (200..=299, "") => (Kind::Transient, "the answer cannot be read"),
            (412, _) => (Kind::Precondition, "it has changed"),
            (501, _) => (Kind::Unsupported, "the server does not support this request"),
            (
                _,
                "SlowDown"
                | "Throttling"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "TooManyRequests",
            )
            | (429, _) => (Kind::Transient, "the server asks to slow down"),
            // A conflict is with another request in progress, so a later attempt may pass.
            (
                _,
                "RequestTimeout"
                | "InternalError"
                | "ServiceUnavailable"
                | "OperationAborted"
                | "ConditionalRequestConflict"
                | "IncompleteBody"
                | "BadDigest",
            )
            | (408 | 409 | 500.., _) => (Kind::Transient, "the server failed"),
            (
                _,
                "PermanentRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException",
            )
            | (301 | 307, _) => {
                let what = match region {
                    Some(region) => format!("wrong region: the bucket is in {region} ({answer})"),
                    None => format!("wrong region or endpoint ({answer})"),
                };
                return Self::new(Kind::Account, what);
            }
            (_, "InvalidAccessKeyId" | "NotSignedUp") => {
                (Kind::Account, "the access key does not exist")
            }
            (_, "SignatureDoesNotMatch") => (Kind::Account, "the secret key is wrong"),
            (_, "ExpiredToken") => (Kind::Expired, "the session token has expired"),
            (_, "InvalidToken") => (Kind::Account, "the session token is wrong"),
            (_, "RequestTimeTooSkewed") => (Kind::Account, "this machine's clock is wrong"),
            // This object is archived; others may be readable.
            (403, "InvalidObjectState") => (Kind::Refused, "access denied"),
            (401 | 403, _) => (Kind::Denied, "access denied"),
            _ => (Kind::Refused, "the server refuses the request"),
        };
        Self::new(kind, format!("{what} ({answer})"))
    }

    /// The fault for a transport error; the message is that of its innermost cause, which says the most.
    pub fn of_transport(kind: Kind, error: &(dyn StdError + 'static)) -> Self {
        let what = innermost(error);
        match kind {
            Kind::Network => Self::new(kind, format!("the network fails: {what}")),
            _ => Self::new(kind, what),
        }
    }
}

/// The last in an error's chain of causes, on one line: it is the system's own message.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

impl<E> From<SdkError<E, HttpResponse>> for Fault
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if is_of::<LengthLimitError>(&error) {
            return Self::new(Kind::Refused, "the answer is longer than any that S3 gives");
        }
        match &error {
            SdkError::ServiceError(service) => {
                let response = service.raw();
                let meta = service.err().meta();
                Self::of_response(
                    response.status().as_u16(),
                    meta.code().unwrap_or_default(),
                    meta.message().unwrap_or_default(),
                    response.headers().get("x-amz-bucket-region"),
                )
            }
            SdkError::TimeoutError(_) => Self::new(Kind::Transient, "no answer in time"),
            SdkError::DispatchFailure(failure) => {
                let cause = failure.as_connector_error();
                match cause {
                    Some(error) if error.is_timeout() => {
                        Self::new(Kind::Network, "no connection, or no answer, in time")
                    }
                    Some(error) if error.is_io() => Self::of_transport(Kind::Network, error),
                    Some(error) if is_of::<CredentialsError>(error) => Self::new(
                        Kind::Account,
                        format!("no usable credentials ({})", innermost(error)),
                    ),
                    Some(error) => Self::of_transport(Kind::Network, error),
                    None => Self::new(Kind::Network, "the request could not be sent"),
                }
            }
            // The answer breaks off, or is not a valid answer of S3.
            SdkError::ResponseError(_) => Self::of_transport(Kind::Transient, &error),
            _ => Self::of_transport(Kind::Refused, &error),
        }
    }
}

/// Whether an error, or one of its causes, is a `T`.
fn is_of<T: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<T>() {
            return true;
        }
        cause = error.source();
    }
    false
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.attempts {
            1 => Ok(()),
            n => write!(f, ", after {n} attempts"),
        }
    }
}

impl StdError for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_code_then_by_status() {
        for (status, code, kind, says) in [
            (404, "NoSuchBucket", Kind::NoBucket, "the bucket does not exist"),
            (400, "InvalidToken", Kind::Account, "the session token is wrong"),
            (400, "ExpiredToken", Kind::Expired, "has expired"),
            (400, "InvalidPart", Kind::Missing, "does not take the parts"),
            (403, "RequestTimeTooSkewed", Kind::Account, "clock is wrong"),
            (403, "InvalidObjectState", Kind::Refused, "access denied"),
            (403, "", Kind::Denied, "access denied"),
            (400, "RequestTimeout", Kind::Transient, "the server failed"),
            (503, "SlowDown", Kind::Transient, "slow down"),
            (418, "", Kind::Refused, "HTTP 418"),
        ] {
            let fault = Fault::of_response(status, code, "", None);
            assert_eq!(fault.kind, kind, "{code}");
            assert!(fault.to_string().contains(says), "{fault}");
        }
    }
}
