//! How a PCA is fitted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::error::{Error, Result};
use crate::features::{Element, VectorFormat};

/// Default number of components of [`PcaParams`].
pub const DEFAULT_N_COMPONENTS: usize = 20;
/// Default of the oversamples of [`Solver::Randomized`].
pub const DEFAULT_OVERSAMPLES: usize = 10;
/// Default of the seed of [`Solver::Randomized`].
pub const DEFAULT_SEED: u64 = 0;

/// Most oversamples.
const MAX_OVERSAMPLES: usize = 4096;
/// Most power iterations.
const MAX_ITERATIONS: usize = 1_000_000;

/// How many power iterations the randomized solver takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PowerIterations {
    /// Until the components have converged, 1000 at most. They run on the covariance matrix. For vectors of more than
    /// 4,096 elements, which have none, each is a pass over the data, 10 at most.
    #[default]
    Auto,
    /// Exactly this number.
    Fixed(usize),
}

/// How the components are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[non_exhaustive]
pub enum Solver {
    /// A random range finder with power iterations, run on the covariance matrix.
    ///
    /// # Source
    /// N. Halko, P. G. Martinsson, J. A. Tropp: "Finding structure with randomness", SIAM Review 53
    /// (2011), algorithms 4.4 and 5.3.
    Randomized {
        /// Number of random vectors in addition to the number of components.
        oversamples: usize,
        /// How often the covariance is applied.
        power_iterations: PowerIterations,
        /// The seed of the random vectors.
        seed: u64,
    },
    /// The exact eigen-decomposition of the covariance matrix.
    Covariance,
    /// scikit-learn's rule: `Randomized` for wide data of which few components are wanted, else
    /// `Covariance`.
    Auto {
        /// The seed, if the rule chooses `Randomized`.
        seed: u64,
    },
}

impl Default for Solver {
    fn default() -> Self {
        Self::seeded(DEFAULT_SEED)
    }
}

impl Solver {
    /// The default solver with another seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::Randomized {
            oversamples: DEFAULT_OVERSAMPLES,
            power_iterations: PowerIterations::Auto,
            seed,
        }
    }

    /// The solver's name: `randomized`, `covariance` or `auto`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Randomized { .. } => "randomized",
            Self::Covariance => "covariance",
            Self::Auto { .. } => "auto",
        }
    }

    /// Replaces `Auto` by the solver that its rule chooses; others stay as they are.
    pub(super) fn resolve(self, rows: u64, dimensions: usize, n_components: usize) -> Self {
        let (n, d, k) = (rows as f64, dimensions as f64, n_components as f64);
        let tall = d <= 1000.0 && n >= 10.0 * d;
        match self {
            Self::Auto { seed } if !tall && n.max(d) > 500.0 && k < 0.8 * n.min(d) => {
                Self::seeded(seed)
            }
            Self::Auto { .. } => Self::Covariance,
            other => other,
        }
    }
}

impl fmt::Display for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Solver {
    type Err = Error;

    /// Parses a solver's name; its parameters get their defaults.
    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::default(), Self::Covariance, Self::Auto { seed: DEFAULT_SEED }];
        all.into_iter()
            .find(|solver| solver.as_str() == name)
            .ok_or_else(|| Error::param("solver", name, "one of randomized, covariance, auto"))
    }
}

/// Whether the mean is subtracted before rows are projected.
///
/// The components are those of the centred data either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Centering {
    /// The mean is subtracted, as in scikit-learn's `transform`.
    #[default]
    Mean,
    /// The mean is not subtracted, as in the `transform` of Spark's `PCAModel`.
    None,
}

choice!(Centering, "centering", Mean = "mean", None = "none");

/// Whether a PCA takes the elements of a vector or its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PcaInput {
    /// Its elements as they are: for a descriptor, 32 bytes. As in notebooks that hand descriptors to a PCA.
    #[default]
    Bytes,
    /// The bits of its bytes, as numbers 0 and 1: for a descriptor, 256, the first bit of a byte first (`np.unpackbits`).
    /// Squared distances are then Hamming distances, which a binary descriptor is made for.
    Bits,
}

