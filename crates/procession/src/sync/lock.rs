//! Mutual exclusion between processes.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use procession_shm::sync;
use procession_shm::wait::{Acquired, Owner, Wait};

use super::owner_died::{OwnedResult, OwnerDied};
use super::waiting_for;
use crate::arena::{self, Handle, HeldBy, Name, Result};
use crate::codec::travels_by_handle;

/// A lock that processes and threads hold one at a time.
///
/// When the process that holds it dies, the next to acquire it is told: [`Lock::lock`] returns
/// [`OwnerDied`], which carries the guard, as the error of a poisoned [`std::sync::Mutex`] does.
/// What the lock protects may be half changed; put it in order and go on, or stop with `?`. The
/// lock itself is sound, and the death is reported only once.
///
/// A panic releases the lock like any other way out of the scope.
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
///     let one = spawn(count, (lock.clone(), total.clone()))?;
///     let children = [one, spawn(count, (lock, total.clone()))?];
///     for child in children {
///         child.join()?;
///     }
///     assert_eq!(total.read_u64(0)?, 2000);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Lock {
    inner: sync::Lock,
}

/// The lock is held for as long as this lives.
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard<'l> {
    lock: &'l Lock,
    /// The holder of the lock by this guard, which may be dropped by another thread.
    owner: Owner,
}

impl Lock {
    /// A free lock, named after the location of the call.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn new() -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()))
    }

    /// A free lock with a name, for inspection of the family.
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
    /// [`OwnerDied`], with the guard.
    #[inline]
    pub fn lock(&self) -> OwnedResult<LockGuard<'_>> {
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
    fn lock_slowly(&self) -> OwnedResult<LockGuard<'_>> {
        let acquired = self.inner.acquire(Wait::FOREVER);
        self.acquired(acquired.expect("a wait without a deadline that no signal interrupts"))
    }

    fn acquired(&self, acquired: Acquired) -> OwnedResult<LockGuard<'_>> {
        match acquired {
            Acquired::Clean => Ok(self.guard()),
            Acquired::OwnerDied(owner) => Err(OwnerDied::new(self.guard(), self.handle(), owner)),
        }
    }

    /// Takes the lock if it is free, or its holder dead; `None` if another holds it.
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard.
    #[inline]
    pub fn try_lock(&self) -> Result<Option<LockGuard<'_>>, OwnerDied<LockGuard<'_>>> {
        match self.inner.try_acquire_or_inherit() {
            Some(acquired) => self.acquired(acquired).map(Some),
            None => Ok(None),
        }
    }

    /// Takes the lock, waiting for it no longer than `timeout`; `None` if another held it for all
    /// that time.
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard.
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Option<LockGuard<'_>>, OwnerDied<LockGuard<'_>>> {
        match self.inner.acquire(waiting_for(timeout)) {
            Ok(acquired) => self.acquired(acquired).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Whether a thread holds the lock at this instant.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.inner.owner().is_some()
    }

    /// The holder of the lock at this instant: a slot in the process table and a thread.
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
        // This fails if the guard's owner has lost the lock: another language may release a lock
        // that it does not hold. A drop has no way to report that.
        let _ = self.lock.inner.release_as(self.owner);
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("name", &Name(self.handle()))
            .field("held_by", &HeldBy(self.handle(), self.owner()))
            .finish()
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("name", &Name(self.lock.handle())).finish()
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
        assert!(lock.try_lock().unwrap().is_none());
        assert!(lock.lock_timeout(Duration::from_millis(5)).unwrap().is_none());
        drop(guard);
        assert!(lock.try_lock().unwrap().is_some());
        assert!(!lock.is_locked());
    }

    #[test]
    fn a_lock_opened_by_its_handle_is_the_same_lock() {
        let lock = Lock::named("one").unwrap();
        let again = Lock::open(lock.handle()).unwrap();
        let _guard = lock.lock().unwrap();
        assert!(again.try_lock().unwrap().is_none());
    }
}
