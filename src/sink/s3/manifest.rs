//! `_manifest.json` in the output.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::s3::UploadedPart;
use crate::sink::layout::{SUCCESS, is_file_of_a_result, is_run_id, run_of};

/// The name of the manifest in the output.
pub(crate) const MANIFEST: &str = "_manifest.json";

/// Tells our manifests from other files of that name.
const FORMAT: &str = "orb_features.manifest";
/// The format that this version reads and writes.
const FORMAT_VERSION: u64 = 1;

/// Largest generation that is read. No output sees as many changes, and later generations cannot overflow.
const MAX_GENERATION: u64 = u64::MAX / 2;

/// Longest manifest that is read or written, in bytes: enough for some 400,000 files.
pub(super) const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Newest runs that a manifest remembers even if none of their files is left.
const REMEMBERED: usize = 16;

/// The state of an output: its complete result, and the commit that is under way.
///
/// It is changed only by compare-and-swap, where the server supports that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    format_version: u64,
    /// Grows with each change.
    generation: u64,
    /// The complete result, if there is one.
    pub current: Option<Current>,
    /// The commit that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// The remaining work of the last commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finishing: Option<Finishing>,
    /// The newest runs, and all runs whose files are in the result, newest first. A run that is repeated, or whose
    /// answer was lost, finds its outcome here.
    #[serde(default)]
    pub recent: Vec<Recent>,
}

/// A complete result. Names are relative to the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Current {
    /// The run that committed it.
    pub run: String,
    /// The columns of its rows.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The notes in the footers of the files that were committed first; an append keeps them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
    pub files: Vec<ResultFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResultFile {
    pub name: String,
    pub size: u64,
    /// Unknown for files that another program wrote.
    pub rows: Option<u64>,
}

/// A commit past its point of no return: it is completed, unless the server has lost an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    pub run: String,
    /// The caller's name of the run, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default)]
    pub columns: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
    pub uploads: Vec<PendingUpload>,
    /// Files of the old result that stay.
    pub kept: Vec<ResultFile>,
    /// Files of the old result that are deleted.
    pub garbage: Vec<String>,
}

