//! Work on a few items, while the caller goes on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::pool::{Tasks, is_worker};
use super::{Outcome, Parallelism, lock};

impl Parallelism {
    /// Works on each item on the threads while the caller goes on. Without threads, does all work before it returns.
    pub(crate) fn each<T: Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        work: impl Fn(usize, T) -> R + Send + Sync + 'static,
    ) -> UnderWay<R> {
        let results = items.iter().map(|_| None).collect();
        let due = items.into_iter().enumerate().collect();
        let shared = Arc::new(Each {
            book: Mutex::new(EachBook { due, results, running: 0 }),
            ended: Condvar::new(),
            work: Box::new(work),
        });
        match self.pool() {
            Some(pool) => {
                let entries = lock(&shared.book).due.len();
                (0..entries).for_each(|_| pool.push(Arc::clone(&shared) as Arc<dyn Tasks>));
            }
            None => while shared.run_one() {},
        }
        UnderWay { shared }
    }
}

/// Work on some items that may still be going on.
pub(crate) struct UnderWay<R> {
    shared: Arc<dyn Awaited<R>>,
}

impl<R> UnderWay<R> {
    /// Waits for all results and returns them in the order of the items. Resumes a panic of the work.
    pub fn wait(self) -> Vec<R> {
        self.shared
            .wait()
            .into_iter()
            .map(|r| r.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    }
}

trait Awaited<R>: Send + Sync {
    fn wait(self: Arc<Self>) -> Vec<Outcome<R>>;
}

struct Each<T, R> {
    book: Mutex<EachBook<T, R>>,
    ended: Condvar,
    work: Box<dyn Fn(usize, T) -> R + Send + Sync>,
}

struct EachBook<T, R> {
    /// Items whose work has not begun, with their indices.
    due: Vec<(usize, T)>,
    results: Vec<Option<Outcome<R>>>,
    running: usize,
}

impl<T: Send, R: Send> Each<T, R> {
    /// Works on the last of the items that are due; false if none is left.
    fn run_one(&self) -> bool {
        let mut book = lock(&self.book);
        let Some((place, item)) = book.due.pop() else { return false };
        book.running += 1;
        drop(book);
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.work)(place, item)));
        let mut book = lock(&self.book);
        book.results[place] = Some(outcome);
        book.running -= 1;
        if book.running == 0 && book.due.is_empty() {
            self.ended.notify_all();
        }
        true
    }
}

impl<T: Send, R: Send> Tasks for Each<T, R> {
    fn run_due(self: Arc<Self>) -> bool {
        self.run_one()
    }
}

impl<T: Send, R: Send> Awaited<R> for Each<T, R> {
    fn wait(self: Arc<Self>) -> Vec<Outcome<R>> {
        // A pool thread must not wait for work that no other thread may be free to begin, so it does that work itself.
        if is_worker() {
            while self.run_one() {}
        }
        let pending = |book: &mut EachBook<T, R>| book.running > 0 || !book.due.is_empty();
        let mut book = self
            .ended
            .wait_while(lock(&self.book), pending)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut book.results).into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::parallel::ParMap;

    fn threads(n: usize) -> Parallelism {
        Parallelism::new(n).unwrap()
    }

    #[test]
    fn results_come_back_in_the_order_of_the_items() {
        for n in [1, 3] {
            let done = threads(n).each(vec!["a", "b", "c", "d"], |place, name| (place, name));
            assert_eq!(done.wait(), [(0, "a"), (1, "b"), (2, "c"), (3, "d")]);
        }
    }

    #[test]
    fn the_caller_goes_on_meanwhile() {
        let (go, gate) = mpsc::channel();
        let gate = Mutex::new(gate);
        let work = move |_, ()| {
            gate.lock().unwrap().recv_timeout(Duration::from_secs(10)).expect("the caller goes on");
        };
        let under_way = threads(2).each(vec![(), ()], work);
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        assert_eq!(under_way.wait(), [(), ()]);
    }

    #[test]
    fn a_panic_is_the_callers() {
        for n in [1, 3] {
            let fail = |_, ()| -> () { panic!("on purpose") };
            let panics = AssertUnwindSafe(|| threads(n).each(vec![()], fail).wait());
            let panic = catch_unwind(panics).unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        }
    }

    #[test]
    fn work_within_work_on_the_same_threads_comes_to_its_end() {
        for n in [2, 3] {
            let shared = threads(n);
            let inner = shared.clone();
            let done = shared.each((0..20_u64).collect(), move |_, i| {
                let squares = inner.each((0..i).collect(), |_, j| j * j).wait();
                let map: ParMap<u64, u64> =
                    ParMap::new(squares.into_iter(), inner.clone(), || (), |(), square| square);
                map.sum::<u64>()
            });
            assert_eq!(
                done.wait(),
                (0..20).map(|i| (0..i).map(|j| j * j).sum()).collect::<Vec<u64>>()
            );
        }
    }
}
