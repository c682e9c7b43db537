//! Labels from paths.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How the label of an image follows from its path or key.
///
/// Paths are split at `/` (and at `\` on Windows) and otherwise taken as they are: spaces, accents,
/// `%` and `+` stay. Keys may have empty segments, as in `a//b.jpg`; an empty segment is never a label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum LabelRule {
    /// The name of the folder that holds the image; if that is empty, of the nearest folder above with a name.
    #[default]
    Parent,
    /// No label.
    None,
    /// The n-th segment of the path below the source's root, from 0; the file name does not count.
    Segment(usize),
    /// The value of a Hive segment `key=value` in the path below the root.
    Hive(String),
}

impl LabelRule {
    /// The label of an image of this path or key, whatever its root is.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<String> {
        self.label("", path)
    }

    /// The label of an image at `relative` below a root named `root`.
    pub(crate) fn label(&self, root: &str, relative: &str) -> Option<String> {
        let is_separator = |c: char| c == '/' || (cfg!(windows) && c == '\\');
        let mut folders: Vec<&str> = relative.split(is_separator).collect();
        folders.pop();
        let label = match self {
            Self::None => None,
            Self::Parent => {
                let outer = root.split(is_separator).rev();
                folders.iter().rev().copied().chain(outer).find(|s| !s.is_empty())
            }
            Self::Segment(n) => folders.get(*n).copied(),
            Self::Hive(key) => folders
                .iter()
                .find_map(|s| s.split_once('=').and_then(|(k, v)| (k == key).then_some(v))),
        };
        label.filter(|label| !label.is_empty()).map(str::to_owned)
    }
}

impl FromStr for LabelRule {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let bad = || Error::param("label", s, "parent, none, segment:N or hive:KEY");
        match s.split_once(':') {
            None if s == "parent" => Ok(Self::Parent),
            None if s == "none" => Ok(Self::None),
            Some(("segment", n)) => n.parse().map(Self::Segment).map_err(|_| bad()),
            Some(("hive", key)) if !key.is_empty() => Ok(Self::Hive(key.to_owned())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for LabelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parent => f.write_str("parent"),
            Self::None => f.write_str("none"),
            Self::Segment(n) => write!(f, "segment:{n}"),
            Self::Hive(key) => write!(f, "hive:{key}"),
        }
    }
}

impl TryFrom<String> for LabelRule {
    type Error = Error;

    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<LabelRule> for String {
    fn from(rule: LabelRule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule() {
        let label = |rule: &str, path| rule.parse::<LabelRule>().unwrap().label("data/root", path);
        let path = "kind=Pêche+50%/Apple Red 1/x y.jpg";
        assert_eq!(label("parent", path).as_deref(), Some("Apple Red 1"));
        assert_eq!(label("parent", "x.jpg").as_deref(), Some("root"));
        assert_eq!(label("none", path), None);
        assert_eq!(label("segment:0", path).as_deref(), Some("kind=Pêche+50%"));
        assert_eq!(label("segment:2", path), None);
        assert_eq!(label("hive:kind", path).as_deref(), Some("Pêche+50%"));
        assert_eq!(label("hive:colour", path), None);
        assert_eq!(label("parent", "a//x.jpg").as_deref(), Some("a"));
        assert_eq!(label("parent", "//x.jpg").as_deref(), Some("root"));
        assert_eq!(label("segment:1", "a//b/x.jpg"), None);
        assert_eq!(label("segment:2", "a//b/x.jpg").as_deref(), Some("b"));
        assert_eq!(label("hive:kind", "kind=/x.jpg"), None);
        for bad in ["", "child", "segment:", "segment:-1", "hive:"] {
            assert!(bad.parse::<LabelRule>().is_err(), "{bad}");
        }
    }
}
