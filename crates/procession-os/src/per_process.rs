//! A value of one process, behind a lock that a fork may find taken.
//!
//! A forked child has only the thread that forked. A `std::sync::Mutex` that another thread of the
//! parent held at that moment stays locked in the child for ever, and what it guards may be half
//! changed. [`PerProcess`] records the process of its holder. A child that finds the lock taken by
//! its parent takes it over, begins with a fresh value, and never looks at the old one. A child
//! that finds it free begins with a fresh value, too, and drops the old one.
//!
//! The word has the holder's generation and one bit for waiters (as in U. Drepper, "Futexes Are
//! Tricky", mutex 2).

#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::futex;

/// 1, and one more in each forked child than in its parent.
static GENERATION: AtomicU32 = AtomicU32::new(1);

/// Whether the fork that made this process was called with such a lock held by the same thread.
static FORKED_INSIDE: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many such locks this thread holds.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// One more than the number of forks between the first ancestor and this process. Two processes of
/// which one inherits memory of the other never have the same number.
///
/// This counts the forks since [`atfork::register`](crate::atfork::register) was called.
#[inline]
#[must_use]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// In a forked child, from the handler.
pub(crate) fn count_fork() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    FORKED_INSIDE.store(HELD.get() > 0, Ordering::Relaxed);
}

/// A bit of the word: a thread may sleep on it.
const WAITERS: u32 = 1;

/// A value that each process has for itself: the copy in a forked child begins with `T::default()`.
///
/// It relies on the handlers that [`atfork::register`](crate::atfork::register) registers; before
/// that call it is a plain mutex. Making one allocates nothing if `T::default()` does not.
#[derive(Default)]
pub struct PerProcess<T> {
    /// 0, or the generation of the process that has a thread inside, and the bit for waiters.
    word: AtomicU32,
    inner: UnsafeCell<Inner<T>>,
}

#[derive(Default)]
struct Inner<T> {
    /// The generation of the process that made the value.
    of: u32,
    /// `None` until it is first used.
    value: Option<T>,
}

// SAFETY: the value is only touched by the thread that holds the lock.
unsafe impl<T: Send> Sync for PerProcess<T> {}

impl<T: Default> PerProcess<T> {
    /// Calls `work` with this process's value, one thread at a time. `work` is to be short, as
    /// other threads sleep meanwhile. It must not call this on the same value: that call would
    /// never return.
    ///
    /// # Panics
    /// If this process was forked within `work`, which may be half done then.
    #[inline]
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let me = generation();
        // Dropped after the release of the lock, as a drop may run any code.
        let mut inherited = None;
        let abandoned = self.acquire(me << 1);
        let held = Held::new(&self.word);
        let inner = self.inner.get();
        // SAFETY: the lock is held. If it was abandoned, the last holder was a thread of another
        // process and is not in this one; what it left is written over without being read.
        let inner = unsafe {
            if abandoned {
                ptr::write(inner, Inner { of: me, value: None });
            }
            &mut *inner
        };
        if inner.of != me {
            // The lock was free at the fork, so the value is whole.
            inherited = inner.value.take();
            inner.of = me;
        }
        let result = work(inner.value.get_or_insert_default());
        drop(held);
        drop(inherited);
        result
    }
}

impl<T> PerProcess<T> {
    /// Acquires the lock; returns whether its holder was left behind by a fork.
    #[inline]
    fn acquire(&self, mine: u32) -> bool {
        let taken = self.word.compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed);
        taken.is_err() && self.acquire_slowly(mine)
    }

    #[cold]
    fn acquire_slowly(&self, mine: u32) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let is_ours = word & !WAITERS == mine;
            let abandoned = word != 0 && !is_ours;
            assert!(
                !(abandoned && FORKED_INSIDE.load(Ordering::Relaxed)),
                "this process was forked with a lock held by the thread that forked"
            );
            // The calling thread may have slept, and others may sleep still.
            let wanted = if is_ours { word | WAITERS } else { mine | WAITERS };
            let swapped =
                self.word.compare_exchange(word, wanted, Ordering::Acquire, Ordering::Relaxed);
            match swapped {
                Ok(_) if !is_ours => return abandoned,
                Ok(_) => {
                    futex::wait(&self.word, wanted, None);
                    word = self.word.load(Ordering::Relaxed);
                }
                Err(now) => word = now,
            }
        }
    }
}

