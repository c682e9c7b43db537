//! A folder of a bucket as the target of a sink.

mod commit;
mod lease;
mod manifest;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use self::commit::{CommitError, Output, WORK};
use self::lease::{Holder, MAX_LEASE_BYTES, Renewal};
use self::upload::SharedUploads;
use crate::error::{Error, Result};
use crate::s3::{Condition, Kind, S3, S3Location, outcome_of};
use crate::sink::layout::{WriteMode, is_run_id};

pub(super) use self::commit::Content;
pub(crate) use self::manifest::{MANIFEST, files_of_manifest};
pub(super) use self::upload::Upload;

/// Time limit for the clean-up when a sink ends: leftovers are invisible, and the next run removes them.
const TIDYING: Duration = Duration::from_secs(20);

/// The same limit after an interrupt.
const TIDYING_IN_HASTE: Duration = Duration::from_secs(4);

/// Longest footer of a Parquet file that is read, in bytes; a footer of 32,767 row groups is shorter.
const MAX_FOOTER_BYTES: u64 = 256 << 20;

/// Grace period of a commit that is interrupted before its point of no return.
const GIVING_UP: Duration = Duration::from_secs(5);

/// How a commit ended.
enum Ending {
    Committed,
    NotCommitted(CommitError),
    /// Unknown: the server did not answer, or the commit was cut off.
    InDoubt(CommitError),
}

/// Files in a bucket that are not visible yet.
#[derive(Debug)]
pub(super) struct S3Target {
    location: S3Location,
    output: Output,
    mode: WriteMode,
    run: String,
    /// The caller's name of the run, if it gave one.
    id: Option<String>,
    uploads: SharedUploads,
    lease: Option<Renewal>,
    /// The notes of the result to append to, from its manifest.
    notes: BTreeMap<String, String>,
    /// Whether the uploads must not be aborted: they are, or may be, committed.
    committed: bool,
}

impl S3Target {
    /// Finishes the commits of dead runs, checks that the mode allows the target, and removes what dead runs have left.
    ///
    /// A run whose `id` is in the result already ends as [`Error::AlreadyCommitted`].
    pub fn create(
        s3: &S3,
        location: S3Location,
        mode: WriteMode,
        run: &str,
        id: Option<&str>,
    ) -> Result<Self> {
        let output = Output {
            s3: s3.counted(),
            bucket: location.bucket().to_owned(),
            base: location.folder(),
        };
        let mut target = Self {
            location,
            output,
            mode,
            run: run.to_owned(),
            id: id.map(str::to_owned),
            uploads: SharedUploads::default(),
            lease: None,
            notes: BTreeMap::new(),
            committed: false,
        };
        let opened = target.open();
        target.notes = opened.map_err(|failed| target.failed(failed))?;
        Ok(target)
    }

    fn lease_key(&self) -> String {
        self.output.key(&format!("{WORK}{}.json", self.run))
    }

    /// Takes the lease, and settles and checks the output. Returns the notes of the result to append to.
    fn open(&mut self) -> Result<BTreeMap<String, String>, CommitError> {
        let (output, key, mode) = (self.output.clone(), self.lease_key(), self.mode);
        let (run, id, s3) = (self.run.clone(), self.id.clone(), self.output.s3.clone());
        let lease = s3.lease();
        let holder = Holder::this_process(&output.uri(), lease).to_bytes();
        let body = holder.clone();
        let renewal = Renewal::begin(&s3, output.bucket.clone(), key.clone(), holder, lease);
        self.lease = Some(renewal);
        let opening = s3.spawn(async move {
            let is_checked = output.s3.has_conditional_writes();
            let condition = if is_checked { Condition::Absent } else { Condition::None };
            match output.s3.put(&output.bucket, &key, body.clone(), &condition).await {
                Ok(_) => {}
                // Run ids are unique, so an attempt whose answer was lost has written it.
                Err(fault) if fault.kind == Kind::Precondition => {}
                Err(fault) if fault.kind == Kind::Unsupported => {
                    return Err(CommitError::NoConditions);
                }
                Err(fault) => return Err(fault.into()),
            }
            if is_checked {
                output.probe(&key, &body).await?;
            }
            let (manifest, _) = output.settle().await?;
            let is_new = output.check_is_new(&manifest, id.as_deref()).await;
            let mut notes = BTreeMap::new();
            if is_new.is_ok() {
                let plan = output.plan(&manifest, mode).await?;
                notes = plan.stays(&manifest).map_or(notes, |current| current.notes.clone());
            }
            tidy_after_the_dead(&output, &run).await?;
            is_new.map(|()| notes)
        });
        s3.wait_for_change(opening).unwrap_or(Err(CommitError::Interrupted))
    }

