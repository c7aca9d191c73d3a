//! A lock that knows who holds it, so that the death of the holder can be told to the next.
//!
//! # Invariant
//! The word holds the owner from the very instruction that takes the lock to the one that releases
//! it. Death at any point leaves either a free lock or one whose owner can be seen to be dead.
//!
//! # Protocol
//! One 64-bit word: thread (22 bits), the slot's generation (28), slot (12), and two flags. Taking
//! is one compare-exchange from "no owner"; a dead owner is replaced by one compare-exchange too,
//! so exactly one waiter learns of the death. `WAITERS` and `WOKEN` and the sequence word beside it
//! are those of an [`EventCount`](super::EventCount), folded into the word so that a release
//! without waiters is a single instruction. While a woken waiter is on its way, the lock may be
//! taken and released by others without a system call: that is what makes it fast under contention.
//! A woken waiter that finds the lock taken sleeps for a millisecond more with `WOKEN` still set,
//! so that those who are faster need no system calls; then it clears the flag and tries again.
//!
//! # Fairness
//! A lock that is taken again as soon as it is released is never free when a woken waiter arrives.
//! So a waiter that has slept and waited for [`PATIENCE`] *asks* for turns, in a word beside the
//! state. From then on a release *keeps* the lock for those that sleep:
//!
//! ```text
//! owned by A ── release, nobody asked ──▶ free ── anyone ──────────────────────▶ owned by B
//!      └─────── release, asked ─────────▶ kept since T ── a waiter that slept ──▶ owned by B
//!                                                └── anyone, after KEPT_FOR ─────▶ owned by B
//! ```
//!
//! *Kept* stands in the owner's bits, with the time. So it is one store with the release, and ends
//! with the store that takes the lock: a lock can't be kept and owned, and death leaves one or the
//! other.
//!
//! - A kept lock excludes nobody who would not be excluded by an owner, and only for a time;
//!   whether two are inside is decided by the same compare-exchanges as without it.
//! - It is kept for *any* waiter that slept, not for the one that asked: a release wakes the one
//!   that has slept the longest. A waiter that is killed, or leaves at its deadline or for a
//!   signal, sleeps no more and is not woken; if no other sleeps, the wake reaches nobody, and the
//!   lock is free at once. What remains is a waiter that is stopped, or killed after its wake:
//!   others go on after [`KEPT_FOR`].
//! - It is kept until all have had it that slept when somebody asked last: the first to take it
//!   that came later ends that. If only the release after the asking kept it, the one that asked
//!   could lose each time: it sleeps behind the others again, and is woken by the release of a
//!   waiter for which the lock was kept, which the greedy holder awaits by spinning.
//! - A lock that is kept lies idle for the time of a wake, so over time it is kept once in [`PACE`]
//!   at the most. Turns that are longer than that go round in the order of sleeping; shorter ones
//!   are taken by those who are faster in between.
//! - What was asked is a hint, so its accesses need no order: if a release does not see it yet, the
//!   next one does, since the waiter goes on asking; if the waiter is gone, one release wakes
//!   somebody that it need not have woken. So nothing is taken back by a waiter that leaves.
//! - A release that keeps the lock wakes a sleeper also if `WOKEN` says that one is on its way,
//!   because that one may be asleep for its millisecond. The wake may end just that sleep.

use std::cell::Cell;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::memory::Shared;

use super::park::{BlockedOn, Check, Operation, Probe, Wait, WaitError, WaitPoint, block, wake};
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;

const THREAD_BITS: u32 = 22;
const GENERATION_BITS: u32 = 28;
const SLOT_BITS: u32 = 12;
const WAITERS: u64 = 1 << 63;
const WOKEN: u64 = 1 << 62;
const FLAGS: u64 = WAITERS | WOKEN;

/// A lock that is kept for waiters has this bit, the time below it, and 0 for the thread, which is
/// no thread's number.
const KEPT: u64 = 1 << 61;
const THREAD: u64 = (1 << THREAD_BITS) - 1;
const TIME: u64 = (KEPT - 1) & !THREAD;
/// A unit of that time, as a power of two in nanoseconds: 131 µs, so it comes round in two years.
const UNIT_BITS: u32 = 17;

/// How long a released lock is kept for a waiter: a wake takes 25 to 50 µs, and more if all
/// processors are busy.
const KEPT_FOR: Duration = Duration::from_millis(5);

