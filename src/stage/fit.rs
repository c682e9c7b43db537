//! The first pass of a fit: spools all batches and accumulates their moments.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
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
        self.fit_until(params, &AtomicBool::new(false))
    }

    /// [`fit`](Self::fit), which fails with [`Error::Interrupted`] at the next batch after `stop` is set.
    pub(crate) fn fit_until(&mut self, params: &PcaParams, stop: &AtomicBool) -> Result<PcaModel> {
        let Self { moments, totals, batches } = self;
        let again = &mut |work: &mut dyn FnMut(VectorsView<'_>) -> Result<()>| {
            batches.rewind()?;
            batches.try_for_each(|batch| {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                work(batch?.vectors().view())
            })
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::StageExt as _;
    use crate::features::{ImageFeatures, Vectors};
    use crate::pixels::ImageMeta;

    #[test]
    fn passes_over_the_batches_end_when_they_are_told() {
        let d = 5000;
        let image = |seed: usize| {
            let numbers = (0..40 * d).map(|i| ((i * 7919 + seed) % 1013) as f32).collect();
            let vectors = Vectors::from_f32(numbers, d)?;
            Ok(ImageFeatures::new(Arc::new(ImageMeta::new("a.jpg")), vectors))
        };
        let batches = (0..3).map(image).explode();
        let mut spooled = batches.spool(&Spool::default(), PcaInput::default()).unwrap();
        let params = PcaParams::new(2);
        let ended = spooled.fit_until(&params, &AtomicBool::new(true));
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        spooled.fit(&params).unwrap();
    }
}
