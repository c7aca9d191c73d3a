//! A lock between processes that tells when its owner has died.

use super::raw::{Monitor, NotOwnerError};
use crate::arena::{Arena, Handle, Kind, ObjectRef, Result, arena_of};
use crate::wait::{
    Acquired, BlockedOn, NotLockedError, Operation, Owner, OwnerLock, Wait, WaitError,
};

/// Mutual exclusion between the processes of a family.
///
/// Any thread of any process may release it, as with `multiprocessing.Lock`. If the process that
/// acquired it ends without releasing, one of the waiters acquires it and is told so
/// ([`Acquired::OwnerDied`]).
#[derive(Clone, Debug)]
pub struct Lock {
    object: ObjectRef,
    lock: &'static OwnerLock,
}

impl Lock {
    /// A free lock.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn new(arena: &'static Arena, name: &str) -> Result<Self> {
        Self::over(arena.make::<OwnerLock>(Kind::Lock, name, None, |_| Ok(()))?)
    }

    /// The lock that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no lock.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::Lock)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        Ok(Self { lock: object.payload()?, object })
    }

    /// The value that names the lock in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// Acquires the lock if it is free.
    #[inline]
    #[must_use]
    pub fn try_acquire(&self) -> bool {
        self.lock.try_lock(self.object.arena().owner())
    }

    /// Acquires the lock, waiting for it.
    ///
    /// # Errors
    /// [`WaitError`].
    #[inline]
    pub fn acquire(&self, waiting: Wait) -> Result<Acquired, WaitError> {
        let arena = self.object.arena();
        let on = BlockedOn { object: self.object.index(), operation: Operation::Acquire };
        self.lock.lock(arena.owner(), arena, on, waiting)
    }

    /// Acquires the lock without waiting, also from an owner that is dead.
    #[must_use]
    pub fn try_acquire_or_inherit(&self) -> Option<Acquired> {
        if self.try_acquire() {
            return Some(Acquired::Clean);
        }
        let arena = self.object.arena();
        self.lock.take_from_the_dead(arena.owner(), arena)
    }

    /// Releases the lock, whichever thread acquired it.
    ///
    /// # Errors
    /// [`NotLockedError`].
    #[inline]
    pub fn release(&self) -> Result<(), NotLockedError> {
        self.lock.unlock()
    }

    /// The calling thread, as the owner that it would be: for a caller that acquires and releases
    /// often.
    #[inline]
    #[must_use]
    pub fn me(&self) -> Owner {
        self.object.arena().owner()
    }

    /// Acquires the lock for `me` if it is free.
    #[inline]
    #[must_use]
    pub fn try_acquire_as(&self, me: Owner) -> bool {
        self.lock.try_lock(me)
    }

    /// Releases the lock, of which the caller knows that `me` holds it.
    ///
    /// # Errors
    /// [`NotLockedError`] if no thread holds it.
    #[inline]
    pub fn release_as(&self, me: Owner) -> Result<(), NotLockedError> {
        self.lock.unlock_mine(me)
    }

    /// The holder of the lock at this instant.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        self.lock.owner()
    }

    /// Whether the calling thread holds the lock.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.owner() == Some(self.object.arena().owner())
    }
}

impl Monitor for Lock {
    fn leave(&self) -> Result<u64, NotOwnerError> {
        if !self.is_mine() {
            return Err(NotOwnerError);
        }
        self.release().map(|()| 1).map_err(|_| NotOwnerError)
    }

    fn enter(&self, _depth: u64, waiting: Wait) -> Result<Acquired, WaitError> {
        self.acquire(waiting)
    }

    fn is_mine(&self) -> bool {
        Self::is_mine(self)
    }

    fn holder(&self) -> Option<Owner> {
        self.owner()
    }
}
