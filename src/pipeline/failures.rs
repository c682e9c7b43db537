//! The images that failed, and when they fail the job.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::str::FromStr;

use crate::error::{Error, ObjectCause, Result};
use crate::sink::Failure;

/// The number of failures that a report spells out; all of them are counted.
const FIRST_FAILURES: usize = 10;

/// The number of images after which [`MaxFailures::Millionths`] can end a job early.
pub const JUDGED_FROM: u64 = 1_000;

/// If the first so many images were all denied, the job ends.
pub const MAX_REFUSALS: u64 = 32;

/// The most images that may fail before the job does.
///
/// A number ends the job at the failure that exceeds it. A share is judged at the end of the input, and at
/// each failure once [`JUDGED_FROM`] images have been seen: the share of all images is not known
/// before the end, so a job whose failures come first is ended although the later images might have
/// made up for them.
///
/// # Examples
/// ```
/// use orb_features::pipeline::MaxFailures;
///
/// assert_eq!("100".parse::<MaxFailures>()?, MaxFailures::Images(100));
/// assert_eq!("0.5%".parse::<MaxFailures>()?, MaxFailures::Millionths(5_000));
/// assert!("101%".parse::<MaxFailures>().is_err());
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaxFailures {
    /// A number of images.
    Images(u64),
    /// A share of the images in millionths: one percent is 10,000.
    Millionths(u32),
}

/// All images, in millionths.
const WHOLE: u32 = 1_000_000;
/// One percent, in millionths.
const PERCENT: u32 = WHOLE / 100;

impl MaxFailures {
    fn is_exceeded(self, failed: u64, images: u64, at_end: bool) -> bool {
        match self {
            Self::Images(most) => failed > most,
            Self::Millionths(share) => {
                let is_above =
                    u128::from(failed) * u128::from(WHOLE) > u128::from(share) * u128::from(images);
                is_above && (at_end || images >= JUDGED_FROM)
            }
        }
    }
}

impl FromStr for MaxFailures {
    type Err = Error;

    /// Reads `100` as a number of images, `5%` or `0.25%` as a share: up to 100 %, with up to four decimals.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.strip_suffix('%') {
            None if is_number(text) => text.parse().ok().map(Self::Images),
            None => None,
            Some(percent) => millionths(percent).map(Self::Millionths),
        };
        parsed.ok_or_else(|| {
            let allowed = "a number of images such as 100, or a share of them, 0% to 100% with up to four decimals";
            Error::param("max_failures", text, allowed)
        })
    }
}

/// Digits and no sign.
fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn millionths(percent: &str) -> Option<u32> {
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, "0"));
    if decimals.len() > 4 || !is_number(whole) || !is_number(decimals) {
        return None;
    }
    let decimals: u32 = format!("{decimals:0<4}").parse().ok()?;
    let share = whole.parse::<u32>().ok()?.checked_mul(PERCENT)?.checked_add(decimals)?;
    (share <= WHOLE).then_some(share)
}

impl fmt::Display for MaxFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images(most) => most.fmt(f),
            Self::Millionths(share) => {
                let text = format!("{}.{:04}", share / PERCENT, share % PERCENT);
                write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

/// The failures of a job so far.
#[derive(Debug, Default)]
pub(super) struct Failures {
    limit: Option<MaxFailures>,
    allow_empty: bool,
    /// The number of failures by cause.
    pub by_cause: BTreeMap<String, u64>,
    /// The first of them, in order.
    pub first: Vec<Failure>,
    first_error: Option<Box<Error>>,
    count: u64,
    /// The number of those that were refused for want of a right.
    refused: u64,
}

impl Failures {
    pub fn new(limit: Option<MaxFailures>, allow_empty: bool) -> Self {
        Self { limit, allow_empty, ..Self::default() }
    }

    pub fn add(&mut self, error: Error, failure: Failure) {
        self.count += 1;
        self.refused += u64::from(is_refusal(&error));
        *self.by_cause.entry(failure.cause.clone()).or_default() += 1;
        if self.first.len() < FIRST_FAILURES {
            self.first.push(failure);
        }
        self.first_error.get_or_insert_with(|| Box::new(error));
    }

    /// Decides after a failure, or at the end, whether the job can go on; `images` have been seen.
    pub fn judge(&mut self, images: u64, at_end: bool) -> Result<()> {
        if images == 0 && !self.allow_empty {
            let reason = "the source is empty".into();
            return Err(Error::NoInput { uri: "the source".into(), reason });
        }
        let Self { limit, allow_empty, count, refused, .. } = *self;
        let is_exceeded = limit.is_some_and(|limit| limit.is_exceeded(count, images, at_end));
        let no_access = !allow_empty && refused == images && (at_end || images >= MAX_REFUSALS);
        let all_failed = !allow_empty && count == images && at_end;
        if !(is_exceeded || no_access || all_failed) {
            return Ok(());
        }
        let Some(source) = self.first_error.take() else { return Ok(()) };
        let causes = Box::new(std::mem::take(&mut self.by_cause));
        Err(match limit {
            _ if no_access => Error::NoAccess { images, source },
            Some(limit) if is_exceeded => {
                let limit = limit.to_string().into();
                Error::TooManyFailures { limit, failed: count, images, causes, source }
            }
            _ => Error::AllFailed { images, causes, source },
        })
    }
}

/// Whether an image was refused for want of a right, by S3 or by the file system.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Object { cause, .. } => *cause == ObjectCause::Denied,
        Error::Read { source, .. } => source.kind() == ErrorKind::PermissionDenied,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_shown() {
        for (text, limit) in [
            ("0", MaxFailures::Images(0)),
            ("18446744073709551615", MaxFailures::Images(u64::MAX)),
            ("0%", MaxFailures::Millionths(0)),
            ("5%", MaxFailures::Millionths(50_000)),
            ("0.0001%", MaxFailures::Millionths(1)),
            ("12.25%", MaxFailures::Millionths(122_500)),
            ("100%", MaxFailures::Millionths(1_000_000)),
        ] {
            assert_eq!(text.parse::<MaxFailures>().unwrap(), limit);
            assert_eq!(limit.to_string(), text);
        }
        for text in [
            "",
            "%",
            "-1",
            "1.5",
            "100.1%",
            "4294967296%",
            "1.00001%",
            ".5%",
            "1.-5%",
            "+1%",
            "+1",
            "nan%",
        ] {
            let error = text.parse::<MaxFailures>().unwrap_err().to_string();
            assert!(error.contains("max_failures") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_share_is_exact_and_judged_early_only_after_enough_images() {
        let limit = MaxFailures::Millionths(7_000);
        assert!(!limit.is_exceeded(7, 1_000, true) && limit.is_exceeded(8, 1_000, true));
        assert!(!limit.is_exceeded(999, 999, false) && limit.is_exceeded(999, 999, true));
        assert!(limit.is_exceeded(8, 1_000, false));
        assert!(!MaxFailures::Millionths(WHOLE).is_exceeded(u64::MAX, u64::MAX, true));
        assert!(!MaxFailures::Images(3).is_exceeded(3, 3, false));
        assert!(MaxFailures::Images(3).is_exceeded(4, 1_000_000, false));
    }
}
