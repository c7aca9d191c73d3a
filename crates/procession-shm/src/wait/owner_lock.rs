//! A lock whose word names its owner, so that the next holder is told of the owner's death.
//!
//! # Invariant
//! The word names the owner from the instruction that takes the lock to the one that releases it.
//! Death at any point leaves either a free lock or one whose owner can be seen to be dead.
//!
//! # Protocol
//! - One word of 64 bits has the [owner](Owner) and two flags. Taking the lock is one
//!   compare-exchange from "no owner". A dead owner is replaced by one compare-exchange too, so
//!   exactly one waiter is told of the death.
//! - `WAITERS`, `WOKEN` and the sequence word beside it are those of an
//!   [`EventCount`](super::EventCount), folded into the word, so that a release without waiters is
//!   a single instruction.
//! - While a woken waiter is on its way, others may take and release the lock without a system
//!   call. That is what makes it fast under contention.
//! - A woken waiter that finds the lock taken sleeps for a millisecond more with `WOKEN` still set,
//!   so that the others go on without system calls. Then it clears the flag and tries again.
//! - A waiter that has waited for long asks for turns, and a release then keeps the lock for the
//!   waiters: see [`fairness`](super::fairness).

use std::cell::Cell;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::memory::Shared;

use super::fairness::{Asked, kept_for, kept_since_now, patience_is_over};
use super::owner::{FLAGS, Owner, WAITERS, WOKEN, is_kept};
use super::park::{BlockedOn, Check, Probe, Wait, WaitError, WaitPoint, block, wake};
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;

/// How the lock came to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Acquired {
    /// It was free.
    Clean,
    /// Its holder died with it; what it guards may be half changed.
    OwnerDied(Owner),
}

/// The lock was released, though no thread held it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lock is not held")]
pub struct NotLockedError;

/// Sixteen bytes of shared memory; all zero is a free lock.
#[repr(C)]
#[derive(Debug, Default)]
pub struct OwnerLock {
    state: AtomicU64,
    sequence: AtomicU32,
    /// [`Asked`].
    asked: AtomicU32,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for OwnerLock {}

impl OwnerLock {
    /// Takes the lock if it is free, and not kept for waiters.
    #[inline]
    pub fn try_lock(&self, me: Owner) -> bool {
        if me.has_no_slot() {
            return false;
        }
        // Acquire: what the last holder wrote is seen.
        match self.state.compare_exchange(0, me.0, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => true,
            Err(state) => Owner::of_lock(state).is_none() && self.try_lock_slowly(me, state, None),
        }
    }

    /// Takes the lock if no thread has it: also beside flags, and a kept one for a waiter that has
    /// slept, or after its time.
    #[cold]
    fn try_lock_slowly(&self, me: Owner, mut state: u64, waiter: Option<&Waiter<'_>>) -> bool {
        if me.has_no_slot() {
            return false;
        }
        let slept = waiter.is_some_and(|waiter| waiter.slept.get());
        while Owner::of_lock(state).is_none() && (slept || kept_for(state).is_none()) {
            match self.state.compare_exchange_weak(
                state,
                (state & FLAGS) | me.0,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    if is_kept(state) && slept {
                        self.took_kept(waiter.and_then(|waiter| waiter.since.get()));
                    }
                    return true;
                }
                Err(now) => state = now,
            }
        }
        false
    }

    /// The lock is kept no more after a waiter has had it that came after the last asking. A thread
    /// that takes it after its time changes nothing: the waiter that was woken for it is late.
    fn took_kept(&self, since: Option<Monotonic>) {
        let asked = Asked(self.asked.load(Ordering::Relaxed));
        if asked != Asked::NOTHING && !since.is_some_and(|since| asked.covers(since)) {
            self.change_asked(asked, Asked::NOTHING);
        }
    }

    /// Changes what is asked, unless another thread does.
    fn change_asked(&self, from: Asked, to: Asked) {
        let relaxed = Ordering::Relaxed;
        let _ = self.asked.compare_exchange(from.0, to.0, relaxed, relaxed);
    }

    /// Takes the lock, waiting for it if need be.
    ///
    /// # Errors
    /// [`WaitError`], as [`block`].
    #[inline]
    pub fn lock(
        &self,
        me: Owner,
        probe: &impl Probe,
        on: BlockedOn,
        waiting: Wait,
    ) -> Result<Acquired, WaitError> {
        if self.try_lock(me) {
            failpoint!("lock.acquired");
            return Ok(Acquired::Clean);
        }
        self.lock_slowly(me, probe, on, waiting)
    }