    /// Begins a file.
    pub fn file(&self, name: &str) -> Result<Upload> {
        let Output { s3, bucket, .. } = &self.output;
        Upload::begin(s3, bucket, self.output.key(name), name, &self.uploads)
            .map_err(|e| Error::broken(&self.uri(name), e))
    }

    /// The URI of a name below the target, or of the target itself.
    pub fn uri(&self, name: &str) -> String {
        if name.is_empty() {
            return self.location.to_string();
        }
        self.location.uri_of(&self.output.key(name))
    }

    /// The notes of the result to append to; empty if its manifest has none.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// URI, length and last `len` bytes of the first existing file whose name begins with `prefix` and is taken.
    pub fn end_of_first_file(
        &self,
        prefix: &str,
        is_taken: fn(&str) -> bool,
        len: u64,
    ) -> Result<Option<(String, u64, Bytes)>> {
        if len > MAX_FOOTER_BYTES {
            let why =
                format!("the footer of its first file is longer than {MAX_FOOTER_BYTES} bytes");
            return Err(Error::write_to(self.location.to_string(), why));
        }
        let (output, prefix) = (self.output.clone(), self.output.key(prefix));
        let found = self.output.s3.wait(move |_| async move {
            let page = output.s3.list_all(&output.bucket, &prefix, true).await?;
            let Some(file) = page.objects.into_iter().find(|o| is_taken(&o.key)) else {
                return Ok(None);
            };
            let size = file.size.unwrap_or_default();
            if len == 0 {
                return Ok(Some((file.key, size, Bytes::new())));
            }
            let end = output.s3.get_from(&output.bucket, &file, size.saturating_sub(len)).await?;
            Ok(Some((file.key, size, end)))
        });
        match found {
            Ok(found) => Ok(found.map(|(key, size, end)| (self.location.uri_of(&key), size, end))),
            Err(fault) => Err(self.failed(CommitError::Request(fault))),
        }
    }

    /// URI of the first existing file whose name begins with `prefix` and is taken.
    pub fn first_file(&self, prefix: &str, is_taken: fn(&str) -> bool) -> Result<Option<String>> {
        Ok(self.end_of_first_file(prefix, is_taken, 0)?.map(|(uri, ..)| uri))
    }

    /// Makes the files visible, and returns the total number of repeated requests.
    pub fn commit(mut self, content: Content) -> Result<u64> {
        let ending = self.run_commit(content);
        // In doubt, the uploads are left alone: they are invisible, and the next run settles the commit.
        self.committed = !matches!(ending, Ending::NotCommitted(_));
        match ending {
            Ending::Committed => Ok(self.output.s3.own_retries()),
            Ending::NotCommitted(failed) => Err(self.failed(failed)),
            Ending::InDoubt(failed) => Err(Error::InDoubt {
                path: self.location.to_string().into(),
                run_id: self.id().into(),
                source: failed.into(),
            }),
        }
    }

    /// Commits, and finds out how it ended. An interrupt takes effect only before the point of no return.
    fn run_commit(&self, content: Content) -> Ending {
        let (output, run, mode) = (self.output.clone(), self.run.clone(), self.mode);
        let id = self.id.clone();
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner).whole.clone();
        // Whether the point of no return may have been passed.
        let begun = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&begun);
        let mut commit = self.output.s3.spawn(async move {
            let committed =
                output.commit(&run, id.as_deref(), mode, &content, &uploads, &flag).await;
            let Err(failed) = committed else { return Ending::Committed };
            if !flag.load(Ordering::SeqCst) {
                return Ending::NotCommitted(failed);
            }
            match output.outcome(&run).await {
                Ok(Some(true)) => Ending::Committed,
                Ok(Some(false) | None) => Ending::NotCommitted(failed),
                Err(_) => Ending::InDoubt(failed),
            }
        });
        let s3 = &self.output.s3;
        let joined = match s3.wait_for(&mut commit) {
            Ok(joined) => Some(joined),
            // Interrupted: before the point of no return the commit can be aborted, after it not.
            Err(_) => s3.wait(move |_| async move {
                if let Ok(joined) = tokio::time::timeout(GIVING_UP, &mut commit).await {
                    return Some(joined);
                }
                if !begun.load(Ordering::SeqCst) {
                    commit.abort();
                }
                match commit.await {
                    // It may have passed the point of no return just before it was aborted.
                    Err(error) if error.is_cancelled() && begun.load(Ordering::SeqCst) => {
                        Some(Ok(Ending::InDoubt(CommitError::Interrupted)))
                    }
                    Err(error) if error.is_cancelled() => None,
                    joined => Some(joined),
                }
            }),
        };
        joined.map_or(Ending::NotCommitted(CommitError::Interrupted), outcome_of)
    }

    /// The name of the run that callers know.
    fn id(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.run)
    }

    fn failed(&self, failed: CommitError) -> Error {
        match failed {
            CommitError::Exists => {
                Error::OutputExists { path: self.location.to_string().into(), kept: None }
            }
            CommitError::Interrupted => Error::Interrupted,
            CommitError::Committed => Error::AlreadyCommitted {
                path: self.location.to_string().into(),
                run_id: self.id().into(),
            },
            // The interrupt has cut this request short.
            CommitError::Request(_) if self.output.s3.is_interrupted() => Error::Interrupted,
            failed => Error::write_to(self.location.to_string(), failed),
        }
    }

    /// Aborts the run's uploads, unless they are or may be committed, and deletes its lease.
    fn tidy(&mut self) {
        self.lease = None;
        let (output, run, lease) = (self.output.clone(), self.run.clone(), self.lease_key());
        let committed = self.committed;
        let known = {
            let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            uploads.begun.clone()
        };
        let had_any = !known.is_empty();
        let is_in_haste = self.output.s3.is_interrupted();
        let limit = if is_in_haste { TIDYING_IN_HASTE } else { TIDYING };
        self.output.s3.wait(move |_| async move {
            let tidy = async {
                let mut left = if committed { Vec::new() } else { known.clone() };
                if had_any {
                    // Also uploads whose creation was never answered.
                    let of_run = output.uploads().await.unwrap_or_default();
                    let of_run = of_run.into_iter().filter(|(of, _)| *of == run).map(|(_, u)| u);
                    left.extend(of_run.filter(|upload| !known.contains(upload)));
                }
                let _ = output.abort(left).await;
                let _ = output.s3.delete(&output.bucket, &lease).await;
            };
            // Leftovers are invisible, and the next run clears them.
            let _ = tokio::time::timeout(limit, tidy).await;
        });
    }
}

