//! The first pass of a fit: spools all batches and accumulates their moments.

use crate::error::Result;
use crate::pca::{Moments, PcaInput, PcaModel, PcaParams, Totals, is_for_passes};
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
        match (moments, totals) {
            (Some(moments), _) => moments.fit(params),
            (None, Some(totals)) => {
                let input = totals.input();
                let model = totals.fit(params, &mut |work| {
                    batches.rewind()?;
                    batches
                        .try_for_each(|b| Totals::floats_of(b?.vectors().view(), input, &mut *work))
                });
                batches.rewind()?;
                model
            }
            (None, None) => Err(params.too_few_rows(0)),
        }
    }
}

pub(super) fn spool(
    batches: impl Iterator<Item = Result<RowBatch>>,
    spool: &Spool,
    input: PcaInput,
) -> Result<Spooled> {
    let (mut spooling, mut moments, mut totals) = (Spooling::new(spool), None, None);
    for batch in batches {
        let batch = batch?;
        spooling.push(&batch)?;
        let (format, vectors) = (batch.format(), batch.vectors().view());
        input.check(format)?;
        if is_for_passes(format, input) {
            totals.get_or_insert_with(|| Totals::new(format, input)).push(vectors)?;
            continue;
        }
        let moments = match &mut moments {
            Some(moments) => moments,
            none => none.insert(Moments::of_format(format, input)?),
        };
        moments.push(vectors)?;
    }
    Ok(Spooled { moments, totals, batches: spooling.finish()? })
}
