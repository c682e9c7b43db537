//! A job as Python holds it: a stream of Arrow, files, or the rows of a batch of images.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use orb_features::pca::Components;
use orb_features::prelude::*;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};
use pyo3_arrow::{PyRecordBatch, PyRecordBatchReader, PySchema};

use crate::errors::{Failure, param, parsed};
use crate::job::{Job, Scores, orb_of, policy_of, s3_of, scores_of};
use crate::pca::PyPca;
use crate::place::place;
use crate::run::{LastRun, Stop, Stream, interruptible, lock};

/// An image of a list: its URI, its size in bytes and its ETag, where they are known.
type Listed = (String, Option<u64>, Option<String>);

/// A job on a folder or a prefix of S3. Make one by `extract`. Anything that takes Arrow streams takes it, as often as it is
/// asked: each time the job runs anew.
#[pyclass(name = "Extraction", module = "orb_features", frozen)]
#[derive(Debug)]
pub struct PyExtraction {
    job: Job,
    last: Arc<Mutex<LastRun>>,
}

impl PyExtraction {
    /// How the job makes descriptors.
    pub fn origin(&self) -> Origin {
        Origin::new(&self.job.orb, &self.job.decode)
    }

    /// Resets the notes on the last run, except for its model, and returns a new tally.
    fn begin(&self) -> Tally {
        let mut last = lock(&self.last);
        *last = LastRun { model: last.model.take(), ..LastRun::default() };
        last.tally.clone()
    }

    fn write<'py>(
        &self,
        py: Python<'py>,
        out: String,
        params: FileParams,
        force: bool,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        if self.job.listed.is_some() {
            return Err(param("listed", "a list", "none for files: a part of a job is a stream"));
        }
        let out = place("out", &out)?;
        let job = self.job.clone();
        // True stands for a bar.
        let progress = match progress {
            Some(wish) if wish.is_instance_of::<pyo3::types::PyBool>() => {
                if wish.is_truthy()? {
                    Some(py.import("orb_features._progress")?.call_method0("bar")?)
                } else {
                    None
                }
            }
            other => other,
        };
        let observer = progress.as_ref().map(|progress| progress.clone().unbind());
        let outcome = interruptible(py, move |stop| {
            let s3 = job.connect(Some(&out), stop)?;
            // Opened before the output is touched.
            let images = job.images(s3.as_ref())?;
            let params = params.with_force(force);
            let sink = match s3.as_ref().filter(|_| S3Location::is_uri(&out)) {
                Some(s3) => FileSink::create_in_s3(s3, out.as_str(), params)?,
                None => FileSink::create(&out, params)?,
            };
            let mut pipeline = Pipeline::new(images, job.orb.clone(), sink)
                .with_decode(job.decode.clone())
                .with_on_error(job.policy.on_error())
                .with_allow_empty(job.policy.allow_empty())
                .with_force(force || job.force)
                .with_parallelism(job.parallelism()?)
                .with_stop(Arc::clone(stop.flag()));
            if let Some(most) = job.policy.max_failures() {
                pipeline = pipeline.with_max_failures(most);
            }
            if let Some(observer) = observer {
                pipeline = pipeline.with_progress(move |p| {
                    // Nobody is told once the interpreter ends.
                    let _ = Python::try_attach(|py| {
                        // An exception of the callback is shown, and the job goes on.
                        if let Err(error) = observer.call1(py, (p.images, p.failed, p.rows)) {
                            error.write_unraisable(py, None);
                        }
                    });
                });
            }
            match job.scores {
                Scores::None => pipeline.without_pca(),
                Scores::Fit(params) => pipeline.with_pca(params),
                Scores::Model(model) => pipeline.with_model(*model),
            }
            .run()
        });
        if let Some(progress) = progress.filter(|p| p.hasattr("close").unwrap_or(false)) {
            progress.call_method0("close")?;
        }
        let report = outcome?;
        let json =
            serde_json::to_string(&report).map_err(|e| PyValueError::new_err(e.to_string()))?;
        lock(&self.last).model = report.pca_model;
        Ok(py.import("json")?.call_method1("loads", (json,))?.cast_into()?)
    }
}

