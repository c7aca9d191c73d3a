//! A place to sleep until a notifier says that a condition may have changed.
//!
//! # Protocol
//! The waiter *announces* itself (sets `WAITERS`, reads the sequence), looks at the condition once
//! more, and sleeps while the sequence is what it read. The notifier changes the condition, then
//! looks for `WAITERS`. Both sides use sequentially consistent operations for the flag and the
//! condition, so at least one of them sees the other: either the waiter sees the condition, or the
//! notifier sees the waiter.
//!
//! `WOKEN` says that a wake is under way: until the woken waiter has come back, further
//! notifications need no system call. So one wake may stand for several notifications, and a woken
//! waiter that leaves must pass the notification on if there is more for others, whatever it leaves
//! with: what it waited for, part of that, or an error that came between its wake and the taking. A
//! process that is killed between its wake and its return leaves `WOKEN` set; the next waiter to
//! tick clears it.
//!
//! An [`EventCount`] has no notifications for one waiter, so it has nothing to pass on. A [`Relay`]
//! has, and lends its point only to work after which it passes the notification on itself.

use std::time::Duration;

use procession_os::memory::Shared;

use super::park::{LAST_TICK_WITH_DEATHS, WaitPoint, wake};
use crate::atomics::{AtomicU32, Ordering};

const WAITERS: u32 = 1;
const WOKEN: u32 = 2;

/// A place to sleep for waiters that are all woken at once. Eight bytes of shared memory; all zero
/// is a valid start.
#[repr(C)]
#[derive(Debug, Default)]
pub struct EventCount {
    sequence: AtomicU32,
    flags: AtomicU32,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for EventCount {}

impl EventCount {
    #[inline]
    fn notify_one(&self) {
        let flags = self.flags.load(Ordering::SeqCst);
        if flags & (WAITERS | WOKEN) == WAITERS {
            self.wake_one(flags);
        }
    }

    #[cold]
    fn wake_one(&self, seen: u32) {
        let flag =
            self.flags.compare_exchange(seen, seen | WOKEN, Ordering::SeqCst, Ordering::SeqCst);
        if flag.is_err() {
            // Another notifier wakes, or a waiter came back and looks for itself.
            return self.notify_one();
        }
        self.sequence.fetch_add(1, Ordering::SeqCst);
        if wake(&self.sequence, 1) == 0 {
            self.wake_and_clear();
        }
    }

    /// Clears the flags and wakes all sleepers, as after a wake that reached none. A waiter that
    /// announced itself meanwhile may rely on the flag cleared here; the change of sequence has it
    /// look once more.
    fn wake_and_clear(&self) {
        self.flags.fetch_and(!(WAITERS | WOKEN), Ordering::SeqCst);
        self.sequence.fetch_add(1, Ordering::SeqCst);
        wake(&self.sequence, i32::MAX as u32);
    }

    /// Has one sleeper look again, though there is nothing new. Async-signal-safe.
    #[cfg(not(model))]
    pub(crate) fn nudge_one(&self) {
        if self.flags.load(Ordering::SeqCst) & WAITERS != 0 {
            self.sequence.fetch_add(1, Ordering::SeqCst);
            if wake(&self.sequence, 1) == 0 {
                self.wake_and_clear();
            }
        }
    }

    /// The word to sleep on, and its value now, for a caller that is about to sleep.
    #[cfg(not(model))]
    pub(crate) fn announced(&self) -> (&AtomicU32, u32) {
        let ticket = self.announce();
        (&self.sequence, ticket)
    }

    /// Wakes all sleepers, also where a process that was killed in the middle of this has cleared
    /// their flag. Async-signal-safe.
    #[cfg(not(model))]
    pub(crate) fn wake_all(&self) {
        self.wake_and_clear();
    }

    /// Wakes all sleepers. Async-signal-safe.
    pub fn notify_all(&self) {
        if self.flags.load(Ordering::SeqCst) & WAITERS != 0 {
            self.wake_and_clear();
        }
    }
}

/// The sleepers of an [`EventCount`] whose wait the death of any of several processes may end.
#[derive(Debug)]
pub struct WithDeaths<'a>(pub &'a EventCount);

impl WaitPoint for WithDeaths<'_> {
    const LONGEST_TICK: Duration = LAST_TICK_WITH_DEATHS;
    const ENDED_BY_DEATHS: bool = true;

    fn word(&self) -> &AtomicU32 {
        self.0.word()
    }

    fn announce(&self) -> u32 {
        self.0.announce()
    }

    fn awake(&self) {
        self.0.awake();
    }
}

impl WaitPoint for EventCount {
    fn word(&self) -> &AtomicU32 {
        &self.sequence
    }

    fn announce(&self) -> u32 {
        let ticket = self.sequence.load(Ordering::SeqCst);
        self.flags.fetch_or(WAITERS, Ordering::SeqCst);
        ticket
    }

    fn awake(&self) {
        self.flags.fetch_and(!WOKEN, Ordering::SeqCst);
    }
}

/// A place to sleep for waiters of which each notification wakes one, and which pass it on. Eight
/// bytes of shared memory; all zero is a valid start.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Relay {
    sleepers: EventCount,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Relay {}

impl Relay {
    /// Wakes one sleeper, if there is one and none is being woken already.
    #[inline]
    pub fn notify_one(&self) {
        self.sleepers.notify_one();
    }

    /// Runs `work`, which may [`block`](super::block) at the point that it gets and then take what
    /// it waited for, or fail to. Afterwards wakes the next sleeper if `more`, told the outcome,
    /// says that there is something for it.
    ///
    /// It is a call with a closure and not a guard, so that a process that dies on the way does
    /// nothing, under the model checker as well.
    #[inline]
    pub fn pass_on<R>(
        &self,
        more: impl FnOnce(&R) -> bool,
        work: impl FnOnce(&EventCount) -> R,
    ) -> R {
        let outcome = work(&self.sleepers);
        if more(&outcome) {
            self.notify_one();
        }
        outcome
    }
}
