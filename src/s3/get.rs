//! Reads objects, resumes bodies that break off, and checks that the bytes are those of the listed version.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumMode, ServerSideEncryption};
use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_runtime_api::client::http::HttpConnectorSettings;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::{Bytes, BytesMut};
use md5::{Digest as _, Md5};

use super::body::beginning;
use super::client::{HASTE, S3, SLOWEST};
use super::fault::{Fault, Kind};
use super::requests::Listed;
use super::route::{Learn, Route};

/// If at least this many bytes arrived before a body broke off, they are kept and only the rest is requested.
const RESUME_FROM: usize = 256 << 10;

/// Suffix of the names of directory buckets; ETags there are not MD5s.
const DIRECTORY_BUCKET: &str = "--x-s3";

/// Most bytes that are reserved up front for an object whose size was not listed.
const RESERVED: u64 = 1 << 20;

/// An object, whole and checked.
#[derive(Debug)]
pub(crate) struct Got {
    pub bytes: Bytes,
    pub etag: Option<String>,
    pub modified: Option<SystemTime>,
}

/// The headers of an answer, and its unread body.
struct Answer {
    head: Head,
    range: Option<String>,
    body: ByteStream,
}

/// Length, ETag, time and checksum of the whole object, from the headers of an answer.
#[derive(Debug, Default)]
struct Head {
    length: Option<u64>,
    etag: Option<String>,
    modified: Option<SystemTime>,
    /// An algorithm and the base64 of its sum.
    checksum: Option<(ChecksumAlgorithm, String)>,
    encrypted: bool,
}

impl S3 {
    /// Reads an object of at most `most` bytes; if `wanted` has an ETag, that version of it.
    ///
    /// A body that breaks off, stalls or does not fit its length or checksum is requested again, in whole
    /// or only the rest. `If-Match` with the known ETag prevents a mixture of two versions.
    pub(crate) async fn get(&self, bucket: &str, wanted: &Listed, most: u64) -> Result<Got, Fault> {
        let mut attempts = 1;
        let mut head = None;
        let mut bytes = BytesMut::new();
        loop {
            // Upper bound of one attempt: two timeouts, and the transfer at the slowest rate that is accepted.
            let transfer = wanted.size.map_or(Duration::MAX, |n| Duration::from_secs(n / SLOWEST));
            let limit = self.params().timeout.saturating_mul(2).saturating_add(transfer);
            let attempt = self.get_once(bucket, wanted, most, &mut head, &mut bytes);
            let attempt = tokio::time::timeout(limit, attempt).await;
            let outcome = match attempt.unwrap_or_else(|_| Err(stalled())) {
                Ok(()) => {
                    let md5_etags = self.params().md5_etags && !bucket.ends_with(DIRECTORY_BUCKET);
                    check(wanted, head.get_or_insert_default(), &bytes, md5_etags)
                }
                Err(fault) => Err(fault),
            };
            let fault = match outcome {
                Ok(()) => {
                    self.succeeded();
                    break;
                }
                Err(fault) => fault,
            };
            // Without an ETag, nothing tells whether the rest would be of the same version.
            let etag = head.as_ref().and_then(|head: &Head| head.etag.as_ref());
            let is_known = wanted.etag.is_some() || etag.is_some();
            if fault.kind == Kind::Corrupt || bytes.len() < RESUME_FROM || !is_known {
                bytes.clear();
                head = None;
            }
            self.pause(fault, attempts).await?;
            attempts += 1;
        }
        let head = head.unwrap_or_default();
        Ok(Got { bytes: bytes.freeze(), etag: head.etag, modified: head.modified })
    }

    /// Reads an object, whose size is known, from `start` to its end.
    pub(crate) async fn get_from(
        &self,
        bucket: &str,
        wanted: &Listed,
        start: u64,
    ) -> Result<Bytes, Fault> {
        let expected = wanted.size.unwrap_or_default().saturating_sub(start);
        let request = self.retry(|| async move {
            let ask = self.ask(bucket, &wanted.key, wanted.etag.clone(), start);
            let body = self.in_time(0, ask).await?.body;
            let end = self
                .in_time(expected, async {
                    beginning(body, expected + 1)
                        .await
                        .map_err(|e| Fault::of_transport(Kind::Network, &e))
                })
                .await?;
            if end.len() as u64 != expected {
                return Err(Fault::new(Kind::Corrupt, "the body has not the length asked for"));
            }
            Ok(end)
        });
        self.hurried(HASTE, request).await
    }