/// How long a waiter leaves the lock to those who are faster before it asks for turns.
const PATIENCE: Duration = Duration::from_millis(2);

fn patience_is_over(since: Monotonic) -> bool {
    let waited = Monotonic::now().since(since);
    #[cfg(model)]
    let waited = waited + super::model::none_or(PATIENCE);
    waited >= PATIENCE
}

/// How often a release keeps the lock, over time: a wake that others wait for is a tenth of that.
const PACE: Duration = Duration::from_micros(500);
/// How many in a row may keep it, if it has not been kept for a while: then all that wait have a
/// turn.
const BURST: u32 = 64;

/// What waiters have asked for: when one of them did so last, and how far the releases that kept
/// the lock are ahead of [`PACE`] (as a time: Generic Cell Rate Algorithm, ITU-T I.371). Both are
/// on a clock that goes round in eight seconds; what is misjudged then costs or gains a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Asked(u32);

impl Asked {
    const NOTHING: Self = Self(0);
    const PACE: u16 = (PACE.as_nanos() >> UNIT_BITS) as u16 + 1;
    const BURST: u16 = Self::PACE * BURST as u16;

    fn now() -> u16 {
        (Monotonic::now().as_nanos() >> UNIT_BITS) as u16
    }

    fn new(asked: u16, paid: u16) -> Self {
        Self(u32::from(asked.max(1)) << 16 | u32::from(paid))
    }

    /// Until when what was kept is made up for, from now on; a time long ago looks like a late one.
    fn ahead(self) -> u16 {
        let ahead = (self.0 as u16).wrapping_sub(Self::now());
        if ahead > Self::BURST + Self::PACE { 0 } else { ahead }
    }

    /// With somebody asking now.
    fn again(self) -> Self {
        let now = Self::now();
        let ahead = if self == Self::NOTHING { 0 } else { self.ahead() };
        Self::new(now, now.wrapping_add(ahead))
    }

    /// With one more release that has kept the lock.
    fn kept(self) -> Self {
        Self::new((self.0 >> 16) as u16, Self::now().wrapping_add(self.ahead() + Self::PACE))
    }

    /// Whether a release is to keep the lock.
    fn is_due(self) -> bool {
        if self == Self::NOTHING {
            return false;
        }
        let ahead = u64::from(self.ahead());
        #[cfg(model)]
        let ahead = ahead + super::model::none_or(Duration::from_secs(1)).as_secs() * 1000;
        ahead <= Self::BURST.into()
    }

    /// Whether one that waits since then did so already when somebody asked last.
    fn covers(self, since: Monotonic) -> bool {
        let ago = u64::from(Self::now().wrapping_sub((self.0 >> 16) as u16));
        #[cfg(model)]
        let ago = ago + super::model::none_or(Duration::from_secs(1)).as_secs() * 1000;
        Monotonic::now().since(since).as_nanos() as u64 >> UNIT_BITS >= ago
    }
}

const fn is_kept(word: u64) -> bool {
    word & (KEPT | THREAD) == KEPT
}

/// The word of a lock that is kept from now on.
fn kept_since_now() -> u64 {
    #[cfg(not(model))]
    let units = Monotonic::now().as_nanos() >> UNIT_BITS;
    #[cfg(model)]
    let units = super::model::moment();
    KEPT | (units << THREAD_BITS) & TIME
}

/// How much longer a lock is kept, if it is.
fn kept_for(word: u64) -> Option<Duration> {
    if !is_kept(word) {
        return None;
    }
    // What lies in the future, as seen from another time namespace, is over as well.
    #[cfg(not(model))]
    let units = (kept_since_now().wrapping_sub(word) & TIME) >> THREAD_BITS;
    #[cfg(model)]
    let units = super::model::time_since();
    let left = KEPT_FOR.saturating_sub(Duration::from_nanos(units << UNIT_BITS));
    (!left.is_zero()).then_some(left)
}

/// A thread of a process of the family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owner(u64);

impl Owner {
    /// The bits of a slot that are part of an owner's word: more than any table has slots.
    #[cfg(not(model))]
    pub(crate) const SLOTS: u16 = (1 << SLOT_BITS) - 1;
    /// The highest generation of a slot that there can be.
    pub(crate) const GENERATIONS: u32 = (1 << GENERATION_BITS) - 1;

