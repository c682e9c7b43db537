//! Rows kept between the fit and the projection: in memory up to a limit, then in a file.

use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ndarray::ArrayView2;
use tempfile::{SpooledTempFile, spooled_tempfile_in};

use super::DescriptorRow;
use crate::decode::ImageMeta;
use crate::error::{Error, Result};
use crate::orb::{DESCRIPTOR_LEN, KeyPoint};
use crate::pca::{Moments, PcaModel, PcaParams};

/// Default of [`Spool::with_memory`]: 2 MiB, some 30,000 rows.
pub const DEFAULT_SPOOL_MEMORY: usize = 2 << 20;

/// Where rows wait while the PCA is fitted.
#[derive(Clone, Debug)]
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
    /// [`DEFAULT_SPOOL_MEMORY`]); a row takes some 61 bytes, an image some 100.
    pub fn with_memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// Sets the folder of the file (default: the system's for temporary files). The file has no
    /// name and goes when the process does.
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Spool { path: self.folder.display().to_string().into(), source }
    }
}

/// Spools rows while the moments of their descriptors are summed up.
pub(crate) struct SpooledFit {
    spool: Spool,
    file: BufWriter<SpooledTempFile>,
    last_image: Option<Arc<ImageMeta>>,
    moments: Moments,
    /// Descriptors that the moments do not hold yet.
    pending: Vec<u8>,
}

/// The descriptors that are added to the moments at a time.
const PENDING: usize = 4096 * DESCRIPTOR_LEN;

impl SpooledFit {
    pub fn new(spool: &Spool) -> Self {
        let file = spooled_tempfile_in(spool.memory, &spool.folder);
        Self {
            spool: spool.clone(),
            file: BufWriter::with_capacity(1 << 16, file),
            last_image: None,
            moments: Moments::new(DESCRIPTOR_LEN),
            pending: Vec::with_capacity(PENDING),
        }
    }

    pub fn push(&mut self, row: &DescriptorRow) -> Result<()> {
        self.write(row).map_err(|e| self.spool.error(e))?;
        self.pending.extend_from_slice(&row.descriptor);
        if self.pending.len() == PENDING { self.add_pending() } else { Ok(()) }
    }

    fn add_pending(&mut self) -> Result<()> {
        let rows = ArrayView2::from_shape(
            (self.pending.len() / DESCRIPTOR_LEN, DESCRIPTOR_LEN),
            &self.pending,
        )
        .expect("whole descriptors are pending");
        self.moments.push_rows(rows)?;
        self.pending.clear();
        Ok(())
    }

    fn write(&mut self, row: &DescriptorRow) -> io::Result<()> {
        let same = self.last_image.as_ref().is_some_and(|last| Arc::ptr_eq(last, &row.meta));
        if !same {
            write_image(&mut self.file, &row.meta)?;
            self.last_image = Some(Arc::clone(&row.meta));
        }
        let mut bytes = [0; ROW_LEN];
        bytes[0] = ROW;
        let k = &row.keypoint;
        let [x, y, size, angle, response] =
            [k.x, k.y, k.size, k.angle, k.response].map(f32::to_le_bytes);
        let (index, octave) = (row.index.to_le_bytes(), k.octave.to_le_bytes());
        let numbers = [x, y, size, angle, response, index, octave];
        bytes[1..=7 * 4].copy_from_slice(numbers.as_flattened());
        bytes[ROW_LEN - DESCRIPTOR_LEN..].copy_from_slice(&row.descriptor);
        self.file.write_all(&bytes)
    }

    pub fn finish(mut self, params: &PcaParams) -> Result<(PcaModel, SpooledRows)> {
        self.add_pending()?;
        let model = self.moments.fit(params)?;
        let rewind = |file: BufWriter<SpooledTempFile>| -> io::Result<_> {
            let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            Ok(BufReader::with_capacity(1 << 16, file))
        };
        let file = rewind(self.file).map_err(|e| self.spool.error(e))?;
        let left = self.moments.count();
        Ok((model, SpooledRows { spool: self.spool, file, image: None, left }))
    }
}