    /// Makes one attempt to read on from the end of `bytes`. After a failure, `bytes` holds all that has arrived.
    async fn get_once(
        &self,
        bucket: &str,
        wanted: &Listed,
        most: u64,
        head: &mut Option<Head>,
        bytes: &mut BytesMut,
    ) -> Result<(), Fault> {
        let start = bytes.len();
        let etag = wanted.etag.clone().or_else(|| head.as_ref()?.etag.clone());
        let mut answer = self.in_time(0, self.ask(bucket, &wanted.key, etag, start as u64)).await?;
        if start > 0 && !answer.range.is_some_and(|range| begins_at(&range, start)) {
            // The server sent the whole object instead of the rest.
            bytes.clear();
            *head = None;
        }
        let head = head.get_or_insert(answer.head);
        let whole = head.length.unwrap_or_default();
        if let Some(size) = wanted.size.filter(|&size| whole > size) {
            // The body is not read: memory was reserved only for the listed size.
            let kind = if wanted.etag.is_some() { Kind::Corrupt } else { Kind::Precondition };
            return Err(Fault::new(kind, other_size(whole, size)));
        }
        if whole > most {
            return Err(too_large(most));
        }
        let expected = wanted.size.map_or(whole.min(RESERVED), |size| size.min(whole));
        bytes.reserve((expected as usize).saturating_sub(bytes.len()));
        loop {
            let piece = tokio::time::timeout(self.params().timeout, answer.body.next())
                .await
                .map_err(|_| stalled())?;
            if let Some(size) = wanted.size.filter(|&size| bytes.len() as u64 > size) {
                return Err(Fault::new(Kind::Corrupt, other_size(bytes.len() as u64, size)));
            }
            if bytes.len() as u64 > most {
                return Err(too_large(most));
            }
            match piece {
                None => return Ok(()),
                Some(Ok(piece)) => bytes.extend_from_slice(&piece),
                // The body is complete: the SDK's own check of the checksum failed.
                Some(Err(error)) if whole > 0 && bytes.len() as u64 >= whole => {
                    return Err(Fault::of_transport(Kind::Corrupt, &error));
                }
                Some(Err(error)) => return Err(Fault::of_transport(Kind::Network, &error)),
            }
        }
    }
}

impl S3 {
    /// Requests an object from `start` on; if there is an ETag, only that version.
    async fn ask(
        &self,
        bucket: &str,
        key: &str,
        etag: Option<String>,
        start: u64,
    ) -> Result<Answer, Fault> {
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let Some(route) = self.route(bucket) else {
            return self.ask_by_sdk(bucket, key, etag, range).await;
        };
        let mut headers = vec![("x-amz-checksum-mode", "ENABLED".to_owned())];
        headers.extend(etag.map(|etag| ("if-match", etag)));
        headers.extend(range.map(|range| ("range", range)));
        let answer = route.get(key, &headers, self.wallet()).await?;
        Ok(Answer {
            head: Head::of_response(&answer),
            range: answer.headers().get("content-range").map(str::to_owned),
            body: ByteStream::new(answer.into_body()),
        })
    }

    /// As [`ask`](Self::ask), but through the SDK; learns the route of the bucket from the SDK's request.
    async fn ask_by_sdk(
        &self,
        bucket: &str,
        key: &str,
        etag: Option<String>,
        range: Option<String>,
    ) -> Result<Answer, Fault> {
        let learned: Arc<Mutex<Option<Route>>> = Arc::default();
        let settings =
            HttpConnectorSettings::builder().connect_timeout(self.params().connect_timeout).build();
        let learn = Learn { key: key.to_owned(), settings, learned: Arc::clone(&learned) };
        let answer = self
            .client()
            .get_object()
            .bucket(bucket)
            .key(key)
            .checksum_mode(ChecksumMode::Enabled)
            .set_if_match(etag)
            .set_range(range)
            .customize()
            .interceptor(learn)
            .send()
            .await?;
        if let Some(route) = learned.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.set_route(bucket, route);
        }
        Ok(Answer {
            head: Head::of_output(&answer),
            range: answer.content_range,
            body: answer.body,
        })
    }
}

