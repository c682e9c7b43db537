//! A fitted PCA.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Centering, Origin, PcaInput, Solver, TASK_ROWS, bits_of, solve};
use crate::arch::{Float, Kernels, Loadings};
use crate::error::{Error, Result};
use crate::features::{Element, VectorFormat, VectorsView};

/// The number of rows converted to floats at a time: few enough for the L1 cache.
const BLOCK_ROWS: usize = 64;

/// A number type for scores: `f32` or `f64`.
#[allow(private_bounds)] // Sealed: there is a kernel for each.
pub trait Score: Float {}

impl Score for f32 {}
impl Score for f64 {}

/// A fitted PCA: projects rows onto its components.
///
/// Saved and loaded as JSON, without loss of a bit. A model that a pipeline has fitted holds the [`Origin`] of its
/// descriptors. A model fitted from [`Moments`](super::Moments) holds an origin only if it is
/// [given](Self::with_origin). Without an origin it accepts any descriptors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "File", into = "File")]
pub struct PcaModel {
    pub(super) element: Element,
    pub(super) input: PcaInput,
    pub(super) n_rows: u64,
    pub(super) rank: usize,
    pub(super) solver: Solver,
    pub(super) iterations: usize,
    pub(super) centering: Centering,
    pub(super) total_variance: f64,
    pub(super) explained_variance: Array1<f64>,
    pub(super) explained_variance_ratio: Array1<f64>,
    pub(super) singular_values: Array1<f64>,
    pub(super) mean: Array1<f64>,
    pub(super) components: Array2<f64>,
    pub(super) origin: Option<Origin>,
}

impl PcaModel {
    /// The number of components, k.
    #[must_use]
    pub fn n_components(&self) -> usize {
        self.components.nrows()
    }