/// A file that is uploaded but not visible yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PendingUpload {
    pub file: ResultFile,
    pub upload: String,
    pub parts: Vec<UploadedPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Finishing {
    pub garbage: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recent {
    pub run: String,
    /// The caller's name of the run, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub committed: bool,
}

impl Manifest {
    /// The next state: a commit begins.
    pub fn begin(mut self, pending: Pending) -> Self {
        self.generation += 1;
        self.pending = Some(pending);
        self
    }

    /// The next state: the new result is the current one.
    pub fn switch(mut self) -> Self {
        let Some(pending) = self.pending.take() else { return self };
        self.generation += 1;
        let new = pending.uploads.into_iter().map(|u| u.file);
        let files = pending.kept.into_iter().chain(new).collect();
        let Pending { columns, notes, .. } = pending;
        self.current = Some(Current { run: pending.run.clone(), columns, notes, files });
        self.finishing = Some(Finishing { garbage: pending.garbage });
        self.remember(pending.run, pending.id, true);
        self
    }

    /// The next state: the new result cannot be completed, so the old one stays.
    pub fn back_out(mut self) -> Self {
        let Some(pending) = self.pending.take() else { return self };
        self.generation += 1;
        let garbage = pending.uploads.into_iter().map(|u| u.file.name).collect();
        self.finishing = Some(Finishing { garbage });
        self.remember(pending.run, pending.id, false);
        self
    }

    /// The next state: the mark of success is missing.
    pub fn mark_again(mut self) -> Self {
        self.generation += 1;
        self.finishing = Some(Finishing { garbage: Vec::new() });
        self
    }

    /// The next state: nothing is left to do.
    pub fn finish(mut self) -> Self {
        self.generation += 1;
        self.finishing = None;
        self
    }

    /// Whether a run was committed; `None` if the run is unknown.
    pub fn outcome(&self, run: &str) -> Option<bool> {
        self.recent.iter().find(|recent| recent.run == run).map(|recent| recent.committed)
    }

    /// The run that was committed under this name, be it the caller's id or this crate's; `None` if it is unknown.
    pub fn committed(&self, id: &str) -> Option<&str> {
        let is_it = |recent: &&Recent| recent.id.as_deref() == Some(id) || recent.run == id;
        let mut committed = self.recent.iter().filter(|recent| recent.committed);
        committed.find(is_it).map(|recent| recent.run.as_str())
    }

    fn remember(&mut self, run: String, id: Option<String>, committed: bool) {
        self.recent.insert(0, Recent { run, id, committed });
        let files = self.current.as_ref().map_or(&[][..], |current| &current.files);
        let present: HashSet<&str> = files.iter().filter_map(|file| run_of(&file.name)).collect();
        let mut age = 0;
        self.recent.retain(|recent| {
            age += 1;
            age <= REMEMBERED || present.contains(recent.run.as_str())
        });
    }

    /// Reads a manifest of ours, and refuses anything else.
    ///
    /// # Errors
    /// Why it is not one of ours, or must not be acted upon.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        /// The fields that every format has.
        #[derive(Deserialize)]
        struct Head {
            format: Option<serde_json::Value>,
            format_version: Option<u64>,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if head.format.as_ref().and_then(|format| format.as_str()) != Some(FORMAT) {
            return Err(format!("its field \"format\" is not {FORMAT:?}"));
        }
        match head.format_version {
            Some(newer) if newer > FORMAT_VERSION => Err(format!(
                "its format {newer} is newer than {FORMAT_VERSION}, the newest that this version reads"
            )),
            Some(FORMAT_VERSION) | None => {
                let manifest: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                manifest.check()?;
                Ok(manifest)
            }
            Some(other) => Err(format!("its format {other} was never written")),
        }
    }

    /// Refuses content that no run of ours writes, because files that a manifest names may be deleted.
    fn check(&self) -> Result<(), String> {
        if self.generation > MAX_GENERATION {
            return Err(format!("its generation {} is above {MAX_GENERATION}", self.generation));
        }
        let mut runs: Vec<&str> = self.recent.iter().map(|recent| recent.run.as_str()).collect();
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        if let Some(current) = &self.current {
            runs.push(&current.run);
            stay.extend(&current.files);
        }
        if let Some(finishing) = &self.finishing {
            go.extend(&finishing.garbage);
        }
        let (mut kept, mut replaced) = (Vec::new(), Vec::new());
        if let Some(pending) = &self.pending {
            runs.push(&pending.run);
            // Each run has at least one file, if only to show the columns.
            if pending.uploads.is_empty() {
                return Err(format!("the run {} is to commit no file", pending.run));
            }
            for PendingUpload { file, .. } in &pending.uploads {
                if run_of(&file.name) != Some(&pending.run) {
                    return Err(format!("{:?} is no file of the run {}", file.name, pending.run));
                }
                kept.push(file);
            }
            kept.extend(&pending.kept);
            replaced.extend(&pending.garbage);
        }
        if let Some(run) = runs.into_iter().find(|run| !is_run_id(run)) {
            return Err(format!("{run:?} is no run"));
        }
        for (stay, go) in [(stay, go), (kept, replaced)] {
            let stay: HashSet<&str> = stay.iter().map(|file| file.name.as_str()).collect();
            let names = stay.iter().copied().chain(go.iter().map(|name| name.as_str()));
            if let Some(name) = names.into_iter().find(|name| !is_name_of_a_result(name)) {
                return Err(format!("{name:?} is no file of a result"));
            }
            if let Some(name) = go.iter().find(|name| stay.contains(name.as_str())) {
                return Err(format!("{name:?} is to stay and to go"));
            }
        }
        Ok(())
    }
}

impl Default for Manifest {
    /// The state of an output that nobody has written to.
    fn default() -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            generation: 0,
            current: None,
            pending: None,
            finishing: None,
            recent: Vec::new(),
        }
    }
}