/// Checksum algorithms, the preferred first, each with the header that holds its sum.
const CHECKSUMS: [(ChecksumAlgorithm, &str); 5] = [
    (ChecksumAlgorithm::Crc64Nvme, "x-amz-checksum-crc64nvme"),
    (ChecksumAlgorithm::Crc32c, "x-amz-checksum-crc32c"),
    (ChecksumAlgorithm::Crc32, "x-amz-checksum-crc32"),
    (ChecksumAlgorithm::Sha256, "x-amz-checksum-sha256"),
    (ChecksumAlgorithm::Sha1, "x-amz-checksum-sha1"),
];

impl Head {
    fn of_response(answer: &HttpResponse) -> Self {
        let header = |name: &str| answer.headers().get(name);
        let date = header("last-modified")
            .and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        Self {
            length: header("content-length").and_then(|n| n.parse().ok()),
            etag: header("etag").map(str::to_owned),
            modified: date.and_then(|date| SystemTime::try_from(date).ok()),
            checksum: best_checksum(CHECKSUMS.map(|(_, name)| header(name))),
            encrypted: header("x-amz-server-side-encryption").is_some_and(|kind| kind != "AES256")
                || header("x-amz-server-side-encryption-customer-algorithm").is_some(),
        }
    }

    fn of_output(answer: &GetObjectOutput) -> Self {
        let by_key = answer
            .server_side_encryption()
            .is_some_and(|kind| *kind != ServerSideEncryption::Aes256);
        Self {
            length: answer.content_length().and_then(|n| u64::try_from(n).ok()),
            etag: answer.e_tag().map(str::to_owned),
            modified: answer.last_modified().and_then(|time| SystemTime::try_from(*time).ok()),
            checksum: best_checksum([
                answer.checksum_crc64_nvme(),
                answer.checksum_crc32_c(),
                answer.checksum_crc32(),
                answer.checksum_sha256(),
                answer.checksum_sha1(),
            ]),
            encrypted: by_key || answer.sse_customer_algorithm().is_some(),
        }
    }
}

/// The first usable checksum; `sums` are in the order of [`CHECKSUMS`].
fn best_checksum(sums: [Option<&str>; CHECKSUMS.len()]) -> Option<(ChecksumAlgorithm, String)> {
    CHECKSUMS.iter().zip(sums).find_map(|((algorithm, _), sum)| {
        // A dash marks a checksum of the parts' checksums, not of the bytes.
        sum.filter(|sum| !sum.contains('-')).map(|sum| (*algorithm, sum.to_owned()))
    })
}

fn other_size(bytes: u64, listed: u64) -> String {
    format!("it has {bytes} bytes, the listing says {listed}")
}

fn too_large(most: u64) -> Fault {
    Fault::new(Kind::TooLarge, format!("it is longer than {most} bytes"))
}

fn stalled() -> Fault {
    Fault::new(Kind::Transient, "the body stalls")
}

/// Whether a `Content-Range` such as `bytes 5-9/10` begins at `start`.
fn begins_at(range: &str, start: usize) -> bool {
    range
        .strip_prefix("bytes ")
        .and_then(|range| range.split_once('-'))
        .is_some_and(|(first, _)| first.parse() == Ok(start))
}

