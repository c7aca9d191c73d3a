//! A counter of permits.

use procession_os::memory::Shared;

use crate::arena::{Arena, Error, Handle, Kind, ObjectRef, Result, arena_of};
use crate::atomics::{AtomicU64, Ordering};
use crate::wait::{
    BlockedOn, Check, Operation, Owner, Probe, Relay, Wait, WaitError, WithDeaths, block,
};

/// The largest value, as POSIX's `SEM_VALUE_MAX` on Linux.
pub(super) const MAX_PERMITS: u32 = i32::MAX as u32;
/// How many permits a semaphore that recovers them can have: each has a cell of its own.
pub const MAX_RECOVERED_PERMITS: u32 = 8192;

#[repr(C)]
#[derive(Debug)]
struct Payload {
    value: AtomicU64,
    bound: AtomicU64,
    /// How many cells of permits there are in the body; 0 for a plain count.
    cells: AtomicU64,
    sleepers: Relay,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Payload {}

/// A counting semaphore between processes, as `multiprocessing.Semaphore`.
///
/// Any process may release, so a dead holder can't be told from a signaller, and its permits are
/// lost with it, unless the semaphore was made to [recover](Self::recovering) them. Then each
/// permit is a cell that names its owner, and a waiter takes the cells of the dead.
#[derive(Clone, Debug)]
pub struct Semaphore {
    object: ObjectRef,
    payload: &'static Payload,
}

/// A release that the semaphore refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// It would have more permits than it may.
    #[error("semaphore released too many times: it has all its {0} permits")]
    TooOften(u32),
}

impl Semaphore {
    /// A semaphore with `value` permits, which never has more than `bound` (if any).
    ///
    /// # Errors
    /// If the arena is full; [`Error::TooMany`] for more than 2147483647 permits.
    pub fn new(arena: &'static Arena, name: &str, value: u32, bound: Option<u32>) -> Result<Self> {
        if value > MAX_PERMITS {
            let (asked, max) = (value.into(), MAX_PERMITS.into());
            return Err(Error::TooMany { what: "permits of a semaphore", asked, max });
        }
        Self::over(arena.make::<Payload>(Kind::Semaphore, name, None, |payload| {
            payload.value.store(u64::from(value), Ordering::Relaxed);
            payload
                .bound
                .store(u64::from(bound.unwrap_or(MAX_PERMITS).min(MAX_PERMITS)), Ordering::Relaxed);
            Ok(())
        })?)
    }

    /// A semaphore of `permits` permits that come back when their holder dies.
    ///
    /// # Errors
    /// If the arena is full; [`Error::TooMany`] for more than 8192 permits.
    pub fn recovering(arena: &'static Arena, name: &str, permits: u32) -> Result<Self> {
        if permits > MAX_RECOVERED_PERMITS {
            let (asked, max) = (permits.into(), MAX_RECOVERED_PERMITS.into());
            return Err(Error::TooMany { what: "permits that are recovered", asked, max });
        }
        let size = u64::from(permits) * 8;
        let body = arena.allocate(size, Arena::while_making())?;
        arena.memory().zero(body.offset(), size)?;
        Self::over(arena.make::<Payload>(Kind::Semaphore, name, Some(body), |payload| {
            payload.bound.store(u64::from(permits), Ordering::Relaxed);
            payload.cells.store(u64::from(permits), Ordering::Relaxed);
            Ok(())
        })?)
    }

    /// The semaphore that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no semaphore.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::Semaphore)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        Ok(Self { payload: object.payload()?, object })
    }

    /// The value that names the semaphore in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    fn cells(&self) -> impl Iterator<Item = &'static AtomicU64> {
        let body = self.object.body().unwrap_or(0);
        let arena = self.object.arena();
        let count =
            self.payload.cells.load(Ordering::Relaxed).min(u64::from(MAX_RECOVERED_PERMITS));
        (0..count).filter_map(move |cell| arena.word(body.saturating_add(cell * 8)).ok())
    }

    fn recovers(&self) -> bool {
        self.payload.cells.load(Ordering::Relaxed) != 0
    }

    /// How many permits are free at this instant.
    #[must_use]
    pub fn value(&self) -> u32 {
        if self.recovers() {
            return self.cells().filter(|cell| cell.load(Ordering::Relaxed) == 0).count() as u32;
        }
        self.payload.value.load(Ordering::Relaxed) as u32
    }

    /// The most permits that it has.
    #[must_use]
    pub fn bound(&self) -> u32 {
        self.payload.bound.load(Ordering::Relaxed) as u32
    }

    /// Takes a permit if there is one.
    #[must_use]
    pub fn try_acquire(&self) -> bool {
        self.attempt(Check::Tick)
    }

    fn attempt(&self, check: Check) -> bool {
        if self.recovers() {
            return self.take_cell(check == Check::Tick);
        }
        let value = &self.payload.value;
        let mut seen = value.load(Ordering::SeqCst);
        while seen > 0 {
            let order = Ordering::SeqCst;
            match value.compare_exchange_weak(seen, seen - 1, order, order) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    fn take_cell(&self, from_the_dead: bool) -> bool {
        let arena = self.object.arena();
        let me = arena.owner().word();
        let take = |cell: &AtomicU64, from| {
            cell.compare_exchange(from, me, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        };
        self.cells().any(|cell| take(cell, 0))
            || from_the_dead
                && self.cells().any(|cell| {
                    let held = cell.load(Ordering::SeqCst);
                    Owner::from_bits(held).is_some_and(|owner| arena.is_dead(owner))
                        && take(cell, held)
                })
    }

    /// Takes a permit, waiting for one.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn acquire(&self, waiting: Wait) -> Result<(), WaitError> {
        if self.attempt(Check::Look) {
            return Ok(());
        }
        let on = BlockedOn { object: self.object.index(), operation: Operation::Semaphore };
        let probe = self.object.arena();
        let attempt = |check| self.attempt(check).then_some(());
        self.payload.sleepers.pass_on(
            |_| self.value() > 0,
            |point| match self.recovers() {
                true => block(probe, on, waiting, &WithDeaths(point), attempt),
                false => block(probe, on, waiting, point, attempt),
            },
        )
    }

    /// Gives a permit back, or a further one.
    ///
    /// # Errors
    /// [`ReleaseError::TooOften`] if it has as many as it may.
    pub fn release(&self) -> Result<(), ReleaseError> {
        let bound = self.payload.bound.load(Ordering::Relaxed);
        if self.recovers() {
            let me = self.object.arena().owner().word();
            let free = |cell: &AtomicU64, held| {
                let order = Ordering::SeqCst;
                held != 0 && cell.compare_exchange(held, 0, order, Ordering::Relaxed).is_ok()
            };
            let freed = self.cells().any(|cell| free(cell, me))
                || self.cells().any(|cell| free(cell, cell.load(Ordering::Relaxed)));
            if !freed {
                return Err(ReleaseError::TooOften(bound as u32));
            }
        } else {
            let raise = |value| (value < bound).then_some(value + 1);
            let order = Ordering::SeqCst;
            if self.payload.value.fetch_update(order, order, raise).is_err() {
                return Err(ReleaseError::TooOften(bound as u32));
            }
        }
        self.payload.sleepers.notify_one();
        Ok(())
    }
}