choice!(PcaInput, "pca_input", Bytes = "bytes", Bits = "bits");

impl PcaInput {
    /// The number of elements that the PCA gets of a vector of `len`.
    #[must_use]
    pub fn dimensions(self, len: usize) -> usize {
        match self {
            Self::Bytes => len,
            Self::Bits => 8 * len,
        }
    }

    /// Refuses vectors that the PCA cannot take in this form.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for the bits of floats, and for more than 2^20 dimensions.
    pub fn check(self, format: VectorFormat) -> Result<()> {
        if self == Self::Bits && format.element() != Element::U8 {
            return Err(Error::param("pca_input", self, "bytes for vectors of floats"));
        }
        if self.dimensions(format.len()) > 1 << 20 {
            return Err(Error::param("pca_input", self, "bytes for vectors of so many bits"));
        }
        Ok(())
    }
}

/// How many components are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Components {
    /// A number.
    Number(usize),
    /// As many as explain this share of the variance, above 0 and below 1. All components are computed for that: exactly,
    /// whatever the solver.
    Share(f64),
}

impl fmt::Display for Components {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(k) => k.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

impl FromStr for Components {
    type Err = Error;

    /// Reads `20` as a number, `0.95` as a share.
    fn from_str(text: &str) -> Result<Self> {
        let number = text.parse().ok().map(Self::Number);
        let share = || text.parse().ok().filter(|v| 0.0 < *v && *v < 1.0).map(Self::Share);
        number.or_else(share).ok_or_else(|| {
            Error::param(
                "n_components",
                text,
                "a number such as 20, or a share of the variance such as 0.95",
            )
        })
    }
}

/// The parameters of a PCA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct PcaParams {
    #[serde(rename = "n_components")]
    components: Components,
    solver: Solver,
    centering: Centering,
    #[serde(rename = "pca_input")]
    input: PcaInput,
}

impl Default for PcaParams {
    fn default() -> Self {
        Self::new(DEFAULT_N_COMPONENTS)
    }
}

impl PcaParams {
    /// The default parameters, with this number of components.
    pub fn new(n_components: usize) -> Self {
        Self::of(Components::Number(n_components))
    }

    /// The default parameters, with as many components as explain this share of the variance.
    pub fn of_share(share: f64) -> Self {
        Self::of(Components::Share(share))
    }

    /// The default parameters, with these components.
    pub fn of(components: Components) -> Self {
        let (solver, centering) = (Solver::default(), Centering::default());
        Self { components, solver, centering, input: PcaInput::default() }
    }

    /// Sets the solver (default [`Solver::Randomized`]).
    pub fn with_solver(mut self, solver: Solver) -> Self {
        self.solver = solver;
        self
    }

    /// Sets whether the model's projection subtracts the mean (default [`Centering::Mean`]).
    pub fn with_centering(mut self, centering: Centering) -> Self {
        self.centering = centering;
        self
    }

    /// Sets what of a vector the PCA is fitted to (default [`PcaInput::Bytes`]).
    pub fn with_input(mut self, input: PcaInput) -> Self {
        self.input = input;
        self
    }

    /// The components that are kept.
    #[must_use]
    pub fn components(&self) -> Components {
        self.components
    }

    /// The solver.
    #[must_use]
    pub fn solver(&self) -> Solver {
        self.solver
    }

    /// Whether the model's projection subtracts the mean.
    #[must_use]
    pub fn centering(&self) -> Centering {
        self.centering
    }

    /// What of a vector the PCA is fitted to.
    #[must_use]
    pub fn input(&self) -> PcaInput {
        self.input
    }

    /// Checks the parameters for vectors of a format, before there is any.
    ///
    /// # Errors
    /// As [`check`](Self::check), for the elements that the PCA gets, and as [`PcaInput::check`].
    pub fn check_for(&self, format: VectorFormat) -> Result<()> {
        self.input.check(format)?;
        self.check(self.input.dimensions(format.len()))
    }

