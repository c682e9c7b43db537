//! A multipart upload behind the interface of a file.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::manifest::{PendingUpload, ResultFile};
use crate::s3::{Fault, S3, UploadedPart};

/// The size of the first parts: the minimum that S3 allows for all parts but the last.
const PART_BYTES: usize = 5 << 20;

/// Number of parts of the same size. After them the size doubles, as one upload can have at most 10,000 parts.
const PARTS_OF_A_SIZE: usize = 1000;

/// The uploads of a run.
#[derive(Debug, Default)]
pub(in crate::sink) struct Uploads {
    /// Keys and ids of all uploads that were begun.
    pub(super) begun: Vec<(String, String)>,
    /// Uploads that lack only the request that completes them.
    pub(super) whole: Vec<PendingUpload>,
}

/// Shared by the files of a run.
pub(in crate::sink) type SharedUploads = Arc<Mutex<Uploads>>;

/// A file that is being uploaded; invisible until the commit.
#[derive(Debug)]
pub(in crate::sink) struct Upload {
    s3: S3,
    bucket: Arc<str>,
    key: Arc<str>,
    name: String,
    id: Arc<str>,
    uploads: SharedUploads,
    buffer: Vec<u8>,
    size: u64,
    begun: usize,
    /// The part in flight. It and `buffer` bound the memory.
    flying: Option<JoinHandle<Result<UploadedPart, Fault>>>,
    parts: Vec<UploadedPart>,
}

impl Upload {
    /// Begins to upload `name`, a path below the output, to `key`.
    pub fn begin(
        s3: &S3,
        bucket: &str,
        key: String,
        name: &str,
        uploads: &SharedUploads,
    ) -> io::Result<Self> {
        let begin = s3.spawn({
            let (s3, bucket, key, uploads) =
                (s3.clone(), bucket.to_owned(), key.clone(), Arc::clone(uploads));
            async move {
                let id = s3.create_upload(&bucket, &key).await?;
                // Recorded even if nobody waits for the answer any more: the upload has to be aborted later.
                let mut uploads = uploads.lock().unwrap_or_else(PoisonError::into_inner);
                uploads.begun.push((key, id.clone()));
                Ok::<_, Fault>(id)
            }
        });
        let id = s3.wait_for_change(begin).map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(Self {
            s3: s3.clone(),
            bucket: bucket.into(),
            key: key.into(),
            name: name.to_owned(),
            id: id.into(),
            uploads: Arc::clone(uploads),
            buffer: Vec::new(),
            size: 0,
            begun: 0,
            flying: None,
            parts: Vec::new(),
        })
    }

    /// Sends the rest, and waits until the server has all of it. Returns the length of the file.
    pub fn close(mut self, rows: u64) -> io::Result<u64> {
        if !self.buffer.is_empty() || self.begun == 0 {
            self.send()?;
        }
        self.land()?;
        let name = std::mem::take(&mut self.name);
        let file = ResultFile { name, size: self.size, rows: Some(rows) };
        let parts = std::mem::take(&mut self.parts);
        let upload = PendingUpload { file, upload: self.id.to_string(), parts };
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).whole.push(upload);
        Ok(self.size)
    }

    fn part_bytes(&self) -> usize {
        PART_BYTES << (self.begun / PARTS_OF_A_SIZE).min(9)
    }

    /// Sends the buffer as the next part.
    fn send(&mut self) -> io::Result<()> {
        self.land()?;
        let body = Bytes::from(std::mem::take(&mut self.buffer));
        self.begun += 1;
        let number = i32::try_from(self.begun).map_err(io::Error::other)?;
        let (s3, bucket, key, id) = (
            self.s3.clone(),
            Arc::clone(&self.bucket),
            Arc::clone(&self.key),
            Arc::clone(&self.id),
        );
        let part =
            self.s3.spawn(async move { s3.upload_part(&bucket, &key, &id, number, body).await });
        self.flying = Some(part);
        Ok(())
    }

    /// Waits for the part in flight.
    fn land(&mut self) -> io::Result<()> {
        if let Some(part) = self.flying.take() {
            self.parts.push(wait(&self.s3, part)?);
        }
        Ok(())
    }
}

/// Waits for a request.
fn wait<T>(s3: &S3, request: JoinHandle<Result<T, Fault>>) -> io::Result<T> {
    s3.wait_for(request)
        // Not `ErrorKind::Interrupted`, on which writers try again.
        .map_err(io::Error::other)?
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() == 0 {
            // Small files are common, so the buffer starts small and grows.
            self.buffer.reserve(bytes.len().min(self.part_bytes()));
        }
        let room = self.part_bytes() - self.buffer.len();
        let taken = room.min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.size += taken as u64;
        if taken == room {
            self.send()?;
        }
        Ok(taken)
    }

    /// Does nothing: parts have a minimum size.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(part) = &self.flying {
            part.abort();
        }
    }
}
