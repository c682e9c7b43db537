//! All requests to the server, except reading objects.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, EncodingType};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::client::{HASTE, S3, SLOWEST};
use super::fault::{Fault, Kind};
use super::location::MAX_KEY_BYTES;

/// As [`HASTE`], for completing an upload: this takes the longest and is worth waiting for.
const HASTE_COMPLETING: Duration = Duration::from_secs(5);

/// Most keys that S3 gives on one page.
pub(crate) const MAX_PAGE_SIZE: i32 = 1000;

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
    /// If one level is listed: the prefixes, up to the next slash, of the keys further down.
    pub folders: Vec<String>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// Precondition of a write.
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
    /// Makes a request that transfers `bytes` bytes, with retries, and ends it within [`HASTE`] of an interrupt.
    async fn request<T, F>(&self, bytes: u64, attempt: impl Fn(Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.request_with(HASTE, bytes, attempt).await
    }

    /// As [`request`](Self::request), with `haste` instead of [`HASTE`].
    async fn request_with<T, F>(
        &self,
        haste: Duration,
        bytes: u64,
        attempt: impl Fn(Client) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        // The SDK's futures are large.
        let request = self.retry(|| self.in_time(bytes, Box::pin(attempt(self.client().clone()))));
        self.hurried(haste, request).await
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
        // One byte more than a key: the longest key may be listed as a folder, with a slash.
        if prefix.len() > MAX_KEY_BYTES + 1 {
            return Err(too_long(prefix));
        }
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
            if next.is_some() && next.as_deref() == token {
                return Err(no_progress());
            }
            let objects = page.contents.unwrap_or_default();
            let folders = page.common_prefixes.unwrap_or_default();
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

    /// One object, as a listing would have it; `None` if it is not there.
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
    /// If an attempt writes the object but its answer is lost, the condition of the next attempt fails.
    /// So after a failed condition the caller must check who wrote the object.
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

    /// Begins a multipart upload and returns its id.
    pub(crate) async fn create_upload(&self, bucket: &str, key: &str) -> Result<String, Fault> {
        let content_type = match key.rsplit('.').next() {
            Some("csv") => "text/csv",
            Some("gz") => "application/gzip",
            _ => "application/vnd.apache.parquet",
        };
        self.request(0, |client| async move {
            let upload = client
                .create_multipart_upload()
                .bucket(bucket)
                .key(key)
                .content_type(content_type)
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
                // A body in memory: its length and checksum are sent before it, as every server understands.
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

    /// Completes an upload, which becomes an object.
    ///
    /// If an attempt completes the upload but its answer is lost, the next attempt fails with
    /// [`Kind::Missing`]. So the caller must check then whether the object is there.
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
        // In bytes, worth 300 s at the slowest rate: S3 may take minutes to join many parts.
        let patience = SLOWEST * 300;
        self.request_with(HASTE_COMPLETING, patience, |client| async move {
            let answer = client
                .complete_multipart_upload()
                .bucket(bucket)
                .key(key)
                .upload_id(upload)
                .multipart_upload(parts.clone())
                .send()
                .await?;
            // S3 may answer 200 before the outcome is known; only an ETag means success.
            match answer.e_tag {
                Some(_) => Ok(()),
                None => Err(Fault::new(Kind::Transient, "the answer breaks off")),
            }
        })
        .await
    }

    /// Aborts an upload, if it exists.
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

    /// Whether an upload exists.
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
                    // Any 2xx means that the upload exists; moto's body does not parse.
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
            let before =
                std::mem::replace(&mut after, (page.next_key_marker, page.next_upload_id_marker));
            if page.is_truncated == Some(true) && after.0.is_some() && after == before {
                return Err(no_progress());
            }
            let uploads = page.uploads.unwrap_or_default();
            all.extend(uploads.into_iter().filter_map(|u| Some((u.key?, u.upload_id?))));
            if page.is_truncated != Some(true) || after.0.is_none() {
                return Ok(all);
            }
        }
    }
}

/// Decodes a key of a listing, if the listing is URL-encoded.
fn decode(key: Option<String>, encoded: bool) -> Result<String, Fault> {
    let key = key.ok_or_else(|| Fault::new(Kind::Transient, "the listing breaks off"))?;
    let key = if encoded {
        percent_decode_str(&key.replace('+', " "))
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| Fault::new(Kind::Refused, format!("the key {key} is not valid UTF-8")))?
    } else {
        key
    };
    if key.len() > MAX_KEY_BYTES { Err(too_long(&key)) } else { Ok(key) }
}

