//! The threads of a job, and the one parallel stage on them: a bounded, order-keeping map.
//!
//! # Protocol of the map
//!
//! A task of a map is one item: the task takes it from the source, makes a place for its result, and works on it. One
//! task at a time is the *taker*, and it hands the taking on to the next task before it works. If the window is
//! full it does not: the map is *parked*, and the consumer starts the next taker when it has made room. So items are
//! taken one by one and in order, no thread waits for room, and the tasks of other stages get threads in between.
//!
//! Tasks that are due stand as a number in the map's [`Book`]; the threads' queue holds no more than the map itself, once
//! for each. Whoever consumes a map on one of these threads (because it is the source of another map, or used within its
//! work) runs due tasks of the map itself while it waits. So it waits for tasks alone that run already: however maps are
//! nested, one of them gets on. A map that is dropped leaves no due task, and waits for those that run.
//!
//! Everything that tasks and consumer tell each other is in the book, under one lock. Nobody holds two locks but the
//! taker, which has the source's around the book's.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result as ResultOf};
use crate::give_up::GiveUp;

/// Default of [`Parallelism::with_window`], for each thread.
pub const DEFAULT_WINDOW_PER_THREAD: usize = 32;

/// The threads of a job, which all of its stages share, and how far they may run ahead of the consumer.
///
/// Clones share the threads, which start when a stage needs them and end with the last clone. Results depend on
/// neither number.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// let two = Parallelism::new(2)?;
/// let squares = (0..1000_u64).par_map(two.clone(), || (), |(), i| i * i);
/// assert_eq!(squares.sum::<u64>(), 332_833_500);
/// assert!(Parallelism::new(0).is_err());
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Parallelism {
    threads: usize,
    window: usize,
    pool: Arc<OnceLock<Pool>>,
}

impl Default for Parallelism {
    /// One thread for each core that this process may use.
    fn default() -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, NonZero::get))
    }
}

impl Parallelism {
    /// Takes `threads` threads; with one, the work is done on the consumer's.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for none.
    pub fn new(threads: usize) -> ResultOf<Self> {
        if threads == 0 {
            return Err(Error::param("threads", 0, "at least 1"));
        }
        Ok(Self::of(threads))
    }

    fn of(threads: usize) -> Self {
        let window = threads.saturating_mul(DEFAULT_WINDOW_PER_THREAD);
        Self { threads, window, pool: Arc::default() }
    }

    /// No threads but the consumer's.
    pub(crate) fn none() -> Self {
        Self::of(1)
    }

    /// Sets how many items may be in work or waiting for the consumer (default
    /// [`DEFAULT_WINDOW_PER_THREAD`] for each thread): what bounds the memory. It is never less than one for each
    /// thread.
    pub fn with_window(mut self, window: usize) -> Self {
        self.window = window.max(self.threads);
        self
    }

    /// The number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The number of items that may be in work or waiting.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// The threads; none where the work is to be done on the caller's.
    fn pool(&self) -> Option<&Pool> {
        if self.threads == 1 {
            return None;
        }
        // A machine that refuses threads still gets the work done.
        Some(self.pool.get_or_init(|| Pool::start(self.threads))).filter(|pool| pool.threads > 0)
    }

