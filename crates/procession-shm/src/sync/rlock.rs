//! A lock that the thread which holds it may acquire again.

use super::raw::{Monitor, NotOwnerError, RawRLock};
use crate::arena::{Arena, Handle, Kind, ObjectRef, Result, arena_of};
use crate::wait::{Acquired, BlockedOn, Operation, Owner, Wait, WaitError};

/// A re-entrant [`Lock`](super::Lock) that belongs to a thread: only that thread may release it, as
/// often as it acquired it.
#[derive(Clone, Debug)]
pub struct RLock {
    object: ObjectRef,
    lock: &'static RawRLock,
}

impl RLock {
    /// A free lock.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn new(arena: &'static Arena, name: &str) -> Result<Self> {
        Self::over(arena.make::<RawRLock>(Kind::RLock, name, None, |_| Ok(()))?)
    }

    /// The lock that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no such lock.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::RLock)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        Ok(Self { lock: object.payload()?, object })
    }

    /// The value that names the lock in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// The holder of the lock at this instant.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        self.lock.owner()
    }

    /// Whether the calling thread holds the lock.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.lock.owner() == Some(self.object.arena().owner())
    }

    /// How often the calling thread has acquired the lock.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.lock.depth(self.object.arena().owner())
    }

    fn on(&self) -> BlockedOn {
        BlockedOn { object: self.object.index(), operation: Operation::Acquire }
    }

    /// Acquires the lock without waiting.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Acquired> {
        let arena = self.object.arena();
        self.lock.try_lock(arena.owner(), arena)
    }

    /// Acquires the lock, waiting for it.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn acquire(&self, waiting: Wait) -> Result<Acquired, WaitError> {
        let arena = self.object.arena();
        self.lock.lock(arena.owner(), arena, self.on(), waiting)
    }

    /// Undoes one acquisition.
    ///
    /// # Errors
    /// [`NotOwnerError`].
    pub fn release(&self) -> Result<(), NotOwnerError> {
        self.lock.unlock(self.object.arena().owner())
    }
}

impl Monitor for RLock {
    fn leave(&self) -> Result<u64, NotOwnerError> {
        self.lock.unlock_all(self.object.arena().owner())
    }

    fn enter(&self, depth: u64, waiting: Wait) -> Result<Acquired, WaitError> {
        let arena = self.object.arena();
        self.lock.lock_to(depth, arena.owner(), arena, self.on(), waiting)
    }

    fn is_mine(&self) -> bool {
        Self::is_mine(self)
    }

    fn holder(&self) -> Option<Owner> {
        self.lock.owner()
    }
}
