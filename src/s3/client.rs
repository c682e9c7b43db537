//! The connection: its runtime, and how a request is tried again.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

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

/// Attempts at a server that has never answered: a wrong address shows soon.
const ATTEMPTS_UNREACHED: u32 = 3;

/// How long a request may go on without success once the caller asks to stop: a server that is silent must not keep
/// anybody.
pub(crate) const HASTE: Duration = Duration::from_secs(2);

/// How long a change of many requests may take when the caller asks to stop.
const GRACE: Duration = Duration::from_secs(5);

/// The slowest transfer that counts as progress, in bytes a second.
pub(super) const SLOWEST: u64 = 16 << 10;

/// A connection to S3, cheap to clone: made by [`S3Params::connect`].
///
/// It holds a runtime of its own, whose threads do the waiting. It can be used, and dropped, on any
/// thread, those of another async runtime included; its calls block.
#[derive(Clone)]
pub struct S3 {
    inner: Arc<Inner>,
    /// Retries of this handle and its clones.
    retries: Arc<AtomicU64>,
}

struct Inner {
    client: Client,
    wallet: Wallet,
    /// The server, where it is not AWS's.
    endpoint: Option<String>,
    /// How objects are got, by bucket.
    routes: RwLock<HashMap<String, Arc<Route>>>,
    params: S3Params,
    retries: AtomicU64,
    /// Whether the server has ever answered.
    reached: AtomicBool,
    interrupted: watch::Sender<bool>,
    runtime: Background,
}

/// A runtime that can be dropped anywhere: tasks that are left are dropped, not waited for.
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
                reached: AtomicBool::new(false),
                interrupted: watch::Sender::new(false),
                runtime,
            }),
        })
    }

    /// How many requests had to be made again so far, by all who share the connection.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.inner.retries.load(Ordering::Relaxed)
    }

    /// A handle that counts its retries by itself.
    pub(crate) fn counted(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), retries: Arc::default() }
    }

    /// How many requests of this handle had to be made again.
    pub(crate) fn own_retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Whether conditions on writes may be relied upon.
    pub(crate) fn has_conditional_writes(&self) -> bool {
        self.inner.params.conditional_writes
    }

    /// How long a sink's sign of life holds.
    pub(crate) fn lease(&self) -> Duration {
        self.inner.params.lease
    }

    /// Whether [`interrupt`](Self::interrupt) has been called.
    pub(crate) fn is_interrupted(&self) -> bool {
        *self.inner.interrupted.borrow()
    }

    /// Has sources and sinks of this connection stop waiting: they fail with [`Error::Interrupted`].
    ///
    /// A commit that is past the point of return is finished nevertheless, unless the server is silent:
    /// [`Error::InDoubt`] says so.
    pub fn interrupt(&self) {
        self.inner.interrupted.send_replace(true);
    }

    /// Waits for something, on any thread, unless the connection is interrupted, or this thread's work given up.
    pub(crate) fn wait_for<T>(&self, what: impl Future<Output = T>) -> Result<T> {
        // Unconstrained: in a task of another runtime, which cannot go on meanwhile, tokio would have us
        // yield to it after some hundred results.
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

    /// Waits for a task that changes something on the server, so that it can be undone afterwards: if
    /// the connection is interrupted, the task has a moment to end.
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

    /// How the objects of a bucket are got, once it is known.
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

    /// Tries until it passes, or cannot pass, or has been tried often enough.
    pub(super) async fn retry<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut attempts = 1;
        loop {
            match attempt().await {
                Ok(done) => {
                    self.was_reached();
                    return Ok(done);
                }
                Err(fault) => {
                    self.pause(fault, attempts).await?;
                    attempts += 1;
                }
            }
        }
    }

    /// Notes that the server answers.
    pub(super) fn was_reached(&self) {
        self.inner.reached.store(true, Ordering::Relaxed);
    }

    /// Waits before the next attempt, or gives the fault back if there is none.
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
        // Credentials that came to their end are replaced, if there can be others.
        let is_mended = fault.kind == Kind::Expired && inner.wallet.discard();
        if !(fault.is_transient() || is_mended) || attempts >= most {
            fault.attempts = attempts;
            if let (Kind::Network, Some(endpoint)) = (fault.kind, &inner.endpoint) {
                fault.add(&format!(" ({endpoint})"));
            }
            return Err(fault);
        }
        inner.retries.fetch_add(1, Ordering::Relaxed);
        self.retries.fetch_add(1, Ordering::Relaxed);
        let (first, longest) = inner.params.backoff;
        let wait = longest.min(first.saturating_mul(1 << (attempts - 1).min(20)));
        // Drawn, so that those who were refused together do not come back together.
        tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        Ok(())
    }

    /// Has an attempt end when it goes without progress; `bytes` is what it has to move.
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
        // Gone only while it is dropped.
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

/// The result of a task; its panic goes on here.
pub(crate) fn outcome_of<T>(joined: Result<T, JoinError>) -> T {
    joined.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(error) => unreachable!("a task is not aborted while it is waited for: {error}"),
    })
}
