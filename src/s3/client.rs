//! The connection: every request that is made of the server, with its retries.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    ProvideCredentials as _, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, EncodingType,
    ObjectIdentifier,
};
use aws_types::service_config::ServiceConfigKey;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::fault::{Fault, Kind};
use super::params::{Addressing, S3Params};
use super::route::{Route, Wallet};
use super::whole::WholeAnswers;
use crate::error::{Error, Result};

/// Attempts at a server that has never answered: a wrong address shows soon.
const ATTEMPTS_UNREACHED: u32 = 3;

/// How long a change that is under way may take when the caller asks to stop.
const GRACE: Duration = Duration::from_secs(10);

/// The slowest transfer that counts as progress, in bytes a second.
const SLOWEST: u64 = 16 << 10;

/// The region for servers that do not care.
const DEFAULT_REGION: &str = "us-east-1";

/// Keys that S3 gives on one page, at most.
pub(crate) const MAX_PAGE_SIZE: i32 = 1000;

/// Keys of one request to delete, at most.
const DELETED_AT_A_TIME: usize = 1000;

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

/// An object, as a listing has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub key: String,
    /// In bytes, where it is known.
    pub size: Option<u64>,
    /// With its quotes.
    pub etag: Option<String>,
    pub modified: Option<SystemTime>,
}

/// A page of a listing.
#[derive(Debug)]
pub(crate) struct Page {
    pub objects: Vec<Listed>,
    /// What keys begin with that go on after a further slash, when one level is asked for.
    pub folders: Vec<String>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// What must hold for an object to be written.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    None,
    /// There is no such object.
    Absent,
    /// It has this ETag.
    Match(String),
}

/// A part of a multipart upload that the server has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadedPart {
    pub etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<String>,
}

impl S3 {
    pub(super) fn connect(params: S3Params) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("orb-features-s3")
            .enable_all()
            .build()
            .map_err(Error::connect)?;
        let runtime = Background(Some(runtime));
        let wanted = params.clone();
        let (client, wallet) = block_on(&runtime, async move { configure(&wanted).await })?;
        Ok(Self {
            retries: Arc::default(),
            inner: Arc::new(Inner {
                client,
                wallet,
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

    /// Whether [`interrupt`](Self::interrupt) has been called.
    pub(crate) fn is_interrupted(&self) -> bool {
        *self.inner.interrupted.borrow()
    }

    /// Has sources and sinks of this connection stop waiting: they fail with [`Error::Interrupted`].
    ///
    /// A commit that is past the point of return is finished nevertheless.
    pub fn interrupt(&self) {
        self.inner.interrupted.send_replace(true);
    }

    /// Waits for something, on any thread, unless the connection is interrupted.
    pub(crate) fn wait_for<T>(&self, what: impl Future<Output = T>) -> Result<T> {
        pollster::block_on(async {
            let mut interrupted = self.inner.interrupted.subscribe();
            tokio::select! {
                biased;
                done = what => Ok(done),
                _ = interrupted.wait_for(|is| *is) => Err(Error::Interrupted),
            }
        })
    }

    /// Waits for a task that changes something on the server, so that it can be undone afterwards: if
    /// the connection is interrupted, the task has a moment to end.
    pub(crate) fn wait_for_change<T: Send + 'static>(
        &self,
        mut task: tokio::task::JoinHandle<T>,
    ) -> Result<T> {
        let outcome = self.wait_for(&mut task);
        let Ok(outcome) = outcome else {
            self.wait(move |_| async move {
                if tokio::time::timeout(GRACE, &mut task).await.is_err() {
                    task.abort();
                }
            });
            return Err(Error::Interrupted);
        };
        outcome.map_err(|error| match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => Error::Interrupted,
        })
    }

    /// Starts a task on the connection's runtime.
    pub(crate) fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
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
                    self.inner.reached.store(true, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(fault) => {
                    self.pause(fault, attempts).await?;
                    attempts += 1;
                }
            }
        }
    }

    /// Waits before the next attempt, or gives the fault back if there is none.
    pub(super) async fn pause(&self, mut fault: Fault, attempts: u32) -> Result<(), Fault> {
        let inner = &self.inner;
        if fault.kind != Kind::Network {
            inner.reached.store(true, Ordering::Relaxed);
        }
        let most = if inner.reached.load(Ordering::Relaxed) {
            inner.params.attempts
        } else {
            inner.params.attempts.min(ATTEMPTS_UNREACHED)
        };
        if !fault.is_transient() || attempts >= most {
            fault.attempts = attempts;
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
        let limit = self.inner.params.timeout + Duration::from_secs(bytes / SLOWEST);
        tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(Fault::new(Kind::Transient, "no answer in time")))
    }

