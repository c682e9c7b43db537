//! Principal components of descriptors: moments, solvers, model.
//!
//! A fit needs only the [`Moments`] of the rows: count, sum and Gram matrix. For descriptors these are exact integers,
//! so a model's bits do not depend on threads, batches or the order of the rows. [`Moments::fit`] returns a
//! [`PcaModel`], which projects rows.
//!
//! Conventions are scikit-learn's: variances over n - 1, ratios of the total variance, components
//! as rows, each with its largest loading positive.

mod covariance;
mod first_pass;
mod model;
mod moments;
mod origin;
mod orthonormal;
mod params;
mod passes;
mod products;
mod solve;
#[cfg(feature = "wide")]
mod tridiagonal;

use ndarray::{Array2, ArrayView2};

pub(crate) use first_pass::{FirstPass, fit};
pub use model::{PcaModel, Score};
pub use moments::Moments;
pub(crate) use origin::describe_decode;
pub use origin::{Difference, Origin};
pub use params::{
    Centering, Components, DEFAULT_N_COMPONENTS, DEFAULT_OVERSAMPLES, DEFAULT_SEED, PcaInput,
    PcaParams, PowerIterations, Solver,
};
pub(crate) use passes::Totals;

/// The bits of rows of bytes as numbers 0 and 1, the first bit of a byte first.
fn bits_of(rows: ArrayView2<'_, u8>) -> Array2<u8> {
    let bits = rows.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    Array2::from_shape_vec((rows.nrows(), 8 * rows.ncols()), bits).expect("eight bits of a byte")
}

/// The number of rows that a thread takes at a time, if many rows are shared out to threads.
const TASK_ROWS: usize = 16_384;
