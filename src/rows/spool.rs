//! Batches kept between the fit and the projection: in memory up to a limit, then in a file.

use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tempfile::{SpooledTempFile, spooled_tempfile_in};

use super::{FailedImage, ImageRows, RowBatch};
use crate::error::{Error, Result};
use crate::features::{Element, KeyPoint, VectorFormat, Vectors};
use crate::pixels::{ImageMeta, PixelFormat, Pixels};

/// Default of [`Spool::with_memory`]: 2 MiB, some 30,000 rows of ORB.
pub const DEFAULT_SPOOL_MEMORY: usize = 2 << 20;

/// Where rows wait while the PCA is fitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct Spool {
    memory: usize,
    folder: PathBuf,
}

impl Default for Spool {
    fn default() -> Self {
        Self { memory: DEFAULT_SPOOL_MEMORY, folder: std::env::temp_dir() }
    }
}

impl Spool {
    /// Sets how many bytes are kept in memory before a file is made (default
    /// [`DEFAULT_SPOOL_MEMORY`]); a row of ORB takes 56 bytes, an image some 120.
    pub fn with_memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// Sets the folder of the file (default: the system's for temporary files). The file has no
    /// name and is freed when the process ends.
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Spool { path: self.folder.display().to_string().into(), source }
    }
}

/// The writing side of a spool.
pub struct Spooling {
    spool: Spool,
    file: BufWriter<SpooledTempFile>,
    batches: u64,
    vectors: u64,
    images: u64,
}

impl std::fmt::Debug for Spooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spooling").field("batches", &self.batches).finish_non_exhaustive()
    }
}

impl Spooling {
    /// Makes an empty spool.
    #[must_use]
    pub fn new(spool: &Spool) -> Self {
        let file = spooled_tempfile_in(spool.memory, &spool.folder);
        let file = BufWriter::with_capacity(1 << 16, file);
        Self { spool: spool.clone(), file, batches: 0, vectors: 0, images: 0 }
    }

    /// Keeps a batch; scores are not kept.
    ///
    /// # Errors
    /// [`Error::Spool`], naming the folder.
    pub fn push(&mut self, batch: &RowBatch) -> Result<()> {
        self.batches += 1;
        self.vectors += batch.len() as u64;
        self.images += batch.images().iter().filter(|image| image.first_index == 0).count() as u64;
        write_batch(&mut self.file, batch).map_err(|e| self.spool.error(e))
    }

    /// Ends the writing, and returns the batches in their order.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(self) -> Result<SpooledBatches> {
        let rewind = |file: BufWriter<SpooledTempFile>| -> io::Result<_> {
            let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            Ok(BufReader::with_capacity(1 << 16, file))
        };
        let Self { spool, file, batches, vectors, images } = self;
        let file = rewind(file).map_err(|e| spool.error(e))?;
        Ok(SpooledBatches { spool, file, left: batches, batches, vectors, images })
    }
}

/// The reading side of a spool: its batches, for the second pass.
pub struct SpooledBatches {
    spool: Spool,
    file: BufReader<SpooledTempFile>,
    left: u64,
    batches: u64,
    vectors: u64,
    images: u64,
}

impl SpooledBatches {
    /// The number of vectors in all batches.
    #[must_use]
    pub fn vectors(&self) -> u64 {
        self.vectors
    }

    /// The number of images in all batches, without those that failed.
    #[must_use]
    pub fn images(&self) -> u64 {
        self.images
    }

    /// Goes back to the first batch.
    ///
    /// # Errors
    /// [`Error::Spool`], naming the folder.
    pub fn rewind(&mut self) -> Result<()> {
        self.file.rewind().map_err(|e| self.spool.error(e))?;
        self.left = self.batches;
        Ok(())
    }
}

impl std::fmt::Debug for SpooledBatches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpooledBatches").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Iterator for SpooledBatches {
    type Item = Result<RowBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let batch = read_batch(&mut self.file).map_err(|e| self.spool.error(e));
        if batch.is_err() {
            self.left = 0;
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error ends the iteration early.
        (usize::from(self.left > 0), usize::try_from(self.left).ok())
    }
}

impl std::iter::FusedIterator for SpooledBatches {}

/// First byte of every batch.
const BATCH: u8 = 0xb5;
/// Length of a text, or number, that is absent.
const ABSENT: u64 = u64::MAX;
/// Floats that are written at a time.
const FLOATS_AT_A_TIME: usize = 16 << 10;
/// Bytes of a keypoint.
const KEYPOINT_LEN: usize = 6 * 4;

