//! How a job runs under Python: on a thread of its own, without the interpreter's lock, and ended by Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::{ArrowError, SchemaRef};
use orb_features::pca::PcaModel;
use orb_features::prelude::{S3, Tally};
use orb_features::{Error, Result};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::errors::Failure;

/// Interval between checks for Ctrl-C while a job runs.
const LOOK: Duration = Duration::from_millis(50);
/// Grace period for an interrupted job; afterwards its thread is no longer waited for.
const GRACE: Duration = Duration::from_secs(10);
/// Capacity of the channel of batches between the job and its reader.
const AHEAD: usize = 2;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a job: its stages, and its waits for S3.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    s3: Arc<Mutex<Option<S3>>>,
}

impl Stop {
    pub fn flag(&self) -> &Arc<AtomicBool> {
        &self.flag
    }

    pub fn is_told(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// From now on, waits on this connection end, too.
    pub fn watch(&self, s3: &S3) {
        *lock(&self.s3) = Some(s3.clone());
        if self.is_told() {
            s3.interrupt();
        }
    }

    pub fn tell(&self) {
        self.flag.store(true, Ordering::Relaxed);
        if let Some(s3) = &*lock(&self.s3) {
            s3.interrupt();
        }
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> PyResult<()> {
    let thread = std::thread::Builder::new().name("orb_features".into()).spawn(work);
    thread.map(drop).map_err(|e| PyRuntimeError::new_err(format!("no thread for the job: {e}")))
}

/// Runs `work` and checks for signals. If a signal handler raises, stops the job, waits up to [`GRACE`], and raises.
pub fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let stop = Stop::default();
    let (done, wait) = sync_channel(1);
    let of_work = stop.clone();
    spawn(move || drop(done.send(work(&of_work))))?;
    // A mutex, because a receiver is not `Sync`.
    let wait = Mutex::new(wait);
    loop {
        match py.detach(|| lock(&wait).recv_timeout(LOOK)) {
            Ok(outcome) => return Ok(outcome.map_err(Failure)?),
            Err(RecvTimeoutError::Timeout) => {
                if let Err(raised) = py.check_signals() {
                    stop.tell();
                    let _ = py.detach(|| lock(&wait).recv_timeout(GRACE));
                    return Err(raised);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("the job's thread panicked"));
            }
        }
    }
}

/// Runs `work` on a thread pool of this process: the threads of a parent's pool do not survive a fork.
pub fn on_threads<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    static POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);
    let process = std::process::id();
    let mut pool = lock(&POOL);
    let threads = match &*pool {
        Some((of, threads)) if *of == process => Arc::clone(threads),
        _ => {
            let made = ThreadPoolBuilder::new().build();
            let failed = |e| Failure(Error::Fit(format!("no threads: {e}").into()));
            let threads = Arc::new(made.map_err(failed)?);
            // Leaks the parent's pool: dropping it would wait for threads that do not exist here.
            if let Some((_, old)) = pool.replace((process, Arc::clone(&threads))) {
                std::mem::forget(old);
            }
            threads
        }
    };
    drop(pool);
    threads.install(work)
}

/// What is known of the last run of a job.
#[derive(Debug, Default)]
pub struct LastRun {
    pub model: Option<PcaModel>,
    pub tally: Tally,
    /// Files whose names are not UTF-8.
    pub unnamed: u64,
    pub error: Option<PyErr>,
}

/// A job's batches as a stream of Arrow, made on a thread of its own.
pub struct Stream {
    batches: Receiver<Option<Result<RecordBatch>>>,
    schema: SchemaRef,
    stop: Stop,
    last: Arc<Mutex<LastRun>>,
    /// When a signal was looked for.
    looked: Instant,
    is_done: bool,
}

impl Stream {
    pub fn new(
        batches: impl Iterator<Item = Result<RecordBatch>> + Send + 'static,
        schema: SchemaRef,
        stop: &Stop,
        last: Arc<Mutex<LastRun>>,
    ) -> PyResult<Self> {
        let (full, received) = sync_channel(AHEAD);
        spawn(move || {
            // A final `None` tells a normal end from a panic. Sending fails if the reader has been dropped.
            for batch in batches.map(Some).chain([None]) {
                if full.send(batch).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            batches: received,
            schema,
            stop: stop.clone(),
            last,
            looked: Instant::now(),
            is_done: false,
        })
    }

    /// The next batch. Checks for signals, because a reader without the interpreter's lock would handle none until the
    /// end of the stream.
    #[expect(clippy::redundant_closure_for_method_calls, reason = "a method is of one lifetime")]
    fn wait(&mut self) -> Result<Option<RecordBatch>, PyErr> {
        loop {
            // Before each batch, too, as batches may come faster than the interval.
            if self.looked.elapsed() >= LOOK {
                self.looked = Instant::now();
                // None if the interpreter is about to end.
                let look = Python::try_attach(|py| py.check_signals());
                look.unwrap_or(Err(Failure(Error::Interrupted).into()))?;
            }
            match self.batches.recv_timeout(LOOK) {
                Ok(batch) => return Ok(batch.transpose().map_err(Failure)?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(PyRuntimeError::new_err("the job's thread panicked"));
                }
            }
        }
    }
}

impl Iterator for Stream {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let error = match self.wait() {
            Ok(Some(batch)) => return Some(Ok(batch)),
            Ok(None) => {
                self.is_done = true;
                return None;
            }
            Err(error) => error,
        };
        self.is_done = true;
        self.stop.tell();
        let text = Python::try_attach(|py| {
            if error.is_instance_of::<PyKeyboardInterrupt>(py) {
                // Raised again once the reader is back in Python: an error of Arrow cannot carry it.
                let raised = py.import("_thread").and_then(|of| of.call_method0("interrupt_main"));
                raised.map_or_else(|failed| failed.write_unraisable(py, None), drop);
                return "interrupted".to_owned();
            }
            let text = error.value(py).to_string();
            lock(&self.last).error = Some(error);
            text
        });
        Some(Err(ArrowError::ExternalError(text.unwrap_or_default().into())))
    }
}

impl RecordBatchReader for Stream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for Stream {
    /// Stops the job, as nothing reads its batches any more.
    fn drop(&mut self) {
        self.stop.tell();
    }
}