    #[cold]
    fn lock_slowly(
        &self,
        me: Owner,
        probe: &impl Probe,
        on: BlockedOn,
        waiting: Wait,
    ) -> Result<Acquired, WaitError> {
        let waiter = Waiter { lock: self, slept: Cell::new(false), since: Cell::new(None) };
        block(probe, on, waiting, &waiter, |check| {
            // Reading first keeps the cache line shared among the waiters.
            let state = self.state.load(Ordering::Relaxed);
            if Owner::of_lock(state).is_none() {
                let taken = self.try_lock_slowly(me, state, Some(&waiter));
                return taken.then_some(Acquired::Clean);
            }
            (check == Check::Tick).then(|| self.take_from_the_dead(me, probe)).flatten()
        })
    }

    /// Takes the lock over if its holder is dead.
    pub fn take_from_the_dead(&self, me: Owner, probe: &impl Probe) -> Option<Acquired> {
        let state = self.state.load(Ordering::Relaxed);
        let owner = Owner::of_lock(state)?;
        if !probe.is_dead(owner) || me.has_no_slot() {
            return None;
        }
        let taken = self.state.compare_exchange(
            state,
            (state & FLAGS) | me.0,
            Ordering::Acquire,
            Ordering::Relaxed,
        );
        taken.ok().map(|_| Acquired::OwnerDied(owner))
    }

    /// Frees the lock, of which the caller knows that `me` holds it: with one instruction.
    ///
    /// # Errors
    /// [`NotLockedError`] if no thread holds it.
    #[inline]
    pub fn unlock_mine(&self, me: Owner) -> Result<(), NotLockedError> {
        failpoint!("lock.releasing");
        // Release: what this holder wrote is seen by the next.
        match self.state.compare_exchange(me.0, 0, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => {
                failpoint!("lock.released");
                Ok(())
            }
            Err(_) => self.unlock_beside_flags(),
        }
    }

    /// Frees the lock, whichever thread holds it.
    ///
    /// # Errors
    /// [`NotLockedError`] if no thread does.
    #[inline]
    pub fn unlock(&self) -> Result<(), NotLockedError> {
        failpoint!("lock.releasing");
        let state = self.state.load(Ordering::Relaxed);
        if state & FLAGS == 0 && Owner::of_lock(state).is_some() {
            // Release: what this holder wrote is seen by the next.
            let freed = self.state.compare_exchange(state, 0, Ordering::Release, Ordering::Relaxed);
            if freed.is_ok() {
                failpoint!("lock.released");
                return Ok(());
            }
        }
        self.unlock_beside_flags()
    }

    #[cold]
    fn unlock_beside_flags(&self) -> Result<(), NotLockedError> {
        let mut state = self.state.load(Ordering::Relaxed);
        let asked = Asked(self.asked.load(Ordering::Relaxed));
        let is_due = asked.is_due();
        let kept = loop {
            if Owner::of_lock(state).is_none() {
                return Err(NotLockedError);
            }
            let keeps = is_due && state & WAITERS != 0;
            let wakes = keeps || state & FLAGS == WAITERS;
            let kept = if keeps { kept_since_now() } else { 0 };
            let next = kept | if wakes { FLAGS } else { state & FLAGS };
            match self.state.compare_exchange_weak(state, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) if wakes => break kept,
                Ok(_) => return Ok(()),
                Err(now) => state = now,
            }
        };
        failpoint!("lock.released");
        if kept != 0 {
            self.change_asked(asked, asked.kept());
        }
        self.sequence.fetch_add(1, Ordering::SeqCst);
        failpoint!("lock.waking");
        if wake(&self.sequence, 1) == 0 {
            self.reached_no_sleeper(kept);
        }
        Ok(())
    }

    /// As in `EventCount::wake_and_clear`; and if this release has kept the lock, frees it.
    /// What a later release keeps is for those that it wakes.
    fn reached_no_sleeper(&self, kept: u64) {
        let mut state = self.state.load(Ordering::SeqCst);
        loop {
            let next = if state & !FLAGS == kept { 0 } else { state & !FLAGS };
            match self.state.compare_exchange_weak(state, next, Ordering::SeqCst, Ordering::SeqCst)
            {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        self.asked.store(Asked::NOTHING.0, Ordering::Relaxed);
        self.sequence.fetch_add(1, Ordering::SeqCst);
        wake(&self.sequence, i32::MAX as u32);
    }

    /// Whether no thread holds the lock, and it is kept for waiters.
    pub fn is_kept(&self) -> bool {
        kept_for(self.state.load(Ordering::Relaxed)).is_some()
    }

    /// The holder at this instant.
    #[inline]
    pub fn owner(&self) -> Option<Owner> {
        Owner::of_lock(self.state.load(Ordering::Relaxed))
    }
}

/// One wait for the lock.
struct Waiter<'a> {
    lock: &'a OwnerLock,
    /// Whether it slept: then it may take the lock if it is kept.
    slept: Cell<bool>,
    /// When it was about to sleep for the first time.
    since: Cell<Option<Monotonic>>,
}