#[pymethods]
impl PyExtraction {
    #[new]
    #[pyo3(signature = (source="", orb="{}", *, pca=None, rows="descriptor", layout="arrow", label="parent", glob=None, extensions=None, recursive=true, on_error="fail", max_failures=None, allow_empty=false, gray="bgr", exif="apply", solver=None, seed=None, centering=None, pca_input=None, threads=None, storage_options=None, requests_in_flight=None, listing=None, listed=None, force=false))]
    #[expect(clippy::too_many_arguments, reason = "options of the job, by name")]
    fn new(
        source: &str,
        orb: &str,
        pca: Option<&Bound<'_, PyAny>>,
        rows: &str,
        layout: &str,
        label: &str,
        glob: Option<String>,
        extensions: Option<Vec<String>>,
        recursive: bool,
        on_error: &str,
        max_failures: Option<Bound<'_, PyAny>>,
        allow_empty: bool,
        gray: &str,
        exif: &str,
        solver: Option<&str>,
        seed: Option<u64>,
        centering: Option<&str>,
        pca_input: Option<&str>,
        threads: Option<usize>,
        storage_options: Option<HashMap<String, String>>,
        requests_in_flight: Option<usize>,
        listing: Option<PathBuf>,
        listed: Option<Vec<Listed>>,
        force: bool,
    ) -> PyResult<Self> {
        let mut selection =
            Selection::default().with_label(parsed(label)?).with_recursive(recursive);
        if let Some(glob) = glob {
            selection = selection.with_glob(glob);
        }
        if let Some(extensions) = extensions {
            selection = selection.with_extensions(extensions);
        }
        selection.check().map_err(Failure)?;
        let (orb, scores) = (orb_of(orb)?, scores_of(pca, solver, seed, centering, pca_input)?);
        let table = TableParams::default().with_rows(parsed(rows)?).with_layout(parsed(layout)?);
        let k = match &scores {
            Scores::Model(model) => Some(model.n_components()),
            _ => None,
        };
        table.check_for(orb.output(), k).map_err(Failure)?;
        let source = place("source", source)?;
        if listing.is_some() && !S3Location::is_uri(&source) {
            return Err(param(
                "listing",
                listing.unwrap_or_default().display().to_string(),
                "only for a source in S3",
            ));
        }
        let decode = DecodeParams::default()
            .with_gray_mode(parsed(gray)?)
            .with_exif_orientation(parsed(exif)?);
        if let Scores::Model(model) = &scores
            && !force
        {
            model.check_origin(&Origin::new(&orb, &decode)).map_err(Failure)?;
        }
        let image = |(uri, size, etag)| ImageRef { uri, size, etag };
        let job = Job {
            source,
            listing,
            requests_in_flight,
            listed: listed.map(|listed| listed.into_iter().map(image).collect()),
            orb,
            decode,
            selection,
            policy: policy_of(on_error, max_failures.as_ref(), allow_empty)?,
            table,
            scores,
            threads,
            s3: s3_of(storage_options)?,
            force,
        };
        Ok(Self { job, last: Arc::default() })
    }

