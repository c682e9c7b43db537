//! The projection of batches, on several threads.

use std::time::Instant;

use super::{ParMap, Parallelism, StageExt as _, Tally};
use crate::error::Result;
use crate::pca::PcaModel;
use crate::rows::RowBatch;

/// Batches are large, so two for each thread keep it busy.
const WINDOW_PER_THREAD: usize = 2;

/// The iterator of [`StageExt::project`](crate::StageExt::project): batches with scores. Parameters take
/// effect only before the first item is pulled.
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct Project<I> {
    state: State<I>,
}

enum State<I> {
    Waiting(Box<Setup<I>>),
    Running(ParMap<Result<RowBatch>, Result<RowBatch>>),
    Done,
}

struct Setup<I> {
    batches: I,
    model: PcaModel,
    parallelism: Option<Parallelism>,
    tally: Tally,
}

impl<I> std::fmt::Debug for Project<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Project").finish_non_exhaustive()
    }
}

impl<I> Project<I> {
    pub(super) fn new(batches: I, model: PcaModel) -> Self {
        let setup = Setup { batches, model, parallelism: None, tally: Tally::default() };
        Self { state: State::Waiting(Box::new(setup)) }
    }

    fn with(mut self, set: impl FnOnce(&mut Setup<I>)) -> Self {
        if let State::Waiting(setup) = &mut self.state {
            set(setup);
        }
        self
    }

    /// Sets the number of threads (default: one for each core).
    pub fn with_parallelism(self, parallelism: Parallelism) -> Self {
        self.with(|setup| setup.parallelism = Some(parallelism))
    }

    /// Counts times in `tally`.
    pub fn with_tally(self, tally: &Tally) -> Self {
        self.with(|setup| setup.tally = tally.clone())
    }
}

impl<I: Iterator<Item = Result<RowBatch>> + Send + 'static> Iterator for Project<I> {
    type Item = Result<RowBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.state, State::Waiting(_))
            && let State::Waiting(setup) = std::mem::replace(&mut self.state, State::Done)
        {
            let Setup { batches, model, parallelism, tally } = *setup;
            let parallelism = parallelism.unwrap_or_default();
            let window = WINDOW_PER_THREAD * parallelism.threads();
            self.state = State::Running(batches.par_map(
                parallelism.with_window(window),
                || (),
                move |(), batch: Result<RowBatch>| {
                    let batch = batch?;
                    let start = Instant::now();
                    let scores = model.project_vectors(batch.vectors().view());
                    tally.counts.project.add(start.elapsed());
                    batch.with_scores(scores?)
                },
            ));
        }
        let State::Running(batches) = &mut self.state else { return None };
        batches.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.state {
            State::Waiting(setup) => setup.batches.size_hint(),
            State::Running(batches) => batches.size_hint(),
            State::Done => (0, Some(0)),
        }
    }
}