fn write_batch(file: &mut impl Write, batch: &RowBatch) -> io::Result<()> {
    let format = batch.format();
    let is_float = format.element() == Element::F32;
    file.write_all(&[BATCH, is_float.into(), format.has_keypoints().into()])?;
    let (images, failed) = (batch.images(), batch.failed());
    for number in [format.len(), batch.len(), images.len(), failed.len()] {
        write_number(file, number as u64)?;
    }
    for image in images {
        for number in [image.n_vectors, image.first_index, image.rows.len() as u32] {
            write_number(file, number.into())?;
        }
        write_meta(file, &image.meta)?;
        write_pixels(file, image.pixels.as_deref())?;
    }
    for (after, failed) in batch.failed_after() {
        write_number(file, after as u64)?;
        file.write_all(&[failed.recorded.into()])?;
        write_number(file, failed.byte_len.unwrap_or(ABSENT))?;
        let FailedImage { uri, label, stage, cause, message, .. } = failed;
        for text in [uri.as_deref(), label.as_deref(), Some(stage), Some(cause), Some(message)] {
            write_text(file, text)?;
        }
    }
    for k in batch.keypoints() {
        let floats = [k.x, k.y, k.size, k.angle, k.response].map(f32::to_le_bytes);
        let [x, y, size, angle, response] = floats;
        file.write_all([x, y, size, angle, response, k.octave.to_le_bytes()].as_flattened())?;
    }
    if let Some(bytes) = batch.vectors().as_u8() {
        file.write_all(bytes)?;
    }
    let mut bytes = Vec::new();
    for floats in batch.vectors().as_f32().unwrap_or_default().chunks(FLOATS_AT_A_TIME) {
        bytes.clear();
        bytes.extend(floats.iter().flat_map(|v| v.to_le_bytes()));
        file.write_all(&bytes)?;
    }
    Ok(())
}

fn write_number(file: &mut impl Write, number: u64) -> io::Result<()> {
    file.write_all(&number.to_le_bytes())
}

fn write_text(file: &mut impl Write, text: Option<&str>) -> io::Result<()> {
    write_number(file, text.map_or(ABSENT, |text| text.len() as u64))?;
    file.write_all(text.unwrap_or_default().as_bytes())
}

fn write_meta(file: &mut impl Write, image: &ImageMeta) -> io::Result<()> {
    let nanos = image.modified.map(|t| match t.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    });
    file.write_all(&[image.channels, nanos.is_some().into()])?;
    file.write_all(&nanos.unwrap_or(0).to_le_bytes())?;
    for number in [image.byte_len, image.width.into(), image.height.into()] {
        write_number(file, number)?;
    }
    write_text(file, Some(&image.uri))?;
    write_text(file, image.label.as_deref())
}

fn write_pixels(file: &mut impl Write, pixels: Option<&Pixels>) -> io::Result<()> {
    let Some(pixels) = pixels else { return file.write_all(&[0]) };
    let format = PixelFormat::ALL.iter().position(|format| *format == pixels.format());
    file.write_all(&[1, format.unwrap_or_default() as u8])?;
    write_number(file, pixels.width() as u64)?;
    write_number(file, pixels.height() as u64)?;
    file.write_all(pixels.as_bytes())
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the spooled rows are damaged")
}

fn array<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(file: &mut impl Read) -> io::Result<u64> {
    array(file).map(u64::from_le_bytes)
}

fn text(file: &mut impl Read) -> io::Result<Option<String>> {
    let len = number(file)?;
    if len == ABSENT {
        return Ok(None);
    }
    let mut text = String::new();
    file.take(len).read_to_string(&mut text)?;
    if text.len() as u64 == len { Ok(Some(text)) } else { Err(damaged()) }
}

fn some_text(file: &mut impl Read) -> io::Result<String> {
    text(file)?.ok_or_else(damaged)
}

/// Reads `len` bytes. The buffer grows as they come, so that a damaged length does not allocate its size at once.
fn bytes(file: &mut impl Read, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len.min(1 << 20));
    file.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() == len { Ok(bytes) } else { Err(damaged()) }
}