    /// Does some work on each item, on the threads, while the caller goes on; here if there are none.
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

/// Something that has tasks that are due.
trait Tasks: Send + Sync {
    /// Runs one that is due; false if there is none (any more).
    fn run_due(self: Arc<Self>) -> bool;
}

/// Threads with a queue, first in, first out.
#[derive(Debug)]
struct Pool {
    threads: usize,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    entries: Mutex<Entries>,
    wake: Condvar,
}

#[derive(Default)]
struct Entries {
    tasks: VecDeque<Arc<dyn Tasks>>,
    /// Threads that wait for an entry.
    idle: usize,
    is_closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

thread_local! {
    /// Whether this is one of a pool's threads.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// Starts so many threads, or as many as the system gives.
    fn start(threads: usize) -> Self {
        let queue = Arc::<Queue>::default();
        let begin = |i: &usize| {
            let queue = Arc::clone(&queue);
            let builder = std::thread::Builder::new().name(format!("orb-features-{i}"));
            builder.spawn(move || queue.work()).is_ok()
        };
        let threads = (0..threads).take_while(begin).count();
        Self { threads, queue }
    }

    fn push(&self, tasks: Arc<dyn Tasks>) {
        let mut entries = lock(&self.queue.entries);
        entries.tasks.push_back(tasks);
        let wake = entries.idle > 0;
        drop(entries);
        if wake {
            self.queue.wake.notify_one();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.queue.entries).is_closed = true;
        self.queue.wake.notify_all();
    }
}

impl Queue {
    /// The life of a thread.
    fn work(&self) {
        IS_WORKER.set(true);
        let mut entries = lock(&self.entries);
        loop {
            if let Some(tasks) = entries.tasks.pop_front() {
                drop(entries);
                // Tasks keep their panics for whoever waits; what else panics must not cost a thread.
                let _ = catch_unwind(AssertUnwindSafe(|| tasks.run_due()));
                entries = lock(&self.entries);
            } else if entries.is_closed {
                return;
            } else {
                entries.idle += 1;
                entries = self.wake.wait(entries).unwrap_or_else(PoisonError::into_inner);
                entries.idle -= 1;
            }
        }
    }
}

/// A result, or the panic that took its place.
type Outcome<R> = Result<R, Box<dyn Any + Send>>;

/// Work on some items that may still be going on.
pub(crate) struct UnderWay<R> {
    shared: Arc<dyn Awaited<R>>,
}

impl<R> UnderWay<R> {
    /// Waits for all results, in the order of the items; a panic goes on here.
    pub fn wait(self) -> Vec<R> {
        let outcomes = Arc::clone(&self.shared).wait();
        outcomes.into_iter().map(|r| r.unwrap_or_else(|panic| resume_unwind(panic))).collect()
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
    /// Items that nobody works on yet, with their places.
    due: Vec<(usize, T)>,
    results: Vec<Option<Outcome<R>>>,
    running: usize,
}

impl<T: Send, R: Send> Each<T, R> {
    /// Works on an item, the last first; false if none is left.
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
        // One of the threads must not wait for work that has no thread.
        if IS_WORKER.get() {
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
    /// Whether the consumer wants to be woken for the next result.
    hungry: bool,
    /// Whether the window was full when the taking was to be handed on.
    parked: bool,
    /// Whether a taker is due: it has not begun.
    is_due: bool,
    /// Whether the consumer waits on one of the threads, and runs due tasks itself.
    helps: bool,
    /// Tasks that run.
    running: usize,
}

impl<R> Book<R> {
    fn has_next(&self) -> bool {
        matches!(self.results.front(), Some(Some(_)))
    }
}

/// How long the consumer lets results gather before it asks to be woken for the next: being woken for
/// each, on a machine whose cores are all at work, takes as long as a tenth of the work for a small image.
const GATHER: Duration = Duration::from_millis(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds a lock but the source, whose panic is carried on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
                hungry: false,
                parked: false,
                is_due: true,
                helps: false,
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
        if book.has_next() && (book.hungry || is_half_full) {
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
            let helps = book.helps;
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
        let mut book = if IS_WORKER.get() { self.help(pending) } else { self.wait(pending) };
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
            book.hungry = true;
            book = self.progress.wait_while(book, pending).unwrap_or_else(PoisonError::into_inner);
            book.hungry = false;
        }
        book
    }

    /// The same on one of the threads, which runs what is due itself.
    fn help(
        self: &Arc<Self>,
        mut pending: impl FnMut(&mut Book<R>) -> bool,
    ) -> MutexGuard<'_, Book<R>> {
        loop {
            let mut book = lock(&self.book);
            if book.is_due && pending(&mut book) {
                drop(book);
                Arc::clone(self).run_due();
                continue;
            }
            (book.hungry, book.helps) = (true, true);
            let wait = |book: &mut Book<R>| !book.is_due && pending(book);
            let mut book =
                self.progress.wait_while(book, wait).unwrap_or_else(PoisonError::into_inner);
            (book.hungry, book.helps) = (false, false);
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
    use std::sync::mpsc;

    use super::*;

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

    /// All threads wait for work that they share out among themselves.
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
