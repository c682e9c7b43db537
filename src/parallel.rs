//! The threads of a job, and the one parallel stage on them: a bounded, order-keeping map.
//!
//! # Protocol of the map
//!
//! One task at a time is the *taker*: it takes an item from the source, makes a place for its result, and hands the
//! taking on to a new task before it works on the item. If the window is full it does not hand it on: the map is
//! *parked*, and the consumer starts the next taker when it has made room. So items are taken one by one and in
//! order, no thread waits for room, and the tasks of other stages get threads in between.
//!
//! Everything that tasks and consumer tell each other is in the [`Book`], under one lock. The consumer waits for the
//! first result to be there, or for the end of the source; whoever drops the map sets `stop`, and waits until no task
//! is left. Nothing holds two locks but a taker, which has the source's around the book's.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
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
    pool: Arc<Pool>,
}

/// Threads that start when they are needed.
#[derive(Debug, Default)]
struct Pool {
    threads: OnceLock<Option<rayon::ThreadPool>>,
    /// The number of maps that are consumed by one of these threads, each of which may keep it waiting.
    within: AtomicUsize,
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

    /// Other threads of the same number.
    fn apart(&self) -> Self {
        Self { pool: Arc::default(), ..self.clone() }
    }

    /// The threads; none where the work is to be done on the caller's.
    fn pool(&self) -> Option<&rayon::ThreadPool> {
        if self.threads == 1 {
            return None;
        }
        let start = || {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(self.threads);
            // A machine that refuses threads still gets the work done.
            builder.thread_name(|i| format!("orb-features-{i}")).build().ok()
        };
        self.pool.threads.get_or_init(start).as_ref()
    }

    /// Counts another map that one of the threads consumes, if that leaves a thread that none keeps waiting.
    fn enter(&self) -> bool {
        let enter = |within: usize| (within + 1 < self.threads).then_some(within + 1);
        self.pool.within.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).is_ok()
    }

    /// Has some work done by one of the threads, or here if there is none. A panic ends the process.
    pub(crate) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        match self.pool() {
            Some(pool) => pool.spawn(work),
            None => work(),
        }
    }
}

thread_local! {
    /// This thread's part in a map, if any.
    static DUTY: Cell<Duty> = const { Cell::new(Duty::None) };
}

#[derive(Clone, Copy)]
enum Duty {
    None,
    /// It is in the source of a map, which is begun within the work of another or not.
    Source {
        within_work: bool,
    },
    /// It works on an item.
    Work,
}

impl Duty {
    /// Does something under this duty, and comes back to that of before.
    fn during<T>(self, work: impl FnOnce() -> T) -> T {
        struct Restore(Duty);
        impl Drop for Restore {
            fn drop(&mut self) {
                DUTY.set(self.0);
            }
        }
        let _restore = Restore(DUTY.replace(self));
        work()
    }
}

/// The iterator of [`StageExt::par_map`](crate::StageExt::par_map).
///
/// Results come in the order of the items. The work begins at the first `next`. Items are taken from the source one
/// at a time, when there is room for their results, so that no queue of items builds up; the threads stop when the
/// iterator is dropped, which waits for the work that is under way, but not for an `S3Source` that waits for its
/// server. A panic in the work or the source goes on in the consumer.
///
/// Maps share the threads of one [`Parallelism`]. A map in the source of another shares them as long as that leaves a
/// thread for it, and one that is begun within the work of another has threads of its own.
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

/// A result, or the panic that took its place.
type Outcome<R> = Result<R, Box<dyn Any + Send>>;

