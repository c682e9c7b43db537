//! The bounded, order-keeping map.
//!
//! # Protocol of the map
//!
//! A task of a map is one item: the task takes it from the source, makes a place for its result, and works on it. One
//! task at a time is the *taker*, and it hands the taking on to the next task before it works. If the window is
//! full it does not: the map is *parked*, and the consumer starts the next taker when it has made room. So items are
//! taken one by one and in order, no thread waits for room, and the tasks of other stages get threads in between.
//!
//! Whether a taker is due stands in the map's [`Book`]; the threads' queue holds the map itself. Whoever consumes a map on one of these threads (because it is the source of another map, or used within its
//! work) runs the due task of the map itself if the next item is not taken. So it waits for tasks alone that run already: however maps are
//! nested, one of them gets on. A map that is dropped leaves no due task, and waits for those that run.
//!
//! Everything that tasks and consumer tell each other is in the book, under one lock. Nobody holds two locks but the
//! taker, which has the source's around the book's.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::pool::{Tasks, is_worker};
use super::{Outcome, Parallelism, lock};
use crate::give_up::GiveUp;

/// The iterator of [`StageExt::par_map`](crate::StageExt::par_map).
///
/// Results come in the order of the items. The work begins at the first `next`. Items are taken from the source one
/// at a time, when there is room for their results, so that no queue of items builds up; the threads stop when the
/// iterator is dropped, which waits for the work that is under way, but not for an `S3Source` that waits for its
/// server. A panic in the work or the source goes on in the consumer.
///
/// Maps share the threads of one [`Parallelism`], also those in the source or the work of another.
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct ParMap<T, R> {
    state: State<T, R>,
    size_hint: (usize, Option<usize>),
}

type Work<T, R> = Box<dyn FnMut(T) -> R + Send>;
type Start<T, R> = Arc<dyn Fn() -> Work<T, R> + Send + Sync>;
type Items<T> = Box<dyn Iterator<Item = T> + Send>;

enum State<T, R> {
    Waiting { items: Items<T>, start: Start<T, R>, parallelism: Parallelism },
    Inline { items: Items<T>, work: Work<T, R> },
    Threads { shared: Arc<Shared<T, R>> },
    Done,
}

struct Shared<T, R> {
    parallelism: Parallelism,
    source: Mutex<Source<T>>,
    /// Kept here, not in the tasks' closures, so that `stop` can drop it.
    start: Mutex<Option<Start<T, R>>>,
    /// Working memories that no task uses now.
    idle: Mutex<Vec<Work<T, R>>>,
    book: Mutex<Book<R>>,
    /// Signals the consumer: the next result is there, the source has ended, a task is due or has ended.
    progress: Condvar,
    /// Wakes the taker in the source when the consumer has gone.
    give_up: GiveUp,
}

struct Source<T> {
    /// Gone once it has ended.
    items: Option<Items<T>>,
    /// How many items were taken.
    taken: usize,
}

struct Book<R> {
    /// Results from number `emitted` on, in order; `None` is still in work.
    results: VecDeque<Option<Outcome<R>>>,
    emitted: usize,
    /// How many items there are, once the source has ended.
    total: Option<usize>,
    stop: bool,
    consumer: Consumer,
    /// Whether the window was full when the taking was to be handed on.
    parked: bool,
    /// Whether a taker is due: it has not begun.
    is_due: bool,
    /// Tasks that run.
    running: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Consumer {
    /// It does something else.
    Busy,
    /// It wants to be woken for the next result.
    Waits,
    /// The same on one of the threads: it runs due tasks itself.
    Helps,
}

impl<R> Book<R> {
    fn has_next(&self) -> bool {
        matches!(self.results.front(), Some(Some(_)))
    }
}

/// How long the consumer lets results gather before it asks to be woken for the next: being woken for
/// each, on a machine whose cores are all at work, takes as long as a tenth of the work for a small image.
const GATHER: Duration = Duration::from_millis(1);

impl<T: Send + 'static, R: Send + 'static> ParMap<T, R> {
    pub(crate) fn new<I, S: Send + 'static>(
        items: I,
        parallelism: Parallelism,
        start: impl Fn() -> S + Send + Sync + 'static,
        work: impl Fn(&mut S, T) -> R + Send + Sync + 'static,
    ) -> Self
    where
        I: Iterator<Item = T> + Send + 'static,
    {
        let size_hint = items.size_hint();
        let work = Arc::new(work);
        let start: Start<T, R> = Arc::new(move || {
            let (mut scratch, work) = (start(), Arc::clone(&work));
            Box::new(move |item| work(&mut scratch, item))
        });
        Self { state: State::Waiting { items: Box::new(items), start, parallelism }, size_hint }
    }

