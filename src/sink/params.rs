//! How the files of a result are written.

use serde::{Deserialize, Serialize};

use super::codec::Codec;
use super::format::FileFormat;
use super::layout::WriteMode;
use crate::error::{Error, Result};
use crate::rows::{Layout, RowShape, TableParams};

/// Default of [`FileParams::with_row_group_rows`]: some 5 MB before compression.
pub const DEFAULT_ROW_GROUP_ROWS: usize = 32_768;
/// Default of [`FileParams::with_rows_per_file`]: some 300 MB.
pub const DEFAULT_ROWS_PER_FILE: u64 = 2_097_152;

/// Longest [`FileParams::with_run_id`], in characters.
pub const MAX_RUN_ID_LEN: usize = 128;

/// Parquet numbers row groups with a signed 16-bit integer.
pub(super) const MAX_ROW_GROUPS: u64 = i16::MAX as u64;

/// How the files of a result are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct FileParams {
    mode: WriteMode,
    force: bool,
    format: FileFormat,
    table: TableParams,
    codec: Option<Codec>,
    row_group_rows: usize,
    rows_per_file: Option<u64>,
    files: Option<u32>,
    run_id: Option<String>,
}

impl Default for FileParams {
    fn default() -> Self {
        Self {
            mode: WriteMode::default(),
            force: false,
            format: FileFormat::default(),
            table: TableParams::default(),
            codec: None,
            row_group_rows: DEFAULT_ROW_GROUP_ROWS,
            rows_per_file: None,
            files: None,
            run_id: None,
        }
    }
}

impl FileParams {
    /// Sets what to do when the folder exists (default [`WriteMode::Error`]).
    pub fn with_mode(mut self, mode: WriteMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets whether [`WriteMode::Append`] may add to a result made with other parameters, another decoder or another
    /// fit (default: no). Different columns are refused either way.
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Sets the format of the files (default [`FileFormat::Parquet`]).
    pub fn with_format(mut self, format: FileFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets what a row is, and the types of the columns.
    pub fn with_table(mut self, table: TableParams) -> Self {
        self.table = table;
        self
    }

    /// Sets the compression (default: [`Codec::Zstd`] at level 1, and none for CSV, which can have [`Codec::Gzip`]).
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }

    /// Sets the rows of a row group (default [`DEFAULT_ROW_GROUP_ROWS`]), or fewer if they exceed 64 MiB; one row group
    /// is held in memory, compressed.
    pub fn with_row_group_rows(mut self, rows: usize) -> Self {
        self.row_group_rows = rows;
        self
    }

    /// Sets the most rows of a file (default [`DEFAULT_ROWS_PER_FILE`]); it never has more than 32,767 row groups.
    pub fn with_rows_per_file(mut self, rows: u64) -> Self {
        self.rows_per_file = Some(rows);
        self
    }

    /// Sets the number of files (default: as many as [`with_rows_per_file`](Self::with_rows_per_file) gives). They have
    /// equal numbers of rows, in order, one row more or less; with fewer rows than files, some have none.
    ///
    /// The sink must then know the number of rows in advance ([`RowSink::expect`](super::RowSink::expect)): a
    /// [`Pipeline`](crate::pipeline::Pipeline) spools them.
    pub fn with_files(mut self, files: u32) -> Self {
        self.files = Some(files);
        self
    }

    /// Sets the name by which a result in S3 recognises this run: 1 to [`MAX_RUN_ID_LEN`] visible ASCII characters
    /// (default: a random one).
    ///
    /// If it is unknown whether a run was committed, repeat the work under the same name. If the run was committed, the
    /// repetition ends as [`Error::AlreadyCommitted`], so an append does not double the rows; if its files have been
    /// replaced since, as [`Error::Write`]. A result remembers all runs that it has files of, and the last 16 runs in
    /// any case.
    pub fn with_run_id(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// What to do when the folder exists.
    #[must_use]
    pub fn mode(&self) -> WriteMode {
        self.mode
    }

    /// Whether an append is forced.
    #[must_use]
    pub fn force(&self) -> bool {
        self.force
    }

    /// The format of the files.
    #[must_use]
    pub fn format(&self) -> FileFormat {
        self.format
    }

    /// What a row is, and the types of the columns.
    pub fn table(&self) -> TableParams {
        self.table
    }

    /// The compression.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec.unwrap_or(self.format.default_codec())
    }

    /// The rows of a row group.
    #[must_use]
    pub fn row_group_rows(&self) -> usize {
        self.row_group_rows
    }

    /// The most rows of a file.
    #[must_use]
    pub fn rows_per_file(&self) -> u64 {
        self.rows_per_file.unwrap_or(DEFAULT_ROWS_PER_FILE)
    }

    /// The number of files, if it is set.
    #[must_use]
    pub fn files(&self) -> Option<u32> {
        self.files
    }

    /// The name of the run, if one is set.
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// Checks the parameters, before anything is written.
    ///
    /// # Errors
    /// [`Error::InvalidParam`], naming the parameter and what it may be.
    pub fn check(&self) -> Result<()> {
        for (name, rows) in [
            ("row_group_rows", self.row_group_rows as u64),
            ("rows_per_file", self.rows_per_file()),
        ] {
            if rows == 0 {
                return Err(Error::param(name, 0, "at least 1"));
            }
        }
        self.codec().compression()?;
        self.table.check()?;
        self.check_format()?;
        match (self.files, self.rows_per_file) {
            (Some(0), _) => return Err(Error::param("files", 0, "at least 1")),
            (Some(n), Some(_)) => {
                return Err(Error::param("files", n, "not together with rows_per_file"));
            }
            _ => {}
        }
        match &self.run_id {
            Some(id)
                if id.is_empty()
                    || id.len() > MAX_RUN_ID_LEN
                    || !id.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                let allowed = format!("1 to {MAX_RUN_ID_LEN} visible ASCII characters");
                Err(Error::param("run_id", format!("{id:?}"), allowed))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what CSV cannot have.
    fn check_format(&self) -> Result<()> {
        match self.format {
            FileFormat::Parquet => return Ok(()),
            FileFormat::Csv | FileFormat::CsvColumns => {}
        }
        let format = self.format.as_str();
        if self.row_group_rows != DEFAULT_ROW_GROUP_ROWS {
            let allowed = "only for Parquet: CSV has no row groups";
            return Err(Error::param("row_group_rows", self.row_group_rows, allowed));
        }
        if !matches!(self.codec(), Codec::Uncompressed | Codec::Gzip) {
            return Err(Error::param("codec", self.codec(), "uncompressed or gzip for CSV"));
        }
        if self.table.has_image() {
            return Err(Error::param("image", true, "only in Parquet: CSV has no pixels"));
        }
        if self.table.layout() == Layout::Spark {
            let allowed = "parquet for the types of Spark: CSV has only text";
            return Err(Error::param("format", format, allowed));
        }
        if self.format == FileFormat::CsvColumns && self.table.rows() == RowShape::Image {
            let allowed = "csv for rows of images, whose lists differ in length; or rows padded:N";
            return Err(Error::param("format", format, allowed));
        }
        Ok(())
    }

    /// The ending of the names of the files.
    pub(super) fn ending(&self) -> &'static str {
        self.format.ending(self.codec())
    }
}
