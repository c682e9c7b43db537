//! The PCA of a column of vectors.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Field, Fields, Schema};
use serde::{Deserialize, Serialize};

use super::TableSource;
use super::files::{FileBatch, TableBatches, missing, until_error};
use super::vectors::read_vectors;
use crate::error::{Error, Result};
use crate::features::{Vectors, VectorsView};
use crate::pca::{self, FirstPass, PcaModel, PcaParams};
use crate::pipeline::ModelSummary;
use crate::rows::{TableParams, scores_column};
use crate::sink::{RecordSink, SinkReport};
use crate::stage::{Parallelism, StageExt as _};

/// Default of [`TablePca::with_output_column`].
pub const DEFAULT_OUTPUT_COLUMN: &str = "pca";

/// Fits a PCA to a column of vectors of a table, and writes the table with the scores as one more column.
///
/// The column holds bytes of a fixed length, lists of numbers, Spark's vectors, dense or sparse, or, in CSV, texts such
/// as `[0.5, 1]`. Numbers are taken as float32. The table is read twice; vectors of more than 4,096 elements up to
/// twelve times.
///
/// # Examples
/// ```no_run
/// use orb_features::prelude::*;
/// use orb_features::table::{TablePca, TableSource};
///
/// let table = TableSource::in_folder("embeddings");
/// let sink = RecordSink::create("reduced", FileParams::default())?;
/// let report = TablePca::new(table, "features").with_pca(PcaParams::new(200)).run(sink)?;
/// println!("{report}");
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it does nothing until it is run"]
pub struct TablePca {
    table: TableSource,
    column: String,
    output_column: String,
    scores: Scores,
    parallelism: Option<Parallelism>,
    stop: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
enum Scores {
    Fit(PcaParams),
    Model(Box<PcaModel>),
}

/// The report of a [`TablePca`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TableReport {
    /// The version of this crate.
    pub version: String,
    /// Rows of the table.
    pub rows: u64,
    /// Elements of a vector.
    pub vector_len: usize,
    /// The sink's numbers.
    pub sink: SinkReport,
    /// Threads asked for.
    pub threads: usize,
    /// Wall-clock time in seconds.
    pub seconds: f64,
    /// Seconds of it until the PCA was fitted, with the reading that it needs.
    pub fit_seconds: f64,
    /// Summary of the PCA.
    pub model: ModelSummary,
    /// The PCA itself; not part of the report's JSON.
    #[serde(skip)]
    pub pca_model: Option<PcaModel>,
}

impl fmt::Display for TableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ModelSummary { n_components, explained_variance_ratio_sum, solver, .. } = &self.model;
        let share = 100.0 * explained_variance_ratio_sum;
        let SinkReport { files, bytes, path, .. } = &self.sink;
        let to = path.as_deref().unwrap_or("nowhere");
        writeln!(f, "rows        {} of {} elements", self.rows, self.vector_len)?;
        writeln!(f, "components  {n_components}, {share:.2} % of the variance ({solver})")?;
        writeln!(f, "files       {files}, {bytes} bytes in {to}")?;
        write!(
            f,
            "time        {:.2} s on {} threads, of which the fit {:.2}",
            self.seconds, self.threads, self.fit_seconds
        )
    }
}

impl TablePca {
    /// Takes a column of a table; the PCA has 20 components unless told otherwise.
    pub fn new(table: TableSource, column: impl Into<String>) -> Self {
        Self {
            table,
            column: column.into(),
            output_column: DEFAULT_OUTPUT_COLUMN.to_owned(),
            scores: Scores::Fit(PcaParams::default()),
            parallelism: None,
            stop: Arc::default(),
        }
    }

    /// Sets the name of the new column (default [`DEFAULT_OUTPUT_COLUMN`]).
    pub fn with_output_column(mut self, name: impl Into<String>) -> Self {
        self.output_column = name.into();
        self
    }

    /// Sets the PCA that is fitted.
    pub fn with_pca(mut self, pca: PcaParams) -> Self {
        self.scores = Scores::Fit(pca);
        self
    }

    /// Projects onto a model that is already fitted: the table is read once.
    pub fn with_model(mut self, model: PcaModel) -> Self {
        self.scores = Scores::Model(Box::new(model));
        self
    }

    /// Sets the number of threads (default: one for each core); the result does not depend on it.
    pub fn with_parallelism(mut self, parallelism: Parallelism) -> Self {
        self.parallelism = Some(parallelism);
        self
    }