    fn begin(items: Items<T>, start: Start<T, R>, parallelism: Parallelism) -> State<T, R> {
        if parallelism.pool().is_none() {
            return State::Inline { items, work: start() };
        }
        let shared = Arc::new(Shared {
            parallelism,
            source: Mutex::new(Source { items: Some(items), taken: 0 }),
            start: Mutex::new(Some(start)),
            idle: Mutex::default(),
            book: Mutex::new(Book {
                results: VecDeque::new(),
                emitted: 0,
                total: None,
                stop: false,
                consumer: Consumer::Busy,
                parked: false,
                is_due: true,
                running: 0,
            }),
            progress: Condvar::new(),
            give_up: GiveUp::new(),
        });
        shared.announce();
        State::Threads { shared }
    }
}

/// Signs a task off, however it ends.
struct Leave<'a, T, R>(&'a Shared<T, R>);

impl<T, R> Drop for Leave<'_, T, R> {
    fn drop(&mut self) {
        let mut book = lock(&self.0.book);
        book.running -= 1;
        if book.running == 0 {
            self.0.progress.notify_all();
        }
    }
}

impl<T: Send + 'static, R: Send + 'static> Tasks for Shared<T, R> {
    fn run_due(self: Arc<Self>) -> bool {
        let mut book = lock(&self.book);
        if !std::mem::take(&mut book.is_due) {
            return false;
        }
        book.running += 1;
        drop(book);
        let _leave = Leave(&self);
        self.task();
        true
    }
}

impl<T: Send + 'static, R: Send + 'static> Shared<T, R> {
    /// Puts a taker that is due into the threads' queue.
    fn announce(self: &Arc<Self>) {
        if let Some(pool) = self.parallelism.pool() {
            pool.push(Arc::clone(self) as Arc<dyn Tasks>);
        }
    }

    /// Makes a working memory, if the map is still there.
    fn new_work(&self) -> Option<Work<T, R>> {
        let start = lock(&self.start).clone()?;
        Some(start())
    }

    /// Takes an item, hands the taking on, and works on the item.
    fn task(self: &Arc<Self>) {
        let Some((number, item)) = self.take() else { return };
        let outcome = item.and_then(|item| {
            let working = || {
                let idle = lock(&self.idle).pop();
                let mut work = idle.or_else(|| self.new_work())?;
                let result = work(item);
                lock(&self.idle).push(work);
                Some(result)
            };
            catch_unwind(AssertUnwindSafe(working)).transpose().unwrap_or_else(|| Err(Box::new(())))
        });
        let mut book = lock(&self.book);
        if book.stop {
            return;
        }
        let place = number - book.emitted;
        book.results[place] = Some(outcome);
        let is_half_full = 2 * book.results.len() >= self.parallelism.window;
        if book.has_next() && (book.consumer != Consumer::Busy || is_half_full) {
            self.progress.notify_all();
        }
    }

    /// Takes the next item and its number; the next taker is under way then, unless there is no room.
    #[allow(clippy::type_complexity)]
    fn take(self: &Arc<Self>) -> Option<(usize, Outcome<T>)> {
        let mut source = lock(&self.source);
        if lock(&self.book).stop {
            return None;
        }
        let number = source.taken;
        let next = || source.items.as_mut()?.next();
        let item = match catch_unwind(AssertUnwindSafe(|| self.give_up.mark(next))) {
            Ok(Some(item)) => Ok(item),
            Ok(None) => {
                source.items = None;
                lock(&self.book).total.get_or_insert(number);
                self.progress.notify_all();
                return None;
            }
            Err(panic) => {
                source.items = None;
                Err(panic)
            }
        };
        source.taken += 1;
        drop(source);
        let mut book = lock(&self.book);
        book.results.push_back(None);
        book.parked = book.results.len() >= self.parallelism.window;
        if !book.parked && !book.stop {
            book.is_due = true;
            let helps = book.consumer == Consumer::Helps;
            drop(book);
            self.announce();
            if helps {
                self.progress.notify_all();
            }
        }
        Some((number, item))
    }

    /// Waits for the next result; none is left once the source has ended.
    fn next(self: &Arc<Self>) -> Option<Outcome<R>> {
        let pending = |book: &mut Book<R>| !book.has_next() && book.total != Some(book.emitted);
        let mut book = if is_worker() { self.help(pending) } else { self.wait(pending) };
        let outcome = book.results.pop_front()??;
        book.emitted += 1;
        if std::mem::take(&mut book.parked) {
            book.is_due = true;
            drop(book);
            self.announce();
        }
        Some(outcome)
    }

    /// Waits while something is pending.
    fn wait(&self, mut pending: impl FnMut(&mut Book<R>) -> bool) -> MutexGuard<'_, Book<R>> {
        let gathered = self.progress.wait_timeout_while(lock(&self.book), GATHER, &mut pending);
        let (mut book, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        if pending(&mut book) {
            book.consumer = Consumer::Waits;
            book = self.progress.wait_while(book, pending).unwrap_or_else(PoisonError::into_inner);
            book.consumer = Consumer::Busy;
        }
        book
    }

