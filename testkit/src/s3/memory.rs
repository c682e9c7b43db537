//! A strict S3 in memory: conditions on writes are atomic, checksums are verified, parts have a minimum size.
//! It refuses whatever AWS refuses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use md5::{Digest as _, Md5};
use s3s::checksum::ChecksumHasher;
#[allow(clippy::wildcard_imports)] // Each request and answer is a type.
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

#[derive(Clone)]
struct Object {
    data: Bytes,
    etag: String,
    checksum: Checksum,
    modified: Timestamp,
}

struct Upload {
    bucket: String,
    key: String,
    algorithm: Option<String>,
    parts: BTreeMap<i32, Part>,
}

#[derive(Clone)]
struct Part {
    data: Bytes,
    etag: String,
    checksum: Checksum,
}

#[derive(Default)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Object>>,
    uploads: BTreeMap<String, Upload>,
    begun: u64,
    /// Whether conditions on writes are ignored, as by some servers.
    ignores_conditions: bool,
    /// Uploads in a page of a listing; `None` for the 1000 of S3.
    uploads_in_a_page: Option<usize>,
}

/// A store; clones share its content.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

type Answer<T> = S3Result<S3Response<T>>;

#[allow(clippy::unnecessary_wraps)]
fn ok<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn md5(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

impl Memory {
    /// Makes a store with a bucket.
    pub fn with_bucket(bucket: &str) -> Self {
        let memory = Self::default();
        memory.lock().buckets.insert(bucket.to_owned(), BTreeMap::new());
        memory
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Sets how many uploads a page of a listing has.
    pub fn page_uploads(&self, most: usize) {
        self.lock().uploads_in_a_page = Some(most);
    }

    /// Ignores conditions on writes from now on.
    pub fn ignore_conditions(&self) {
        self.lock().ignores_conditions = true;
    }

    /// Puts an object as old clients did: with an ETag, without a checksum.
    pub fn seed(&self, bucket: &str, key: &str, data: impl Into<Bytes>) {
        self.seed_many(bucket, [key.to_owned()], data.into());
    }

    /// Puts the same object under many keys.
    pub fn seed_many(&self, bucket: &str, keys: impl IntoIterator<Item = String>, data: Bytes) {
        let etag = md5(&data);
        self.insert(bucket, keys, data, etag, Checksum::default());
    }

    /// Puts an object as new clients do, with a checksum. Its ETag is not an MD5, as for encrypted objects.
    pub fn seed_with_checksum(&self, bucket: &str, key: &str, data: impl Into<Bytes>) {
        let data = data.into();
        // Cannot fail, as no checksum is declared that could differ.
        let (_, checksum) = verify(&data, Checksum::default(), Some("CRC32"), None).unwrap();
        self.insert(bucket, [key.to_owned()], data, "not-an-md5".to_owned(), checksum);
    }

    /// Puts an object with any ETag.
    pub fn seed_with_etag(&self, bucket: &str, key: &str, data: impl Into<Bytes>, etag: &str) {
        self.insert(bucket, [key.to_owned()], data.into(), etag.to_owned(), Checksum::default());
    }

    fn insert(
        &self,
        bucket: &str,
        keys: impl IntoIterator<Item = String>,
        data: Bytes,
        etag: String,
        checksum: Checksum,
    ) {
        let object = Object { data, etag, checksum, modified: SystemTime::now().into() };
        let mut state = self.lock();
        let objects = state.buckets.entry(bucket.to_owned()).or_default();
        objects.extend(keys.into_iter().map(|key| (key, object.clone())));
    }

    pub fn remove(&self, bucket: &str, key: &str) {
        self.lock().buckets.get_mut(bucket).unwrap().remove(key);
    }

    /// All objects whose keys begin with a prefix.
    pub fn objects(&self, bucket: &str, prefix: &str) -> BTreeMap<String, Bytes> {
        let state = self.lock();
        let objects = state.buckets[bucket].iter();
        objects
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| (key.clone(), object.data.clone()))
            .collect()
    }

    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        self.objects(bucket, prefix).into_keys().collect()
    }

    /// Keys of the uploads under way.
    pub fn uploads(&self) -> Vec<String> {
        self.lock().uploads.values().map(|upload| upload.key.clone()).collect()
    }

    /// Loses all uploads, as a lifecycle rule does.
    pub fn lose_uploads(&self) {
        self.lock().uploads.clear();
    }

    /// Backdates all objects below a prefix.
    pub fn age(&self, bucket: &str, prefix: &str, by: std::time::Duration) {
        let mut state = self.lock();
        for (key, object) in state.buckets.get_mut(bucket).unwrap() {
            if key.starts_with(prefix) {
                object.modified = (SystemTime::now() - by).into();
            }
        }
    }
}

