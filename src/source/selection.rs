//! Which files or keys a source takes.

use std::ffi::OsStr;
use std::ops::{Bound, RangeBounds};
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::LabelRule;
use crate::error::{Error, Result};

/// File endings that are taken when neither a glob nor other endings are set; case is ignored.
pub const IMAGE_EXTENSIONS: [&str; 12] =
    ["bmp", "gif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tif", "tiff", "webp"];

/// Selects the files below a folder, or the objects below a prefix, that a source takes, and says how they
/// are labelled.
///
/// The default takes all files with [`IMAGE_EXTENSIONS`], labelled by the folder that holds them. Names that
/// begin with a dot, and everything in folders with such names, are always skipped. A source that is a single
/// file or object takes it whatever its name, and refuses all settings but the label rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct Selection {
    glob: Option<String>,
    extensions: Option<Vec<String>>,
    pub(super) sizes: Option<(Bound<u64>, Bound<u64>)>,
    pub(super) recursive: bool,
    /// Whether it is of the files of a table.
    #[serde(skip)]
    of_tables: bool,
    pub(super) label: LabelRule,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            glob: None,
            extensions: None,
            sizes: None,
            recursive: true,
            of_tables: false,
            label: LabelRule::default(),
        }
    }
}

impl Selection {
    /// Takes only paths below the root that match the glob, such as `**/*.jpg`.
    ///
    /// `*` and `?` match within one name, `**` matches across folders, `{a,b}` matches `a` or `b`. In a bucket, only
    /// keys that begin with the glob's literal prefix are listed.
    pub fn with_glob(mut self, glob: impl Into<String>) -> Self {
        self.glob = Some(glob.into());
        self
    }

    /// Takes only files with one of these endings; case and surrounding spaces are ignored. If there is a
    /// glob, it must match, too.
    pub fn with_extensions<E: Into<String>>(
        mut self,
        extensions: impl IntoIterator<Item = E>,
    ) -> Self {
        let trimmed = |extension: E| extension.into().trim().to_owned();
        self.extensions = Some(extensions.into_iter().map(trimmed).collect());
        self
    }

    /// Takes only files of these sizes in bytes; `1..` skips empty files.
    pub fn with_sizes(mut self, sizes: impl RangeBounds<u64>) -> Self {
        let sizes = (sizes.start_bound().cloned(), sizes.end_bound().cloned());
        self.sizes = (sizes != (Bound::Unbounded, Bound::Unbounded)).then_some(sizes);
        self
    }

    /// Sets whether subfolders are searched or, in a bucket, keys with a further slash below the prefix are
    /// taken (default true).
    pub fn with_recursive(mut self, recursive: bool) -> Self {
        self.recursive = recursive;
        self
    }

    /// The same for the files of a table: those with these endings, unless endings or a glob are set. A single file may
    /// have any ending. Also skips names that begin with an underscore, and everything in such folders: Spark and this
    /// crate use such names for files that are not part of a table.
    #[cfg(feature = "table")]
    pub(crate) fn of_tables(self, extensions: impl IntoIterator<Item = &'static str>) -> Self {
        let selection = if self.extensions.is_none() && self.glob.is_none() {
            self.with_extensions(extensions)
        } else {
            self
        };
        Self { of_tables: true, ..selection }
    }

    /// Sets the label rule (default [`LabelRule::Parent`]).
    pub fn with_label(mut self, label: LabelRule) -> Self {
        self.label = label;
        self
    }

    /// The label rule.
    #[must_use]
    pub fn label(&self) -> &LabelRule {
        &self.label
    }

    /// Checks the selection before anything is listed.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for an invalid glob or an empty list of endings.
    pub fn check(&self) -> Result<()> {
        self.compile().map(|_| ())
    }

    /// Compiles the glob and normalizes the endings.
    pub(super) fn compile(&self) -> Result<Matcher> {
        let glob = self
            .glob
            .as_ref()
            .map(|glob| {
                GlobBuilder::new(glob)
                    .literal_separator(true)
                    .build()
                    .map(|g| g.compile_matcher())
                    .map_err(|e| Error::param("glob", glob, e.kind().to_string()))
            })
            .transpose()?;
        let extensions = match (&self.extensions, &glob) {
            (Some(extensions), _) if extensions.is_empty() => {
                return Err(Error::param("extensions", "[]", "at least one"));
            }
            (Some(extensions), _) => {
                Some(extensions.iter().map(|e| e.trim_start_matches('.').to_owned()).collect())
            }
            (None, None) => Some(IMAGE_EXTENSIONS.map(str::to_owned).to_vec()),
            (None, Some(_)) => None,
        };
        Ok(Matcher { glob, extensions, sizes: self.sizes, of_tables: self.of_tables })
    }

    /// Refuses settings that do not apply to a single file or object.
    pub(super) fn check_single(&self, uri: &str, what: &str) -> Result<()> {
        if self.of_tables {
            return Ok(());
        }
        let given = [
            ("glob", self.glob.clone()),
            ("extensions", self.extensions.as_ref().map(|e| e.join(","))),
            ("sizes", self.sizes.map(|(from, to)| format!("{from:?} to {to:?}"))),
            ("recursive", (!self.recursive).then(|| "false".to_owned())),
        ];
        match given.into_iter().find_map(|(name, value)| Some((name, value?))) {
            Some((name, value)) => {
                Err(Error::param(name, value, format!("for folders: {uri} is {what}")))
            }
            None => Ok(()),
        }
    }