fn read_meta(file: &mut impl Read) -> io::Result<ImageMeta> {
    let [channels, dated] = array(file)?;
    let nanos = i128::from_le_bytes(array(file)?);
    let (byte_len, width, height) = (number(file)?, number(file)?, number(file)?);
    let since = Duration::from_nanos(nanos.unsigned_abs() as u64);
    let epoch = SystemTime::UNIX_EPOCH;
    let modified = if nanos < 0 { epoch.checked_sub(since) } else { epoch.checked_add(since) };
    let mut meta = ImageMeta::new(some_text(file)?)
        .with_file(byte_len, modified.filter(|_| dated != 0))
        .with_shape(width as u32, height as u32, channels);
    meta.label = text(file)?;
    Ok(meta)
}

fn read_pixels(file: &mut impl Read) -> io::Result<Option<Arc<Pixels>>> {
    if array::<1>(file)? == [0] {
        return Ok(None);
    }
    let [format] = array(file)?;
    let format = *PixelFormat::ALL.get(usize::from(format)).ok_or_else(damaged)?;
    let (width, height) = (number(file)? as usize, number(file)? as usize);
    let len = width.checked_mul(height).and_then(|n| n.checked_mul(format.channels()));
    let bytes = bytes(file, len.ok_or_else(damaged)?)?;
    let pixels = Pixels::new(bytes, width, height, format).map_err(|_| damaged())?;
    Ok(Some(Arc::new(pixels)))
}

fn read_batch(file: &mut impl Read) -> io::Result<RowBatch> {
    let [tag, is_float, has_keypoints] = array(file)?;
    if tag != BATCH {
        return Err(damaged());
    }
    let (len, rows) = (number(file)? as usize, number(file)? as usize);
    let (n_images, n_failed) = (number(file)?, number(file)?);
    let mut format = if is_float == 0 { VectorFormat::u8(len) } else { VectorFormat::f32(len) };
    if has_keypoints != 0 {
        format = format.with_keypoints();
    }
    let (mut images, mut end) = (Vec::new(), 0);
    for _ in 0..n_images {
        let (n_vectors, first_index) = (number(file)? as u32, number(file)? as u32);
        let rows = number(file)? as usize;
        let meta = Arc::new(read_meta(file)?);
        let pixels = read_pixels(file)?;
        images.push(ImageRows { meta, pixels, n_vectors, first_index, rows: end..end + rows });
        end += rows;
    }
    if end != rows {
        return Err(damaged());
    }
    let mut failed = Vec::new();
    for _ in 0..n_failed {
        let after = number(file)? as usize;
        let [recorded] = array(file)?;
        let byte_len = Some(number(file)?).filter(|&len| len != ABSENT);
        let (uri, label) = (text(file)?, text(file)?);
        let [stage, cause, message] = [some_text(file)?, some_text(file)?, some_text(file)?];
        let recorded = recorded != 0;
        let image = FailedImage { uri, label, byte_len, stage, cause, message, recorded };
        failed.push((after, image));
    }
    let mut keypoints = Vec::new();
    if format.has_keypoints() {
        let bytes = bytes(file, rows * KEYPOINT_LEN)?;
        let numbers = bytes.as_chunks::<4>().0.as_chunks::<6>().0;
        keypoints.extend(numbers.iter().map(|&[x, y, size, angle, response, octave]| {
            let float = f32::from_le_bytes;
            KeyPoint {
                x: float(x),
                y: float(y),
                size: float(size),
                angle: float(angle),
                response: float(response),
                octave: i32::from_le_bytes(octave),
            }
        }));
    }
    let bytes = bytes(file, rows * len * format.element().size())?;
    let vectors = match format.element() {
        Element::U8 => Vectors::from_u8(bytes, len),
        Element::F32 => {
            let floats = bytes.as_chunks::<4>().0.iter().map(|&v| f32::from_le_bytes(v));
            Vectors::from_f32(floats.collect(), len)
        }
    };
    let vectors = vectors.map_err(|_| damaged())?;
    let vectors = if format.has_keypoints() { vectors.with_keypoints() } else { vectors };
    Ok(RowBatch::from_columns(format, images, keypoints, vectors, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_is_read_as_it_is_written() {
        let spool = Spool::default().with_memory(7).with_folder("here");
        let json = serde_json::to_string(&spool).unwrap();
        assert_eq!(serde_json::from_str::<Spool>(&json).unwrap(), spool);
        assert_eq!(serde_json::from_str::<Spool>("{}").unwrap(), Spool::default());
        serde_json::from_str::<Spool>(r#"{"file":"x"}"#).unwrap_err();
    }
}