    /// Checks the parameters for rows of `dimensions` elements, before there is any row.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] unless there are 1 to `dimensions` components, or a share above 0 and below 1; for more
    /// than 4,096 oversamples, or 1,000,000 power iterations.
    pub fn check(&self, dimensions: usize) -> Result<()> {
        let (is_good, allowed) = match self.components {
            Components::Number(k) => ((1..=dimensions).contains(&k), format!("1 to {dimensions}")),
            Components::Share(share) => {
                let is_good = dimensions > 0 && 0.0 < share && share < 1.0;
                (is_good, "above 0 and below 1, of vectors with elements".into())
            }
        };
        if !is_good {
            return Err(Error::param("n_components", self.components, allowed));
        }
        let Solver::Randomized { oversamples, power_iterations, .. } = self.solver else {
            return Ok(());
        };
        if oversamples > MAX_OVERSAMPLES {
            let allowed = format!("0 to {MAX_OVERSAMPLES}");
            return Err(Error::param("oversamples", oversamples, allowed));
        }
        match power_iterations {
            PowerIterations::Fixed(n) if n > MAX_ITERATIONS => {
                Err(Error::param("power_iterations", n, format!("0 to {MAX_ITERATIONS}")))
            }
            _ => Ok(()),
        }
    }

    /// The components that are computed from this number of rows, before a share decides.
    pub(super) fn computed(&self, rows: u64, dimensions: usize) -> usize {
        match self.components {
            Components::Number(k) => k,
            Components::Share(_) => dimensions.min(usize::try_from(rows).unwrap_or(usize::MAX)),
        }
    }

    /// The solver for a fit to this number of rows: a share needs all components.
    pub(super) fn solver_for(&self, rows: u64, dimensions: usize) -> Solver {
        match self.components {
            Components::Number(k) => self.solver.resolve(rows, dimensions, k),
            Components::Share(_) => Solver::Covariance,
        }
    }

    /// The smallest number of rows that can be fitted.
    pub(super) fn needed(&self) -> u64 {
        self.computed(2, 2).max(2) as u64
    }

    /// The error for a fit to fewer rows than [`needed`](Self::needed).
    pub(crate) fn too_few_rows(&self, rows: u64) -> Error {
        let (components, needed) = (self.components, self.needed());
        let why = format!("{rows} rows for {components} components, at least {needed} are needed");
        Error::Fit(why.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_fit_can_do_is_refused() {
        let solver = |oversamples, power_iterations| {
            PcaParams::new(2).with_solver(Solver::Randomized {
                oversamples,
                power_iterations,
                seed: 0,
            })
        };
        solver(4096, PowerIterations::Fixed(1_000_000)).check(9).unwrap();
        for (params, name) in [
            (solver(usize::MAX, PowerIterations::Auto), "oversamples"),
            (solver(2, PowerIterations::Fixed(usize::MAX)), "power_iterations"),
            (PcaParams::new(10), "n_components"),
        ] {
            assert!(params.check(9).unwrap_err().to_line().contains(name), "{name}");
        }
        PcaParams::of_share(0.5).check(0).unwrap_err();
        let unknown =
            r#"{"randomized":{"oversamples":1,"power_iterations":"auto","seed":0,"x":1}}"#;
        serde_json::from_str::<Solver>(unknown).unwrap_err();
    }

    #[test]
    fn auto_is_covariance_for_few_or_tall_rows_and_for_most_components() {
        let auto = |rows, dimensions, k| Solver::Auto { seed: 3 }.resolve(rows, dimensions, k);
        for (rows, dimensions, k, is_randomized) in [
            (10_000, 1000, 10, false),
            (9_999, 1000, 10, true),
            (20_000, 1001, 10, true),
            (500, 500, 10, false),
            (501, 501, 10, true),
            (600, 100, 79, true),
            (600, 100, 80, false),
        ] {
            let want = if is_randomized { Solver::seeded(3) } else { Solver::Covariance };
            assert_eq!(auto(rows, dimensions, k), want, "{rows} x {dimensions} to {k}");
        }
    }
}