/// The tag of an image, before its rows.
const IMAGE: u8 = 1;
/// The tag of a row.
const ROW: u8 = 0;
/// Tag, seven numbers, descriptor.
const ROW_LEN: usize = 1 + 7 * 4 + DESCRIPTOR_LEN;
/// Stands for a label or a time that is missing.
const ABSENT: u64 = u64::MAX;

fn write_image(file: &mut impl Write, image: &ImageMeta) -> io::Result<()> {
    let nanos = image.modified.map(|t| match t.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    });
    file.write_all(&[IMAGE, image.channels, nanos.is_some().into()])?;
    file.write_all(&nanos.unwrap_or(0).to_le_bytes())?;
    let label = image.label.as_deref();
    for number in [
        image.byte_len,
        image.width.into(),
        image.height.into(),
        image.uri.len() as u64,
        label.map_or(ABSENT, |l| l.len() as u64),
    ] {
        file.write_all(&number.to_le_bytes())?;
    }
    file.write_all(image.uri.as_bytes())?;
    file.write_all(label.unwrap_or_default().as_bytes())
}

fn array<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn text(file: &mut impl Read, len: u64) -> io::Result<String> {
    let mut text = String::new();
    file.take(len).read_to_string(&mut text)?;
    Ok(text)
}

fn read_image(file: &mut impl Read) -> io::Result<ImageMeta> {
    let [channels, dated] = array(file)?;
    let nanos = i128::from_le_bytes(array(file)?);
    let mut number = || array(file).map(u64::from_le_bytes);
    let (byte_len, width, height, uri_len, label_len) =
        (number()?, number()?, number()?, number()?, number()?);
    let since = Duration::from_nanos(nanos.unsigned_abs() as u64);
    let epoch = SystemTime::UNIX_EPOCH;
    let modified = if nanos < 0 { epoch.checked_sub(since) } else { epoch.checked_add(since) };
    Ok(ImageMeta {
        byte_len,
        width: width as u32,
        height: height as u32,
        channels,
        modified: modified.filter(|_| dated != 0),
        uri: text(file, uri_len)?,
        label: if label_len == ABSENT { None } else { Some(text(file, label_len)?) },
    })
}

/// The rows of a fit, for the second pass.
pub struct SpooledRows {
    spool: Spool,
    file: BufReader<SpooledTempFile>,
    image: Option<Arc<ImageMeta>>,
    left: u64,
}

impl std::fmt::Debug for SpooledRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpooledRows").field("left", &self.left).finish_non_exhaustive()
    }
}

impl SpooledRows {
    fn read(&mut self) -> io::Result<DescriptorRow> {
        let [mut tag] = array(&mut self.file)?;
        if tag == IMAGE {
            self.image = Some(Arc::new(read_image(&mut self.file)?));
            [tag] = array(&mut self.file)?;
        }
        let (ROW, Some(meta)) = (tag, &self.image) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the spooled rows are damaged"));
        };
        let bytes: [u8; ROW_LEN - 1] = array(&mut self.file)?;
        let (numbers, descriptor) = bytes.split_at(7 * 4);
        let number = |i: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&numbers[4 * i..4 * i + 4]);
            four
        };
        let float = |i| f32::from_le_bytes(number(i));
        let mut row = DescriptorRow {
            meta: Arc::clone(meta),
            index: u32::from_le_bytes(number(5)),
            keypoint: KeyPoint {
                x: float(0),
                y: float(1),
                size: float(2),
                angle: float(3),
                response: float(4),
                octave: i32::from_le_bytes(number(6)),
            },
            descriptor: [0; DESCRIPTOR_LEN],
        };
        row.descriptor.copy_from_slice(descriptor);
        Ok(row)
    }
}

impl Iterator for SpooledRows {
    type Item = Result<DescriptorRow>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let row = self.read().map_err(|e| self.spool.error(e));
        if row.is_err() {
            self.left = 0;
        }
        Some(row)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error may come instead of the last rows.
        (usize::from(self.left > 0), usize::try_from(self.left).ok())
    }
}

impl std::iter::FusedIterator for SpooledRows {}