    /// The number of elements of a row, d.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.components.ncols()
    }

    /// The type of the elements of the rows of the fit.
    #[must_use]
    pub fn element(&self) -> Element {
        self.element
    }

    /// What of a vector it was fitted to.
    #[must_use]
    pub fn input(&self) -> PcaInput {
        self.input
    }

    /// The number of rows of the fit.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    /// The number of components with variance above rounding noise; those after these are arbitrary directions.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The solver that was used, `Auto` resolved.
    #[must_use]
    pub fn solver(&self) -> Solver {
        self.solver
    }

    /// The smallest number of components that together explain this share of the variance; `None` if all do not.
    #[must_use]
    pub fn reaching(&self, share: f64) -> Option<usize> {
        let mut sum = 0.0;
        // A share that is reached but for rounding is reached.
        let reached = self.explained_variance_ratio.iter().position(|ratio| {
            sum += ratio;
            sum >= share - 1e-12
        });
        reached.map(|at| at + 1)
    }

    /// Keeps the first `k` components.
    pub(super) fn truncate(&mut self, k: usize) {
        self.rank = self.rank.min(k);
        for values in [
            &mut self.explained_variance,
            &mut self.explained_variance_ratio,
            &mut self.singular_values,
        ] {
            *values = values.view().split_at(Axis(0), k).0.to_owned();
        }
        self.components = self.components.view().split_at(Axis(0), k).0.to_owned();
    }

    /// How many power iterations the randomized solver took.
    #[must_use]
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    /// Whether the projection subtracts the mean.
    #[must_use]
    pub fn centering(&self) -> Centering {
        self.centering
    }

    /// The same model with another treatment of the mean.
    #[must_use]
    pub fn with_centering(mut self, centering: Centering) -> Self {
        self.centering = centering;
        self
    }

    /// The extractor and the decoder that made the descriptors of the fit, where they are known.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The same model with a note of the extractor and the decoder that made the descriptors of the fit.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Refuses descriptors whose origin differs from that of the fit. A model without an origin accepts any
    /// descriptors.
    ///
    /// # Errors
    /// [`Error::Model`], naming each parameter that differs, and its two values.
    pub fn check_origin(&self, job: &Origin) -> Result<()> {
        let differences = self.origin.as_ref().map_or_else(Vec::new, |fit| fit.differences(job));
        if differences.is_empty() {
            return Ok(());
        }
        let differences = differences
            .iter()
            .map(|d| format!("{}: the model {}, this job {}", d.name, d.first, d.second));
        let differences = differences.collect::<Vec<_>>().join("; ");
        Err(Error::Model {
            uri: "given".into(),
            reason: format!("it was fitted on other features: {differences}").into(),
        })
    }

    /// The mean row: d elements.
    #[must_use]
    pub fn mean(&self) -> &Array1<f64> {
        &self.mean
    }

    /// The components: shape (k, d), one unit vector a row, by descending variance.
    #[must_use]
    pub fn components(&self) -> &Array2<f64> {
        &self.components
    }

    /// The variance along each component, over n - 1: k elements.
    #[must_use]
    pub fn explained_variance(&self) -> &Array1<f64> {
        &self.explained_variance
    }

    /// The explained variances as fractions of the total variance: k elements.
    #[must_use]
    pub fn explained_variance_ratio(&self) -> &Array1<f64> {
        &self.explained_variance_ratio
    }

    /// The singular values of the centred rows: k elements.
    #[must_use]
    pub fn singular_values(&self) -> &Array1<f64> {
        &self.singular_values
    }

    /// The variance of all d elements together.
    #[must_use]
    pub fn total_variance(&self) -> f64 {
        self.total_variance
    }

    /// Refuses vectors whose format differs from that of the fit.
    ///
    /// # Errors
    /// [`Error::Model`], naming both lengths or both element types.
    pub fn check_format(&self, format: VectorFormat) -> Result<()> {
        self.check(self.input.dimensions(format.len()))?;
        if format.element() == self.element {
            return Ok(());
        }
        let reason = format!("it is for elements of {}, not of {}", self.element, format.element());
        Err(Error::Model { uri: "given".into(), reason: reason.into() })
    }

    /// Refuses rows whose length differs from that of the fit.
    fn check(&self, dimensions: usize) -> Result<()> {
        let d = self.dimensions();
        if dimensions == d {
            return Ok(());
        }
        Err(Error::Model {
            uri: "given".into(),
            reason: format!("it is for rows of {d} elements, not of {dimensions}").into(),
        })
    }

    /// Projects rows of shape (n, d) to scores of shape (n, k). A model of [bits](PcaInput::Bits) takes them as numbers 0
    /// and 1 here; [`project_vectors`](Self::project_vectors) takes the bytes.
    ///
    /// Each score is summed in the order of the elements, so it depends on its row alone. Many rows
    /// are shared out to the threads of rayon's current pool.
    ///
    /// # Errors
    /// [`Error::Model`] for rows of another length.
    pub fn project<T>(&self, rows: ArrayView2<'_, T>) -> Result<Array2<f64>>
    where
        T: Copy + Into<f64> + Sync,
    {
        let mut scores = Array2::zeros((rows.nrows(), self.n_components()));
        self.project_into(rows, scores.view_mut())?;
        Ok(scores)
    }

    /// Projects vectors of the format of the fit to scores of shape (n, k).
    ///
    /// # Errors
    /// [`Error::Model`] for vectors of another format.
    pub fn project_vectors(&self, vectors: VectorsView<'_>) -> Result<Array2<f64>> {
        match vectors {
            VectorsView::U8(rows) => {
                self.check_format(VectorFormat::u8(rows.ncols()))?;
                match self.input {
                    PcaInput::Bytes => self.project(rows),
                    PcaInput::Bits => self.project(bits_of(rows).view()),
                }
            }
            VectorsView::F32(rows) => {
                self.check_format(VectorFormat::f32(rows.ncols()))?;
                self.project(rows)
            }
        }
    }

    /// [`project`](Self::project) into an existing array of shape (n, k). For many rows, allocating a new array takes
    /// as long as the projection.
    ///
    /// Scores of 32 bits are summed in 32 bits, in half the time: their rounding error is up to some millionths of the
    /// magnitudes that are summed.
    ///
    /// # Errors
    /// [`Error::Model`] for rows of another length, [`Error::Shape`] for scores of another shape or not contiguous.
    pub fn project_into<T, S>(
        &self,
        rows: ArrayView2<'_, T>,
        mut scores: ArrayViewMut2<'_, S>,
    ) -> Result<()>
    where
        T: Copy + Into<S> + Sync,
        S: Score,
    {
        self.check(rows.ncols())?;
        let shape = (rows.nrows(), self.n_components());
        if scores.dim() != shape || scores.as_slice().is_none() {
            let got = scores.dim();
            return Err(Error::shape(format!(
                "scores {got:?} where {shape:?} in one piece are due"
            )));
        }
        let start = |component: ArrayView1<'_, f64>| match self.centering {
            Centering::Mean => -component.iter().zip(&self.mean).map(|(c, m)| c * m).sum::<f64>(),
            Centering::None => 0.0,
        };
        let components: Vec<_> =
            self.components.rows().into_iter().map(|c| (start(c), c.to_vec())).collect();
        let loadings = Loadings::<S>::new(rows.ncols(), &components);
        let project = S::project(&Kernels::current());
        let work = |(rows, mut scores): (ArrayView2<'_, T>, ArrayViewMut2<'_, S>)| {
            let mut floats = Vec::with_capacity(BLOCK_ROWS * rows.ncols());
            let blocks = rows.axis_chunks_iter(Axis(0), BLOCK_ROWS);
            for (rows, mut scores) in blocks.zip(scores.axis_chunks_iter_mut(Axis(0), BLOCK_ROWS)) {
                floats.clear();
                match rows.as_slice() {
                    Some(values) => floats.extend(values.iter().map(|&v| v.into())),
                    None => floats.extend(rows.iter().map(|&v| v.into())),
                }
                let scores = scores.as_slice_mut().expect("whole rows of an array in one piece");
                project(&floats, &loadings, scores);
            }
        };
        if rows.nrows() < 2 * TASK_ROWS {
            work((rows, scores));
        } else {
            let tasks: Vec<_> = rows
                .axis_chunks_iter(Axis(0), TASK_ROWS)
                .zip(scores.axis_chunks_iter_mut(Axis(0), TASK_ROWS))
                .collect();
            tasks.into_par_iter().for_each(work);
        }
        Ok(())
    }

    /// Writes the model to a file, whole or not at all. A target that is not a regular file, such as a pipe, is
    /// written directly.
    ///
    /// # Errors
    /// [`Error::Write`], naming the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let write = || -> std::io::Result<()> {
            let mut json = serde_json::to_vec_pretty(self)?;
            json.push(b'\n');
            // The kernel resolves the path first, as it may refuse a link that was planted here.
            match std::fs::metadata(path) {
                Ok(found) if !found.is_file() => return std::fs::write(path, json),
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            // Replaces the file that a link points to, not the link.
            let target = path.canonicalize().or_else(|_| std::path::absolute(path))?;
            let mut builder = tempfile::Builder::new();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                // The mode of any new file; the umask still applies.
                builder.permissions(std::fs::Permissions::from_mode(0o666));
            }
            let mut file = builder.prefix(".").tempfile_in(target.parent().unwrap_or(&target))?;
            file.write_all(&json)?;
            file.as_file().sync_all()?;
            file.persist(&target)?;
            Ok(())
        };
        write().map_err(|e| Error::write(path, e))
    }

    /// Reads a model that [`PcaModel::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Read`] if there is no file to read, [`Error::Model`] if it holds no model.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|e| Error::read(name.as_str(), e))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::Model { uri: name.into(), reason: e.to_string().into() })
    }
}