    /// The same on one of the threads, which runs a due task itself if the next item is not taken yet. If it is, its
    /// task runs: to take another item might wait for a source that the next result does not need.
    fn help(
        self: &Arc<Self>,
        mut pending: impl FnMut(&mut Book<R>) -> bool,
    ) -> MutexGuard<'_, Book<R>> {
        let is_wanted = |book: &Book<R>| book.is_due && book.results.is_empty();
        loop {
            let mut book = lock(&self.book);
            if is_wanted(&book) && pending(&mut book) {
                drop(book);
                Arc::clone(self).run_due();
                continue;
            }
            book.consumer = Consumer::Helps;
            let wait = |book: &mut Book<R>| !is_wanted(book) && pending(book);
            let mut book =
                self.progress.wait_while(book, wait).unwrap_or_else(PoisonError::into_inner);
            book.consumer = Consumer::Busy;
            if !pending(&mut book) {
                return book;
            }
        }
    }
}

impl<T: Send + 'static, R: Send + 'static> Iterator for ParMap<T, R> {
    type Item = R;

    fn next(&mut self) -> Option<R> {
        if matches!(self.state, State::Waiting { .. })
            && let State::Waiting { items, start, parallelism } =
                std::mem::replace(&mut self.state, State::Done)
        {
            self.state = Self::begin(items, start, parallelism);
        }
        let next = match &mut self.state {
            State::Inline { items, work } => items.next().map(work),
            State::Threads { shared } => match shared.next() {
                Some(Ok(result)) => Some(result),
                Some(Err(panic)) => {
                    self.stop();
                    resume_unwind(panic)
                }
                None => None,
            },
            State::Waiting { .. } | State::Done => None,
        };
        if next.is_none() {
            self.stop();
        }
        let less = |n: usize| n.saturating_sub(1);
        self.size_hint = (less(self.size_hint.0), self.size_hint.1.map(less));
        next
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.size_hint
    }
}

impl<T: Send + 'static, R: Send + 'static> std::iter::FusedIterator for ParMap<T, R> {}

impl<T, R> ParMap<T, R> {
    /// Ends the work, waits until no task touches source or work any more, and drops both.
    fn stop(&mut self) {
        if let State::Threads { shared } = std::mem::replace(&mut self.state, State::Done) {
            {
                let mut book = lock(&shared.book);
                (book.stop, book.is_due) = (true, false);
            }
            // A source that waits for a server would keep us.
            shared.give_up.tell();
            let running = |book: &mut Book<R>| book.running > 0;
            let mut book = shared
                .progress
                .wait_while(lock(&shared.book), running)
                .unwrap_or_else(PoisonError::into_inner);
            let left = std::mem::take(&mut book.results);
            drop(book);
            let idle = std::mem::take(&mut *lock(&shared.idle));
            let (items, start) = (lock(&shared.source).items.take(), lock(&shared.start).take());
            drop((left, idle, items, start));
        }
    }
}

impl<T, R> Drop for ParMap<T, R> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<T, R> std::fmt::Debug for ParMap<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParMap").field("size_hint", &self.size_hint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "parquet")]
    use std::sync::mpsc;

    use super::*;

    fn threads(n: usize) -> Parallelism {
        Parallelism::new(n).unwrap()
    }

    /// All threads wait for work that they share out among themselves.
    /// Maps that were begun by a thread outside, and are then the sources of others.
    #[test]
    fn a_map_that_was_begun_outside_may_be_a_source() {
        for n in [2, 3] {
            let shared = threads(n).with_window(3);
            let map = |items: Box<dyn Iterator<Item = u64> + Send>| {
                let map = ParMap::new(items, shared.clone(), || (), |(), i: u64| i + 1);
                let mut map = map.peekable();
                map.peek();
                map
            };
            let mut chain: Box<dyn Iterator<Item = u64> + Send> = Box::new(0..200);
            for _ in 0..5 {
                chain = Box::new(map(chain));
            }
            assert!(chain.eq(5..205));
        }
    }

    /// A taker that is due, but has no thread, keeps nobody who drops its map.
    #[cfg(feature = "parquet")]
    #[test]
    fn a_drop_does_not_wait_for_the_work_of_other_maps() {
        let shared = threads(2);
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let busy = shared.each(vec![(), ()], move |_, ()| {
            let _ = gate.lock().unwrap().recv_timeout(Duration::from_secs(10));
        });
        let mut map = ParMap::new(0..10, shared.clone(), || (), |(), i| i);
        map.state = match std::mem::replace(&mut map.state, State::Done) {
            State::Waiting { items, start, parallelism } => {
                ParMap::begin(items, start, parallelism)
            }
            other => other,
        };
        let begun = std::time::Instant::now();
        drop(map);
        assert!(begun.elapsed() < Duration::from_secs(5));
        go.send(()).unwrap();
        go.send(()).unwrap();
        busy.wait();
    }
}
