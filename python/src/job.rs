//! What a job does, by the options that Python gives, and its rows as Arrow.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::{ArrayRef, RecordBatch, RecordBatchReader, StringArray, new_null_array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use orb_features::pca::PcaInput;
use orb_features::prelude::*;
use orb_features::stage::MaxFailures;
use pyo3::prelude::*;

use crate::errors::{Failure, param};
use crate::pca::{PyPca, params};

/// The images of a job.
type Images = Box<dyn Iterator<Item = Result<ListedImage>> + Send>;
/// The rows of a job.
type Rows = Box<dyn Iterator<Item = Result<RowBatch>> + Send>;

/// What a job does, before it is run.
#[derive(Clone, Debug)]
pub struct Job {
    pub source: String,
    /// A file of keys, taken instead of listing the bucket.
    pub listing: Option<PathBuf>,
    /// Objects that are fetched at a time.
    pub requests_in_flight: Option<usize>,
    /// Images of the source that are taken instead of listing it.
    pub listed: Option<Vec<ImageRef>>,
    pub orb: Orb,
    pub decode: DecodeParams,
    pub selection: Selection,
    pub policy: ErrorPolicy,
    pub table: TableParams,
    pub scores: Scores,
    pub threads: Option<usize>,
    pub s3: S3Params,
}

#[derive(Clone, Debug)]
pub enum Scores {
    None,
    Fit(PcaParams),
    Model(Box<PcaModel>),
}

impl Job {
    /// The client, if the source or the other place is in S3.
    pub fn connect(&self, other: Option<&str>) -> Result<Option<S3>> {
        let is_s3 = S3Location::is_uri(&self.source) || other.is_some_and(S3Location::is_uri);
        is_s3.then(|| self.s3.clone().connect()).transpose()
    }

    pub fn parallelism(&self) -> Result<Parallelism> {
        self.threads.map_or_else(|| Ok(Parallelism::default()), Parallelism::new)
    }

    pub fn images(&self, s3: Option<&S3>) -> Result<Images> {
        match s3.filter(|_| S3Location::is_uri(&self.source)) {
            Some(s3) => {
                let source = self.s3_source(s3)?;
                Ok(Box::new(source.open()?.map(|image| image.map(Into::into))))
            }
            None => Ok(Box::new(self.fs_source().open()?)),
        }
    }

    /// Lists the images of the source.
    pub fn list(&self) -> Result<Vec<ImageRef>> {
        match self.connect(None)? {
            Some(s3) => self.s3_source(&s3)?.list()?.collect(),
            None => self.fs_source().list()?.collect(),
        }
    }

    fn s3_source(&self, s3: &S3) -> Result<S3Source> {
        let mut source =
            S3Source::new(s3, self.source.as_str())?.with_selection(self.selection.clone());
        if let Some(requests) = self.requests_in_flight {
            source = source.with_requests_in_flight(requests);
        }
        Ok(match (&self.listed, &self.listing) {
            (Some(listed), _) => source.with_listed(listed.clone()),
            (None, Some(file)) => source.with_listing(file),
            (None, None) => source,
        })
    }

    fn fs_source(&self) -> FsSource {
        let source = FsSource::new(&self.source).with_selection(self.selection.clone());
        match &self.listed {
            Some(listed) => source.with_listed(listed.clone()),
            None => source,
        }
    }

    /// Opens the job as a stream; a fit runs first.
    pub fn open(&self, stop: &Arc<AtomicBool>) -> Result<(Stream, Option<PcaModel>)> {
        self.open_images(self.images(self.connect(None)?.as_ref())?, &Tally::default(), stop)
    }