    /// The thread with the kernel's number `thread` in the process of a slot.
    #[inline]
    #[must_use]
    pub const fn new(slot: u16, generation: u32, thread: u32) -> Self {
        Self(Self::process(slot, generation) | (thread as u64 & ((1 << THREAD_BITS) - 1)))
    }

    /// The part of an owner's word that all threads of a process share.
    #[inline]
    #[must_use]
    pub const fn process(slot: u16, generation: u32) -> u64 {
        let slot = slot as u64 & ((1 << SLOT_BITS) - 1);
        let generation = generation as u64 & ((1 << GENERATION_BITS) - 1);
        (slot << (THREAD_BITS + GENERATION_BITS)) | (generation << THREAD_BITS)
    }

    #[inline]
    const fn from_word(word: u64) -> Option<Self> {
        match word & !FLAGS {
            0 => None,
            owner => Some(Self(owner)),
        }
    }

    /// The owner that [`Self::word`] gave.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Self::from_word(bits)
    }

    /// The owner that the word of an [`OwnerLock`] names.
    #[inline]
    #[must_use]
    pub const fn of_lock(word: u64) -> Option<Self> {
        if is_kept(word) { None } else { Self::from_word(word) }
    }

    /// The owner as one word, never 0.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Whether it is a thread of a process without a slot, which may own nothing.
    #[inline]
    pub(crate) const fn is_nobody(self) -> bool {
        self.slot() == (1 << SLOT_BITS) - 1
    }

    /// The process's slot.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u16 {
        (self.0 >> (THREAD_BITS + GENERATION_BITS)) as u16 & ((1 << SLOT_BITS) - 1)
    }

    /// Which of the processes that had the slot it is.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> THREAD_BITS) as u32 & ((1 << GENERATION_BITS) - 1)
    }

    /// The thread's number in the kernel.
    #[must_use]
    pub const fn thread(self) -> u32 {
        self.0 as u32 & ((1 << THREAD_BITS) - 1)
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "slot {}.{} thread {}", self.slot(), self.generation(), self.thread())
    }
}

/// How the lock came to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Acquired {
    /// It was free.
    Clean,
    /// Its holder died with it; what it guards may be half changed.
    OwnerDied(Owner),
}

/// The lock was released, though nobody held it.
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
// SAFETY: atomics alone.
unsafe impl Shared for OwnerLock {}

impl OwnerLock {
    /// Takes the lock if nobody has it, and it is not kept for waiters.
    #[inline]
    pub fn try_lock(&self, me: Owner) -> bool {
        if me.is_nobody() {
            return false;
        }
        // Acquire: what the last holder wrote is seen.
        match self.state.compare_exchange(0, me.0, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => true,
            Err(state) => Owner::of_lock(state).is_none() && self.try_lock_slowly(me, state, None),
        }
    }

