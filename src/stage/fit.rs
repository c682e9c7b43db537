//! The first pass of a fit: spools all batches and accumulates their moments.

use crate::error::Result;
use crate::features::VectorsView;
use crate::pca::{self, FirstPass, Moments, PcaInput, PcaModel, PcaParams, Totals};
use crate::rows::{RowBatch, Spool, SpooledBatches, Spooling};

/// The result of [`StageExt::spool`](crate::StageExt::spool).
#[derive(Debug)]
#[non_exhaustive]
pub struct Spooled {
    /// The moments of all vectors; none if there was no batch, or vectors of more than 4,096 elements: their fit reads
    /// the batches several times.
    pub moments: Option<Moments>,
    totals: Option<Totals>,
    /// The batches, for the second pass.
    pub batches: SpooledBatches,
}

impl Spooled {
    /// Fits a PCA to the moments, or to the batches.
    ///
    /// # Errors
    /// As [`Moments::fit`], and [`Error::Spool`](crate::Error::Spool) if the batches cannot be read again.
    pub fn fit(&mut self, params: &PcaParams) -> Result<PcaModel> {
        let Self { moments, totals, batches } = self;
        let again = &mut |work: &mut dyn FnMut(VectorsView<'_>) -> Result<()>| {
            batches.rewind()?;
            batches.try_for_each(|batch| work(batch?.vectors().view()))
        };
        let model = pca::fit(moments.as_ref(), totals.as_ref(), params, again);
        batches.rewind()?;
        model
    }
}

pub(super) fn spool(
    batches: impl Iterator<Item = Result<RowBatch>>,
    spool: &Spool,
    input: PcaInput,
) -> Result<Spooled> {
    let (mut spooling, mut sums) = (Spooling::new(spool), FirstPass::new(input));
    for batch in batches {
        let batch = batch?;
        spooling.push(&batch)?;
        sums.push(batch.vectors().view())?;
    }
    let FirstPass { moments, totals, .. } = sums;
    Ok(Spooled { moments, totals, batches: spooling.finish()? })
}