    /// The same for images that are given.
    pub fn open_images<T, I>(
        &self,
        images: I,
        tally: &Tally,
        stop: &Arc<AtomicBool>,
    ) -> Result<(Stream, Option<PcaModel>)>
    where
        I: Iterator<Item = Result<T>> + Send + 'static,
        T: Into<ListedImage> + Send + 'static,
    {
        let parallelism = self.parallelism()?;
        let rows = images
            .features(&self.orb)
            .with_decode(self.decode.clone())
            .with_parallelism(parallelism.clone())
            .with_tally(tally)
            .stop_at(stop)
            .on_error(self.policy, tally)
            .explode()
            .with_whole_images(self.table.rows().is_of_images())
            .with_format(self.orb.output());
        let (rows, model): (Rows, _) = match &self.scores {
            Scores::None => (Box::new(rows), None),
            Scores::Model(model) => {
                let rows = rows.project(model).with_parallelism(parallelism);
                (Box::new(rows), Some(model.as_ref().clone()))
            }
            Scores::Fit(params) => {
                let (model, rows) = rows.fit_pca(params, &Spool::default())?;
                let model = model.with_origin(Origin::new(&self.orb, &self.decode));
                (Box::new(rows.project(&model).with_parallelism(parallelism)), Some(model))
            }
        };
        let schema = self.schema(model.as_ref().map(PcaModel::n_components));
        Ok((Stream { rows, table: self.table, schema, stop: Arc::clone(stop) }, model))
    }

    /// The columns of the stream: those of the rows, and for the policy `record` two more, with which an image that failed is
    /// a row. All others but path and label are null there.
    pub fn schema(&self, n_components: Option<usize>) -> SchemaRef {
        let schema = self.table.schema(self.orb.output(), n_components);
        if self.policy.on_error() != OnError::Record {
            return schema;
        }
        let columns =
            schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let errors = ["error_code", "error"].map(|name| Field::new(name, DataType::Utf8, true));
        Arc::new(Schema::new(columns.chain(errors).collect::<Vec<_>>()))
    }
}

/// The rows of a job as Arrow.
pub struct Stream {
    rows: Rows,
    table: TableParams,
    schema: SchemaRef,
    stop: Arc<AtomicBool>,
}

impl Stream {
    /// The next batch that has a row.
    fn advance(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(batch) = self.rows.next() {
            let arrow =
                self.to_arrow(&batch?).map_err(|e| Error::write_to("a batch of rows", e))?;
            if arrow.num_rows() > 0 {
                return Ok(Some(arrow));
            }
        }
        Ok(None)
    }

    /// The rows, and then the images that failed.
    fn to_arrow(&self, batch: &RowBatch) -> Result<RecordBatch, ArrowError> {
        let rows = batch.to_record_batch(&self.table)?;
        if rows.num_columns() == self.schema.fields().len() {
            return Ok(rows);
        }
        let n = rows.num_rows();
        let mut columns = rows.columns().to_vec();
        columns.extend([(); 2].map(|()| new_null_array(&DataType::Utf8, n)));
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let failed = batch.failed();
        if failed.is_empty() {
            return Ok(rows);
        }
        let texts = |of: fn(&FailedImage) -> Option<&str>| -> ArrayRef {
            Arc::new(failed.iter().map(of).collect::<StringArray>())
        };
        let columns = self.schema.fields().iter().map(|field| match field.name().as_str() {
            "path" => texts(|image| image.uri.as_deref()),
            "label" => texts(|image| image.label.as_deref()),
            "error_code" => texts(|image| Some(&image.cause)),
            "error" => texts(|image| Some(&image.message)),
            _ => new_null_array(field.data_type(), failed.len()),
        });
        let failed = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect())?;
        arrow_select::concat::concat_batches(&self.schema, [&rows, &failed])
    }

    /// All batches that have a row.
    pub fn all(mut self) -> Result<Vec<RecordBatch>> {
        std::iter::from_fn(|| self.advance().transpose()).collect()
    }
}

impl Iterator for Stream {
    type Item = Result<RecordBatch, ArrowError>;