    /// Ends with [`Error::Interrupted`] after the flag is set; nothing is written.
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`Error::Table`] for a file that is no table, lacks the column or has another value in it than a vector, naming
    /// the file and the row, or has other columns than the first; [`Error::NoInput`] if there is no file; the errors of
    /// [`Moments::fit`](crate::pca::Moments::fit), and of the sink.
    /// Nothing is written then.
    pub fn run(self, mut sink: RecordSink) -> Result<TableReport> {
        let start = Instant::now();
        let parallelism = self.parallelism.clone().unwrap_or_default();
        sink.set_parallelism(parallelism.clone());
        sink.set_stop(Arc::clone(&self.stop));
        sink.begin()?;
        let (model, rows) = match &self.scores {
            Scores::Fit(params) => self.fit(params)?,
            Scores::Model(model) if sink.needs_number_of_rows() => {
                let mut rows = 0;
                self.scan(false)?.try_for_each(|batch| {
                    rows += batch?.1.rows() as u64;
                    Ok::<_, Error>(())
                })?;
                (model.as_ref().clone(), rows)
            }
            Scores::Model(model) => (model.as_ref().clone(), 0),
        };
        let fit_seconds = start.elapsed().as_secs_f64();
        let note = serde_json::to_string(&model)
            .map_err(|e| Error::Model { uri: "fitted".into(), reason: e.to_string().into() })?;
        sink.annotate("pca", &note);
        sink.annotate("column", &self.column);
        sink.expect(rows);
        let (mut rows, mut vector_len) = (0, 0);
        let scored = self.scan(true)?.par_map(
            parallelism.clone().with_window(2 * parallelism.threads()),
            || (),
            {
                let (model, table) = (model.clone(), sink.table());
                let name = self.output_column.clone();
                move |(), batch: Result<Scanned>| {
                    let (batch, vectors, uri) = batch?;
                    let scores = model.project_vectors(vectors.view());
                    let scores = scores.map_err(|e| Error::table(&*uri, e.to_line()))?;
                    let scored = with_scores(&batch, &scores, &name, &table);
                    let scored = scored.map_err(|e| Error::table(&*uri, e))?;
                    Ok::<_, Error>((scored, vectors.format().len()))
                }
            },
        );
        for batch in scored {
            let (batch, len) = batch?;
            rows += batch.num_rows() as u64;
            vector_len = len;
            sink.write(batch)?;
        }
        Ok(TableReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rows,
            vector_len,
            sink: sink.finish()?,
            threads: parallelism.threads(),
            seconds: start.elapsed().as_secs_f64(),
            fit_seconds,
            model: ModelSummary::from(&model),
            pca_model: Some(model),
        })
    }

    /// Fits the model, and counts the rows.
    fn fit(&self, params: &PcaParams) -> Result<(PcaModel, u64)> {
        let (mut sums, mut rows) = (FirstPass::new(params.input()), 0);
        for batch in self.scan(false)? {
            let (_, vectors, _) = batch?;
            if rows == 0 {
                params.check_for(vectors.format())?;
            }
            rows += vectors.rows() as u64;
            sums.push(vectors.view())?;
        }
        let again = &mut |work: &mut dyn FnMut(VectorsView<'_>) -> Result<()>| {
            self.scan(false)?.try_for_each(|batch| work(batch?.1.view()))
        };
        let model = pca::fit(sums.moments.as_ref(), sums.totals.as_ref(), params, again)?;
        Ok((model, rows))
    }

    /// Reads the table in batches of all columns, or of only the column of vectors, each with its vectors.
    fn scan(
        &self,
        all_columns: bool,
    ) -> Result<impl Iterator<Item = Result<Scanned>> + Send + use<>> {
        let (column, output) = (self.column.clone(), self.output_column.clone());
        // The first file's name and columns.
        let mut first: Option<(Arc<str>, Fields)> = None;
        let batches = self.table.batches(move |uri, schema| {
            let index = schema.index_of(&column).map_err(|_| missing(&column, schema))?;
            if schema.index_of(&output).is_ok() {
                let why = "already: name the scores otherwise";
                return Err(format!("it has a column {output:?} {why}"));
            }
            let (first, fields) =
                first.get_or_insert_with(|| (Arc::clone(uri), schema.fields().clone()));
            if fields != schema.fields() {
                return Err(format!("its columns differ from those of {first}"));
            }
            Ok(if all_columns { (0..schema.fields().len()).collect() } else { vec![index] })
        })?;
        let (column, stop) = (self.column.clone(), Arc::clone(&self.stop));
        let mut scan = Scan { batches, rest: None, column, len: None, stop };
        Ok(until_error(move || scan.step()))
    }
}

/// Adds the column of scores.
fn with_scores(
    batch: &RecordBatch,
    scores: &ndarray::Array2<f64>,
    name: &str,
    table: &TableParams,
) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let scores = scores_column(scores, table)?;
    let field = Field::new(name, scores.data_type().clone(), false);
    let fields = schema.fields().iter().cloned().chain([Arc::new(field)]);
    let columns = batch.columns().iter().cloned().chain([scores]);
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns.collect())
}

/// The batches of a table.
struct Scan {
    batches: TableBatches,
    /// The rest of the batch in progress.
    rest: Option<FileBatch>,
    column: String,
    /// The length of a vector, once it is known.
    len: Option<usize>,
    stop: Arc<AtomicBool>,
}

/// Rows, their vectors, and their file.
type Scanned = (RecordBatch, Vectors, Arc<str>);

/// Most bytes of vectors in memory at a time: a sparse vector becomes dense, which may take far more memory.
const VECTOR_BYTES: usize = 4 << 20;

impl Scan {
    fn step(&mut self) -> Result<Option<Scanned>> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let Some(batch) = self.rest.take().filter(|batch| batch.rows.num_rows() > 0) else {
                let Some(batch) = self.batches.next() else { return Ok(None) };
                self.rest = Some(batch?);
                continue;
            };
            let FileBatch { uri, first, rows, .. } = batch;
            let failed = |why: String| Error::table(&*uri, why);
            // The first batch has one row, to learn the length of a vector.
            let n = self.len.map_or(1, |len| (VECTOR_BYTES / (4 * len.max(1))).max(1));
            let n = n.min(rows.num_rows());
            let some = rows.slice(0, n);
            let column = some.column_by_name(&self.column);
            let column = column.ok_or_else(|| failed(missing(&self.column, &some.schema())))?;
            let vectors = read_vectors(column, self.len, first)
                .map_err(|why| failed(format!("column {:?}: {why}", self.column)))?;
            self.len = Some(vectors.format().len());
            let rest = rows.slice(n, rows.num_rows() - n);
            let (uri, first) = (Arc::clone(&uri), first + n);
            self.rest = Some(FileBatch { uri: Arc::clone(&uri), first, retries: 0, rows: rest });
            return Ok(Some((some, vectors, uri)));
        }
    }
}
