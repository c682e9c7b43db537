//! The one parallel stage: a bounded, order-keeping map.

use std::any::Any;
use std::collections::VecDeque;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::give_up::GiveUp;

/// Default of [`Parallelism::with_window`], for each thread.
pub const DEFAULT_WINDOW_PER_THREAD: usize = 32;

/// How many threads a parallel stage has, and how far they may run ahead of the consumer.
///
/// Results do not depend on either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Parallelism {
    threads: usize,
    window: usize,
}

impl Default for Parallelism {
    /// One thread for each core that this process may use.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, NonZero::get))
    }
}

impl Parallelism {
    /// Takes `threads` threads, at least one; with one, the work is done on the consumer's.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        Self { threads, window: threads.saturating_mul(DEFAULT_WINDOW_PER_THREAD) }
    }

    /// Sets how many items may be in work or waiting for the consumer, at least one for each
    /// thread (default [`DEFAULT_WINDOW_PER_THREAD`] for each): what bounds the memory.
    pub fn with_window(mut self, window: usize) -> Self {
        self.window = window.max(self.threads);
        self
    }

    /// The number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The threads, each of this name and its number; none where the work is to be done on the caller's.
    pub(crate) fn pool(self, name: &'static str) -> Option<rayon::ThreadPool> {
        if self.threads == 1 {
            return None;
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads);
        // A machine that refuses threads still gets the work done.
        pool.thread_name(move |i| format!("{name}-{i}")).build().ok()
    }

    /// The number of items that may be in work or waiting.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }
}

/// The iterator of [`StageExt::par_map`](crate::StageExt::par_map).
///
/// Results come in the order of the items. The threads start at the first `next` and take items
/// from the source one at a time, so that no queue of items builds up; they stop when the iterator
/// is dropped, which waits for the work that is under way, but not for an
/// `S3Source` that waits for its server. A panic in the work or the source goes on in the
/// consumer.
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
    source: Mutex<Source<T>>,
    /// Here rather than in the threads' closure, which lives on for a moment when they have signed off.
    start: Mutex<Option<Start<T, R>>>,
    book: Mutex<Book<R>>,
    /// Signals the consumer: the next result is there, the source has ended, a thread has left.
    progress: Condvar,
    /// Signals the thread at the source: there is room, or it is time to stop.
    room: Condvar,
    /// Wakes the thread in the source when the consumer has gone.
    give_up: GiveUp,
    window: usize,
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
    /// Whether the thread at the source waits for room.
    cramped: bool,
    threads: usize,
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
        let Some(pool) = parallelism.pool("orb-features") else {
            return State::Inline { items, work: start() };
        };
        let shared = Arc::new(Shared {
            source: Mutex::new(Source { items: Some(items), taken: 0 }),
            start: Mutex::new(Some(start)),
            book: Mutex::new(Book {
                results: VecDeque::new(),
                emitted: 0,
                total: None,
                stop: false,
                hungry: false,
                cramped: false,
                threads: pool.current_num_threads(),
            }),
            progress: Condvar::new(),
            room: Condvar::new(),
            give_up: GiveUp::new(),
            window: parallelism.window(),
        });
        let book = Arc::clone(&shared);
        // One job that stays on each thread: a job that could be stolen might be started by a
        // thread that waits inside its own work, and then wait for that work itself.
        pool.spawn_broadcast(move |_| {
            let _leave = Leave(&book);
            book.run();
        });
        State::Threads { shared }
    }
}

/// Signs a thread off, however it ends.
struct Leave<'a, T, R>(&'a Shared<T, R>);

impl<T, R> Drop for Leave<'_, T, R> {
    fn drop(&mut self) {
        lock(&self.0.book).threads -= 1;
        self.0.progress.notify_all();
    }
}

impl<T, R> Shared<T, R> {
    /// What each thread does.
    fn run(&self) {
        let Some(start) = lock(&self.start).clone() else { return };
        let mut work = None;
        while let Some((number, item)) = self.take() {
            let outcome = item.and_then(|item| {
                catch_unwind(AssertUnwindSafe(|| work.get_or_insert_with(|| start())(item)))
            });
            let mut book = lock(&self.book);
            let place = number - book.emitted;
            book.results[place] = Some(outcome);
            let is_half_full = 2 * book.results.len() >= self.window;
            if book.has_next() && (book.hungry || is_half_full) {
                self.progress.notify_all();
            }
        }
    }

    /// Takes the next item and its number, once there is room for its result.
    #[allow(clippy::type_complexity)]
    fn take(&self) -> Option<(usize, Outcome<T>)> {
        // Held while waiting: whoever is first at the source is first to go on.
        let mut source = lock(&self.source);
        let number = source.taken;
        let full = |book: &mut Book<R>| {
            book.cramped = !book.stop && number - book.emitted >= self.window;
            book.cramped
        };
        let book =
            self.room.wait_while(lock(&self.book), full).unwrap_or_else(PoisonError::into_inner);
        if book.stop {
            return None;
        }
        drop(book);
        let next = || self.give_up.mark(|| source.items.as_mut()?.next());
        let item = catch_unwind(AssertUnwindSafe(next));
        let item = match item {
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
        lock(&self.book).results.push_back(None);
        Some((number, item))
    }

    /// Waits for the next result; none is left once the source has ended.
    fn next(&self) -> Option<Outcome<R>> {
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
        let is_awaited = book.cramped;
        drop(book);
        // A call to the system, even if nobody waits.
        if is_awaited {
            self.room.notify_one();
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
    /// Ends the threads, waits until none touches source or work any more, and drops both.
    fn stop(&mut self) {
        if let State::Threads { shared } = std::mem::replace(&mut self.state, State::Done) {
            let mut book = lock(&shared.book);
            book.stop = true;
            shared.room.notify_all();
            drop(book);
            // A source that waits for a server would keep us.
            shared.give_up.tell();
            let running = |book: &mut Book<R>| book.threads > 0;
            let mut book = shared
                .progress
                .wait_while(lock(&shared.book), running)
                .unwrap_or_else(PoisonError::into_inner);
            let left = std::mem::take(&mut book.results);
            drop(book);
            drop(left);
            let (items, start) = (lock(&shared.source).items.take(), lock(&shared.start).take());
            drop((items, start));
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