/// Checks a body against its length, its checksum or MD5, and the listed size.
fn check(wanted: &Listed, head: &Head, bytes: &[u8], md5_etags: bool) -> Result<(), Fault> {
    let len = bytes.len() as u64;
    if let Some(length) = head.length.filter(|&length| length != len) {
        return Err(Fault::new(
            Kind::Corrupt,
            format!("the body has {len} bytes instead of {length}"),
        ));
    }
    let is_proven = match (&head.checksum, head.etag.as_deref().and_then(md5_of)) {
        (Some((algorithm, sum)), _) => {
            let mut checksum = algorithm.into_impl();
            checksum.update(bytes);
            if checksum.header_value().as_bytes() != sum.as_bytes() {
                return Err(Fault::new(Kind::Corrupt, "the body does not fit its checksum"));
            }
            true
        }
        // The ETag is the MD5 if the object was put in one piece and is not encrypted with a key.
        (None, Some(sum)) if md5_etags && !head.encrypted => {
            if Md5::digest(bytes)[..] != sum {
                return Err(Fault::new(
                    Kind::Corrupt,
                    "the body does not fit the MD5 that is its ETag",
                ));
            }
            true
        }
        _ => false,
    };
    match wanted.size {
        Some(size) if size != len => Err(Fault::new(
            if is_proven { Kind::Precondition } else { Kind::Corrupt },
            other_size(len, size),
        )),
        _ => Ok(()),
    }
}