/// The lock while it is held, also where `work` panics.
struct Held<'a>(&'a AtomicU32);

impl<'a> Held<'a> {
    #[inline]
    fn new(word: &'a AtomicU32) -> Self {
        HELD.set(HELD.get() + 1);
        Self(word)
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if self.0.swap(0, Ordering::Release) & WAITERS != 0 {
            futex::wake(self.0, 1);
        }
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::atfork::{self, Handlers};
    use crate::clock::Monotonic;
    use crate::pidfd::{ExitStatus, PidFd};
    use crate::process::{self, Fork};

    /// Longer than any of the tests.
    const LONG: Duration = Duration::from_secs(60);

    /// Calls `work` in a forked child, which leaves with 0 if that returns true.
    fn in_child(work: impl FnOnce() -> bool) -> ExitStatus {
        let nothing = Handlers { before: || {}, in_parent: || {}, in_child: || {} };
        atfork::register(nothing).unwrap();
        // SAFETY: the child needs no lock that another thread may hold.
        match unsafe { process::fork() }.unwrap() {
            Fork::Child => process::exit_now(i32::from(!work())),
            Fork::Parent(pid) => {
                let child = PidFd::open(pid).unwrap();
                if !child.ended_by(Some(Monotonic::now().after(LONG))).unwrap() {
                    child.signal(9).unwrap();
                }
                child.ended_by(None).unwrap();
                child.reap().unwrap().unwrap()
            }
        }
    }

    #[test]
    fn a_child_that_finds_the_lock_taken_begins_with_a_fresh_value() {
        let numbers = PerProcess::<[u32; 2]>::default();
        let (entered, wait_entered) = channel();
        let (leave, wait_leave) = channel::<()>();
        thread::scope(|scope| {
            let numbers = &numbers;
            scope.spawn(move || {
                numbers.with(|numbers| {
                    numbers[0] = 1;
                    entered.send(()).unwrap();
                    wait_leave.recv().unwrap();
                    numbers[1] = 1;
                });
            });
            wait_entered.recv().unwrap();
            let twice = || {
                let first = numbers.with(|numbers| std::mem::replace(numbers, [7, 7]));
                (first, numbers.with(|numbers| *numbers)) == ([0, 0], [7, 7])
            };
            let ended = in_child(twice);
            leave.send(()).unwrap();
            assert_eq!(ended, ExitStatus::Exited(0));
        });
        assert_eq!(numbers.with(|numbers| *numbers), [1, 1]);
    }

    #[test]
    fn a_child_that_finds_the_lock_free_drops_what_was_the_parents() {
        let numbers = PerProcess::<Option<Dropped>>::default();
        static DROPPED: AtomicU32 = AtomicU32::new(0);
        struct Dropped;
        impl Drop for Dropped {
            fn drop(&mut self) {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        numbers.with(|value| *value = Some(Dropped));
        let ended = in_child(|| {
            numbers.with(|value| value.is_none()) && DROPPED.load(Ordering::Relaxed) == 1
        });
        assert_eq!(ended, ExitStatus::Exited(0));
        assert!(numbers.with(|value| value.is_some()));
    }

    #[test]
    fn one_thread_at_a_time_is_inside() {
        let counter = PerProcess::<u64>::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        counter.with(|counter| {
                            let seen = std::hint::black_box(*counter);
                            if seen % 1000 == 0 {
                                thread::yield_now();
                            }
                            *counter = seen + 1;
                        });
                    }
                });
            }
        });
        assert_eq!(counter.with(|counter| *counter), 40_000);
    }
}
