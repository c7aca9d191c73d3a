//! A lock that the thread which holds it may acquire again.

use procession_os::memory::Shared;

use crate::arena::{Arena, Handle, Kind, ObjectRef, Result, arena_of};
use crate::atomics::{AtomicU64, Ordering};
use crate::wait::{Acquired, BlockedOn, Operation, OwnerLock, Stopped, Waiting};

#[repr(C)]
#[derive(Debug)]
struct Payload {
    lock: OwnerLock,
    /// How often the owner acquired it beyond the first time. Touched by the owner alone; a new
    /// owner sets it before anything else, so what a dead one left doesn't matter.
    again: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: atomics alone.
unsafe impl Shared for Payload {}

/// A re-entrant [`Lock`](super::Lock) that belongs to a thread: it alone may release it, as often as
/// it acquired it.
#[derive(Clone, Debug)]
pub struct RLock {
    object: ObjectRef,
    payload: &'static Payload,
}

/// The calling thread does not hold the lock that it releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the calling thread does not hold the lock")]
pub struct NotOwner;

impl RLock {
    /// A free lock.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn new(arena: &'static Arena, name: &str) -> Result<Self> {
        Self::over(arena.make::<Payload>(Kind::RLock, name, None, |_| Ok(()))?)
    }

    /// The lock that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no such lock.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::RLock)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        Ok(Self { payload: object.payload()?, object })
    }

    /// The value that names the lock in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// Whether the calling thread holds the lock.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.payload.lock.owner() == Some(self.object.arena().owner())
    }

    /// How often the calling thread has acquired the lock.
    #[must_use]
    pub fn depth(&self) -> u64 {
        if self.is_mine() { self.payload.again.load(Ordering::Relaxed) + 1 } else { 0 }
    }

    /// Acquires the lock without waiting.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Acquired> {
        let arena = self.object.arena();
        let me = arena.owner();
        if self.payload.lock.owner() == Some(me) {
            self.payload.again.fetch_add(1, Ordering::Relaxed);
            return Some(Acquired::Clean);
        }
        let acquired = if self.payload.lock.try_lock(me) {
            Acquired::Clean
        } else {
            self.payload.lock.take_from_the_dead(me, arena)?
        };
        self.payload.again.store(0, Ordering::Relaxed);
        Some(acquired)
    }

    /// Acquires the lock, waiting for it.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn acquire(&self, waiting: Waiting) -> Result<Acquired, Stopped> {
        if self.is_mine() {
            self.payload.again.fetch_add(1, Ordering::Relaxed);
            return Ok(Acquired::Clean);
        }
        let arena = self.object.arena();
        let on = BlockedOn { object: self.object.index(), operation: Operation::Acquire };
        let acquired = self.payload.lock.lock(arena.owner(), arena, on, waiting)?;
        self.payload.again.store(0, Ordering::Relaxed);
        Ok(acquired)
    }

    /// Undoes one acquisition.
    ///
    /// # Errors
    /// [`NotOwner`].
    pub fn release(&self) -> Result<(), NotOwner> {
        if !self.is_mine() {
            return Err(NotOwner);
        }
        match self.payload.again.load(Ordering::Relaxed) {
            0 => self.payload.lock.unlock().map_err(|_| NotOwner),
            again => {
                self.payload.again.store(again - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}