/// Reads an ETag as an MD5, if it looks like one.
fn md5_of(etag: &str) -> Option<[u8; 16]> {
    let hex = etag.strip_prefix('"')?.strip_suffix('"')?;
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut sum = [0; 16];
    for (byte, at) in sum.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use testkit::s3::answer;

    use super::*;

    /// Reads an object from a server that answers by `script`. Also returns the number of requests.
    fn read(
        wanted: &Listed,
        most: u64,
        script: impl Fn(u64, &str) -> Vec<u8> + Send + 'static,
    ) -> (Result<Got, Fault>, u64) {
        let server = testkit::s3::Scripted::start(script);
        let s3 = S3::of_test(server.endpoint());
        let wanted = wanted.clone();
        let got = s3.wait(move |s3| async move { s3.get("lab", &wanted, most).await });
        (got, server.requests())
    }

    /// The first answer breaks off late enough for only the rest to be requested; the second is the whole object.
    #[test]
    fn a_server_that_gives_the_whole_or_another_range_instead_of_the_rest_is_understood() {
        let whole: Vec<u8> = (0..600_000_u32).map(|i| (i / 1000) as u8).collect();
        for (status, range) in
            [("200 OK", ""), ("206 Partial Content", "Content-Range: bytes 0-599999/600000\r\n")]
        {
            let bytes = whole.clone();
            let (got, requests) = read(&listed(Some(600_000)), u64::MAX, move |number, head| {
                let headers = format!("ETag: \"x\"\r\n{range}");
                if number == 0 {
                    let mut all = answer("200 OK", &headers, &bytes);
                    all.truncate(all.len() - 300_000);
                    return all;
                }
                let head = head.to_ascii_lowercase();
                assert!(
                    head.contains("range: bytes=") && head.contains("if-match: \"x\""),
                    "{head}"
                );
                answer(status, &headers, &bytes)
            });
            assert!(got.unwrap().bytes == whole, "{status}");
            assert_eq!(requests, 2, "{status}");
        }
    }

    #[test]
    fn more_than_was_listed_or_is_allowed_is_not_read() {
        let etag = || Some("\"x\"".to_owned());
        let chunked = |bytes: usize| {
            let head = "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
            format!("{head}{bytes:x}\r\n{}\r\n0\r\n\r\n", "y".repeat(bytes)).into_bytes()
        };
        let plain = |bytes: usize| answer("200 OK", "ETag: \"x\"\r\n", &vec![b'y'; bytes]);
        let kind = |size, etag, most, reply: Vec<u8>| {
            let wanted = Listed { etag, ..listed(size) };
            let (got, requests) = read(&wanted, most, move |_, _| reply.clone());
            (got.map(|got| got.bytes.len()).map_err(|fault| fault.kind), requests)
        };
        assert_eq!(kind(Some(20), etag(), 20, plain(20)), (Ok(20), 1));
        assert_eq!(kind(None, None, 20, chunked(20)), (Ok(20), 1));
        // A wrong size in the headers is another version, unless the ETag was listed; otherwise the body is corrupt.
        assert_eq!(kind(Some(10), None, 99, plain(20)), (Err(Kind::Precondition), 1));
        let attempts = u64::from(crate::s3::S3Params::default().attempts);
        assert_eq!(kind(Some(10), etag(), 99, plain(20)), (Err(Kind::Corrupt), attempts));
        assert_eq!(kind(Some(10), None, 99, chunked(20)), (Err(Kind::Corrupt), attempts));
        assert_eq!(kind(None, None, 19, plain(20)), (Err(Kind::TooLarge), 1));
        assert_eq!(kind(None, None, 19, chunked(20)), (Err(Kind::TooLarge), 1));
    }

    #[test]
    fn an_etag_that_is_no_md5_proves_nothing() {
        let hex = "900150983cd24fb0d6963f7d28e17f72";
        assert_eq!(md5_of(&format!("\"{hex}\"")).unwrap()[..2], [0x90, 0x01]);
        for etag in [
            hex.to_owned(),
            format!("\"{hex}"),
            format!("W/\"{hex}\""),
            format!("\"{}\"", &hex[..31]),
            format!("\"{hex}0\""),
            format!("\"+{}\"", &hex[1..]),
            format!("\"{}g\"", &hex[..31]),
            format!("\"{}\"", "é".repeat(16)),
            String::new(),
        ] {
            assert_eq!(md5_of(&etag), None, "{etag}");
        }
    }

    fn listed(size: Option<u64>) -> Listed {
        Listed { key: "k".to_owned(), size, etag: None, modified: None }
    }

    fn kind(size: Option<u64>, head: &Head, bytes: &[u8]) -> Option<Kind> {
        check(&listed(size), head, bytes, true).err().map(|fault| fault.kind)
    }

    #[test]
    fn every_sum_that_is_known_is_compared() {
        let etag = Some("\"900150983cd24fb0d6963f7d28e17f72\"".to_owned());
        let md5 = Head { etag: etag.clone(), ..Head::default() };
        assert_eq!(kind(None, &md5, b"abc"), None);
        assert_eq!(kind(None, &md5, b"abd"), Some(Kind::Corrupt));
        assert_eq!(kind(Some(4), &md5, b"abc"), Some(Kind::Precondition));
        assert!(check(&listed(None), &md5, b"abd", false).is_ok());
        let encrypted = Head { etag: etag.clone(), encrypted: true, ..Head::default() };
        assert_eq!(kind(None, &encrypted, b"abd"), None);
        assert_eq!(kind(Some(4), &encrypted, b"abd"), Some(Kind::Corrupt));
        let of_parts = Head {
            etag: Some("\"900150983cd24fb0d6963f7d28e17f72-2\"".to_owned()),
            ..Head::default()
        };
        assert_eq!(kind(None, &of_parts, b"abd"), None);
        let length = Head { length: Some(4), ..Head::default() };
        assert_eq!(kind(None, &length, b"abc"), Some(Kind::Corrupt));
        // CRC-32 of "abc" is 352441c2.
        let crc = Head {
            etag,
            checksum: Some((ChecksumAlgorithm::Crc32, "NSRBwg==".to_owned())),
            ..Head::default()
        };
        assert_eq!(kind(None, &crc, b"abc"), None);
        assert_eq!(kind(None, &crc, b"abd"), Some(Kind::Corrupt));
    }

    /// The ETag of an object that is encrypted with a key is not an MD5.
    #[test]
    fn encryption_by_a_key_is_seen() {
        for (kind, customer, want) in [
            (None, None, false),
            (Some("AES256"), None, false),
            (Some("aws:kms"), None, true),
            (None, Some("AES256"), true),
        ] {
            let mut answer = HttpResponse::new(200.try_into().unwrap(), "".into());
            let names =
                ["x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-algorithm"];
            for (name, value) in names.into_iter().zip([kind, customer]) {
                if let Some(value) = value {
                    answer.headers_mut().insert(name, value);
                }
            }
            assert_eq!(Head::of_response(&answer).encrypted, want);
            let output = GetObjectOutput::builder()
                .set_server_side_encryption(kind.map(ServerSideEncryption::from))
                .set_sse_customer_algorithm(customer.map(str::to_owned))
                .build();
            assert_eq!(Head::of_output(&output).encrypted, want);
        }
    }

    #[test]
    fn a_range_that_is_not_the_one_asked_for_is_seen() {
        assert!(begins_at("bytes 5-9/10", 5));
        assert!(!begins_at("bytes 6-9/10", 5));
        assert!(!begins_at("bytes */10", 5));
    }
}
