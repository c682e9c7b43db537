//! Policies for images that fail, and when failures end the job.

use std::fmt;
use std::io::ErrorKind;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Tally;
use crate::choice::choice;
use crate::error::{Error, ObjectCause, Result};
use crate::features::ImageFeatures;
use crate::rows::{FailedImage, ImageOutcome};

/// What to do about an image that cannot be read, decoded or processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OnError {
    /// End the job with its error; nothing is written.
    #[default]
    Fail,
    /// Leave it out, count it in the report, and list it with all images.
    Skip,
    /// The same, and record it with its error in the sink, beside the rows.
    Record,
}

choice!(OnError, "on_error", Fail = "fail", Skip = "skip", Record = "record");

/// What a job does about images that fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct ErrorPolicy {
    on_error: OnError,
    max_failures: Option<MaxFailures>,
    allow_empty: bool,
}

impl ErrorPolicy {
    /// Makes a policy without a limit of failures, which does not allow an empty result.
    pub fn new(on_error: OnError) -> Self {
        Self { on_error, max_failures: None, allow_empty: false }
    }

    /// Sets what happens to an image that fails.
    pub fn with_on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// Sets how many images may fail before the job ends with [`Error::TooManyFailures`] (default: any
    /// number); only for [`OnError::Skip`] and [`OnError::Record`].
    pub fn with_max_failures(mut self, most: MaxFailures) -> Self {
        self.max_failures = Some(most);
        self
    }

    /// Sets whether a job without images, or whose images all failed, may write a result without rows (default: no).
    ///
    /// If not, such a job writes and replaces nothing. It ends with [`Error::NoInput`] if there were no images, with
    /// [`Error::NoAccess`] if access to the first [`MAX_REFUSALS`] images, or to all of fewer, was denied, and
    /// otherwise with [`Error::AllFailed`]. An image that is read but has no features has not failed.
    pub fn with_allow_empty(mut self, allow: bool) -> Self {
        self.allow_empty = allow;
        self
    }

    /// What happens to an image that fails.
    #[must_use]
    pub fn on_error(&self) -> OnError {
        self.on_error
    }

    /// How many images may fail.
    #[must_use]
    pub fn max_failures(&self) -> Option<MaxFailures> {
        self.max_failures
    }

    /// Whether a job without images, or whose images all failed, may write a result without rows.
    #[must_use]
    pub fn allow_empty(&self) -> bool {
        self.allow_empty
    }

    /// Checks the policy before the first image.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a limit together with [`OnError::Fail`], as the first failure ends the job
    /// anyway.
    pub fn check(&self) -> Result<()> {
        match (self.on_error, self.max_failures) {
            (OnError::Fail, Some(limit)) => {
                let allowed =
                    "only with the policies skip and record: else the first failure ends the job";
                Err(Error::param("max_failures", limit, allowed))
            }
            _ => Ok(()),
        }
    }
}

/// The number of images after which [`MaxFailures::Millionths`] can end a job early.
pub const JUDGED_FROM: u64 = 1_000;

/// The number of images after which the job ends if access to every one of them was denied.
pub const MAX_REFUSALS: u64 = 32;