/// The fault for a key or prefix that is too long for any request.
fn too_long(key: &str) -> Fault {
    let len = key.len();
    let why = format!("a key or prefix has {len} bytes, and no key more than {MAX_KEY_BYTES}");
    Fault::new(Kind::Refused, why)
}

/// The fault for a listing that would never end.
fn no_progress() -> Fault {
    Fault::new(
        Kind::Refused,
        "the listing does not go on: after a page the server names the same page again",
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_gone_already_may_be_deleted_twice() {
        assert!(ignore_missing(Ok(())).is_ok());
        assert!(ignore_missing(Err(Fault::new(Kind::Missing, "gone"))).is_ok());
        let denied = ignore_missing(Err(Fault::new(Kind::Denied, "no"))).unwrap_err();
        assert_eq!(denied.kind, Kind::Denied);
    }

    /// Makes a request to a server that answers with these bodies in turn and then repeats the last. Also returns
    /// the number of requests.
    fn ask<T, F>(bodies: &[&'static str], request: impl FnOnce(S3) -> F) -> (Result<T, Fault>, u64)
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let bodies = bodies.to_vec();
        let server = testkit::s3::Scripted::start(move |number, _| {
            let body = bodies[bodies.len().min(number as usize + 1) - 1];
            testkit::s3::answer("200 OK", "Content-Type: application/xml\r\n", body.as_bytes())
        });
        let s3 = S3::of_test(server.endpoint());
        (s3.wait(request), server.requests())
    }

    #[test]
    fn a_listing_of_uploads_that_breaks_off_is_asked_for_again() {
        let list = |s3: S3| async move { s3.list_uploads("lab", "out/").await };
        let nothing = "<ListMultipartUploadsResult></ListMultipartUploadsResult>";
        let one = "<ListMultipartUploadsResult><Bucket>lab</Bucket><IsTruncated>false</IsTruncated>\
                   <Upload><Key>out/a</Key><UploadId>7</UploadId></Upload></ListMultipartUploadsResult>";
        let (uploads, requests) = ask(&[nothing, one], list);
        assert_eq!(uploads.unwrap(), [("out/a".to_owned(), "7".to_owned())]);
        assert_eq!(requests, 2);
        // Either of the two elements is enough for a valid listing.
        for whole in ["<Bucket>lab</Bucket>", "<IsTruncated>false</IsTruncated>"] {
            let body = format!("<ListMultipartUploadsResult>{whole}</ListMultipartUploadsResult>");
            let (uploads, requests) = ask(&[body.leak()], list);
            assert_eq!((uploads.unwrap().len(), requests), (0, 1));
        }
        let again = "<ListMultipartUploadsResult><Bucket>lab</Bucket><IsTruncated>true</IsTruncated>\
                     <NextKeyMarker>a</NextKeyMarker></ListMultipartUploadsResult>";
        let (uploads, requests) = ask(&[again], list);
        assert!(uploads.unwrap_err().to_string().contains("does not go on"));
        assert_eq!(requests, 2);
    }

    #[test]
    fn an_upload_is_there_though_the_answer_cannot_be_read() {
        let look = |s3: S3| async move { s3.has_upload("lab", "out/a", "7").await };
        let unreadable = "<ListPartsResult><MaxParts>none</MaxParts></ListPartsResult>";
        let (is_there, requests) = ask(&[unreadable], look);
        assert_eq!((is_there.unwrap(), requests), (true, 1));
    }

    #[test]
    fn keys_have_at_most_1024_bytes() {
        let longest = "k".repeat(1024);
        assert_eq!(decode(Some(longest.clone()), false).unwrap(), longest);
        assert_eq!(decode(Some("a%20b+c".to_owned()), true).unwrap(), "a b c");
        decode(Some(longest + "k"), false).unwrap_err();
        assert!(decode(None, false).unwrap_err().is_transient());
    }
}
