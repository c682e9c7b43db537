//! Cancels the wait of a thread in a source after the consumer has gone.
//!
//! A parallel stage takes images from its source on its own threads. When the stage's consumer has gone, one of these
//! threads may still be waiting for a server. The stage marks its threads with a [`GiveUp`] while they are in the
//! source, whatever adaptors lie between. Code that waits for a server also waits for `of_this_thread`.

use std::cell::RefCell;
#[cfg(feature = "s3")]
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
#[cfg(feature = "s3")]
use std::task::{Context, Poll};

thread_local! {
    static CURRENT: RefCell<Option<GiveUp>> = const { RefCell::new(None) };
}

/// A cancellation signal: told once, from any thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct GiveUp(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_told: bool,
    /// Waker of the waiting thread: at most one, as only one thread at a time is in a source.
    waiting: Option<Waker>,
    /// Signals of the stages within the source; they are told with this one.
    within: Vec<GiveUp>,
}

impl GiveUp {
    /// Makes a signal that is also told when this thread's own signal is told, or was told already.
    pub fn new() -> Self {
        let new = Self::default();
        if let Some(outer) = CURRENT.with_borrow(Clone::clone) {
            let mut outer = outer.lock();
            if outer.is_told {
                new.lock().is_told = true;
            } else {
                // Drops the signals of stages that have ended: nothing else holds them.
                outer.within.retain(|inner| Arc::strong_count(&inner.0) > 1);
                outer.within.push(new.clone());
            }
        }
        new
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the waits of marked threads, current and later ones; also tells the signals within.
    pub fn tell(&self) {
        let (waiting, within) = {
            let mut state = self.lock();
            state.is_told = true;
            (state.waiting.take(), std::mem::take(&mut state.within))
        };
        waiting.into_iter().for_each(Waker::wake);
        within.iter().for_each(Self::tell);
    }

    /// Does some work on this thread; its waits end when this signal is told.
    pub fn mark<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Restores the thread's previous signal, also after a panic.
        struct Restore(Option<GiveUp>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        work()
    }
}

/// Completes when this thread's signal is told; never if the thread has none.
#[cfg(feature = "s3")]
pub(crate) fn of_this_thread() -> impl Future<Output = ()> {
    Told(CURRENT.with_borrow(Clone::clone))
}

#[cfg(feature = "s3")]
struct Told(Option<GiveUp>);

#[cfg(feature = "s3")]
impl Future for Told {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(give_up) = &self.0 else { return Poll::Pending };
        let mut state = give_up.lock();
        if state.is_told {
            return Poll::Ready(());
        }
        state.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_within_one_that_was_told_is_told() {
        let outer = GiveUp::new();
        let before = outer.mark(GiveUp::new);
        assert!(!before.lock().is_told);
        outer.tell();
        let after = outer.mark(GiveUp::new);
        assert!(before.lock().is_told && after.lock().is_told);
        assert!(!GiveUp::new().lock().is_told);
    }

    #[test]
    fn stages_that_have_ended_are_not_kept() {
        let outer = GiveUp::new();
        let alive = outer.mark(GiveUp::new);
        for _ in 0..1000 {
            drop(outer.mark(GiveUp::new));
        }
        assert!(outer.lock().within.len() <= 2);
        outer.tell();
        assert!(alive.lock().is_told);
    }
}