/// The number or share of images that may fail before the job ends.
///
/// A number ends the job at the failure that exceeds it. A share is checked at each failure once
/// [`JUDGED_FROM`] images have been seen, and at the end of the input. An early check knows only the images
/// so far, so it can end a job whose failures come first although the share of all images would be within the
/// limit.
///
/// # Examples
/// ```
/// use orb_features::stage::MaxFailures;
///
/// assert_eq!("100".parse::<MaxFailures>()?, MaxFailures::Images(100));
/// assert_eq!("0.5%".parse::<MaxFailures>()?, MaxFailures::Millionths(5_000));
/// assert!("101%".parse::<MaxFailures>().is_err());
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl TryFrom<String> for MaxFailures {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<MaxFailures> for String {
    fn from(limit: MaxFailures) -> Self {
        limit.to_string()
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

/// The iterator of [`StageExt::on_error`](crate::StageExt::on_error).
///
/// Its last item may be an error about the job as a whole: [`Error::NoInput`], [`Error::AllFailed`],
/// [`Error::NoAccess`], [`Error::TooManyFailures`].
#[derive(Debug)]
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct Tolerant<I> {
    images: I,
    policy: ErrorPolicy,
    tally: Tally,
    seen: u64,
    failed: u64,
    /// Failed images to which access was denied.
    refused: u64,
    first_error: Option<Box<Error>>,
    observer: Observer,
    is_done: bool,
}

/// Called after each image.
#[derive(Default)]
struct Observer(Option<Box<dyn FnMut() + Send>>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

impl<I> Tolerant<I> {
    /// Calls `observer` after each image, including those that are left out.
    pub fn with_observer(mut self, observer: impl FnMut() + Send + 'static) -> Self {
        self.observer = Observer(Some(Box::new(observer)));
        self
    }

    pub(super) fn new(images: I, policy: ErrorPolicy, tally: Tally) -> Self {
        Self {
            images,
            policy,
            tally,
            seen: 0,
            failed: 0,
            refused: 0,
            first_error: None,
            observer: Observer::default(),
            is_done: false,
        }
    }

    /// Handles a failure: returns what is known of it, or the error that ends the job.
    fn leave_out(&mut self, error: Error) -> Result<FailedImage> {
        if self.policy.on_error == OnError::Fail || !error.is_of_one_image() {
            return Err(error);
        }
        let mut failed = FailedImage::from(&error);
        failed.recorded = self.policy.on_error == OnError::Record;
        self.tally.fail(&failed);
        self.failed += 1;
        self.refused += u64::from(is_refusal(&error));
        self.first_error.get_or_insert_with(|| Box::new(error));
        self.judge(false)?;
        Ok(failed)
    }

    /// Decides after a failure, or at the end, whether the job can go on.
    fn judge(&mut self, at_end: bool) -> Result<()> {
        let (images, failed) = (self.seen, self.failed);
        let ErrorPolicy { max_failures: limit, allow_empty, .. } = self.policy;
        if images == 0 && !allow_empty {
            let reason = "the source is empty".into();
            return Err(Error::NoInput { uri: "the source".into(), reason });
        }
        let is_exceeded = limit.is_some_and(|limit| limit.is_exceeded(failed, images, at_end));
        let no_access =
            !allow_empty && self.refused == images && (at_end || images >= MAX_REFUSALS);
        let all_failed = !allow_empty && failed == images && at_end;
        if !(is_exceeded || no_access || all_failed) {
            return Ok(());
        }
        let Some(source) = self.first_error.take() else { return Ok(()) };
        let causes = Box::new(self.tally.failed_by_cause());
        Err(match limit {
            _ if no_access => Error::NoAccess { images, source },
            Some(limit) if is_exceeded => {
                let limit = limit.to_string().into();
                Error::TooManyFailures { limit, failed, images, causes, source }
            }
            _ => Error::AllFailed { images, causes, source },
        })
    }
}

impl<I: Iterator<Item = Result<ImageFeatures>>> Iterator for Tolerant<I> {
    type Item = Result<ImageOutcome>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.seen == 0
            && !self.is_done
            && let Err(error) = self.policy.check()
        {
            self.is_done = true;
            return Some(Err(error));
        }
        if self.is_done {
            return None;
        }
        let image = self.images.next().filter(|image| {
            // The only item of a source without images.
            let is_nothing = self.seen == 0 && matches!(image, Err(Error::NoInput { .. }));
            !(is_nothing && self.policy.allow_empty)
        });
        let Some(image) = image else {
            self.is_done = true;
            return self.judge(true).err().map(Err);
        };
        self.seen += 1;
        self.tally.counts.images.add(1);
        let outcome = match image {
            Ok(image) => {
                self.tally.counts.without_features.add(image.is_empty().into());
                self.tally.counts.rows.add(image.len() as u64);
                Ok(ImageOutcome::Features(image))
            }
            Err(error) => self.leave_out(error).map(ImageOutcome::Failed),
        };
        self.is_done = outcome.is_err();
        if let Observer(Some(observer)) = &mut self.observer {
            observer();
        }
        Some(outcome)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.images.size_hint().1.and_then(|most| most.checked_add(1)))
    }
}

/// Whether S3 or the file system denied access to an image.
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
    fn a_policy_is_read_as_it_is_written() {
        let policy =
            ErrorPolicy::new(OnError::Record).with_max_failures(MaxFailures::Millionths(50_000));
        let json = r#"{"on_error":"record","max_failures":"5%","allow_empty":false}"#;
        assert_eq!(serde_json::to_string(&policy).unwrap(), json);
        assert_eq!(serde_json::from_str::<ErrorPolicy>(json).unwrap(), policy);
        for json in [r#"{"max_failures":"101%"}"#, r#"{"on_eror":"skip"}"#] {
            serde_json::from_str::<ErrorPolicy>(json).unwrap_err();
        }
    }

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