/// The names and lengths of the files of the complete result that a manifest names.
pub(crate) fn files_of_manifest(bytes: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let current = Manifest::from_bytes(bytes)?.current;
    let files = current.map(|current| current.files).unwrap_or_default();
    Ok(files.into_iter().map(|file| (file.name, file.size)).collect())
}

/// Whether a name, relative to the output, is that of a file that this crate or Spark leaves in a result, except the
/// mark of success.
pub(super) fn is_name_of_a_result(name: &str) -> bool {
    name != SUCCESS && is_file_of_a_result(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(number: u64) -> Pending {
        let run = format!("{number:032x}");
        let file = ResultFile { name: format!("part-00000-{run}.parquet"), size: 1, rows: None };
        let upload = PendingUpload { file, upload: String::new(), parts: Vec::new() };
        Pending {
            run,
            id: None,
            columns: Vec::new(),
            notes: BTreeMap::new(),
            uploads: vec![upload],
            kept: Vec::new(),
            garbage: Vec::new(),
        }
    }

    proptest::proptest! {
        /// After any sequence of steps: no state recurs, a committed run stays committed, and what is written is read
        /// back equal.
        #[test]
        fn any_history_goes_forward(steps in proptest::collection::vec(0_u8..5, 0..60)) {
            let (mut manifest, mut committed) = (Manifest::default(), None);
            for (number, step) in steps.into_iter().enumerate() {
                let before = manifest.clone();
                manifest = match step {
                    0 if manifest.pending.is_none() => manifest.begin(pending(number as u64)),
                    1 => {
                        let run = manifest.pending.as_ref().map(|pending| pending.run.clone());
                        committed = run.or(committed);
                        manifest.switch()
                    }
                    2 => manifest.back_out(),
                    3 => manifest.finish(),
                    _ => manifest.mark_again(),
                };
                let is_same = manifest == before;
                proptest::prop_assert_eq!(is_same, manifest.generation == before.generation);
                proptest::prop_assert!(manifest.generation <= before.generation + 1);
                let current = manifest.current.as_ref().map(|current| current.run.clone());
                proptest::prop_assert_eq!(&current, &committed);
                if let Some(run) = &committed {
                    proptest::prop_assert_eq!(manifest.outcome(run), Some(true));
                }
                let bytes = serde_json::to_vec(&manifest).unwrap();
                proptest::prop_assert_eq!(Manifest::from_bytes(&bytes).unwrap(), manifest.clone());
            }
        }
    }

    /// Equal manifests count as the same state, so no state may recur.
    #[test]
    fn every_state_is_a_new_generation() {
        let mut manifest = Manifest::default();
        let states: [fn(Manifest) -> Manifest; 6] = [
            |m| m.begin(pending(1)),
            Manifest::switch,
            Manifest::finish,
            |m| m.begin(pending(2)),
            Manifest::back_out,
            Manifest::mark_again,
        ];
        for (i, next) in states.into_iter().enumerate() {
            manifest = next(manifest);
            assert_eq!(manifest.generation, i as u64 + 1);
        }
        let committed = [1, 2].map(|number| manifest.outcome(&pending(number).run));
        assert_eq!(committed, [Some(true), Some(false)]);
    }

    #[test]
    fn the_last_runs_are_remembered() {
        let mut manifest = Manifest::default();
        for number in 0..20 {
            manifest = manifest.begin(pending(number)).switch().finish();
        }
        let known = (0..20).filter(|&number| manifest.outcome(&pending(number).run).is_some());
        assert_eq!(known.collect::<Vec<_>>(), (4..20).collect::<Vec<_>>());
    }
}
