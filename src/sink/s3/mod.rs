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
pub(super) use self::upload::Upload;

/// How long a sink that gives up may take to tidy: what is left is invisible, and goes later.
const TIDYING: Duration = Duration::from_secs(20);

/// The same when the caller asks to stop.
const TIDYING_IN_HASTE: Duration = Duration::from_secs(4);

/// Longest footer of a Parquet file that is read, in bytes: one of 32,767 row groups has less.
const MAX_FOOTER_BYTES: u64 = 256 << 20;

/// Grace period of a commit that is interrupted before its point of no return.
const GIVING_UP: Duration = Duration::from_secs(5);

/// How a commit ended.
enum Ending {
    Committed,
    NotCommitted(CommitError),
    /// Nobody can say.
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
    /// The notes of the result that is added to, as its manifest has them.
    notes: BTreeMap<String, String>,
    /// Whether the run's uploads are no longer ours to give up.
    committed: bool,
}

impl S3Target {
    /// Finishes what dead runs have left, after looking whether the mode allows the target.
    ///
    /// A run whose name `id` is in the result already ends as [`Error::AlreadyCommitted`].
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

    /// Returns the notes of the result that is added to.
    fn open(&mut self) -> Result<BTreeMap<String, String>, CommitError> {
        let (output, key, mode) = (self.output.clone(), self.lease_key(), self.mode);
        let (run, id, s3) = (self.run.clone(), self.id.clone(), self.output.s3.clone());
        let lease = s3.lease();
        let holder = Holder::this_process(&output.uri(), lease).to_bytes();
        let body = holder.clone();
        let renewal = Renewal::begin(&s3, output.bucket.clone(), key.clone(), holder, lease);
        self.lease = Some(renewal);
        let opening = s3.spawn(async move {
            match output.s3.put(&output.bucket, &key, body.clone(), &Condition::Absent).await {
                Ok(_) => {}
                // No other run has this name: an attempt without an answer did it.
                Err(fault) if fault.kind == Kind::Precondition => {}
                Err(fault) if fault.kind == Kind::Unsupported => {
                    return Err(CommitError::NoConditions);
                }
                Err(fault) => return Err(fault.into()),
            }
            if output.s3.has_conditional_writes() {
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

    /// The notes of the result that is added to; empty where its manifest has none.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// The last `len` bytes of the first Parquet file that is there, its URI and its length.
    pub fn end_of_first_file(&self, len: u64) -> Result<Option<(String, u64, Bytes)>> {
        if len > MAX_FOOTER_BYTES {
            let why =
                format!("the footer of its first file is longer than {MAX_FOOTER_BYTES} bytes");
            return Err(Error::write_to(self.location.to_string(), why));
        }
        let output = self.output.clone();
        let found = self.output.s3.wait(move |_| async move {
            let page = output.s3.list_all(&output.bucket, &output.key("part-"), true).await?;
            let Some(file) = page.objects.into_iter().find(|o| o.key.ends_with(".parquet")) else {
                return Ok(None);
            };
            let size = file.size.unwrap_or_default();
            let end = output.s3.get_from(&output.bucket, &file, size.saturating_sub(len)).await?;
            Ok(Some((file.key, size, end)))
        });
        match found {
            Ok(found) => Ok(found.map(|(key, size, end)| (self.location.uri_of(&key), size, end))),
            Err(fault) => Err(self.failed(CommitError::Request(fault))),
        }
    }

    /// Makes the files visible, and returns how many requests had to be made again in all.
    pub fn commit(mut self, content: Content) -> Result<u64> {
        let ending = self.run_commit(content);
        // If in doubt, uploads are left alone: they are invisible, and the next run settles it.
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

    /// Commits, and finds out how it ended. The caller's wish to stop is heard until the point of no return.
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
            // Interrupted: before the point of no return it can be given up, after it it cannot.
            Err(_) => s3.wait(move |_| async move {
                if let Ok(joined) = tokio::time::timeout(GIVING_UP, &mut commit).await {
                    return Some(joined);
                }
                if !begun.load(Ordering::SeqCst) {
                    commit.abort();
                }
                match commit.await {
                    // It may have begun just before it was cut off.
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

    /// The name by which the run is known outside.
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

    /// Gives up the run's uploads, unless they are the result, and its lease.
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
                    // Also those whose beginning was never answered.
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
    /// The output, as one text.
    fn uri(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.base)
    }

    /// Whether a run has taken the right to commit; if so it is committed, now or later.
    async fn outcome(&self, run: &str) -> Result<Option<bool>, CommitError> {
        let (manifest, _) = self.settle().await?;
        Ok(manifest.outcome(run))
    }
}

/// Gives up the uploads of runs that are dead, and removes their leases.
async fn tidy_after_the_dead(output: &Output, run: &str) -> Result<(), CommitError> {
    let Some(Leases { mut alive, dead }) = leases(output, run).await? else { return Ok(()) };
    // Every run has its lease before its first upload: who has none is dead. Uploads are listed after
    // leases, so a run that came in between must be looked for again.
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
    // A run whose commit began and then failed has no lease any more, but its uploads are the result.
    let (manifest, _) = output.settle().await?;
    left.retain(|(key, _)| {
        manifest.pending.as_ref().is_none_or(|pending| !key.contains(&pending.run))
    });
    output.abort(left).await?;
    output.delete_all(dead).await?;
    Ok(())
}

/// The runs that live, and the keys of the leases of those that are dead.
struct Leases {
    alive: BTreeSet<String>,
    dead: Vec<String>,
}

/// Looks at all leases; none if our own is not among them.
async fn leases(output: &Output, run: &str) -> Result<Option<Leases>, CommitError> {
    let work = output.key(WORK);
    let leases = output.s3.list_all(&output.bucket, &work, true).await?.objects;
    let own = format!("{work}{run}.json");
    // The server's clock, whatever ours says.
    let now = leases.iter().find(|lease| lease.key == own).and_then(|lease| lease.modified);
    let Some(now) = now else { return Ok(None) };
    let (mut alive, mut dead) = (BTreeSet::from([run.to_owned()]), Vec::new());
    for lease in leases {
        // Other names are not ours to delete.
        let of = lease.key.strip_prefix(&work).and_then(|name| name.strip_suffix(".json"));
        let Some(of) = of.filter(|of| is_run_id(of) && !alive.contains(*of)) else { continue };
        let is_gone = match output.s3.get(&output.bucket, &lease, MAX_LEASE_BYTES).await {
            // One that is not ours says nothing about its run.
            Ok(got) => Holder::from_bytes(&got.bytes).is_some_and(|holder| {
                let holds = |written| lease::holds(written, now, holder.lease());
                !lease.modified.is_none_or(holds) || holder.is_gone(&output.uri())
            }),
            // Renewed or ended while we look.
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
