//! What `_manifest.json` in the output says.

use serde::{Deserialize, Serialize};

use crate::s3::UploadedPart;

/// Runs that a manifest remembers.
const REMEMBERED: usize = 16;

/// The state of an output: its complete result, and the commit that is under way.
///
/// It is only ever changed by compare-and-swap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Grows with each change.
    pub version: u64,
    /// The complete result, if there is one.
    pub current: Option<Current>,
    /// A result that is about to take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// What is left to do of the last commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finishing: Option<Finishing>,
    /// The last runs, and whether they were committed: a run whose answer was lost finds it here.
    #[serde(default)]
    pub recent: Vec<Recent>,
}

/// A complete result. Names are below the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Current {
    /// The run that made it what it is.
    pub run: String,
    /// The columns of its rows.
    #[serde(default)]
    pub columns: Vec<String>,
    pub files: Vec<ResultFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ResultFile {
    pub name: String,
    pub size: u64,
    /// Not known of files that another program wrote.
    pub rows: Option<u64>,
}

/// A commit that can only go forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub run: String,
    #[serde(default)]
    pub columns: Vec<String>,
    pub uploads: Vec<PendingUpload>,
    /// Files of the old result that stay.
    pub kept: Vec<ResultFile>,
    /// Files of the old result that go.
    pub garbage: Vec<String>,
}

/// A file that is uploaded but not visible yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingUpload {
    pub file: ResultFile,
    pub upload: String,
    pub parts: Vec<UploadedPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finishing {
    pub garbage: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recent {
    pub run: String,
    pub committed: bool,
}

impl Manifest {
    /// The next state: a commit begins.
    pub fn begin(mut self, pending: Pending) -> Self {
        self.version += 1;
        self.pending = Some(pending);
        self
    }

    /// The next state: the new result is the current one.
    pub fn switch(mut self) -> Self {
        let Some(pending) = self.pending.take() else { return self };
        self.version += 1;
        let new = pending.uploads.into_iter().map(|u| u.file);
        let files = pending.kept.into_iter().chain(new).collect();
        let (run, columns) = (pending.run.clone(), pending.columns);
        self.current = Some(Current { run, columns, files });
        self.finishing = Some(Finishing { garbage: pending.garbage });
        self.remember(pending.run, true);
        self
    }

    /// The next state: the new result cannot come about, the old one stays.
    pub fn back_out(mut self) -> Self {
        let Some(pending) = self.pending.take() else { return self };
        self.version += 1;
        let garbage = pending.uploads.into_iter().map(|u| u.file.name).collect();
        self.finishing = Some(Finishing { garbage });
        self.remember(pending.run, false);
        self
    }

    /// The next state: the mark of success is missing.
    pub fn mark_again(mut self) -> Self {
        self.version += 1;
        self.finishing = Some(Finishing { garbage: Vec::new() });
        self
    }

    /// The next state: nothing is left to do.
    pub fn finish(mut self) -> Self {
        self.version += 1;
        self.finishing = None;
        self
    }

    /// Whether a run was committed, if it is known.
    pub fn outcome(&self, run: &str) -> Option<bool> {
        self.recent.iter().find(|recent| recent.run == run).map(|recent| recent.committed)
    }

    fn remember(&mut self, run: String, committed: bool) {
        self.recent.insert(0, Recent { run, committed });
        self.recent.truncate(REMEMBERED);
    }
}
