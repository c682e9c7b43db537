//! What a fit sums up on its first pass over the vectors.

use super::passes::{Totals, is_for_passes};
use super::{Moments, PcaInput, PcaModel, PcaParams};
use crate::error::Result;
use crate::features::VectorsView;

/// Moments of all vectors; or totals, for vectors so long that their fit reads them several times. Neither before the
/// first vectors.
#[derive(Debug)]
pub(crate) struct FirstPass {
    input: PcaInput,
    pub moments: Option<Moments>,
    pub totals: Option<Totals>,
}

/// Calls with all vectors, in order, once more.
pub(crate) type Again<'a> =
    dyn FnMut(&mut dyn FnMut(VectorsView<'_>) -> Result<()>) -> Result<()> + Send + 'a;

impl FirstPass {
    pub fn new(input: PcaInput) -> Self {
        Self { input, moments: None, totals: None }
    }

    /// Adds vectors, all of one format.
    pub fn push(&mut self, vectors: VectorsView<'_>) -> Result<()> {
        let format = vectors.format();
        let Self { input, moments, totals } = self;
        input.check(format)?;
        if is_for_passes(format, *input) {
            return totals.get_or_insert_with(|| Totals::new(format, *input)).push(vectors);
        }
        match moments {
            Some(moments) => moments.push(vectors),
            none => none.insert(Moments::of_format(format, *input)?).push(vectors),
        }
    }
}

/// Fits a PCA to the sums of a first pass, or to the vectors `again`.
pub(crate) fn fit(
    moments: Option<&Moments>,
    totals: Option<&Totals>,
    params: &PcaParams,
    again: &mut Again<'_>,
) -> Result<PcaModel> {
    match (moments, totals) {
        (Some(moments), _) => moments.fit(params),
        (None, Some(totals)) => totals.fit(params, &mut |work| {
            again(&mut |vectors| Totals::floats_of(vectors, totals.input(), &mut *work))
        }),
        (None, None) => Err(params.too_few_rows(0)),
    }
}
