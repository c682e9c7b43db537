//! The layout of a result, in a folder and in S3 alike: file names, run ids, and other files beside them.
//!
//! ```text
//! part-00000-<run>.parquet          rows; .csv or .csv.gz in that format
//! _images/part-00000-<run>.parquet  all images
//! _errors/part-00000-<run>.parquet  failures
//! _SUCCESS                          last
//! ```
//!
//! A run id is a UUID without hyphens. A file whose name does not match this crate's or Spark's patterns exactly is
//! foreign, and never overwritten.

use std::ffi::{OsStr, OsString};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::format::{ENDINGS, PARQUET};
use crate::choice::choice;

/// What to do when the output folder exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WriteMode {
    /// Refuse, unless it is empty.
    #[default]
    Error,
    /// Replace an older result once the new one is complete. A folder that holds anything but a
    /// result is refused.
    Overwrite,
    /// Add files to it.
    Append,
}

choice!(WriteMode, "mode", Error = "error", Overwrite = "overwrite", Append = "append");

/// The file that marks a result as complete: empty in a folder; in S3 it holds the run id.
pub const SUCCESS: &str = "_SUCCESS";
/// The folder of recorded failures, which readers of the result ignore.
pub const ERRORS: &str = "_errors";
/// The folder of the list of all images, which readers of the result ignore.
pub const IMAGES: &str = "_images";
/// The folders beside the rows.
pub const SIDES: [&str; 2] = [ERRORS, IMAGES];

/// The `_SUCCESS` of the result that an append adds to, moved into the folder of the appending run.
pub const MARK_BEFORE: &str = "_SUCCESS.before";

/// Endings of hidden folders beside an output: the files of a run; the old result, for a moment; a name used only to
/// test a rename; a finished result that could not take the output's place.
pub const TMP: &str = ".tmp";
pub const OLD: &str = ".old";
pub const TRY: &str = ".try";
pub const COMPLETE: &str = ".complete";

/// Least number of digits of a part's number.
const DIGITS: usize = 5;

pub fn new_run_id() -> String {
    Uuid::new_v4().simple().to_string()
}

pub fn is_run_id(text: &str) -> bool {
    Uuid::try_parse(text).is_ok_and(|id| id.simple().to_string() == text)
}

/// The name of a file of rows. Names sort in the order of their numbers.
///
/// A number of more than five digits gets a prefix of nines, so that it sorts after all shorter ones: 99999, then
/// 99999100000. A plain 100000 would sort before 99999.
pub fn part_name(number: u64, run: &str, ending: &str) -> String {
    let mut digits = String::new();
    let mut width = DIGITS;
    while 10_u64.checked_pow(width as u32).is_some_and(|limit| number >= limit) {
        digits.extend(std::iter::repeat_n('9', width));
        width += 1;
    }
    format!("part-{digits}{number:0width$}-{run}{ending}")
}

/// The name of a file in a folder beside the rows.
pub fn side_name(side: &str, number: u64, run: &str) -> String {
    format!("{side}/{}", part_name(number, run, PARQUET))
}

/// The run that wrote a file of rows, or one beside them, whose path is relative to the output; `None` if this crate
/// gives no such name.
pub fn run_of(name: &str) -> Option<&str> {
    match name.split_once('/') {
        Some((side, name)) if SIDES.contains(&side) => run_of_part(name),
        _ => run_of_part(name),
    }
}

/// Whether a job of this crate or of Spark leaves a file of that name, relative to the output, in a result.
#[cfg(any(feature = "s3", test))]
pub fn is_file_of_a_result(name: &str) -> bool {
    match name.split_once('/') {
        None => Place::Result.has_file(name),
        Some((folder, name)) => SIDES.contains(&folder) && Place::Side.has_file(name),
    }
}

/// A folder of a result, or of a job that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The output.
    Result,
    /// `_errors`, `_images`.
    Side,
    /// `_temporary-<run>`, where a run of ours that appends keeps its files until the commit.
    Unfinished,
    /// `_temporary`, where a job of Spark keeps its files until they are committed.
    Temporary,
    /// `_temporary/0`.
    Job,
    /// `_temporary/0/_temporary`.
    Attempts,
    /// `task_..` in the job's folder, `attempt_..` in that of its attempts.
    Task,
}

impl Place {
    /// The place of the subfolder `name`; `None` if that is foreign.
    pub fn folder(self, name: &str) -> Option<Self> {
        match self {
            Self::Result if name == "_temporary" => Some(Self::Temporary),
            Self::Result if run_of_unfinished(name).is_some() => Some(Self::Unfinished),
            Self::Result | Self::Unfinished if SIDES.contains(&name) => Some(Self::Side),
            Self::Temporary if is_number(name) => Some(Self::Job),
            Self::Job if name == "_temporary" => Some(Self::Attempts),
            Self::Job if is_task(name, "task", 4) => Some(Self::Task),
            Self::Attempts if is_task(name, "attempt", 5) => Some(Self::Task),
            _ => None,
        }
    }