    /// The job as a stream of Arrow: its fit, if it has one, runs before this returns.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyCapsule>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let (job, tally) = (self.job.clone(), self.begin());
        let opened = interruptible(py, move |stop| {
            let (batches, model) = job.open(&tally, stop)?;
            Ok((batches, stop.clone(), model))
        });
        let (batches, stop, model) = opened.inspect_err(|error| {
            lock(&self.last).error = Some(error.clone_ref(py));
        })?;
        lock(&self.last).model = model;
        let schema = batches.schema();
        let stream = Stream::new(batches, schema, &stop, Arc::clone(&self.last))?;
        let reader = Bound::new(py, PyRecordBatchReader::new(Box::new(stream)))?;
        Ok(reader.call_method1("__arrow_c_stream__", (requested_schema,))?.cast_into()?)
    }

    /// Runs the job, and writes its result to a folder or a prefix of S3, all or nothing: what the program does. Returns
    /// its report.
    ///
    /// `mode`: "error" (the default: `out` must not hold a result), "overwrite" or "append". `files`: write exactly so many.
    /// `codec`: "zstd" and others. `force`: append to a result of other parameters. `progress`: a function of the numbers of
    /// images, of failed images and of rows so far, or True for a bar of tqdm.
    #[pyo3(signature = (out, *, mode="error", files=None, codec=None, force=false, progress=None))]
    #[expect(clippy::too_many_arguments, reason = "options of the files, by name")]
    fn write_parquet<'py>(
        &self,
        py: Python<'py>,
        out: PathBuf,
        mode: &str,
        files: Option<u32>,
        codec: Option<&str>,
        force: bool,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let params = file_params(self.job.table, FileFormat::Parquet, mode, files, codec)?;
        self.write(py, text_of(out)?, params, force, progress)
    }

    /// The same as CSV; with `columns`, a list is a column for each of its elements.
    #[pyo3(signature = (out, *, columns=false, mode="error", files=None, codec=None, force=false, progress=None))]
    #[expect(clippy::too_many_arguments, reason = "options of the files, by name")]
    fn write_csv<'py>(
        &self,
        py: Python<'py>,
        out: PathBuf,
        columns: bool,
        mode: &str,
        files: Option<u32>,
        codec: Option<&str>,
        force: bool,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let format = parsed(if columns { "csv-columns" } else { "csv" })?;
        let params = file_params(self.job.table, format, mode, files, codec)?;
        self.write(py, text_of(out)?, params, force, progress)
    }

    /// The PCA of the last run, or None.
    #[getter]
    fn model(&self) -> Option<PyPca> {
        lock(&self.last).model.clone().map(|model| PyPca { model })
    }

    /// The numbers of photos that failed in the last stream, or cannot be listed, by cause.
    #[getter]
    fn failed(&self) -> BTreeMap<String, u64> {
        let last = lock(&self.last);
        let mut failed = last.tally.failed_by_cause();
        if last.unnamed > 0 {
            failed.insert("not_utf8".into(), last.unnamed);
        }
        failed
    }

    /// The error that ended the last stream, or None: an `OrbFeaturesError`, of which Arrow's readers raise the text only.
    #[getter]
    fn last_error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        lock(&self.last).error.as_ref().map(|error| error.value(py).clone().unbind().into_any())
    }

    /// The columns of the stream: a `pyarrow.Schema`, or without pyarrow an object that has `__arrow_c_schema__`. For a share of the
    /// variance, the scores are as many as in the last run, and there must have been one.
    #[getter]
    fn schema<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let of_last_run = || self.model().map(|last| last.model.n_components());
        let k = match &self.job.scores {
            Scores::None => None,
            Scores::Model(model) => Some(model.n_components()),
            Scores::Fit(params) => Some(match params.components() {
                Components::Number(k) => k,
                share => of_last_run().ok_or_else(|| {
                    param(
                        "pca",
                        share.to_string(),
                        "a number, or a first run, for the number of columns",
                    )
                })?,
            }),
        };
        let schema = Bound::new(py, PySchema::new(self.job.schema(k)))?.into_any();
        match py.import("pyarrow") {
            Ok(pyarrow) => pyarrow.call_method1("schema", (schema,)),
            Err(_) => Ok(schema),
        }
    }

    /// Lists the images: tuples of URI, size in bytes and ETag, to be given as `listed` to other jobs on the same source.
    fn list_images(&self, py: Python<'_>) -> PyResult<Vec<Listed>> {
        let job = self.job.clone();
        self.begin();
        let (images, unnamed) = interruptible(py, move |stop| job.list(stop))?;
        lock(&self.last).unnamed = unnamed;
        Ok(images.into_iter().map(|image| (image.uri, image.size, image.etag)).collect())
    }

    /// The rows of the images in a batch, as batches, and the numbers of failed images by cause. Spark's tasks call it.
    /// With one thread, it works on the calling thread. `path` and `content` name the columns of names and of images.
    #[pyo3(signature = (batch, path="path", content="content"))]
    fn rows_of(
        &self,
        py: Python<'_>,
        batch: PyRecordBatch,
        path: &str,
        content: &str,
    ) -> PyResult<(Vec<PyRecordBatch>, BTreeMap<String, u64>)> {
        if matches!(self.job.scores, Scores::Fit(_)) {
            return Err(param("pca", "a PCA to fit", "one that is fitted, for batches"));
        }
        let batch = batch.into_inner();
        if batch.num_rows() == 0 {
            return Ok(Default::default());
        }
        let images = Encoded {
            paths: column(&batch, path, |of| {
                matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
            })?,
            contents: column(&batch, content, |of| {
                matches!(of, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
            })?,
            label: self.job.selection.label().clone(),
            next: 0,
        };
        let tally = Tally::default();
        let made: Result<Vec<_>> =
            py.detach(|| self.job.open_images(images, &tally, &Stop::default())?.0.collect());
        let made = made.map_err(Failure)?.into_iter().map(PyRecordBatch::new).collect();
        Ok((made, tally.failed_by_cause()))
    }

    fn __repr__(&self) -> String {
        format!("Extraction({:?})", self.job.source)
    }
}