struct Shared<T, R> {
    parallelism: Parallelism,
    /// Whether it is counted as consumed by one of the threads.
    entered: bool,
    /// Whether it is begun within the work of another map, or in the source of such a one.
    within_work: bool,
    source: Mutex<Source<T>>,
    /// Kept here, not in the tasks' closures, so that `stop` can drop it.
    start: Mutex<Option<Start<T, R>>>,
    /// Working memories that no task uses now.
    idle: Mutex<Vec<Work<T, R>>>,
    book: Mutex<Book<R>>,
    /// Signals the consumer: the next result is there, the source has ended, a task has ended.
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
    /// Tasks that have not ended.
    tasks: usize,
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
        let (entered, within_work) = match DUTY.get() {
            Duty::None => (None, false),
            Duty::Source { within_work: false } => (Some(parallelism.enter()), false),
            // All threads may be at work that waits for such a map.
            Duty::Source { within_work: true } | Duty::Work => (Some(false), true),
        };
        let parallelism = if entered == Some(false) { parallelism.apart() } else { parallelism };
        let entered = entered == Some(true);
        if parallelism.pool().is_none() {
            return State::Inline { items, work: start() };
        }
        let shared = Arc::new(Shared {
            parallelism,
            entered,
            within_work,
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
                tasks: 1,
            }),
            progress: Condvar::new(),
            give_up: GiveUp::new(),
        });
        shared.spawn_taker();
        State::Threads { shared }
    }
}

/// Signs a task off, however it ends.
struct Leave<'a, T, R>(&'a Shared<T, R>);

impl<T, R> Drop for Leave<'_, T, R> {
    fn drop(&mut self) {
        let mut book = lock(&self.0.book);
        book.tasks -= 1;
        if book.tasks == 0 {
            self.0.progress.notify_all();
        }
    }
}

impl<T: Send + 'static, R: Send + 'static> Shared<T, R> {
    /// Starts a task that is counted already.
    fn spawn_taker(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        self.parallelism.spawn(move || {
            let _leave = Leave(&shared);
            shared.task();
        });
    }

    /// Takes an item, hands the taking on, and works on the item.
    fn task(self: &Arc<Self>) {
        let Some((number, item)) = self.take() else { return };
        let outcome = item.and_then(|item| {
            let working = || {
                let idle = lock(&self.idle).pop();
                let mut work = match idle {
                    Some(work) => work,
                    // Gone if the map is, too.
                    None => lock(&self.start).clone().map(|start| start())?,
                };
                let result = Duty::Work.during(|| work(item));
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
        let next = || {
            Duty::Source { within_work: self.within_work }.during(|| source.items.as_mut()?.next())
        };
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
            book.tasks += 1;
            drop(book);
            self.spawn_taker();
        }
        Some((number, item))
    }

    /// Waits for the next result; none is left once the source has ended.
    fn next(self: &Arc<Self>) -> Option<Outcome<R>> {
        let pending = |book: &mut Book<R>| !book.has_next() && book.total != Some(book.emitted);
        let gathered = self.progress.wait_timeout_while(lock(&self.book), GATHER, pending);
        let (mut book, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        if pending(&mut book) {
            book.hungry = true;
            book = self.progress.wait_while(book, pending).unwrap_or_else(PoisonError::into_inner);
            book.hungry = false;
        }
        let outcome = book.results.pop_front()??;
        book.emitted += 1;
        if std::mem::take(&mut book.parked) {
            book.tasks += 1;
            drop(book);
            self.spawn_taker();
        }
        Some(outcome)
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
            lock(&shared.book).stop = true;
            // A source that waits for a server would keep us.
            shared.give_up.tell();
            let running = |book: &mut Book<R>| book.tasks > 0;
            let mut book = shared
                .progress
                .wait_while(lock(&shared.book), running)
                .unwrap_or_else(PoisonError::into_inner);
            let left = std::mem::take(&mut book.results);
            drop(book);
            let idle = std::mem::take(&mut *lock(&shared.idle));
            let (items, start) = (lock(&shared.source).items.take(), lock(&shared.start).take());
            drop((left, idle, items, start));
            if shared.entered {
                shared.parallelism.pool.within.fetch_sub(1, Ordering::Relaxed);
            }
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