    /// Whether a job leaves a file of that name here.
    pub fn has_file(self, name: &str) -> bool {
        let of_spark = |is_file: &dyn Fn(&str) -> bool| {
            let twin = name.strip_prefix('.').and_then(|name| name.strip_suffix(".crc"));
            is_file(twin.unwrap_or(name))
        };
        match self {
            Self::Result => of_spark(&|name| {
                let marks = [SUCCESS, "_metadata", "_common_metadata"];
                marks.contains(&name) || is_part_of_spark(name) || run_of_part(name).is_some()
            }),
            Self::Unfinished => {
                [SUCCESS, MARK_BEFORE].contains(&name) || run_of_part(name).is_some()
            }
            Self::Side => run_of_part(name).is_some(),
            Self::Task => of_spark(&is_part_of_spark),
            Self::Temporary | Self::Job | Self::Attempts => false,
        }
    }
}

/// The name, in the output, of the folder of a run that appends.
pub fn unfinished_name(run: &str) -> String {
    format!("_temporary-{run}")
}

/// The run that such a folder is of.
pub fn run_of_unfinished(name: &str) -> Option<&str> {
    name.strip_prefix("_temporary-").filter(|run| is_run_id(run))
}

/// The name of a hidden folder beside an output: `.OUT.<run>.tmp`.
pub fn hidden_name(output: &OsStr, run: &str, ending: &str) -> OsString {
    let mut name = OsString::from(".");
    name.push(output);
    name.push(format!(".{run}{ending}"));
    name
}

/// The run that such a folder is of.
pub fn run_of_hidden<'a>(name: &'a OsStr, output: &OsStr, ending: &str) -> Option<&'a str> {
    let rest = name.as_encoded_bytes().strip_prefix(b".")?;
    let rest = rest.strip_prefix(output.as_encoded_bytes())?.strip_prefix(b".")?;
    let run = std::str::from_utf8(rest).ok()?.strip_suffix(ending)?;
    is_run_id(run).then_some(run)
}

/// Whether a file is one of rows or of failures that this crate has written.
pub fn is_part(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| run_of_part(name).is_some())
}

fn run_of_part(name: &str) -> Option<&str> {
    let (_, run) = number_and_rest(name)?;
    is_run_id(run).then_some(run)
}

/// Whether a name has the form of Spark's files of rows: `part-00000-<uuid>-c000.snappy.parquet`, `-c000.csv.gz`, and `_00000.c000`
/// instead of `-c000` in buckets.
fn is_part_of_spark(name: &str) -> bool {
    let Some((_, rest)) = number_and_rest(name) else { return false };
    let rest = match rest.rsplit_once('.') {
        Some((before, codec)) if CODECS.contains(&codec) => before,
        _ => rest,
    };
    let Some((job, rest)) = rest.split_at_checked(36) else { return false };
    if !Uuid::try_parse(job).is_ok_and(|id| id.hyphenated().to_string() == job) {
        return false;
    }
    let rest = match rest.strip_prefix('_') {
        Some(bucket) => {
            let end = bucket.find(|c: char| !c.is_ascii_digit()).unwrap_or(bucket.len());
            if end < DIGITS {
                return false;
            }
            &bucket[end..]
        }
        None => rest,
    };
    let counter = rest.strip_prefix("-c").or_else(|| rest.strip_prefix(".c"));
    rest.is_empty() || counter.is_some_and(|n| n.len() >= 3 && is_number(n))
}

/// File name endings of the codecs in Parquet's Java library.
const CODECS: [&str; 8] = ["snappy", "gz", "lzo", "br", "lz4", "lz4raw", "lz4hadoop", "zstd"];

/// The two parts of `part-<number>-<rest>` with one of the endings.
fn number_and_rest(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("part-")?;
    let name = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))?;
    let (number, rest) = name.split_once('-')?;
    (number.len() >= DIGITS && is_number(number)).then_some((number, rest))
}