    /// Makes one kind of request until it passes.
    async fn request<T, F>(&self, bytes: u64, attempt: impl Fn(Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        // The SDK's futures are large.
        self.retry(|| self.in_time(bytes, Box::pin(attempt(self.inner.client.clone())))).await
    }

    /// A page of the objects whose keys begin with `prefix`, in the order of the keys' bytes.
    pub(crate) async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        one_level: bool,
        page_size: i32,
        token: Option<&str>,
    ) -> Result<Page, Fault> {
        self.request(0, |client| async move {
            let page = client
                .list_objects_v2()
                .bucket(bucket)
                .prefix(prefix)
                .set_delimiter(one_level.then(|| "/".to_owned()))
                .max_keys(page_size)
                .set_continuation_token(token.map(str::to_owned))
                // XML cannot hold every character of a key.
                .encoding_type(EncodingType::Url)
                .send()
                .await?;
            let encoded = page.encoding_type() == Some(&EncodingType::Url);
            // A page that lost its end would look like the last one.
            let next = match (page.is_truncated(), page.next_continuation_token()) {
                (Some(false), _) => None,
                (Some(true), Some(token)) => Some(token.to_owned()),
                _ => return Err(Fault::new(Kind::Transient, "the listing breaks off")),
            };
            let objects = page.contents.unwrap_or_default();
            let folders = page.common_prefixes.unwrap_or_default();
            let found = objects.len() + folders.len();
            if page.key_count.is_some_and(|n| n as usize != found) {
                return Err(Fault::new(Kind::Transient, "the listing breaks off"));
            }
            let objects = objects
                .into_iter()
                .map(|object| {
                    Ok(Listed {
                        key: decode(object.key, encoded)?,
                        size: object.size.and_then(|n| u64::try_from(n).ok()),
                        etag: object.e_tag,
                        modified: object.last_modified.as_ref().and_then(system_time),
                    })
                })
                .collect::<Result<_, Fault>>()?;
            let folders = folders
                .into_iter()
                .map(|folder| decode(folder.prefix, encoded))
                .collect::<Result<_, Fault>>()?;
            Ok(Page { objects, folders, next })
        })
        .await
    }

    /// All pages of a listing in one.
    pub(crate) async fn list_all(
        &self,
        bucket: &str,
        prefix: &str,
        one_level: bool,
    ) -> Result<Page, Fault> {
        let mut all = self.list(bucket, prefix, one_level, MAX_PAGE_SIZE, None).await?;
        while let Some(token) = all.next.take() {
            let page = self.list(bucket, prefix, one_level, MAX_PAGE_SIZE, Some(&token)).await?;
            all.objects.extend(page.objects);
            all.folders.extend(page.folders);
            all.next = page.next;
        }
        Ok(all)
    }