    /// Takes the lock if nobody has it: beside flags, and if it is kept, for one that has slept or
    /// after its time.
    #[cold]
    fn try_lock_slowly(&self, me: Owner, mut state: u64, waiter: Option<&Waiter<'_>>) -> bool {
        if me.is_nobody() {
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

    /// The lock is kept no more after a waiter has had it that came after somebody asked. Whoever
    /// takes it after its time changes nothing: the one that was woken for it is late.
    fn took_kept(&self, since: Option<Monotonic>) {
        let asked = Asked(self.asked.load(Ordering::Relaxed));
        if asked != Asked::NOTHING && !since.is_some_and(|since| asked.covers(since)) {
            self.change_asked(asked, Asked::NOTHING);
        }
    }

    /// Changes what is asked, unless somebody else does.
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
            // Reading first keeps the cache line shared among those who wait.
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
        if !probe.is_dead(owner) || me.is_nobody() {
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
    /// [`NotLockedError`] if nobody holds it.
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

    /// Frees the lock, whoever holds it.
    ///
    /// # Errors
    /// [`NotLockedError`] if nobody does.
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
            self.nobody_slept(kept);
        }
        Ok(())
    }

    /// As in `EventCount::nobody_slept`; and if this release has kept the lock, then for nobody.
    /// What a later one keeps is for those that it wakes.
    fn nobody_slept(&self, kept: u64) {
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

    /// Whether nobody holds the lock, and it is kept for those who wait.
    pub fn is_kept(&self) -> bool {
        kept_for(self.state.load(Ordering::Relaxed)).is_some()
    }

    /// Who holds the lock at this instant.
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
    // A lock that others take faster is busy: more who want it would only be in their way.
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

/// Where a lock of the arena itself, not of an object, is waited for.
impl BlockedOn {
    /// The allocator's lock.
    pub const ALLOCATOR: Self = Self { object: 0, operation: Operation::Allocate };
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    struct Nobody;
    impl Probe for Nobody {
        fn is_dead(&self, owner: Owner) -> bool {
            owner.slot() == 9
        }
        fn blocked(&self, _: BlockedOn) {}
        fn running(&self) {}
    }

    const ON: BlockedOn = BlockedOn { object: 0, operation: Operation::Acquire };

    #[test]
    fn an_owner_is_what_it_was_made_of() {
        let owner = Owner::new(4095, Owner::GENERATIONS, 0x3f_ffff);
        assert_eq!(
            (owner.slot(), owner.generation(), owner.thread()),
            (4095, Owner::GENERATIONS, 0x3f_ffff)
        );
        assert_eq!(owner.word() & FLAGS, 0);
    }

    #[test]
    fn a_kept_lock_has_no_owner_and_is_free_in_the_end() {
        let now = kept_since_now();
        assert_eq!(Owner::of_lock(now | FLAGS), None);
        assert!(kept_for(now | FLAGS).is_some_and(|left| left <= KEPT_FOR));
        // The last of them is in the future.
        for ago in [39, 1000, (TIME >> THREAD_BITS) - 100] {
            let since = KEPT | now.wrapping_sub(ago << THREAD_BITS) & TIME;
            assert_eq!((kept_for(since), Owner::of_lock(since)), (None, None), "{ago}");
        }
        let last = Owner::new(Owner::SLOTS, Owner::GENERATIONS, 1);
        assert_eq!((kept_for(last.word()), Owner::of_lock(last.word())), (None, Some(last)));
    }

    #[test]
    fn a_burst_of_releases_may_keep_the_lock_and_then_one_at_a_time() {
        let mut asked = Asked::NOTHING;
        assert!(!asked.is_due());
        asked = asked.again();
        let mut kept = 0;
        while asked.is_due() {
            asked = asked.kept();
            kept += 1;
        }
        assert!(kept > BURST, "{kept}");
        // Asking again changes nothing of that; a long time does, and one that looks like the
        // future.
        assert!(!asked.again().is_due());
        for ago in [Asked::BURST, 0x7fff, 0x8000, 0xf000] {
            let past = Asked::new(1, Asked::now().wrapping_sub(ago));
            assert!(past.is_due() && past.kept().is_due(), "{ago}");
        }
    }

    #[test]
    fn asking_is_for_those_that_wait_already() {
        let now = Monotonic::now().as_nanos();
        let ago = |units: u64| Monotonic::from_nanos(now - (units << UNIT_BITS));
        let asked = Asked::new(Asked::now().wrapping_sub(100), 0);
        assert!(asked.covers(ago(1000)) && asked.covers(ago(110)));
        assert!(!asked.covers(Monotonic::now()));
        assert!(asked.covers(Monotonic::from_nanos(0)));
    }

    #[test]
    fn a_lock_that_is_kept_is_refused_to_those_who_have_not_slept() {
        let (lock, me) = (OwnerLock::default(), Owner::new(1, 1, 1));
        lock.state.store(kept_since_now(), Ordering::Relaxed);
        assert!(!lock.try_lock(me));
        assert_eq!(lock.unlock(), Err(NotLockedError));
        assert_eq!(lock.unlock_mine(me), Err(NotLockedError));
        assert_eq!(lock.owner(), None);
        // Nobody comes for it.
        assert_eq!(lock.lock(me, &Nobody, ON, Wait::FOREVER), Ok(Acquired::Clean));
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
        let told = lock.lock(me, &Nobody, ON, Wait::FOREVER);
        assert_eq!(told, Ok(Acquired::OwnerDied(Owner::new(9, 1, 1))));
        lock.unlock().unwrap();
        assert_eq!(lock.lock(me, &Nobody, ON, Wait::FOREVER), Ok(Acquired::Clean));
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
                        let _ = lock.lock(me, &Nobody, ON, Wait::FOREVER).unwrap();
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