/// Whether a name is that of a Hadoop task, or of an attempt at one: `task_202501010000_0000_m_000000`.
fn is_task(name: &str, kind: &str, fields: usize) -> bool {
    let Some(rest) = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('_')) else {
        return false;
    };
    let mut found = 0;
    rest.split('_').enumerate().all(|(i, field)| {
        found += 1;
        if i == 2 { field == "m" || field == "r" } else { is_number(field) }
    }) && found == fields
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "0123456789abcdef0123456789abcdef";
    const JOB: &str = "01234567-89ab-cdef-0123-456789abcdef";

    #[test]
    fn names_sort_in_the_order_of_their_numbers() {
        let near = |n: u64| n.saturating_sub(2)..n.saturating_add(2);
        let limits = (5..20).map(|digits| 10_u64.pow(digits)).flat_map(near);
        let numbers: Vec<_> = (0..12).chain(limits).chain([u64::MAX - 1, u64::MAX]).collect();
        assert!(numbers.is_sorted());
        let names: Vec<_> =
            numbers.iter().map(|&number| part_name(number, RUN, ".parquet")).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:#?}");
        assert!(names.iter().all(|name| run_of(name) == Some(RUN) && is_file_of_a_result(name)));
        assert_eq!(names[11], format!("part-00011-{RUN}.parquet"));
        // A longer number sorts after a shorter one, whatever the run ids are.
        let low = "00000000000000000000000000000000";
        assert!(part_name(99_999, RUN, ".parquet") < part_name(100_000, low, ".csv"));
        assert_eq!(part_name(100_000, low, ".csv"), format!("part-99999100000-{low}.csv"));
    }

    #[test]
    fn a_new_run_id_is_one() {
        let run = new_run_id();
        assert!(is_run_id(&run) && run.len() == 32 && run != new_run_id());
        for bad in
            ["", "0", JOB, &RUN[1..], &RUN.to_uppercase(), &format!("{RUN}0"), &"g".repeat(32)]
        {
            assert!(!is_run_id(bad), "{bad}");
        }
    }

    #[test]
    fn names_are_ours_or_sparks_to_the_letter() {
        for name in [
            "_SUCCESS",
            "._SUCCESS.crc",
            "_metadata",
            "_common_metadata",
            &format!("part-00000-{RUN}.parquet"),
            &format!("part-00000-{RUN}.csv"),
            &format!("part-00000-{RUN}.csv.gz"),
            &format!("_images/part-00000-{RUN}.parquet"),
            &format!("part-00000-{JOB}-c000.csv"),
            &format!("part-00000-{JOB}-c000.csv.gz"),
            &format!("part-99999100000-{RUN}.parquet"),
            &format!("_errors/part-00000-{RUN}.parquet"),
            &format!("part-00000-{JOB}-c000.snappy.parquet"),
            &format!(".part-00000-{JOB}-c000.snappy.parquet.crc"),
            &format!("part-123456-{JOB}-c1000.zstd.parquet"),
            &format!("part-00000-{JOB}-c000.parquet"),
            &format!("part-00000-{JOB}.gz.parquet"),
            &format!("part-00001-{JOB}_00003.c000.lz4raw.parquet"),
            &format!("part-00001-{JOB}_00003-c000.parquet"),
        ] {
            assert!(is_file_of_a_result(name), "{name}");
        }
        for name in [
            "",
            "_success",
            "_errors",
            "_temporary",
            "part-0.parquet",
            "part-00000.parquet",
            "part-00000-1f2e.c000.snappy.parquet",
            &format!("part-0000-{RUN}.parquet"),
            &format!("part-00000-{RUN}"),
            &format!("part-00000-{RUN}.gz"),
            &format!("part-00000-{RUN}.parquet.gz"),
            &format!("_other/part-00000-{RUN}.parquet"),
            &format!("part-00000-{RUN}.parquet.bak"),
            &format!("part-00000-{RUN}.snappy.parquet"),
            &format!("part-0000x-{RUN}.parquet"),
            &format!("part-00000-{}.parquet", RUN.to_uppercase()),
            &format!(" part-00000-{RUN}.parquet"),
            &format!("part-00000-{JOB}-c00.parquet"),
            &format!("part-00000-{JOB}-c000.mine.parquet"),
            &format!("part-00000-{JOB}-thesis.parquet"),
            &format!("part-00000-{JOB}_3-c000.parquet"),
            &format!("sub/part-00000-{RUN}.parquet"),
            &format!("_errors/sub/part-00000-{RUN}.parquet"),
            &format!("_errors/part-00000-{JOB}-c000.parquet"),
            "_errors/_SUCCESS",
            "_errors/../_SUCCESS",
        ] {
            assert!(!is_file_of_a_result(name), "{name}");
        }
    }

    #[test]
    fn folders_are_known_by_where_they_are() {
        let at = |path: &str| path.split('/').try_fold(Place::Result, Place::folder);
        let task = "task_202501010000001234_0007_m_000003";
        let attempt = "attempt_202501010000001234_0007_m_000003_0";
        for (path, place) in [
            ("_errors", Place::Side),
            (&*format!("_temporary-{RUN}"), Place::Unfinished),
            (&*format!("_temporary-{RUN}/_errors"), Place::Side),
            ("_temporary/0/_temporary", Place::Attempts),
            (&*format!("_temporary/0/{task}"), Place::Task),
            (&*format!("_temporary/0/_temporary/{attempt}"), Place::Task),
        ] {
            assert_eq!(at(path), Some(place), "{path}");
        }
        for path in [
            "_errors/mine",
            "_temporary/0/precious",
            "_temporary/mine",
            "_temporary-mine",
            "_temporary/0/_temporary/task_1_2_m_3",
            "_temporary/0/task_1_2_x_3",
            "_temporary/0/task_1_2_m",
            "_temporary/0/task_1_2_m_3/deep",
            &format!("_temporary-{RUN}/_temporary"),
        ] {
            assert_eq!(at(path), None, "{path}");
        }
        let part = format!("part-00000-{JOB}-c000.snappy.parquet");
        assert!(Place::Task.has_file(&part) && Place::Task.has_file(&format!(".{part}.crc")));
        assert!(!Place::Job.has_file(&part) && !Place::Task.has_file("thesis.doc"));
        assert!(
            Place::Unfinished.has_file(&part_name(7, RUN, ".csv.gz"))
                && !Place::Unfinished.has_file(&part)
        );
    }
}
