//! The commit protocol: all or nothing on a store that can only put, delete and compare-and-swap.
//!
//! 1. Files are multipart uploads that are not completed, so they are invisible.
//! 2. `_manifest.json` is swapped to name them as pending. This is the point of no return: from here the commit goes
//!    forward, unless the server has lost an upload.
//! 3. `_SUCCESS` is deleted, and the uploads are completed.
//! 4. The manifest is swapped to name the new result as the current one.
//! 5. The files of the old result are deleted, by name, and `_SUCCESS` is written. The manifest is swapped a last time.
//!
//! Steps 3 to 5 need only the manifest: the next run finishes what a dead run began.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::manifest::{
    Current, MANIFEST, MAX_MANIFEST_BYTES, Manifest, Pending, PendingUpload, ResultFile,
    is_name_of_a_result,
};
use crate::s3::{Condition, Fault, HASTE, Kind, Listed, S3, outcome_of};
use crate::sink::layout::{SIDES, SUCCESS, WriteMode, run_of};
use crate::sink::notes::compare;

/// Longest `_SUCCESS` that may be ours, in bytes.
const MAX_MARK_BYTES: u64 = 1 << 10;

/// Folder of the leases of running runs.
pub(super) const WORK: &str = "_work/";

/// Most concurrent requests of a commit.
const AT_A_TIME: usize = 16;

/// Attempts before giving up when other runs keep changing the manifest; each time, one of them makes progress.
const ROUNDS: u32 = 1000;

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("{0}")]
    Request(Fault),
    /// The mode forbids changing it.
    #[error("it exists")]
    Exists,
    #[error("it holds {0:?}, which is not part of a result: it is not overwritten")]
    Foreign(String),
    /// The manifest is not one of ours, or has content that this crate never writes.
    #[error(
        "{MANIFEST} is not one that this version of the crate writes, so nothing here is touched: {0} (move it away \
         to go on)"
    )]
    Manifest(String),
    /// A run with the caller's run id is in the result.
    #[error("this run is part of it already")]
    Committed,
    /// A run with the caller's run id was committed, but its files are gone.
    #[error("the run {0} was committed and has been replaced since: give another run id")]
    Replaced(String),
    #[error("{MANIFEST} would be longer than {MAX_MANIFEST_BYTES} bytes: there are too many files")]
    TooManyFiles,
    /// Uploads of this run are gone, or will never be complete.
    #[error(
        "the server has lost the uploads of {} (a lifecycle rule, or someone, aborted them), or does not take their \
         parts",
        some_of(.0)
    )]
    Lost(Vec<String>),
    #[error("its columns differ from those of the rows that were added meanwhile")]
    Columns,
    /// The result to append to was made with other parameters, according to its notes.
    #[error("rows that were added meanwhile were made otherwise ({0}); only force adds to them")]
    Notes(String),
    #[error("other runs write to it all the time")]
    Contended,
    #[error(
        "the server does not check conditions on writes, so that two runs could mix: use another, or see to it that \
         there is one run at a time and say so"
    )]
    NoConditions,
    #[error("interrupted")]
    Interrupted,
}

impl From<Fault> for CommitError {
    fn from(fault: Fault) -> Self {
        Self::Request(fault)
    }
}

/// Columns and notes of a run's rows.
#[derive(Debug)]
pub(in crate::sink) struct Content {
    /// The columns.
    pub columns: Vec<String>,
    /// The notes in the footers of its files.
    pub notes: BTreeMap<String, String>,
    /// Whether the rows may be added to rows with other notes.
    pub force: bool,
}

impl Content {
    /// Refuses a result with other columns or, unless forced, with other notes.
    fn check(&self, current: &Current) -> Result<(), CommitError> {
        if !current.columns.is_empty() && current.columns != self.columns {
            return Err(CommitError::Columns);
        }
        if self.force {
            return Ok(());
        }
        let notes = compare(pairs(&current.notes), pairs(&self.notes));
        notes.map_err(CommitError::Notes)
    }
}

fn pairs(notes: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    notes.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// A place for results.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub s3: S3,
    pub bucket: String,
    /// Prefix of all keys of the output.
    pub base: String,
}