    /// The message for a source in which the selection takes nothing.
    pub(super) fn describe(&self, seen: u64, what: &str) -> String {
        if seen == 0 {
            return format!("there are no {what} in it");
        }
        let size = if self.sizes.is_some() { " and has the size asked for" } else { "" };
        let none = match (&self.glob, &self.extensions) {
            (Some(glob), None) => {
                format!("none of its {seen} {what} matches the glob {glob}{size}")
            }
            (Some(glob), Some(e)) => format!(
                "none of its {seen} {what} matches the glob {glob} and ends in {}{size}",
                e.join(", ")
            ),
            (None, Some(e)) => format!("none of its {seen} {what} ends in {}{size}", e.join(", ")),
            (None, None) => format!("none of its {seen} {what} has the ending of an image{size}"),
        };
        match &self.glob {
            Some(glob) if !glob.contains('/') => format!(
                "{none} (this glob is for what lies in it directly: '**/{glob}' is also for its folders)"
            ),
            _ => none,
        }
    }

    /// Common prefix of all paths that the glob matches; only keys with this prefix need be listed.
    #[cfg(feature = "s3")]
    pub(super) fn literal_prefix(&self) -> &str {
        let glob = self.glob.as_deref().unwrap_or_default();
        let end = glob.find(['*', '?', '[', ']', '{', '}', '\\', '!']).unwrap_or(glob.len());
        // The text before the first wildcard is part of every match: `a/**/b` matches `a/b` at the shortest,
        // and the matcher reads `a**` as `a*`.
        &glob[..end]
    }
}

/// A [`Selection`] that is ready for use.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    glob: Option<GlobMatcher>,
    extensions: Option<Vec<String>>,
    sizes: Option<(Bound<u64>, Bound<u64>)>,
    of_tables: bool,
}

impl Matcher {
    /// Whether the glob and the endings take a path below the root.
    pub fn takes(&self, relative: &Path) -> bool {
        let name = relative.file_name().unwrap_or_default().as_encoded_bytes();
        // Compares the end of the name, as an extension may contain a dot: `ome.tif`.
        let has_extension = |known: &Vec<String>| {
            known.iter().any(|known| {
                let dot = name.len().checked_sub(known.len() + 1).filter(|&dot| dot > 0);
                dot.is_some_and(|dot| {
                    name[dot] == b'.' && name[dot + 1..].eq_ignore_ascii_case(known.as_bytes())
                })
            })
        };
        // A folder such as `_date=1` is a Hive partition.
        let is_aside = |name: &OsStr| {
            let name = name.as_encoded_bytes();
            name.starts_with(b"_") && !name.contains(&b'=')
        };
        (!self.of_tables || !relative.iter().any(is_aside))
            && self.glob.as_ref().is_none_or(|glob| glob.is_match(relative))
            && self.extensions.as_ref().is_none_or(has_extension)
    }

    /// Whether a size is taken; an unknown size is always taken.
    pub fn takes_size(&self, size: impl FnOnce() -> Option<u64>) -> bool {
        self.sizes.is_none_or(|sizes| size().is_none_or(|size| sizes.contains(&size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_and_extensions_both_hold() {
        let takes = |glob: Option<&str>, extensions: Option<&[&str]>, path: &str| {
            let selection = Selection {
                glob: glob.map(str::to_owned),
                extensions: extensions.map(|e| e.iter().map(|&e| e.to_owned()).collect()),
                ..Selection::default()
            };
            selection.compile().unwrap().takes(Path::new(path))
        };
        assert!(takes(None, None, "a/b.JPG"));
        assert!(!takes(None, None, "a/b.txt"));
        assert!(takes(Some("**/*.txt"), None, "a/b.txt"));
        assert!(!takes(Some("*.txt"), None, "a/b.txt"));
        assert!(takes(Some("a/*"), Some(&[".jpg", "txt"]), "a/b.txt"));
        assert!(!takes(Some("a/*"), Some(&["jpg"]), "a/b.txt"));
        assert!(takes(None, Some(&["ome.tif"]), "a/b.OME.tif"));
        assert!(!takes(None, Some(&["ome.tif"]), "a/b.tif"));
        assert!(!takes(None, Some(&["jpg"]), "a/.jpg"));
    }

    #[test]
    fn sizes_are_a_range() {
        let matcher = Selection::default().with_sizes(1..=10).compile().unwrap();
        let takes = |size| matcher.takes_size(|| size);
        assert_eq!(
            [Some(0), Some(1), Some(10), Some(11), None].map(takes),
            [false, true, true, false, true]
        );
    }

    #[test]
    #[cfg(feature = "s3")]
    fn a_glob_narrows_a_listing_no_more_than_it_may() {
        for (glob, prefix) in [
            ("**/*.jpg", ""),
            ("a/**/b.jpg", "a/"),
            ("2024-0[1-3]/x", "2024-0"),
            ("a{b,c}", "a"),
            ("plain/x.jpg", "plain/x.jpg"),
            ("a\\*b", "a"),
        ] {
            assert_eq!(Selection::default().with_glob(glob).literal_prefix(), prefix);
        }
    }

    #[cfg(feature = "s3")]
    proptest::proptest! {
        /// A bucket is listed with the glob's prefix, which must not hide a key that the glob takes.
        #[test]
        fn a_glob_takes_nothing_that_its_prefix_hides(
            glob in "[ab/]{0,4}[ab/*?]{0,5}",
            path in "[ab/]{1,8}",
        ) {
            let selection = Selection::default().with_glob(glob.as_str());
            if let Ok(matcher) = selection.compile()
                && matcher.takes(Path::new(&path))
            {
                proptest::prop_assert!(path.starts_with(selection.literal_prefix()), "{glob} {path}");
            }
        }
    }
}