fn file_params(
    table: TableParams,
    format: FileFormat,
    mode: &str,
    files: Option<u32>,
    codec: Option<&str>,
) -> PyResult<FileParams> {
    let mut params =
        FileParams::default().with_table(table).with_format(format).with_mode(parsed(mode)?);
    if let Some(files) = files {
        params = params.with_files(files);
    }
    if let Some(codec) = codec {
        params = params.with_codec(parsed(codec)?);
    }
    Ok(params)
}

fn text_of(out: PathBuf) -> PyResult<String> {
    let text = out.into_os_string().into_string();
    text.map_err(|out| param("out", out.display().to_string(), "UTF-8"))
}

fn column(batch: &RecordBatch, name: &str, is_due: fn(&DataType) -> bool) -> PyResult<ArrayRef> {
    let found = batch.column_by_name(name).cloned();
    let found = found.ok_or_else(|| param("column", name, "a column of the batch"))?;
    if !is_due(found.data_type()) {
        let of = found.data_type();
        let allowed = "strings for paths, and binary for images";
        return Err(param("column", format!("{name} ({of})"), allowed));
    }
    Ok(found)
}

/// The encoded images of a batch.
struct Encoded {
    paths: ArrayRef,
    contents: ArrayRef,
    label: LabelRule,
    next: usize,
}

impl Iterator for Encoded {
    type Item = Result<ImageObject>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = (self.next < self.paths.len()).then_some(self.next)?;
        self.next += 1;
        // A null is an empty name or an empty image; Arrow may keep a value behind the null.
        let uri = match self.paths.data_type() {
            _ if self.paths.is_null(at) => "",
            DataType::Utf8 => self.paths.as_string::<i32>().value(at),
            DataType::LargeUtf8 => self.paths.as_string::<i64>().value(at),
            _ => self.paths.as_string_view().value(at),
        };
        let bytes = match self.contents.data_type() {
            _ if self.contents.is_null(at) => &[],
            DataType::Binary => self.contents.as_binary::<i32>().value(at),
            DataType::LargeBinary => self.contents.as_binary::<i64>().value(at),
            _ => self.contents.as_binary_view().value(at),
        };
        let image = ImageObject::new(uri, bytes.to_vec());
        Some(Ok(ImageObject { label: self.label.of(uri), ..image }))
    }
}