/// The manifest, and the ETag that it must still have to be swapped; `None` if there is no manifest.
type Seen = (Manifest, Option<String>);

impl Output {
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    /// Reads an object of at most `most` bytes.
    async fn read(&self, name: &str, most: u64) -> Result<Option<(Bytes, Option<String>)>, Fault> {
        let object = Listed { key: self.key(name), size: None, etag: None, modified: None };
        let request = self.s3.get(&self.bucket, &object, most);
        match self.s3.hurried(HASTE, request).await {
            Ok(got) => Ok(Some((got.bytes, got.etag))),
            Err(fault) if fault.kind == Kind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn manifest(&self) -> Result<Seen, CommitError> {
        match self.read(MANIFEST, MAX_MANIFEST_BYTES).await {
            Ok(None) => Ok((Manifest::default(), None)),
            Ok(Some((bytes, etag))) => {
                Ok((Manifest::from_bytes(&bytes).map_err(CommitError::Manifest)?, etag))
            }
            Err(fault) if fault.kind == Kind::TooLarge => {
                Err(CommitError::Manifest(fault.to_string()))
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Compare-and-swaps the manifest against the ETag seen; false if another run has changed it meanwhile.
    async fn swap(&self, new: &Manifest, seen: Option<String>) -> Result<bool, CommitError> {
        let body: Bytes =
            serde_json::to_vec(new).map_err(|e| CommitError::Manifest(e.to_string()))?.into();
        if body.len() as u64 > MAX_MANIFEST_BYTES && new.pending.is_some() {
            return Err(CommitError::TooManyFiles);
        }
        let condition = match seen {
            _ if !self.s3.has_conditional_writes() => Condition::None,
            None => Condition::Absent,
            Some(etag) => Condition::Match(etag),
        };
        let put = self.s3.put(&self.bucket, &self.key(MANIFEST), body.clone(), &condition).await;
        let Err(fault) = put else { return Ok(true) };
        // An attempt whose answer was lost may have succeeded. Equal bytes count as success, as they describe the
        // same state.
        if matches!(self.read(MANIFEST, MAX_MANIFEST_BYTES).await?, Some((now, _)) if now == body) {
            return Ok(true);
        }
        match fault.kind {
            Kind::Precondition | Kind::Missing => Ok(false),
            _ => Err(fault.into()),
        }
    }

    /// Finishes any commit that is under way, of this run or another. Returns a manifest without one.
    pub async fn settle(&self) -> Result<Seen, CommitError> {
        for round in 0..ROUNDS {
            let (manifest, etag) = self.manifest().await?;
            let next = if let Some(pending) = manifest.pending.clone() {
                if self.is_still(etag.as_deref()).await? {
                    self.s3.delete(&self.bucket, &self.key(SUCCESS)).await?;
                }
                let is_whole = self.complete(pending.uploads).await?;
                if is_whole { manifest.switch() } else { manifest.back_out() }
            } else if let Some(finishing) = &manifest.finishing {
                let keys: Vec<_> = finishing.garbage.iter().map(|name| self.key(name)).collect();
                self.delete_all(keys).await?;
                if let Some(current) = &manifest.current
                    && self.is_still(etag.as_deref()).await?
                {
                    let mark = Bytes::from(current.run.clone());
                    self.s3.put(&self.bucket, &self.key(SUCCESS), mark, &Condition::None).await?;
                }
                manifest.finish()
            } else if self.is_marked(&manifest).await? {
                return Ok((manifest, etag));
            } else {
                // A slow run that was still settling an earlier commit has deleted or replaced the mark.
                manifest.mark_again()
            };
            self.swap(&next, etag).await?;
            self.give_way(round).await;
        }
        Err(CommitError::Contended)
    }

    /// Whether the manifest still has the ETag seen; the next step is meant for that state alone.
    async fn is_still(&self, etag: Option<&str>) -> Result<bool, CommitError> {
        let now = self.s3.head(&self.bucket, &self.key(MANIFEST)).await?;
        Ok(now.and_then(|now| now.etag).as_deref() == etag)
    }

    /// Whether `_SUCCESS` names the run of the current result; true if there is no result.
    async fn is_marked(&self, manifest: &Manifest) -> Result<bool, CommitError> {
        match &manifest.current {
            None => Ok(true),
            Some(current) => match self.read(SUCCESS, MAX_MARK_BYTES).await {
                Ok(mark) => Ok(mark.is_some_and(|(run, _)| run == current.run.as_bytes())),
                Err(fault) if fault.kind == Kind::TooLarge => Ok(false),
                Err(fault) => Err(fault.into()),
            },
        }
    }

    /// Deletes objects; missing ones are ignored.
    pub async fn delete_all(&self, keys: Vec<String>) -> Result<(), Fault> {
        // One request for each: servers differ in what they require of a multi-object delete.
        self.each(keys, |output, key| async move { output.s3.delete(&output.bucket, &key).await })
            .await?;
        Ok(())
    }

    /// Random back-off while other runs contend for the manifest; none in the first rounds, then longer each time.
    async fn give_way(&self, round: u32) {
        if round > 3 {
            let wait = Duration::from_millis(10 << round.min(7));
            tokio::time::sleep(wait.mul_f64(fastrand::f64())).await;
        }
    }

    /// Completes all uploads of a commit, which makes the files visible; false if one of them is lost.
    async fn complete(&self, uploads: Vec<PendingUpload>) -> Result<bool, CommitError> {
        let outcomes = self
            .each(uploads, |output, upload| async move {
                let key = output.key(&upload.file.name);
                let done = output
                    .s3
                    .complete_upload(&output.bucket, &key, &upload.upload, &upload.parts)
                    .await;
                match done {
                    Ok(()) => Ok(true),
                    // It may have been completed before: by an attempt whose answer was lost, or by another run.
                    Err(fault) => match output.s3.head(&output.bucket, &key).await? {
                        Some(object) if object.size == Some(upload.file.size) => Ok(true),
                        _ if fault.kind == Kind::Missing => Ok(false),
                        _ => Err(fault),
                    },
                }
            })
            .await?;
        Ok(outcomes.into_iter().all(|done| done))
    }

    /// Runs `work` on each item, a few at a time. Outcomes come in any order.
    async fn each<T, R, F>(
        &self,
        items: impl IntoIterator<Item = T>,
        work: impl Fn(Arc<Self>, T) -> F,
    ) -> Result<Vec<R>, Fault>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, Fault>> + Send + 'static,
    {
        let this = Arc::new(self.clone());
        let (mut running, mut done) = (JoinSet::new(), Vec::new());
        for item in items {
            if running.len() >= AT_A_TIME
                && let Some(ended) = running.join_next().await
            {
                done.push(outcome_of(ended)?);
            }
            running.spawn(work(Arc::clone(&this), item));
        }
        while let Some(ended) = running.join_next().await {
            done.push(outcome_of(ended)?);
        }
        Ok(done)
    }

    /// Checks that the mode allows writing, and decides which existing files stay and which are deleted.
    pub async fn plan(&self, seen: &Manifest, mode: WriteMode) -> Result<Plan, CommitError> {
        let mut plan = Plan::default();
        let known = seen.current.as_ref().map_or(&[][..], |current| &current.files);
        if mode == WriteMode::Error && seen.current.is_some() {
            return Err(CommitError::Exists);
        }
        let found = self.files(mode).await?;
        match mode {
            WriteMode::Error if found.is_empty() => {}
            WriteMode::Error => return Err(CommitError::Exists),
            WriteMode::Overwrite => {
                let names = known.iter().map(|file| &file.name).chain(found.iter().map(|f| &f.0));
                plan.garbage = names.cloned().collect::<BTreeSet<_>>().into_iter().collect();
            }
            WriteMode::Append => {
                // The listing counts, not the manifest: somebody may have deleted or added files.
                let known: HashMap<_, _> = known.iter().map(|file| (&file.name, file)).collect();
                let parts = found.iter().filter(|(name, _)| is_part(name));
                plan.kept = parts
                    .map(|(name, size)| match known.get(name) {
                        Some(file) if file.size == *size => (*file).clone(),
                        _ => ResultFile { name: name.clone(), size: *size, rows: None },
                    })
                    .collect();
            }
        }
        Ok(plan)
    }

    /// Names and sizes of the visible files of a result, without manifest and mark. Any other file is an error,
    /// except for an append.
    async fn files(&self, mode: WriteMode) -> Result<Vec<(String, u64)>, CommitError> {
        let mut files = Vec::new();
        for below in folders() {
            let prefix = self.key(&below);
            let mut token = None;
            loop {
                let page = self
                    .s3
                    .list(&self.bucket, &prefix, true, crate::s3::MAX_PAGE_SIZE, token.as_deref())
                    .await?;
                let objects = page.objects.iter().map(|o| (o.key.as_str(), o.size));
                let folders = page.folders.iter().map(|folder| (folder.as_str(), None));
                for (key, size) in objects.chain(folders) {
                    let name = key.strip_prefix(self.base.as_str()).unwrap_or(key);
                    let is_side = name.strip_suffix('/').is_some_and(|name| SIDES.contains(&name));
                    if name.is_empty() || is_side || [WORK, MANIFEST, SUCCESS].contains(&name) {
                        continue;
                    }
                    if size.is_some() && is_name_of_a_result(name) {
                        files.push((name.to_owned(), size.unwrap_or_default()));
                    } else if mode == WriteMode::Overwrite {
                        return Err(CommitError::Foreign(name.to_owned()));
                    } else if mode == WriteMode::Error {
                        return Err(CommitError::Exists);
                    }
                }
                token = page.next;
                if token.is_none() {
                    break;
                }
            }
        }
        Ok(files)
    }

    /// Commits the uploads of a run, as the whole result or as an addition to it.
    ///
    /// `begun` is set before the point of no return. A run whose `id` was committed before is refused.
    pub async fn commit(
        &self,
        run: &str,
        id: Option<&str>,
        mode: WriteMode,
        content: &Content,
        uploads: &[PendingUpload],
        begun: &AtomicBool,
    ) -> Result<(), CommitError> {
        for round in 0..ROUNDS {
            let (manifest, etag) = self.settle().await?;
            match manifest.outcome(run) {
                Some(true) => return Ok(()),
                Some(false) => {
                    return Err(CommitError::Lost(names(uploads)));
                }
                // Not committed yet, perhaps because another run was faster: still before the point of no return.
                None => begun.store(false, Ordering::SeqCst),
            }
            self.check_is_new(&manifest, id).await?;
            let plan = self.plan(&manifest, mode).await?;
            let mut notes = &content.notes;
            if let Some(current) = plan.stays(&manifest) {
                content.check(current)?;
                notes = &current.notes;
            }
            self.check_alive(uploads).await?;
            if self.s3.is_interrupted() {
                return Err(CommitError::Interrupted);
            }
            begun.store(true, Ordering::SeqCst);
            let pending = Pending {
                run: run.to_owned(),
                id: id.map(str::to_owned),
                columns: content.columns.clone(),
                notes: notes.clone(),
                uploads: uploads.to_vec(),
                kept: plan.kept,
                garbage: plan.garbage,
            };
            // The outcome is ignored: if the answer was lost, the swap may have succeeded before another run changed
            // the manifest again. The next round finds out.
            self.swap(&manifest.begin(pending), etag).await?;
            self.give_way(round).await;
        }
        Err(CommitError::Contended)
    }

    /// Refuses a run whose `id` is that of a committed run.
    pub async fn check_is_new(&self, seen: &Manifest, id: Option<&str>) -> Result<(), CommitError> {
        let Some((id, run)) = id.and_then(|id| Some((id, seen.committed(id)?))) else {
            return Ok(());
        };
        let is_of_it = |name: &str| is_of_rows(name) && run_of(name) == Some(run);
        let named = seen.current.iter().flat_map(|current| &current.files);
        // Somebody may have deleted files that the manifest names.
        let is_there = named.map(|file| file.name.as_str()).any(is_of_it)
            && self.files(WriteMode::Append).await?.iter().any(|(name, _)| is_of_it(name));
        Err(if is_there { CommitError::Committed } else { CommitError::Replaced(id.to_owned()) })
    }

    /// Checks, before the point of no return, that the server still has every upload.
    async fn check_alive(&self, uploads: &[PendingUpload]) -> Result<(), CommitError> {
        let lost = self
            .each(uploads.to_vec(), |output, upload| async move {
                let key = output.key(&upload.file.name);
                let is_there = output.s3.has_upload(&output.bucket, &key, &upload.upload).await?;
                Ok((!is_there).then_some(upload.file.name))
            })
            .await?;
        let lost: Vec<_> = lost.into_iter().flatten().collect();
        if lost.is_empty() { Ok(()) } else { Err(CommitError::Lost(lost)) }
    }

    /// Aborts uploads, given as keys and ids.
    pub async fn abort(&self, uploads: Vec<(String, String)>) -> Result<(), Fault> {
        self.each(uploads, |output, (key, id)| async move {
            output.s3.abort_upload(&output.bucket, &key, &id).await
        })
        .await?;
        Ok(())
    }

    /// Runs, keys and ids of the unfinished uploads whose names are those of our files.
    pub async fn uploads(&self) -> Result<Vec<(String, (String, String))>, Fault> {
        let mut found = Vec::new();
        for folder in folders() {
            let prefix = self.key(&format!("{folder}part-"));
            for (key, id) in self.s3.list_uploads(&self.bucket, &prefix).await? {
                if let Some(run) = key.strip_prefix(&self.base).and_then(run_of) {
                    found.push((run.to_owned(), (key, id)));
                }
            }
        }
        Ok(found)
    }

    /// Checks that the server enforces `If-Match` and `If-None-Match` on writes.
    pub async fn probe(&self, lease: &str, body: &Bytes) -> Result<(), CommitError> {
        let never = Condition::Match("\"00000000000000000000000000000000\"".to_owned());
        for condition in [Condition::Absent, never] {
            match self.s3.put(&self.bucket, lease, body.clone(), &condition).await {
                Err(fault) if fault.kind == Kind::Precondition => {}
                Err(fault) if fault.kind != Kind::Unsupported => return Err(fault.into()),
                Ok(_) | Err(_) => return Err(CommitError::NoConditions),
            }
        }
        Ok(())
    }
}

/// Folders in which a result has files: the output itself, and those beside the rows.
fn folders() -> impl Iterator<Item = String> {
    std::iter::once(String::new()).chain(SIDES.map(|side| format!("{side}/")))
}

/// Which of the existing files stay, and which are deleted.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub kept: Vec<ResultFile>,
    pub garbage: Vec<String>,
}

impl Plan {
    /// The current result, if files of rows in the output stay; `None` means that there is nothing to append to.
    ///
    /// The new rows are compared with its columns and notes, and its notes become those of the whole: they are of the
    /// rows that came first, while the first file by name may be of any run. A result whose files were all deleted sets
    /// no conditions.
    pub fn stays<'a>(&self, seen: &'a Manifest) -> Option<&'a Current> {
        seen.current.as_ref().filter(|_| self.kept.iter().any(|file| is_of_rows(&file.name)))
    }
}

/// The first few of some names, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn names(uploads: &[PendingUpload]) -> Vec<String> {
    uploads.iter().map(|upload| upload.file.name.clone()).collect()
}

/// Whether a file of a result holds rows, and is not one beside them. Every run has such a file.
fn is_of_rows(name: &str) -> bool {
    name.starts_with("part-")
}

/// Whether a file of a result holds rows, images or failures, and is not one of Spark's side files.
fn is_part(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|file| file.starts_with("part-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_failures_and_what_is_beside_them_are_told_apart() {
        for (name, of_rows, part) in [
            ("part-00000-a.parquet", true, true),
            ("_errors/part-00000-a.parquet", false, true),
            ("_SUCCESS", false, false),
            (".part-00000-a.parquet.crc", false, false),
        ] {
            assert_eq!((is_of_rows(name), is_part(name)), (of_rows, part), "{name}");
        }
    }

    #[test]
    fn few_of_many_names_are_shown() {
        let names = |n: usize| (0..n).map(|i| format!("part-{i}")).collect::<Vec<_>>();
        for (n, shown) in [
            (1, "part-0"),
            (3, "part-0, part-1, part-2"),
            (2000, "part-0, part-1, part-2 and 1997 more"),
        ] {
            let line = CommitError::Lost(names(n)).to_string();
            assert!(line.contains(&format!("the uploads of {shown} (")), "{line}");
        }
    }
}