    /// What a listing would say about one object; none if there is none.
    pub(crate) async fn head(&self, bucket: &str, key: &str) -> Result<Option<Listed>, Fault> {
        let head = self
            .request(0, |client| async move {
                Ok(client.head_object().bucket(bucket).key(key).send().await?)
            })
            .await;
        match head {
            Ok(head) => Ok(Some(Listed {
                key: key.to_owned(),
                size: head.content_length().and_then(|n| u64::try_from(n).ok()),
                etag: head.e_tag().map(str::to_owned),
                modified: head.last_modified().and_then(system_time),
            })),
            Err(fault) if fault.kind == Kind::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Writes an object and returns its ETag.
    ///
    /// A condition that fails after a first attempt got no answer may have been met by that attempt:
    /// the caller must look.
    pub(crate) async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        condition: &Condition,
    ) -> Result<String, Fault> {
        let (none, etag) = match condition {
            Condition::None => (None, None),
            Condition::Absent => (Some("*".to_owned()), None),
            Condition::Match(etag) => (None, Some(etag.clone())),
        };
        let (none, etag, body) = (&none, &etag, &body);
        self.request(body.len() as u64, |client| async move {
            let put = client
                .put_object()
                .bucket(bucket)
                .key(key)
                .set_if_none_match(none.clone())
                .set_if_match(etag.clone())
                .body(ByteStream::from(body.clone()))
                .send()
                .await?;
            Ok(put.e_tag.unwrap_or_default())
        })
        .await
    }

    /// Deletes an object, if it is there.
    pub(crate) async fn delete(&self, bucket: &str, key: &str) -> Result<(), Fault> {
        let deleted = self
            .request(0, |client| async move {
                client.delete_object().bucket(bucket).key(key).send().await?;
                Ok(())
            })
            .await;
        ignore_missing(deleted)
    }

    /// Deletes objects, those that are there.
    pub(crate) async fn delete_all(&self, bucket: &str, keys: &[String]) -> Result<(), Fault> {
        let bad = |e: aws_sdk_s3::error::BuildError| Fault::new(Kind::Refused, e.to_string());
        for keys in keys.chunks(DELETED_AT_A_TIME) {
            let objects = keys
                .iter()
                .map(|key| ObjectIdentifier::builder().key(key).build().map_err(bad))
                .collect::<Result<Vec<_>, Fault>>()?;
            let delete =
                Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(bad)?;
            let delete = &delete;
            self.request(0, |client| async move {
                let answer =
                    client.delete_objects().bucket(bucket).delete(delete.clone()).send().await?;
                match answer.errors().iter().find(|e| e.code() != Some("NoSuchKey")) {
                    None => Ok(()),
                    // As a request of its own would have been answered.
                    Some(error) => {
                        let status = match error.code() {
                            Some("AccessDenied") => 403,
                            _ => 500,
                        };
                        let text = format!(
                            "{}: {}",
                            error.key().unwrap_or("?"),
                            error.message().unwrap_or("?")
                        );
                        Err(Fault::of_response(status, error.code().unwrap_or(""), &text, None))
                    }
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Begins a multipart upload and returns its id.
    pub(crate) async fn create_upload(&self, bucket: &str, key: &str) -> Result<String, Fault> {
        self.request(0, |client| async move {
            let upload = client
                .create_multipart_upload()
                .bucket(bucket)
                .key(key)
                .content_type("application/vnd.apache.parquet")
                .checksum_algorithm(ChecksumAlgorithm::Crc32)
                .send()
                .await?;
            upload
                .upload_id
                .filter(|id| !id.is_empty())
                .ok_or_else(|| Fault::new(Kind::Transient, "the server gave no upload id"))
        })
        .await
    }

    /// Uploads part `number` (from 1) of an upload.
    pub(crate) async fn upload_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: i32,
        body: Bytes,
    ) -> Result<UploadedPart, Fault> {
        let body = &body;
        self.request(body.len() as u64, |client| async move {
            let part = client
                .upload_part()
                .bucket(bucket)
                .key(key)
                .upload_id(upload)
                .part_number(number)
                .checksum_algorithm(ChecksumAlgorithm::Crc32)
                // In memory: its length and checksum go ahead of it, which every server understands.
                .body(ByteStream::from(body.clone()))
                .send()
                .await?;
            match part.e_tag {
                Some(etag) => Ok(UploadedPart { etag, crc32: part.checksum_crc32 }),
                None => Err(Fault::new(Kind::Transient, "the server gave the part no ETag")),
            }
        })
        .await
    }

    /// Makes an upload an object.
    ///
    /// [`Kind::Missing`] after a first attempt got no answer may mean that this attempt did it: the
    /// caller must look.
    pub(crate) async fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
    ) -> Result<(), Fault> {
        let parts = parts
            .iter()
            .zip(1..)
            .map(|(part, number)| {
                CompletedPart::builder()
                    .part_number(number)
                    .e_tag(&part.etag)
                    .set_checksum_crc32(part.crc32.clone())
                    .build()
            })
            .collect();
        let parts = &CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        // S3 may take minutes to put many parts together.
        let patience = SLOWEST * 300;
        self.request(patience, |client| async move {
            let answer = client
                .complete_multipart_upload()
                .bucket(bucket)
                .key(key)
                .upload_id(upload)
                .multipart_upload(parts.clone())
                .send()
                .await?;
            // S3 begins to answer before it knows how it ends.
            match answer.e_tag {
                Some(_) => Ok(()),
                None => Err(Fault::new(Kind::Transient, "the answer breaks off")),
            }
        })
        .await
    }

    /// Gives an upload up, if it is there.
    pub(crate) async fn abort_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
    ) -> Result<(), Fault> {
        let aborted = self
            .request(0, |client| async move {
                client
                    .abort_multipart_upload()
                    .bucket(bucket)
                    .key(key)
                    .upload_id(upload)
                    .send()
                    .await?;
                Ok(())
            })
            .await;
        ignore_missing(aborted)
    }

    /// Whether an upload is there.
    pub(crate) async fn has_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
    ) -> Result<bool, Fault> {
        let listed = self
            .request(0, |client| async move {
                let list = client.list_parts().bucket(bucket).key(key).upload_id(upload);
                match list.max_parts(1).send().await {
                    // That there is an answer is the answer: moto's cannot be read.
                    Err(SdkError::ServiceError(e)) if e.raw().status().is_success() => Ok(()),
                    outcome => Ok(outcome.map(|_| ())?),
                }
            })
            .await;
        match listed {
            Ok(()) => Ok(true),
            Err(fault) if fault.kind == Kind::Missing => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Keys and ids of all uploads under way whose keys begin with `prefix`.
    pub(crate) async fn list_uploads(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<Vec<(String, String)>, Fault> {
        let (mut all, mut after) = (Vec::new(), (None, None));
        loop {
            let (key, id): &(Option<String>, Option<String>) = &after;
            let page = self
                .request(0, |client| async move {
                    let page = client
                        .list_multipart_uploads()
                        .bucket(bucket)
                        .prefix(prefix)
                        .set_key_marker(key.clone())
                        .set_upload_id_marker(id.clone())
                        .send()
                        .await?;
                    if page.bucket.is_none() && page.is_truncated.is_none() {
                        return Err(Fault::new(Kind::Transient, "the listing breaks off"));
                    }
                    Ok(page)
                })
                .await?;
            after = (page.next_key_marker, page.next_upload_id_marker);
            let uploads = page.uploads.unwrap_or_default();
            all.extend(uploads.into_iter().filter_map(|u| Some((u.key?, u.upload_id?))));
            if page.is_truncated != Some(true) || after.0.is_none() {
                return Ok(all);
            }
        }
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
    match pollster::block_on(runtime.handle().spawn(work)) {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Nothing here is cancelled while it is waited for.
            Err(error) => unreachable!("{error}"),
        },
    }
}

/// Finds region, credentials and endpoint.
async fn configure(params: &S3Params) -> Result<(Client, Wallet)> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        // Retries are ours: counted, resumed, and without the quota that all clients share.
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(params.connect_timeout)
                .read_timeout(params.timeout)
                .build(),
        );
    if let Some(profile) = &params.profile {
        let credentials = ProfileFileCredentialsProvider::builder().profile_name(profile).build();
        // Who names a profile means it, also where the environment holds other credentials.
        loader = loader.profile_name(profile).credentials_provider(credentials);
    }
    if let Some(url) = &params.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    if let Some(region) = &params.region {
        loader = loader.region(Region::new(region.clone()));
    }
    loader = match &params.credentials {
        _ if params.anonymous => loader.no_credentials(),
        Some(credentials) => loader.credentials_provider(credentials.clone()),
        None => loader,
    };
    let config = loader.load().await;
    let endpoint = match &params.endpoint_url {
        Some(url) => Some(url.clone()),
        None => endpoint_of(&config),
    };
    if let Some(url) = &endpoint {
        let valid = ["http://", "https://"].iter().any(|scheme| {
            url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        });
        if !valid {
            return Err(Error::param("endpoint_url", url, "http://host:port or https://host"));
        }
    }
    if !params.anonymous {
        let credentials = match config.credentials_provider() {
            Some(provider) => provider.provide_credentials().await,
            None => return Err(Error::connect("no AWS credentials are set up")),
        };
        credentials.map_err(|error| match (&error, &params.profile) {
            (CredentialsError::CredentialsNotLoaded(_), None) => Error::connect(
                "no AWS credentials were found in the environment, in ~/.aws or from a role",
            ),
            (_, profile) => {
                let fault = Fault::of_transport(Kind::Account, &error);
                let of = profile.as_ref().map_or(String::new(), |p| format!(" of the profile {p}"));
                Error::connect(format!("the AWS credentials{of} cannot be used: {fault}"))
            }
        })?;
    }
    let path_style = match params.addressing {
        Addressing::Path => true,
        Addressing::Virtual => false,
        Addressing::Auto => endpoint.is_some_and(|url| !url.contains(".amazonaws.com")),
    };
    let mut builder = aws_sdk_s3::config::Builder::from(&config)
        .interceptor(WholeAnswers)
        .force_path_style(path_style)
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
        // Bodies are checked here, also when they came in several pieces.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if config.region().is_none() {
        builder = builder.region(Region::new(DEFAULT_REGION));
    }
    let wallet = Wallet::new(config.credentials_provider());
    Ok((Client::from_conf(builder.build()), wallet))
}

/// The endpoint for S3 that environment or profile name, found as the SDK finds it.
fn endpoint_of(config: &aws_config::SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    config
        .service_config()
        .and_then(|services| services.load_config(key))
        .or_else(|| config.endpoint_url().map(str::to_owned))
}

/// A key as it is, of a listing that may have encoded it.
fn decode(key: Option<String>, encoded: bool) -> Result<String, Fault> {
    let key = key.ok_or_else(|| Fault::new(Kind::Transient, "the listing breaks off"))?;
    if !encoded {
        return Ok(key);
    }
    percent_decode_str(&key.replace('+', " "))
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Fault::new(Kind::Refused, format!("the key {key} is not valid UTF-8")))
}

fn system_time(time: &DateTime) -> Option<SystemTime> {
    SystemTime::try_from(*time).ok()
}

fn ignore_missing(result: Result<(), Fault>) -> Result<(), Fault> {
    match result {
        Err(fault) if fault.kind == Kind::Missing => Ok(()),
        other => other,
    }
}