    /// Whoever reads the stream holds no lock of Python, and sees Ctrl-C only at its end: looked for at every batch.
    fn next(&mut self) -> Option<Self::Item> {
        if Python::attach(|py| py.check_signals().is_err()) {
            self.stop.store(true, Ordering::Relaxed);
            // Raised once the reader is back in Python; an error of Arrow cannot carry it.
            Python::attach(|py| {
                let raised = py.import("_thread").and_then(|of| of.call_method0("interrupt_main"));
                raised.map_or_else(|error| error.write_unraisable(py, None), drop);
            });
            return Some(Err(ArrowError::ExternalError("interrupted".into())));
        }
        let failed = |error: Error| ArrowError::ExternalError(error.to_line().into());
        self.advance().map_err(failed).transpose()
    }
}

impl RecordBatchReader for Stream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// An ORB of parameters by their names, such as `n_features`, as JSON.
pub fn orb_of(params: &str) -> PyResult<Orb> {
    let params: OrbParams =
        serde_json::from_str(params).map_err(|e| param("ORB parameters", params, e.to_string()))?;
    Ok(params.build().map_err(Failure)?)
}

pub fn parsed<T: std::str::FromStr<Err = Error>>(text: &str) -> PyResult<T> {
    Ok(text.parse().map_err(Failure)?)
}

pub fn policy_of(
    on_error: &str,
    max_failures: Option<&str>,
    allow_empty: bool,
) -> PyResult<ErrorPolicy> {
    let mut policy = ErrorPolicy::new(parsed(on_error)?).with_allow_empty(allow_empty);
    if let Some(most) = max_failures {
        policy = policy.with_max_failures(parsed::<MaxFailures>(most)?);
    }
    policy.check().map_err(Failure)?;
    Ok(policy)
}

/// No PCA, one to fit, or one that is given.
pub fn scores_of(
    pca: Option<&Bound<'_, PyAny>>,
    solver: &str,
    seed: Option<u64>,
    centering: &str,
    input: PcaInput,
) -> PyResult<Scores> {
    let Some(pca) = pca else { return Ok(Scores::None) };
    if let Ok(model) = pca.cast::<PyPca>() {
        return Ok(Scores::Model(Box::new(model.get().model.clone())));
    }
    Ok(Scores::Fit(params(pca, solver, seed, centering, input)?))
}

/// The names of storage options, without the prefix `aws_` that they may have.
const STORAGE_OPTIONS: [&str; 8] = [
    "region",
    "endpoint_url",
    "addressing",
    "profile",
    "anonymous",
    "access_key_id",
    "secret_access_key",
    "session_token",
];

/// How to reach S3. What is not said comes from the chain of the machine that runs the job.
pub fn s3_of(options: Option<HashMap<String, String>>) -> PyResult<S3Params> {
    let mut given = HashMap::new();
    for (name, value) in options.unwrap_or_default() {
        let short = name.strip_prefix("aws_").unwrap_or(&name);
        let Some(known) = STORAGE_OPTIONS.iter().find(|&&known| known == short) else {
            let known = STORAGE_OPTIONS.join(", ");
            return Err(param("storage_options", name, format!("one of {known}")));
        };
        given.insert(*known, value);
    }
    let mut s3 = S3Params::default();
    if let Some(region) = given.remove("region") {
        s3 = s3.with_region(region);
    }
    if let Some(url) = given.remove("endpoint_url") {
        s3 = s3.with_endpoint_url(url);
    }
    if let Some(addressing) = given.remove("addressing") {
        s3 = s3.with_addressing(parsed(&addressing)?);
    }
    if let Some(profile) = given.remove("profile") {
        s3 = s3.with_profile(profile);
    }
    match given.remove("anonymous").as_deref() {
        None | Some("false") => {}
        Some("true") => s3 = s3.with_anonymous(true),
        Some(other) => return Err(param("anonymous", other, "true or false")),
    }
    match (
        given.remove("access_key_id"),
        given.remove("secret_access_key"),
        given.remove("session_token"),
    ) {
        (Some(id), Some(secret), token) => s3 = s3.with_credentials(id, secret, token),
        (None, None, None) => {}
        _ => {
            let allowed = "access_key_id and secret_access_key together";
            return Err(param("storage_options", "half a key", allowed));
        }
    }
    s3.check().map_err(Failure)?;
    Ok(s3)
}