impl State {
    fn bucket(&mut self, bucket: &str) -> S3Result<&mut BTreeMap<String, Object>> {
        self.buckets.get_mut(bucket).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    fn object(&mut self, bucket: &str, key: &str) -> S3Result<Object> {
        self.bucket(bucket)?.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }
}

fn check_conditions(
    current: Option<&Object>,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let is = |condition: &ETagCondition, object: &Object| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    };
    match (if_match, current) {
        (Some(_), None) => return Err(s3_error!(NoSuchKey)),
        (Some(condition), Some(object)) if !is(condition, object) => {
            return Err(s3_error!(PreconditionFailed));
        }
        _ => {}
    }
    match (if_none_match, current) {
        (Some(condition), Some(object)) if is(condition, object) => {
            Err(s3_error!(PreconditionFailed))
        }
        _ => Ok(()),
    }
}

async fn collect(body: Option<StreamingBlob>, length: Option<i64>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let bytes = body
        .try_fold(BytesMut::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
        .map_err(|e| s3_error!(IncompleteBody, "{e}"))?;
    if length.is_some_and(|length| length as usize != bytes.len()) {
        return Err(s3_error!(IncompleteBody));
    }
    Ok(bytes.freeze())
}

/// Compares data with what was declared in headers or trailers; returns the ETag and the checksum.
fn verify(
    data: &[u8],
    mut wanted: Checksum,
    algorithm: Option<&str>,
    trailers: Option<s3s::TrailingHeaders>,
) -> S3Result<(String, Checksum)> {
    if let Some(trailers) = trailers.and_then(|t| t.take()) {
        let trailer =
            |name: &str| trailers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        wanted.checksum_crc32 = wanted.checksum_crc32.or(trailer("x-amz-checksum-crc32"));
    }
    let mut hasher = ChecksumHasher::default();
    if wanted.checksum_crc32.is_some() || algorithm == Some("CRC32") {
        hasher.crc32 = Some(s3s::crypto::Crc32::default());
    }
    hasher.update(data);
    let got = hasher.finalize();
    if wanted.checksum_crc32.is_some() && wanted.checksum_crc32 != got.checksum_crc32 {
        return Err(s3_error!(BadDigest, "the checksum does not match"));
    }
    let etag = md5(data);
    Ok((etag, got))
}

/// URL-encodes a key if a listing was asked for encoded keys.
fn url(key: &str, encode: bool) -> String {
    if !encode {
        return key.to_owned();
    }
    key.bytes()
        .map(|b| match b {
            b' ' => "+".to_owned(),
            b'/' | b'-' | b'_' | b'.' | b'*' => char::from(b).to_string(),
            _ if b.is_ascii_alphanumeric() => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[async_trait::async_trait]
impl S3 for Memory {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> Answer<CreateBucketOutput> {
        self.lock().buckets.entry(request.input.bucket).or_default();
        ok(CreateBucketOutput::default())
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let mut input = request.input;
        self.lock().bucket(&input.bucket)?;
        let data = collect(input.body.take(), input.content_length).await?;
        let declared =
            Checksum { checksum_crc32: input.checksum_crc32.clone(), ..Checksum::default() };
        let (etag, checksum) = verify(
            &data,
            declared,
            input.checksum_algorithm.as_ref().map(ChecksumAlgorithm::as_str),
            request.trailing_headers,
        )?;
        let mut state = self.lock();
        let ignores = state.ignores_conditions;
        let bucket = state.bucket(&input.bucket)?;
        if !ignores {
            check_conditions(
                bucket.get(&input.key),
                input.if_match.as_ref(),
                input.if_none_match.as_ref(),
            )?;
        }
        let object = Object {
            data,
            etag: etag.clone(),
            checksum: checksum.clone(),
            modified: SystemTime::now().into(),
        };
        bucket.insert(input.key, object);
        ok(PutObjectOutput {
            e_tag: Some(ETag::Strong(etag)),
            checksum_crc32: checksum.checksum_crc32,
            ..Default::default()
        })
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = request.input;
        let object = self.lock().object(&input.bucket, &input.key)?;
        check_conditions(Some(&object), input.if_match.as_ref(), None)?;
        let whole = object.data.len() as u64;
        let (data, range) = match input.range {
            None => (object.data.clone(), None),
            Some(range) => {
                let range = range.check(whole)?;
                let data = object.data.slice(range.start as usize..range.end as usize);
                (data, Some(format!("bytes {}-{}/{whole}", range.start, range.end - 1)))
            }
        };
        let is_whole = range.is_none() && input.checksum_mode.is_some();
        let checksum = if is_whole { object.checksum } else { Checksum::default() };
        ok(GetObjectOutput {
            content_length: Some(data.len() as i64),
            body: Some(StreamingBlob::from(s3s::Body::from(data))),
            content_range: range,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified),
            checksum_crc32: checksum.checksum_crc32,
            ..Default::default()
        })
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = request.input;
        let object = self.lock().object(&input.bucket, &input.key)?;
        ok(HeadObjectOutput {
            content_length: Some(object.data.len() as i64),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified),
            ..Default::default()
        })
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> Answer<DeleteObjectOutput> {
        self.lock().bucket(&request.input.bucket)?.remove(&request.input.key);
        ok(DeleteObjectOutput::default())
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        let mut state = self.lock();
        let bucket = state.bucket(&request.input.bucket)?;
        let objects = request.input.delete.objects;
        if objects.len() > 1000 || objects.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        for object in objects {
            bucket.remove(&object.key);
        }
        ok(DeleteObjectsOutput::default())
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|d| !d.is_empty());
        let most = input.max_keys.unwrap_or(1000).clamp(0, 1000) as usize;
        let encode = input.encoding_type.as_ref().is_some_and(|e| e.as_str() == "url");
        let mut state = self.lock();
        let bucket = state.bucket(&input.bucket)?;
        // The token is the last key or common prefix of the page before, wrapped to be opaque.
        let after = match &input.continuation_token {
            Some(token) => Some(
                token.strip_prefix("after:").ok_or_else(|| s3_error!(InvalidArgument))?.to_owned(),
            ),
            None => input.start_after.clone(),
        };
        let (mut contents, mut folders) = (Vec::new(), Vec::<CommonPrefix>::new());
        let (mut last, mut is_truncated) = (None::<String>, false);
        for (key, object) in bucket.range(prefix.clone()..) {
            if !key.starts_with(&prefix) {
                break;
            }
            let folder = delimiter.as_deref().and_then(|delimiter| {
                let at = key[prefix.len()..].find(delimiter)?;
                Some(key[..prefix.len() + at + delimiter.len()].to_owned())
            });
            let entry = folder.as_ref().unwrap_or(key);
            if after.as_ref().is_some_and(|after| entry <= after) || last.as_ref() == Some(entry) {
                continue;
            }
            if contents.len() + folders.len() == most {
                is_truncated = true;
                break;
            }
            last = Some(entry.clone());
            match folder {
                Some(folder) => {
                    folders.push(CommonPrefix { prefix: Some(url(&folder, encode)) });
                }
                None => contents.push(s3s::dto::Object {
                    key: Some(url(key, encode)),
                    size: Some(object.data.len() as i64),
                    e_tag: Some(ETag::Strong(object.etag.clone())),
                    last_modified: Some(object.modified.clone()),
                    ..Default::default()
                }),
            }
        }
        ok(ListObjectsV2Output {
            key_count: Some((contents.len() + folders.len()) as i32),
            contents: Some(contents),
            common_prefixes: Some(folders),
            is_truncated: Some(is_truncated),
            next_continuation_token: last
                .filter(|_| is_truncated)
                .map(|last| format!("after:{last}")),
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            prefix: Some(prefix),
            max_keys: Some(most as i32),
            ..Default::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let input = request.input;
        let mut state = self.lock();
        state.bucket(&input.bucket)?;
        state.begun += 1;
        let id = format!("upload-{}", state.begun);
        let upload = Upload {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            algorithm: input.checksum_algorithm.as_ref().map(|a| a.as_str().to_owned()),
            parts: BTreeMap::new(),
        };
        state.uploads.insert(id.clone(), upload);
        ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: input.checksum_algorithm,
            ..Default::default()
        })
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let mut input = request.input;
        if !(1..=10_000).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument));
        }
        let data = collect(input.body.take(), input.content_length).await?;
        let missing = || s3_error!(NoSuchUpload);
        let algorithm =
            self.lock().uploads.get(&input.upload_id).ok_or_else(missing)?.algorithm.clone();
        let declared =
            Checksum { checksum_crc32: input.checksum_crc32.clone(), ..Checksum::default() };
        let (etag, checksum) =
            verify(&data, declared, algorithm.as_deref(), request.trailing_headers)?;
        let part = Part { data, etag: etag.clone(), checksum: checksum.clone() };
        let mut state = self.lock();
        let upload = state.uploads.get_mut(&input.upload_id).ok_or_else(missing)?;
        upload.parts.insert(input.part_number, part);
        ok(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            checksum_crc32: checksum.checksum_crc32,
            ..Default::default()
        })
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        let state = self.lock();
        let upload =
            state.uploads.get(&request.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let parts = upload.parts.iter().map(|(&number, part)| s3s::dto::Part {
            part_number: Some(number),
            e_tag: Some(ETag::Strong(part.etag.clone())),
            size: Some(part.data.len() as i64),
            ..Default::default()
        });
        ok(ListPartsOutput { parts: Some(parts.collect()), ..Default::default() })
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let input = request.input;
        let prefix = input.prefix.unwrap_or_default();
        let state = self.lock();
        let after =
            (input.key_marker.unwrap_or_default(), input.upload_id_marker.unwrap_or_default());
        let mut found: Vec<(String, String)> = state
            .uploads
            .iter()
            .filter(|(_, upload)| upload.bucket == input.bucket && upload.key.starts_with(&prefix))
            .map(|(id, upload)| (upload.key.clone(), id.clone()))
            .filter(|place| *place > after)
            .collect();
        found.sort();
        let most = state.uploads_in_a_page.unwrap_or(1000);
        let is_truncated = found.len() > most;
        found.truncate(most);
        let next = found.last().filter(|_| is_truncated).cloned();
        let (next_key_marker, next_upload_id_marker) = next.unzip();
        let uploads = found.into_iter().map(|(key, id)| MultipartUpload {
            upload_id: Some(id),
            key: Some(key),
            ..Default::default()
        });
        ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            uploads: Some(uploads.collect()),
            is_truncated: Some(is_truncated),
            next_key_marker,
            next_upload_id_marker,
            ..Default::default()
        })
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = request.input;
        let mut state = self.lock();
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        if named.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        let upload = state.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let (mut data, mut sums, mut before) = (BytesMut::new(), Vec::new(), 0);
        for (at, name) in named.iter().enumerate() {
            let number = name.part_number.unwrap_or(0);
            if number <= before {
                return Err(s3_error!(InvalidPartOrder));
            }
            before = number;
            let part = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            let is_same = name.e_tag.as_ref().is_some_and(|etag| etag.value() == part.etag);
            let sum = &name.checksum_crc32;
            let needs_sum = upload.algorithm.is_some();
            if !is_same
                || (needs_sum && sum.is_none())
                || (sum.is_some() && *sum != part.checksum.checksum_crc32)
            {
                return Err(s3_error!(InvalidPart));
            }
            if at + 1 < named.len() && part.data.len() < 5 << 20 {
                return Err(s3_error!(EntityTooSmall));
            }
            data.extend_from_slice(&part.data);
            sums.extend(Md5::digest(&part.data));
        }
        let etag = format!("{}-{}", md5(&sums), named.len());
        let object = Object {
            data: data.freeze(),
            etag: etag.clone(),
            checksum: Checksum::default(),
            modified: SystemTime::now().into(),
        };
        state.bucket(&input.bucket)?.insert(input.key.clone(), object);
        state.uploads.remove(&input.upload_id);
        ok(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        })
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let removed = self.lock().uploads.remove(&request.input.upload_id);
        removed.ok_or_else(|| s3_error!(NoSuchUpload))?;
        ok(AbortMultipartUploadOutput::default())
    }
}
