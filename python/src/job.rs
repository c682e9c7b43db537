//! What a job does, by the options that Python gives, and its rows as Arrow.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use orb_features::pca::PcaInput;
use orb_features::prelude::*;
use orb_features::stage::MaxFailures;
use pyo3::prelude::*;

use crate::errors::{Failure, param, parsed};
use crate::pca::{PyPca, params};
use crate::run::Stop;

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
    /// Whether a model that was fitted to other features is accepted.
    pub force: bool,
}

#[derive(Clone, Debug)]
pub enum Scores {
    None,
    Fit(PcaParams),
    Model(Box<PcaModel>),
}

impl Job {
    /// The client, if the source or the other place is in S3.
    pub fn connect(&self, other: Option<&str>, stop: &Stop) -> Result<Option<S3>> {
        let is_s3 = S3Location::is_uri(&self.source) || other.is_some_and(S3Location::is_uri);
        let s3 = is_s3.then(|| self.s3.clone().connect()).transpose()?;
        if let Some(s3) = &s3 {
            stop.watch(s3);
        }
        Ok(s3)
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

    /// Lists the images of the source. A file whose name is not UTF-8 is counted, unless the policy is to fail.
    pub fn list(&self, stop: &Stop) -> Result<(Vec<ImageRef>, u64)> {
        let all: Box<dyn Iterator<Item = Result<ImageRef>>> = match self.connect(None, stop)? {
            Some(s3) => Box::new(self.s3_source(&s3)?.list()?),
            None => Box::new(self.fs_source().list()?),
        };
        let (mut images, mut unnamed) = (Vec::new(), 0);
        for image in all {
            match image {
                Err(Error::NotUtf8 { .. }) if self.policy.on_error() != OnError::Fail => {
                    unnamed += 1;
                }
                image => images.push(image?),
            }
            if stop.is_told() {
                return Err(Error::Interrupted);
            }
        }
        Ok((images, unnamed))
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

    /// Opens the job; a fit runs first.
    pub fn open(&self, tally: &Tally, stop: &Stop) -> Result<(Batches, Option<PcaModel>)> {
        self.open_images(self.images(self.connect(None, stop)?.as_ref())?, tally, stop)
    }

    /// The same for images that are given.
    pub fn open_images<T, I>(
        &self,
        images: I,
        tally: &Tally,
        stop: &Stop,
    ) -> Result<(Batches, Option<PcaModel>)>
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
            .stop_at(stop.flag())
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
        // A part may have no good image, but it is an error if none of them can be read.
        let part_of = self.listed.is_some().then(|| (self.source.clone(), tally.clone()));
        Ok((Batches { rows, table: self.table, schema, part_of }, model))
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

/// The rows of a job as Arrow, in batches that have a row.
pub struct Batches {
    rows: Rows,
    table: TableParams,
    schema: SchemaRef,
    /// For a part of a job: its source, and the counts of its images.
    part_of: Option<(String, Tally)>,
}

impl Batches {
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
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
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(batch) = self.rows.next() {
            let arrow = batch.and_then(|batch| {
                self.to_arrow(&batch).map_err(|e| Error::write_to("a batch of rows", e))
            });
            match arrow {
                Ok(arrow) if arrow.num_rows() == 0 => {}
                other => return Some(other),
            }
        }
        let (source, tally) = self.part_of.take()?;
        unreadable(&source, &tally).map(Err)
    }
}

/// The error for a part of a job whose images all failed at the source.
fn unreadable(source: &str, tally: &Tally) -> Option<Error> {
    let (progress, causes) = (tally.progress(), tally.failed_by_cause());
    let first = tally.first_failures();
    let of_source: Vec<_> = first.iter().filter(|image| image.stage == "source").collect();
    let is_of_source = |cause: &String| of_source.iter().any(|image| image.cause == *cause);
    if progress.images == 0 || progress.failed < progress.images || !causes.keys().all(is_of_source)
    {
        return None;
    }
    let (n, first) = (progress.images, &of_source.first()?.message);
    let reason = format!("none of these {n} images can be read; the first: {first}");
    Some(Error::NoInput { uri: source.into(), reason: reason.into() })
}

/// An ORB of parameters by their names, such as `n_features`, as JSON.
pub fn orb_of(params: &str) -> PyResult<Orb> {
    let params: OrbParams =
        serde_json::from_str(params).map_err(|e| param("ORB parameters", params, e.to_string()))?;
    Ok(params.build().map_err(Failure)?)
}

pub fn policy_of(
    on_error: &str,
    max_failures: Option<&Bound<'_, PyAny>>,
    allow_empty: bool,
) -> PyResult<ErrorPolicy> {
    let mut policy = ErrorPolicy::new(parsed(on_error)?).with_allow_empty(allow_empty);
    if let Some(most) = max_failures {
        policy = policy.with_max_failures(parsed::<MaxFailures>(&most.str()?.to_string())?);
    }
    policy.check().map_err(Failure)?;
    Ok(policy)
}

/// No PCA, one to fit, or one that is given. Options that would have no effect are refused.
pub fn scores_of(
    pca: Option<&Bound<'_, PyAny>>,
    solver: Option<&str>,
    seed: Option<u64>,
    centering: Option<&str>,
    input: Option<&str>,
) -> PyResult<Scores> {
    let given = [
        ("solver", solver.map(str::to_owned)),
        ("seed", seed.map(|seed| seed.to_string())),
        ("centering", centering.map(str::to_owned)),
        ("pca_input", input.map(str::to_owned)),
    ];
    let refuse = |some: &[(&'static str, Option<String>)], allowed: &str| {
        let first = some.iter().find_map(|(name, value)| Some((*name, value.as_ref()?)));
        first.map_or(Ok(()), |(name, value)| Err(param(name, value, allowed)))
    };
    let Some(pca) = pca else {
        refuse(&given, "none without pca")?;
        return Ok(Scores::None);
    };
    let input: Option<PcaInput> = input.map(parsed).transpose()?;
    let Ok(model) = pca.cast::<PyPca>() else {
        return Ok(Scores::Fit(params(pca, solver, seed, centering, input.unwrap_or_default())?));
    };
    refuse(&given[..2], "none for a Pca, which is fitted")?;
    let model = model.get().model.clone();
    if let Some(input) = input.filter(|input| *input != model.input()) {
        let allowed = format!("{}, as the Pca that is given", model.input());
        return Err(param("pca_input", input.as_str(), allowed));
    }
    let centering = centering.map(parsed).transpose()?.unwrap_or(model.centering());
    Ok(Scores::Model(Box::new(model.with_centering(centering))))
}

/// The names of storage options, without the prefix `aws_` that they may have.
pub const STORAGE_OPTIONS: [&str; 8] = [
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