impl Drop for S3Target {
    fn drop(&mut self) {
        self.tidy();
    }
}

impl Output {
    /// The URI of the output.
    fn uri(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.base)
    }

    /// Settles the output, and tells whether a run was committed; `None` if the manifest does not know the run.
    async fn outcome(&self, run: &str) -> Result<Option<bool>, CommitError> {
        let (manifest, _) = self.settle().await?;
        Ok(manifest.outcome(run))
    }
}

/// Aborts the uploads of dead runs, and deletes their leases.
async fn tidy_after_the_dead(output: &Output, run: &str) -> Result<(), CommitError> {
    let Some(Leases { mut alive, dead }) = leases(output, run).await? else { return Ok(()) };
    // Every run writes its lease before its first upload, so a run without a lease is dead. Uploads are listed after
    // leases, so the lease of a run that started in between must be looked up.
    let mut left = Vec::new();
    for (of, upload) in output.uploads().await? {
        let lease = output.key(&format!("{WORK}{of}.json"));
        if alive.contains(&of) {
            continue;
        }
        if dead.contains(&lease) || output.s3.head(&output.bucket, &lease).await?.is_none() {
            left.push(upload);
        } else {
            alive.insert(of);
        }
    }
    // A run that failed after its commit began has no lease any more, but its uploads belong to the result: they are
    // completed first, and gone then.
    output.settle().await?;
    output.abort(left).await?;
    output.delete_all(dead).await?;
    Ok(())
}

/// The runs that are alive, and the keys of dead runs' leases.
struct Leases {
    alive: BTreeSet<String>,
    dead: Vec<String>,
}

/// Examines all leases; `None` if our own is missing.
async fn leases(output: &Output, run: &str) -> Result<Option<Leases>, CommitError> {
    let work = output.key(WORK);
    let leases = output.s3.list_all(&output.bucket, &work, true).await?.objects;
    let own = format!("{work}{run}.json");
    // The time by the server's clock, from the last renewal of our own lease.
    let now = leases.iter().find(|lease| lease.key == own).and_then(|lease| lease.modified);
    let Some(now) = now else { return Ok(None) };
    let (mut alive, mut dead) = (BTreeSet::from([run.to_owned()]), Vec::new());
    for lease in leases {
        // Other names are not ours to delete.
        let of = lease.key.strip_prefix(&work).and_then(|name| name.strip_suffix(".json"));
        let Some(of) = of.filter(|of| is_run_id(of) && !alive.contains(*of)) else { continue };
        let is_gone = match output.s3.get(&output.bucket, &lease, MAX_LEASE_BYTES).await {
            // An object that is not a lease of ours says nothing about its run, which counts as alive.
            Ok(got) => Holder::from_bytes(&got.bytes).is_some_and(|holder| {
                let holds = |written| lease::holds(written, now, holder.lease());
                !lease.modified.is_none_or(holds) || holder.is_gone(&output.uri())
            }),
            // Renewed or deleted meanwhile.
            Err(_) => false,
        };
        if is_gone {
            dead.push(lease.key);
        } else {
            alive.insert(of.to_owned());
        }
    }
    Ok(Some(Leases { alive, dead }))
}