/// The model as it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    #[serde(default = "bytes", skip_serializing_if = "is_bytes")]
    element: Element,
    #[serde(default, rename = "pca_input", skip_serializing_if = "is_default")]
    input: PcaInput,
    n_rows: u64,
    rank: usize,
    solver: Solver,
    iterations: usize,
    centering: Centering,
    total_variance: f64,
    explained_variance: Vec<f64>,
    explained_variance_ratio: Vec<f64>,
    singular_values: Vec<f64>,
    mean: Vec<f64>,
    components: Vec<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

/// The element type of a model file that does not name one.
fn bytes() -> Element {
    Element::U8
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_bytes(element: &Element) -> bool {
    *element == Element::U8
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_default(input: &PcaInput) -> bool {
    *input == PcaInput::default()
}

/// Value of [`File::format`].
const FORMAT: &str = "orb-features pca 1";

impl From<PcaModel> for File {
    fn from(model: PcaModel) -> Self {
        Self {
            format: FORMAT.to_owned(),
            element: model.element,
            input: model.input,
            n_rows: model.n_rows,
            rank: model.rank,
            solver: model.solver,
            iterations: model.iterations,
            centering: model.centering,
            total_variance: model.total_variance,
            explained_variance: model.explained_variance.to_vec(),
            explained_variance_ratio: model.explained_variance_ratio.to_vec(),
            singular_values: model.singular_values.to_vec(),
            mean: model.mean.to_vec(),
            components: model.components.rows().into_iter().map(|r| r.to_vec()).collect(),
            origin: model.origin,
        }
    }
}

impl TryFrom<File> for PcaModel {
    type Error = String;

    fn try_from(file: File) -> Result<Self, String> {
        if file.format != FORMAT {
            return Err(format!("its format is {:?}, not {FORMAT:?}", file.format));
        }
        let (k, d) = (file.components.len(), file.mean.len());
        let lengths =
            [&file.explained_variance, &file.explained_variance_ratio, &file.singular_values];
        if k == 0 || k > d || lengths.iter().any(|v| v.len() != k) {
            return Err(format!("its lengths do not fit {k} components of {d} elements"));
        }
        if let Some(row) = file.components.iter().find(|row| row.len() != d) {
            return Err(format!("a component has {} elements, the mean {d}", row.len()));
        }
        let model = Self {
            element: file.element,
            input: file.input,
            n_rows: file.n_rows,
            rank: file.rank,
            solver: file.solver,
            iterations: file.iterations,
            centering: file.centering,
            total_variance: file.total_variance,
            explained_variance: file.explained_variance.into(),
            explained_variance_ratio: file.explained_variance_ratio.into(),
            singular_values: file.singular_values.into(),
            mean: file.mean.into(),
            components: Array2::from_shape_vec((k, d), file.components.concat())
                .map_err(|e| e.to_string())?,
            origin: file.origin,
        };
        model.check_numbers()?;
        Ok(model)
    }
}

/// The tolerance of the consistency checks between a model's numbers.
const TOLERANCE: f64 = 1e-6;

impl PcaModel {
    /// Looks for numbers that no fit can give.
    fn check_numbers(&self) -> Result<(), String> {
        let (k, d, n) = (self.n_components(), self.dimensions(), self.n_rows);
        let vectors = [
            ("mean", &self.mean),
            ("explained_variance", &self.explained_variance),
            ("explained_variance_ratio", &self.explained_variance_ratio),
            ("singular_values", &self.singular_values),
        ];
        for (name, vector) in vectors {
            if !vector.iter().all(|v| v.is_finite()) {
                return Err(format!("its {name} is not finite"));
            }
        }
        // A mean in these ranges also keeps 32-bit scores finite.
        if self.element == Element::F32 && self.mean.iter().any(|mean| mean.abs() > f32::MAX.into())
        {
            return Err("its mean is not that of 32-bit floats".to_owned());
        }
        let most = if self.input == PcaInput::Bits { 1.0 } else { 255.0 };
        let is_byte = |mean: &f64| (0.0..=most).contains(mean);
        if self.element == Element::U8 && !self.mean.iter().all(is_byte) {
            return Err(format!("its mean is not that of {}, 0 to {most}", self.input));
        }
        if self.input == PcaInput::Bits && (self.element != Element::U8 || d % 8 != 0) {
            return Err(format!("{d} elements of {} are not the bits of bytes", self.element));
        }
        if !self.components.iter().all(|v| v.is_finite()) {
            return Err("its components are not finite".to_owned());
        }
        for (name, vector) in &vectors[1..] {
            if vector.iter().any(|&v| v < 0.0) {
                return Err(format!("its {name} has a negative number"));
            }
            if !vector.iter().is_sorted_by(|a, b| a >= b) {
                return Err(format!("its {name} does not descend"));
            }
        }
        if n < (k as u64).max(2) {
            return Err(format!("it has {k} components of {n} rows"));
        }
        let rank = solve::rank(&self.explained_variance, d);
        if self.rank != rank {
            return Err(format!("its rank is {}, its variances are of rank {rank}", self.rank));
        }
        let total = self.total_variance;
        if !total.is_finite() || self.explained_variance.sum() > total * (1.0 + TOLERANCE) {
            return Err("its total_variance is less than the sum of its variances".to_owned());
        }
        for (i, &variance) in self.explained_variance.iter().enumerate() {
            let is_off = |got: f64, want: f64| (got - want).abs() > TOLERANCE * want.max(TOLERANCE);
            let ratio = if total > 0.0 { variance / total } else { 0.0 };
            if is_off(self.explained_variance_ratio[i], ratio) {
                return Err(format!("its explained_variance_ratio {i} does not fit its variance"));
            }
            if is_off(self.singular_values[i], (variance * (n as f64 - 1.0)).sqrt()) {
                return Err(format!("its singular_values {i} does not fit its variance"));
            }
        }
        let products = self.components.dot(&self.components.t());
        for ((i, j), &product) in products.indexed_iter() {
            let want = if i == j { 1.0 } else { 0.0 };
            if (product - want).abs() > TOLERANCE {
                return Err(format!("its components {i} and {j} are not orthonormal"));
            }
        }
        let is_negative = |c: ArrayView1<'_, f64>| solve::largest_loading(c) < 0.0;
        if let Some(i) = self.components.rows().into_iter().position(is_negative) {
            return Err(format!("the largest loading of its component {i} is negative"));
        }
        Ok(())
    }
}
