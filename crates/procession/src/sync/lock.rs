//! Mutual exclusion between processes.

use std::panic::Location;
use std::time::Duration;

use procession_shm::sync;
use procession_shm::wait::{Acquired, Owner, Waiting};

use super::waiting_for;
use crate::arena::{self, Handle, Result};
use crate::codec::travels_by_handle;

/// A lock that processes and threads hold one at a time.
///
/// When the process that holds it dies, whoever gets it next is told: [`Lock::lock`] gives
/// [`LockError::OwnerDied`], which carries the guard, as the error of a poisoned [`std::sync::Mutex`]
/// does. What the lock protects may be half changed; put it in order and go on, or give up. The
/// lock itself is sound, and who takes it afterwards is told nothing.
///
/// A panic releases it like any other way out of the scope.
///
/// ```
/// use procession::{Lock, SharedBlock, spawn};
///
/// fn count((lock, total): (Lock, SharedBlock)) {
///     for _ in 0..1000 {
///         let _guard = lock.lock().unwrap();
///         total.write_u64(0, total.read_u64(0).unwrap() + 1).unwrap();
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let (lock, total) = (Lock::new()?, SharedBlock::new(8)?);
///     let children = [spawn(count, (lock.clone(), total.clone()))?, spawn(count, (lock, total.clone()))?];
///     for child in children {
///         child.join()?;
///     }
///     assert_eq!(total.read_u64(0)?, 2000);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Lock {
    inner: sync::Lock,
}

/// The lock is held for as long as this lives.
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard<'l> {
    lock: &'l Lock,
    /// Who holds the lock by this guard, which may be dropped by another thread.
    owner: Owner,
}

/// [`Lock::lock`] did not simply get the lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError<'l> {
    /// The process that held it died. The caller holds it now.
    #[error("the process that held the lock died; what it protects may be half changed")]
    OwnerDied(LockGuard<'l>),
}

/// [`Lock::try_lock`] did not simply get the lock.
#[derive(Debug, thiserror::Error)]
pub enum TryLockError<'l> {
    /// As [`LockError::OwnerDied`].
    #[error("the process that held the lock died; what it protects may be half changed")]
    OwnerDied(LockGuard<'l>),
    /// Another holds it.
    #[error("the lock is held")]
    WouldBlock,
}

/// [`Lock::lock_timeout`] did not simply get the lock.
#[derive(Debug, thiserror::Error)]
pub enum LockTimeoutError<'l> {
    /// As [`LockError::OwnerDied`].
    #[error("the process that held the lock died; what it protects may be half changed")]
    OwnerDied(LockGuard<'l>),
    /// Another held it for all that time.
    #[error("the lock was held for the whole {0:?}")]
    TimedOut(Duration),
}

impl<'l> LockError<'l> {
    /// The guard, for who knows that the dead owner could have left nothing in disorder.
    pub fn into_guard(self) -> LockGuard<'l> {
        match self {
            Self::OwnerDied(guard) => guard,
        }
    }
}

impl Lock {
    /// A free lock, named after the place of the call.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn new() -> Result<Self> {
        Self::named(&arena::place(Location::caller()))
    }

    /// A free lock with a name, for who looks at the family.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn named(name: &str) -> Result<Self> {
        Ok(Self { inner: sync::Lock::new(arena::family()?, name)? })
    }

    /// The lock that a handle names.
    ///
    /// # Errors
    /// If it is no more, is no lock, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { inner: sync::Lock::open(handle)? })
    }

    /// The value that names the lock in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    /// Takes the lock, waiting for it.
    ///
    /// # Errors
    /// [`LockError::OwnerDied`], with the guard.
    #[inline]
    pub fn lock(&self) -> Result<LockGuard<'_>, LockError<'_>> {
        let owner = self.inner.me();
        if self.inner.try_acquire_as(owner) {
            return Ok(LockGuard { lock: self, owner });
        }
        self.lock_slowly()
    }

    /// The guard of a lock that the calling thread has just acquired.
    pub(super) fn guard(&self) -> LockGuard<'_> {
        LockGuard { lock: self, owner: self.inner.me() }
    }

    pub(super) fn core(&self) -> &sync::Lock {
        &self.inner
    }

    #[cold]
    fn lock_slowly(&self) -> Result<LockGuard<'_>, LockError<'_>> {
        let acquired = self.inner.acquire(Waiting::FOREVER);
        match acquired.expect("a wait without a deadline that no signal interrupts") {
            Acquired::Clean => Ok(self.guard()),
            Acquired::OwnerDied(_) => Err(LockError::OwnerDied(self.guard())),
        }
    }

    /// Takes the lock if it is free, or its holder dead.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`]; [`TryLockError::OwnerDied`], with the guard.
    #[inline]
    pub fn try_lock(&self) -> Result<LockGuard<'_>, TryLockError<'_>> {
        match self.inner.try_acquire_or_inherit() {
            Some(Acquired::Clean) => Ok(self.guard()),
            Some(Acquired::OwnerDied(_)) => Err(TryLockError::OwnerDied(self.guard())),
            None => Err(TryLockError::WouldBlock),
        }
    }

    /// Takes the lock, waiting for it no longer than `timeout`.
    ///
    /// # Errors
    /// [`LockTimeoutError::TimedOut`]; [`LockTimeoutError::OwnerDied`], with the guard.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<LockGuard<'_>, LockTimeoutError<'_>> {
        match self.inner.acquire(waiting_for(timeout)) {
            Ok(Acquired::Clean) => Ok(self.guard()),
            Ok(Acquired::OwnerDied(_)) => Err(LockTimeoutError::OwnerDied(self.guard())),
            Err(_) => Err(LockTimeoutError::TimedOut(timeout)),
        }
    }

    /// Whether somebody holds the lock at this instant.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.inner.owner().is_some()
    }

    /// Who holds the lock at this instant: a slot in the process table and a thread.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        self.inner.owner()
    }
}

impl<'l> LockGuard<'l> {
    pub(super) fn lock(&self) -> &'l Lock {
        self.lock
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// Takes the guard apart; the lock stays held.
    pub(super) fn into_parts(self) -> (&'l Lock, Owner) {
        let parts = (self.lock, self.owner);
        std::mem::forget(self);
        parts
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Whoever releases a lock that he does not hold (another language may) has taken it away
        // already, and there is nobody here to tell.
        let _ = self.lock.inner.release_as(self.owner);
    }
}

travels_by_handle!(Lock);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_keeps_others_out_until_it_is_dropped() {
        let lock = Lock::new().unwrap();
        let guard = lock.lock().unwrap();
        assert!(lock.is_locked());
        assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        let short = Duration::from_millis(5);
        assert!(matches!(lock.lock_timeout(short), Err(LockTimeoutError::TimedOut(_))));
        drop(guard);
        assert!(lock.try_lock().is_ok());
        assert!(!lock.is_locked());
    }

    #[test]
    fn a_lock_opened_by_its_handle_is_the_same_lock() {
        let lock = Lock::named("one").unwrap();
        let again = Lock::open(lock.handle()).unwrap();
        let _guard = lock.lock().unwrap();
        assert!(again.try_lock().is_err());
    }
}
