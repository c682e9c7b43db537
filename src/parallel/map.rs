//! The bounded, order-keeping map.
//!
//! # Protocol of the map
//!
//! A task handles one item: the task takes the item from the source, makes a place for the result, and works on the
//! item. One task at a time is the *taker*. Before the taker works on its item, it makes the next taker due. If the
//! window is full, it does not: the map is *parked*, and the consumer makes the next taker due once it has made room.
//! So items are taken one by one and in order, no thread waits for room, and tasks of other stages get threads in
//! between.
//!
//! The map's [`Book`] records whether a taker is due; the threads' queue holds the map itself. A map may be consumed on
//! one of these threads, as the source of another map or within another map's work. Such a consumer runs the due task
//! itself if the next item has not been taken. So it waits only for tasks that already run: however maps are nested,
//! one of them makes progress. A dropped map leaves no due task, and waits for its running tasks.
//!
//! All state that tasks and consumer share is in the book, under one lock. While tasks run, only the taker holds two of
//! a map's locks: the source's, and within that the book's.

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
/// at a time, when there is room for their results, so no queue of items builds up. Dropping the iterator stops the
/// work: the drop waits for work under way, but not for an `S3Source` that waits for its server. A panic in the work
/// or the source is resumed in the consumer.
///
/// All maps with the same [`Parallelism`] share its threads, including a map in the source or the work of another.
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
    /// Work functions, with their scratch memory, that no task uses now.
    idle: Mutex<Vec<Work<T, R>>>,
    book: Mutex<Book<R>>,
    /// Signals the consumer: the next result is there, the source has ended, a task is due or has ended.
    progress: Condvar,
    /// Wakes the taker in the source when the consumer has gone.
    give_up: GiveUp,
}

struct Source<T> {
    /// `None` once the source has ended.
    items: Option<Items<T>>,
    /// How many items were taken.
    taken: usize,
}

struct Book<R> {
    /// Results from number `emitted` on, in order; `None` while the item is in work.
    results: VecDeque<Option<Outcome<R>>>,
    emitted: usize,
    /// How many items there are, once the source has ended.
    total: Option<usize>,
    stop: bool,
    consumer: Consumer,
    /// Whether the window was full, so that the last taker made no next taker due.
    parked: bool,
    /// Whether there is a due taker: a task that has not begun.
    is_due: bool,
    /// Number of tasks that run.
    running: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Consumer {
    /// It does something else.
    Busy,
    /// It wants to be woken for the next result.
    Waits,
    /// It waits on one of the pool's threads, and runs due tasks itself.
    Helps,
}

impl<R> Book<R> {
    fn has_next(&self) -> bool {
        matches!(self.results.front(), Some(Some(_)))
    }
}

/// How long the consumer lets results gather before it asks to be woken for the next one. With all cores busy, a
/// wake-up for each result takes as long as a tenth of the work for a small image.
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

/// Counts a task as ended on drop, also after a panic.
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

    /// Makes a work function with its scratch memory; `None` if the map has been stopped.
    fn new_work(&self) -> Option<Work<T, R>> {
        let start = lock(&self.start).clone()?;
        Some(start())
    }

    /// Takes an item, makes the next taker due, and works on the item.
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

    /// Takes the next item and its number, and makes the next taker due unless the window is full.
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

    /// Waits for the next result; `None` after the last one.
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

    /// Waits while `pending` is true.
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

    /// As `wait`, on one of the pool's threads: runs the due task itself if the next item has not been taken. If that
    /// item has been taken, its task already runs. Then no other item is taken here: this could wait for the source,
    /// which the next result does not need.
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
    /// Ends the work, waits until no task uses the source or the work any more, and drops both.
    fn stop(&mut self) {
        if let State::Threads { shared } = std::mem::replace(&mut self.state, State::Done) {
            {
                let mut book = lock(&shared.book);
                (book.stop, book.is_due) = (true, false);
            }
            // Otherwise a source that waits for a server would delay the end.
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

    /// Maps that were begun by a thread outside the pool serve as sources of other maps.
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

    /// Dropping a map does not wait for a due taker that no thread has begun.
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
