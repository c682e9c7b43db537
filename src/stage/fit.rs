//! The first pass of a fit: spools all batches and accumulates their moments.

use crate::error::Result;
use crate::pca::{Moments, PcaModel, PcaParams};
use crate::rows::{RowBatch, Spool, SpooledBatches, Spooling};

/// The result of [`StageExt::spool`](crate::StageExt::spool).
#[derive(Debug)]
#[non_exhaustive]
pub struct Spooled {
    /// The moments of all vectors; none if there was no batch.
    pub moments: Option<Moments>,
    /// The batches, for the second pass.
    pub batches: SpooledBatches,
}

impl Spooled {
    /// Fits a PCA to the moments.
    ///
    /// # Errors
    /// As [`Moments::fit`].
    pub fn fit(&self, params: &PcaParams) -> Result<PcaModel> {
        match &self.moments {
            Some(moments) => moments.fit(params),
            None => Err(params.too_few_rows(0)),
        }
    }
}

pub(super) fn spool(
    batches: impl Iterator<Item = Result<RowBatch>>,
    spool: &Spool,
) -> Result<Spooled> {
    let (mut spooling, mut moments) = (Spooling::new(spool), None);
    for batch in batches {
        let batch = batch?;
        spooling.push(&batch)?;
        moments
            .get_or_insert_with(|| Moments::of_format(batch.format()))
            .push(batch.vectors().view())?;
    }
    Ok(Spooled { moments, batches: spooling.finish()? })
}
