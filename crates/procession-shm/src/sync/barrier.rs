//! A point at which a number of parties wait for each other.

use std::num::NonZeroU32;

use procession_os::memory::Shared;

use super::algorithm::{Arrival, Meeting, MeetingPoint, Outcome, Place, Places, Seat};
use crate::arena::{Arena, Error, Handle, Kind, ObjectRef, Result, arena_of};
use crate::atomics::{AtomicU64, Ordering};
use crate::wait::{BlockedOn, Operation, Stopped, Waiting};

/// The most parties that a barrier can have.
const MOST: u32 = 1 << 20;

#[repr(C)]
#[derive(Debug)]
struct Payload {
    point: MeetingPoint,
    parties: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: atomics alone.
unsafe impl Shared for Payload {}

/// The places in the barrier's body.
#[derive(Clone, Debug)]
struct Body {
    arena: &'static Arena,
    offset: u64,
    count: u32,
}

impl Places for Body {
    fn count(&self) -> u32 {
        self.count
    }

    fn at(&self, index: u32) -> Option<&Place> {
        let size = size_of::<Place>() as u64;
        let offset = self.offset.checked_add(u64::from(index) * size)?;
        if index < self.count { self.arena.memory().cell(offset).ok() } else { None }
    }
}

/// A barrier between processes, as `multiprocessing.Barrier`.
///
/// It breaks for all when the process of one who waits dies. Who is slow to leave, or killed on the
/// way out, holds up nobody.
#[derive(Clone, Debug)]
pub struct Barrier {
    object: ObjectRef,
    payload: &'static Payload,
    parties: NonZeroU32,
    places: Body,
}

impl Barrier {
    /// A barrier for a number of parties, at the most 1048576.
    ///
    /// # Errors
    /// If the arena is full; [`Error::TooMany`].
    pub fn new(arena: &'static Arena, name: &str, parties: NonZeroU32) -> Result<Self> {
        let size = u64::from(Self::places(parties)) * size_of::<Place>() as u64;
        if parties.get() > MOST {
            let (asked, most) = (parties.get().into(), MOST.into());
            return Err(Error::TooMany { what: "parties of a barrier", asked, most });
        }
        let body = arena.allocate(size, Arena::while_making())?;
        arena.memory().zero(body.offset(), size)?;
        Self::over(arena.make::<Payload>(Kind::Barrier, name, Some(body), |payload| {
            payload.parties.store(u64::from(parties.get()), Ordering::Relaxed);
            Ok(())
        })?)
    }

    /// More than the parties: some of the last meeting may be slow to leave.
    fn places(parties: NonZeroU32) -> u32 {
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
        let parties = parties.filter(|parties| *parties <= MOST).and_then(NonZeroU32::new);
        let parties = parties.ok_or(Error::Corrupt("a barrier's parties are out of range"))?;
        let count = Self::places(parties);
        let places = Body { arena: object.arena(), offset: object.body()?, count };
        Ok(Self { payload, parties, places, object })
    }

    /// The value that names the barrier in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    fn meeting(&self) -> Meeting<'_, impl Places, Arena> {
        let arena = self.object.arena();
        Meeting {
            point: &self.payload.point,
            places: &self.places,
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
        self.meeting().waiting()
    }

    /// Whether the barrier is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.meeting().is_broken()
    }

    /// Comes to the barrier; see [`Arrival`] for what is to follow. `acts` says whether the last to
    /// come has something to do before all go on.
    ///
    /// # Errors
    /// [`Stopped`], while others who are more than the parties are at it.
    pub fn arrive(&self, acts: bool, waiting: Waiting) -> Result<Arrival, Stopped> {
        self.meeting().arrive(acts, waiting)
    }

    /// Waits until all have come. At the deadline the barrier breaks, unless all have come and one
    /// is acting.
    ///
    /// # Errors
    /// [`Stopped::TimedOut`], having broken the barrier; [`Stopped::Interrupted`], after which the
    /// wait may be continued.
    pub fn wait(&self, seat: Seat, waiting: Waiting) -> Result<Outcome, Stopped> {
        self.meeting().wait(seat, waiting)
    }

    /// Lets all go on, after having acted; says otherwise if the barrier was broken or reset
    /// meanwhile.
    #[must_use]
    pub fn lead(&self, seat: Seat) -> Outcome {
        self.meeting().lead(seat)
    }

    /// Breaks the barrier instead of [`Self::lead`].
    pub fn fail(&self, seat: Seat) {
        let _ = self.meeting().fail(seat);
    }

    /// Leaves. All who were given a seat must.
    pub fn leave(&self, seat: Seat) {
        self.meeting().leave(seat);
    }

    /// Breaks the barrier until it is reset.
    pub fn abort(&self) {
        self.meeting().abort();
    }

    /// Makes the barrier as new; the waits of those who are at it end with [`Outcome::Reset`].
    pub fn reset(&self) {
        self.meeting().reset();
    }
}
