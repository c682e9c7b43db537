//! The connection: its runtime, and how a request is tried again.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use super::configure::{Configured, configure};
use super::fault::{Fault, Kind};
use super::params::S3Params;
use super::route::{Route, Wallet};
use super::runtime;
use crate::error::{Error, Result};
use crate::give_up;

/// Most attempts while the server has never answered, so that a wrong address shows soon.
const ATTEMPTS_UNREACHED: u32 = 3;

/// How long a request, with its retries, may go on after an interrupt, so that a silent server cannot hold up the
/// caller.
pub(crate) const HASTE: Duration = Duration::from_secs(2);

/// How long a task that changes something on the server may go on after an interrupt.
const GRACE: Duration = Duration::from_secs(5);

/// The slowest transfer that counts as progress, in bytes a second.
pub(super) const SLOWEST: u64 = 16 << 10;

/// A connection to S3, cheap to clone: made by [`S3Params::connect`].
///
/// A connection has its own async runtime, whose threads do the network I/O. Its calls block. It can be used
/// and dropped on any thread, including those of another async runtime.
#[derive(Clone)]
pub struct S3 {
    inner: Arc<Inner>,
    /// Retries of this handle and its clones.
    retries: Arc<AtomicU64>,
}

/// Requests are being repeated, and none has succeeded since.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Trouble {
    /// When the first of them failed.
    pub since: Instant,
    /// Why the last of them failed.
    pub cause: String,
}

struct Inner {
    client: Client,
    wallet: Wallet,
    /// The endpoint, unless it is AWS's own.
    endpoint: Option<String>,
    /// How to get objects, by bucket.
    routes: RwLock<HashMap<String, Arc<Route>>>,
    params: S3Params,
    retries: AtomicU64,
    trouble: Mutex<Option<Trouble>>,
    /// Whether the server has ever answered.
    reached: AtomicBool,
    interrupted: watch::Sender<bool>,
    runtime: Background,
}

/// A runtime that can be dropped on any thread: remaining tasks are dropped, not waited for.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("params", &self.inner.params).finish_non_exhaustive()
    }
}

impl S3Params {
    /// Finds region and credentials, and makes the client; no bucket is touched yet.
    ///
    /// # Errors
    /// [`Error::InvalidParam`], also for an endpoint that is no URL; [`Error::Connect`] if there are no
    /// credentials.
    pub fn connect(self) -> Result<S3> {
        self.check()?;
        S3::with_params(self)
    }
}

impl S3 {
    /// Connects to a server of the unit tests, with short waits between attempts.
    #[cfg(test)]
    pub(super) fn of_test(endpoint: String) -> Self {
        let params = S3Params::default().with_endpoint_url(endpoint);
        let params = params.with_credentials("key", "secret", None);
        params.with_backoff(Duration::from_millis(1), Duration::from_millis(1)).connect().unwrap()
    }

    fn with_params(params: S3Params) -> Result<Self> {
        let runtime = Background(Some(runtime::start().map_err(Error::connect)?));
        let wanted = params.clone();
        let Configured { client, wallet, endpoint } =
            block_on(&runtime, async move { configure(&wanted).await })?;
        Ok(Self {
            retries: Arc::default(),
            inner: Arc::new(Inner {
                client,
                wallet,
                endpoint,
                routes: RwLock::default(),
                params,
                retries: AtomicU64::new(0),
                trouble: Mutex::default(),
                reached: AtomicBool::new(false),
                interrupted: watch::Sender::new(false),
                runtime,
            }),
        })
    }

