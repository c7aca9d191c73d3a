//! A point at which a number of processes or threads wait for each other.

use std::fmt;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::time::Duration;

use procession_shm::sync::{self, Arrival, Outcome};
use procession_shm::wait::Wait;

use super::waiting_for;
use crate::arena::{self, Handle, Name, Result};
use crate::codec::travels_by_handle;

/// A barrier between processes, as [`std::sync::Barrier`], but that can break: when a waiter dies
/// or reaches its timeout, or the barrier is [aborted](Barrier::abort), all the others are told.
///
/// ```
/// use procession::{Barrier, spawn};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let start = Barrier::new(3)?;
///     let run = |start: Barrier| start.wait().is_ok();
///     let runners = [spawn(run, start.clone())?, spawn(run, start.clone())?];
///     start.wait()?;
///     for runner in runners {
///         assert!(runner.join()?);
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Barrier {
    inner: sync::Barrier,
}

/// Says which of the round's parties the caller is. Exactly one of them is the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierWaitResult {
    arrival: u32,
}

impl BarrierWaitResult {
    /// Whether the caller is the leader of the round.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.arrival == 0
    }

    /// The caller's number among the round's parties, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.arrival
    }
}

/// The others will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenBarrierError {
    /// A waiter died or reached its timeout, or the barrier was aborted. It stays so until it is
    /// [reset](Barrier::reset).
    #[error("the barrier is broken: a waiter died or timed out, or the barrier was aborted")]
    Broken,
    /// The barrier was reset during the wait.
    #[error("the barrier was reset")]
    Reset,
}

impl Barrier {
    /// A barrier for a number of parties (for 0 as for 1), named after the location of the call.
    ///
    /// # Errors
    /// If the arena is full; [`arena::Error::TooMany`] for more than 1048576 parties.
    #[track_caller]
    pub fn new(parties: u32) -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()), parties)
    }

    /// As [`Self::new`], with a name for inspection of the family.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn named(name: &str, parties: u32) -> Result<Self> {
        let parties = NonZeroU32::new(parties).unwrap_or(NonZeroU32::MIN);
        Ok(Self { inner: sync::Barrier::new(arena::family()?, name, parties)? })
    }

    /// The barrier that a handle names.
    ///
    /// # Errors
    /// If it is no more, is no barrier, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { inner: sync::Barrier::open(handle)? })
    }

    /// The value that names the barrier in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    /// Waits until all parties have come.
    ///
    /// # Errors
    /// [`BrokenBarrierError`].
    pub fn wait(&self) -> Result<BarrierWaitResult, BrokenBarrierError> {
        self.meet(None, Wait::FOREVER)
    }

    /// As [`Self::wait`]; but if the others have not come after `timeout`, the barrier breaks for
    /// all.
    ///
    /// # Errors
    /// [`BrokenBarrierError`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierWaitResult, BrokenBarrierError> {
        self.meet(None, waiting_for(timeout))
    }

    /// As [`Self::wait`]; one of the parties calls its `action` before any of them goes on. If the
    /// action panics, the barrier breaks for all.
    ///
    /// # Errors
    /// [`BrokenBarrierError`].
    pub fn wait_with(
        &self,
        action: impl FnOnce(),
    ) -> Result<BarrierWaitResult, BrokenBarrierError> {
        let mut action = Some(action);
        let mut act = || action.take().map_or((), |action| action());
        self.meet(Some(&mut act), Wait::FOREVER)
    }

    fn meet(
        &self,
        action: Option<&mut dyn FnMut()>,
        waiting: Wait,
    ) -> Result<BarrierWaitResult, BrokenBarrierError> {
        let Ok(arrival) = self.inner.arrive(action.is_some(), waiting) else {
            return Err(BrokenBarrierError::Broken);
        };
        let (ticket, outcome) = match arrival {
            Arrival::Completes(arrival) => return Ok(BarrierWaitResult { arrival }),
            Arrival::Broken => return Err(BrokenBarrierError::Broken),
            Arrival::Early(ticket) => (ticket, self.inner.wait(ticket, waiting)),
            Arrival::Leader(ticket) => {
                let act = || action.map_or((), |action| action());
                if let Err(panic) = catch_unwind(AssertUnwindSafe(act)) {
                    self.inner.fail(ticket);
                    self.inner.leave(ticket);
                    resume_unwind(panic);
                }
                (ticket, Ok(self.inner.lead(ticket)))
            }
        };
        self.inner.leave(ticket);
        match outcome {
            Ok(Outcome::Passed) => Ok(BarrierWaitResult { arrival: ticket.index }),
            Ok(Outcome::Reset) => Err(BrokenBarrierError::Reset),
            Ok(Outcome::Broken) | Err(_) => Err(BrokenBarrierError::Broken),
        }
    }

    /// Breaks the barrier until it is reset, for the waiters and for all that arrive later.
    pub fn abort(&self) {
        self.inner.abort();
    }

    /// Makes the barrier as new; the waiters are told.
    pub fn reset(&self) {
        self.inner.reset();
    }

    /// How many parties it is for.
    #[must_use]
    pub fn parties(&self) -> u32 {
        self.inner.parties()
    }

    /// How many wait at this instant.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.inner.waiting()
    }

    /// Whether it is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.inner.is_broken()
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("name", &Name(self.handle()))
            .field("parties", &self.parties())
            .field("waiting", &self.waiting())
            .field("broken", &self.is_broken())
            .finish()
    }
}

travels_by_handle!(Barrier);