impl WaitPoint for Waiter<'_> {
    // A lock that others take faster is busy: more contenders would only be in their way.
    const NAP: Option<Duration> = Some(Duration::from_millis(1));
    const ENDED_BY_DEATHS: bool = true;

    fn word(&self) -> &AtomicU32 {
        &self.lock.sequence
    }

    fn announce(&self) -> u32 {
        if self.since.get().is_none() {
            self.since.set(Some(Monotonic::now()));
        }
        if self.is_next() {
            let asked = Asked(self.lock.asked.load(Ordering::Relaxed));
            self.lock.change_asked(asked, asked.again());
        }
        let ticket = self.lock.sequence.load(Ordering::SeqCst);
        self.lock.state.fetch_or(WAITERS, Ordering::SeqCst);
        ticket
    }

    fn awake(&self) {
        self.lock.state.fetch_and(!WOKEN, Ordering::SeqCst);
    }

    fn waits_for(&self) -> Option<Owner> {
        self.lock.owner()
    }

    fn slept(&self) {
        failpoint!("lock.woken");
        self.slept.set(true);
        if self.since.get().is_none() {
            // It went to sleep before it was interrupted, and came back.
            self.since.set(Some(Monotonic::from_nanos(0)));
        }
    }

    fn is_next(&self) -> bool {
        let since = self.since.get();
        self.slept.get() && since.is_some_and(patience_is_over)
    }

    fn kept_for_others(&self) -> Option<Duration> {
        kept_for(self.lock.state.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::super::park::Operation;
    use super::*;

    struct Family;
    impl Probe for Family {
        fn is_dead(&self, owner: Owner) -> bool {
            owner.slot() == 9
        }
        fn blocked(&self, _: BlockedOn) {}
        fn running(&self) {}
    }

    const ON: BlockedOn = BlockedOn { object: 0, operation: Operation::Acquire };

    #[test]
    fn a_lock_that_is_kept_is_refused_to_those_who_have_not_slept() {
        let (lock, me) = (OwnerLock::default(), Owner::new(1, 1, 1));
        lock.state.store(kept_since_now(), Ordering::Relaxed);
        assert!(!lock.try_lock(me));
        assert_eq!(lock.unlock(), Err(NotLockedError));
        assert_eq!(lock.unlock_mine(me), Err(NotLockedError));
        assert_eq!(lock.owner(), None);
        // No waiter comes for it.
        assert_eq!(lock.lock(me, &Family, ON, Wait::FOREVER), Ok(Acquired::Clean));
        assert_eq!(lock.owner(), Some(me));
    }

    #[test]
    fn a_free_lock_can_not_be_released() {
        assert_eq!(OwnerLock::default().unlock(), Err(NotLockedError));
    }

    #[test]
    fn the_death_of_the_owner_is_told_once() {
        let lock = OwnerLock::default();
        assert!(lock.try_lock(Owner::new(9, 1, 1)));
        let me = Owner::new(1, 1, 1);
        let told = lock.lock(me, &Family, ON, Wait::FOREVER);
        assert_eq!(told, Ok(Acquired::OwnerDied(Owner::new(9, 1, 1))));
        lock.unlock().unwrap();
        assert_eq!(lock.lock(me, &Family, ON, Wait::FOREVER), Ok(Acquired::Clean));
    }

    #[test]
    fn threads_count_without_losing() {
        let lock = OwnerLock::default();
        let count = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for slot in 1..5 {
                let (lock, count) = (&lock, &count);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        let me = Owner::new(slot, 1, 1);
                        let _ = lock.lock(me, &Family, ON, Wait::FOREVER).unwrap();
                        let seen = count.load(Ordering::Relaxed);
                        count.store(seen + 1, Ordering::Relaxed);
                        lock.unlock().unwrap();
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 80_000);
    }
}
