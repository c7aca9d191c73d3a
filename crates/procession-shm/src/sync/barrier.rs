//! A point at which a number of parties wait for each other.

use std::num::NonZeroU32;

use procession_os::memory::Shared;

use super::raw::{Arrival, BarrierWords, Cell, Cells, Outcome, RawBarrier, Ticket};
use crate::arena::{Arena, Error, Handle, Kind, ObjectRef, Result, arena_of};
use crate::atomics::{AtomicU64, Ordering};
use crate::wait::{BlockedOn, Operation, Wait, WaitError};

/// The most parties that a barrier can have.
const MAX_PARTIES: u32 = 1 << 20;

#[repr(C)]
#[derive(Debug)]
struct Payload {
    words: BarrierWords,
    parties: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Payload {}

/// The cells in the barrier's body.
#[derive(Clone, Debug)]
struct Body {
    arena: &'static Arena,
    offset: u64,
    count: u32,
}

impl Cells for Body {
    fn count(&self) -> u32 {
        self.count
    }

    fn at(&self, index: u32) -> Option<&Cell> {
        let size = size_of::<Cell>() as u64;
        let offset = self.offset.checked_add(u64::from(index) * size)?;
        if index < self.count { self.arena.memory().cell(offset).ok() } else { None }
    }
}

/// A barrier between processes, as `multiprocessing.Barrier`.
///
/// It breaks for all when the process of a waiter dies. A party that is slow to leave, or killed on
/// the way out, holds up no other.
#[derive(Clone, Debug)]
pub struct Barrier {
    object: ObjectRef,
    payload: &'static Payload,
    parties: NonZeroU32,
    cells: Body,
}

impl Barrier {
    /// A barrier for a number of parties, at the most 1048576.
    ///
    /// # Errors
    /// If the arena is full; [`Error::TooMany`].
    pub fn new(arena: &'static Arena, name: &str, parties: NonZeroU32) -> Result<Self> {
        let size = u64::from(Self::cells(parties)) * size_of::<Cell>() as u64;
        if parties.get() > MAX_PARTIES {
            let (asked, max) = (parties.get().into(), MAX_PARTIES.into());
            return Err(Error::TooMany { what: "parties of a barrier", asked, max });
        }
        let body = arena.allocate(size, Arena::while_making())?;
        arena.memory().zero(body.offset(), size)?;
        Self::over(arena.make::<Payload>(Kind::Barrier, name, Some(body), |payload| {
            payload.parties.store(u64::from(parties.get()), Ordering::Relaxed);
            Ok(())
        })?)
    }

    /// More than the parties: some of the last round may be slow to leave.
    fn cells(parties: NonZeroU32) -> u32 {
        parties.get().saturating_mul(2).saturating_add(6)
    }

    /// The barrier that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no barrier.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::Barrier)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        let payload: &Payload = object.payload()?;
        let parties = u32::try_from(payload.parties.load(Ordering::Relaxed)).ok();
        let parties = parties.filter(|parties| *parties <= MAX_PARTIES).and_then(NonZeroU32::new);
        let parties = parties.ok_or(Error::Corrupt("a barrier's parties are out of range"))?;
        let count = Self::cells(parties);
        let cells = Body { arena: object.arena(), offset: object.body()?, count };
        Ok(Self { payload, parties, cells, object })
    }

    /// The value that names the barrier in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    fn raw(&self) -> RawBarrier<'_, impl Cells, Arena> {
        let arena = self.object.arena();
        RawBarrier {
            words: &self.payload.words,
            cells: &self.cells,
            parties: self.parties,
            probe: arena,
            on: BlockedOn { object: self.object.index(), operation: Operation::Barrier },
            me: arena.owner(),
        }
    }

    /// How many must come.
    #[must_use]
    pub fn parties(&self) -> u32 {
        self.parties.get()
    }

    /// How many wait for the others at this instant.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.raw().waiting()
    }

    /// Whether the barrier is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.raw().is_broken()
    }

    /// Arrives at the barrier; see [`Arrival`] for what is to follow. `has_action` says whether the
    /// last to arrive has something to do before all go on.
    ///
    /// # Errors
    /// [`WaitError`], while others, more than the parties, are at it.
    pub fn arrive(&self, has_action: bool, waiting: Wait) -> Result<Arrival, WaitError> {
        self.raw().arrive(has_action, waiting)
    }

    /// Waits until all have come. At the deadline the barrier breaks, unless all have come and one
    /// is acting.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`], having broken the barrier; [`WaitError::Interrupted`], after which
    /// the wait may be continued.
    pub fn wait(&self, ticket: Ticket, waiting: Wait) -> Result<Outcome, WaitError> {
        self.raw().wait(ticket, waiting)
    }

    /// Lets all go on, after having acted; says otherwise if the barrier was broken or reset
    /// meanwhile.
    #[must_use]
    pub fn lead(&self, ticket: Ticket) -> Outcome {
        self.raw().lead(ticket)
    }

    /// Breaks the barrier instead of [`Self::lead`].
    pub fn fail(&self, ticket: Ticket) {
        let _ = self.raw().fail(ticket);
    }

    /// Leaves. Each party that was given a ticket must.
    pub fn leave(&self, ticket: Ticket) {
        self.raw().leave(ticket);
    }

    /// Breaks the barrier until it is reset.
    pub fn abort(&self) {
        self.raw().abort();
    }

    /// Makes the barrier as new; the waits of those that are at it end with [`Outcome::Reset`].
    pub fn reset(&self) {
        self.raw().reset();
    }
}