    /// Number of retried requests so far, by all handles of the connection.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.inner.retries.load(Ordering::Relaxed)
    }

    /// Why requests are being repeated at the moment; `None` once one has succeeded.
    ///
    /// A server that is down costs minutes of retries: a program can tell its user meanwhile.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.inner.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A handle with its own count of retries.
    pub(crate) fn counted(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), retries: Arc::default() }
    }

    /// Number of retried requests of this handle and its clones.
    pub(crate) fn own_retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Whether the server checks the conditions of writes.
    pub(crate) fn has_conditional_writes(&self) -> bool {
        self.inner.params.conditional_writes
    }

    /// How long a sink's lease is valid without renewal.
    pub(crate) fn lease(&self) -> Duration {
        self.inner.params.lease
    }

    /// Whether [`interrupt`](Self::interrupt) has been called.
    pub(crate) fn is_interrupted(&self) -> bool {
        *self.inner.interrupted.borrow()
    }

    /// Stops sources and sinks of this connection from waiting: they fail with [`Error::Interrupted`].
    ///
    /// A commit that is past the point of no return is still finished. If the server is silent then, the commit
    /// fails with [`Error::InDoubt`].
    pub fn interrupt(&self) {
        self.inner.interrupted.send_replace(true);
    }

    /// Waits for a future, on any thread. Fails with [`Error::Interrupted`] once the connection is interrupted or the
    /// work of this thread is given up.
    pub(crate) fn wait_for<T>(&self, what: impl Future<Output = T>) -> Result<T> {
        // Unconstrained, as this thread may run a task of another runtime. tokio's cooperative budget would make
        // this future yield to that runtime after some hundred results, but that runtime is blocked here.
        pollster::block_on(tokio::task::unconstrained(async {
            let mut interrupted = self.inner.interrupted.subscribe();
            tokio::select! {
                biased;
                done = what => Ok(done),
                _ = interrupted.wait_for(|is| *is) => Err(Error::Interrupted),
                () = give_up::of_this_thread() => Err(Error::Interrupted),
            }
        }))
    }

    /// Waits for a task that changes something on the server. After an interrupt the task may go on for
    /// [`GRACE`], so that it ends in a state that can be undone.
    pub(crate) fn wait_for_change<T: Send + 'static>(&self, mut task: JoinHandle<T>) -> Result<T> {
        let outcome = self.wait_for(&mut task);
        let Ok(outcome) = outcome else {
            self.wait(move |_| async move {
                if tokio::time::timeout(GRACE, &mut task).await.is_err() {
                    task.abort();
                }
            });
            return Err(Error::Interrupted);
        };
        Ok(outcome_of(outcome))
    }

    /// Ends a request, all attempts included, within `haste` of an interrupt of the connection.
    pub(crate) async fn hurried<T>(
        &self,
        haste: Duration,
        request: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let mut interrupted = self.inner.interrupted.subscribe();
        let patience = async {
            // Never an error: the sender lives as long as the connection.
            let _ = interrupted.wait_for(|is| *is).await;
            tokio::time::sleep(haste).await;
        };
        tokio::select! {
            biased;
            done = request => done,
            () = patience => {
                Err(Fault::new(Kind::Transient, "the server did not answer before the end"))
            }
        }
    }

    /// Starts a task on the connection's runtime.
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.inner.runtime.handle().spawn(future)
    }

    /// Does async work and waits for it.
    pub(crate) fn wait<F, T>(&self, work: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        block_on(&self.inner.runtime, work(self.clone()))
    }

    pub(super) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(super) fn wallet(&self) -> &Wallet {
        &self.inner.wallet
    }

    /// How to get the objects of a bucket, once this is known.
    pub(super) fn route(&self, bucket: &str) -> Option<Arc<Route>> {
        self.inner.routes.read().unwrap_or_else(PoisonError::into_inner).get(bucket).cloned()
    }

    pub(super) fn set_route(&self, bucket: &str, route: Route) {
        let mut routes = self.inner.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.entry(bucket.to_owned()).or_insert_with(|| Arc::new(route));
    }

    pub(super) fn params(&self) -> &S3Params {
        &self.inner.params
    }

    /// Repeats an attempt until it passes, fails for good, or the attempts are used up.
    pub(super) async fn retry<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut attempts = 1;
        loop {
            match attempt().await {
                Ok(done) => {
                    self.succeeded();
                    return Ok(done);
                }
                Err(fault) => {
                    self.pause(fault, attempts).await?;
                    attempts += 1;
                }
            }
        }
    }

    /// Notes that a request has succeeded.
    pub(super) fn succeeded(&self) {
        self.was_reached();
        *self.inner.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that the server answers.
    fn was_reached(&self) {
        self.inner.reached.store(true, Ordering::Relaxed);
    }

    /// Waits before the next attempt, or returns the fault if there is to be none.
    pub(super) async fn pause(&self, mut fault: Fault, attempts: u32) -> Result<(), Fault> {
        let inner = &self.inner;
        if fault.kind != Kind::Network {
            self.was_reached();
        }
        let most = if inner.reached.load(Ordering::Relaxed) {
            inner.params.attempts
        } else {
            inner.params.attempts.min(ATTEMPTS_UNREACHED)
        };
        // Expired credentials are dropped here, and replaced at the next attempt.
        let is_mended = fault.kind == Kind::Expired && inner.wallet.discard();
        if !(fault.is_transient() || is_mended) || attempts >= most {
            fault.attempts = attempts;
            if let (Kind::Network, Some(endpoint)) = (fault.kind, &inner.endpoint) {
                fault.add(&format!(" ({endpoint})"));
            }
            return Err(fault);
        }
        inner
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| Trouble { since: Instant::now(), cause: String::new() })
            .cause = fault.to_string();
        inner.retries.fetch_add(1, Ordering::Relaxed);
        self.retries.fetch_add(1, Ordering::Relaxed);
        let (first, longest) = inner.params.backoff;
        let wait = longest.min(first.saturating_mul(1 << (attempts - 1).min(20)));
        // Random, so that requests refused at the same time are not repeated at the same time.
        tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        Ok(())
    }

    /// Limits the time of an attempt that transfers `bytes` bytes: the timeout plus the transfer at [`SLOWEST`].
    pub(super) async fn in_time<T>(
        &self,
        bytes: u64,
        attempt: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let limit = self.inner.params.timeout.saturating_add(Duration::from_secs(bytes / SLOWEST));
        tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(Fault::new(Kind::Transient, "no answer in time")))
    }
}

impl Background {
    fn handle(&self) -> &tokio::runtime::Handle {
        // `None` only during `drop`.
        self.0.as_ref().expect("the runtime lives as long as the connection").handle()
    }
}

/// Does async work on the runtime and waits for it, on any thread.
fn block_on<F>(runtime: &Background, work: F) -> F::Output
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    outcome_of(pollster::block_on(tokio::task::unconstrained(runtime.handle().spawn(work))))
}

/// The result of a task; a panic of the task is resumed on this thread.
pub(crate) fn outcome_of<T>(joined: Result<T, JoinError>) -> T {
    joined.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(error) => unreachable!("a task is not aborted while it is waited for: {error}"),
    })
}
