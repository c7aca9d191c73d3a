//! A lock that a thread may take again.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::time::Duration;

use procession_shm::sync;
use procession_shm::wait::{Acquired, Wait};

use super::owner_died::{OwnedResult, OwnerDied};
use super::waiting_for;
use crate::arena::{self, Handle, HeldBy, Name, Result};
use crate::codec::travels_by_handle;

/// A lock that its holder, a thread, may take again, and that is free when all guards are gone.
///
/// A guard is no way to the data: two guards of one thread would be two `&mut` of the same value.
/// What the lock protects is reached by copies ([`SharedBlock`](crate::SharedBlock)) or by
/// messages.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lock = procession::RLock::new()?;
/// let outer = lock.lock().unwrap();
/// let inner = lock.lock().unwrap(); // a Lock would wait for ever
/// assert_eq!(lock.depth(), 2);
/// # Ok(())
/// # }
/// ```
///
/// A guard belongs to its thread and its process:
///
/// ```compile_fail,E0277
/// let lock = procession::RLock::new().unwrap();
/// let guard = lock.lock().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(move || drop(guard));
/// });
/// ```
#[derive(Clone)]
pub struct RLock {
    inner: sync::RLock,
}

/// The lock is held for as long as this lives.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RLockGuard<'l> {
    lock: &'l RLock,
    /// The thread that took the lock must release it.
    not_send: PhantomData<*const ()>,
}

impl RLock {
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
        Ok(Self { inner: sync::RLock::new(arena::family()?, name)? })
    }

    /// The lock that a handle names.
    ///
    /// # Errors
    /// If it is no more, is no such lock, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { inner: sync::RLock::open(handle)? })
    }

    /// The value that names the lock in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    fn guard(&self, acquired: Acquired) -> OwnedResult<RLockGuard<'_>> {
        let guard = RLockGuard { lock: self, not_send: PhantomData };
        match acquired {
            Acquired::Clean => Ok(guard),
            Acquired::OwnerDied(owner) => Err(OwnerDied::new(guard, self.handle(), owner)),
        }
    }

    /// Takes the lock, waiting for it.
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard.
    pub fn lock(&self) -> OwnedResult<RLockGuard<'_>> {
        let acquired = self.inner.acquire(Wait::FOREVER);
        self.guard(acquired.expect("a wait without a deadline that no signal interrupts"))
    }

    /// Takes the lock if it is free, the calling thread's already, or its holder dead; `None` if
    /// another holds it.
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard.
    pub fn try_lock(&self) -> Result<Option<RLockGuard<'_>>, OwnerDied<RLockGuard<'_>>> {
        self.inner.try_acquire().map(|acquired| self.guard(acquired)).transpose()
    }

    /// Takes the lock, waiting for it no longer than `timeout`; `None` if another held it for all
    /// that time.
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard.
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Option<RLockGuard<'_>>, OwnerDied<RLockGuard<'_>>> {
        let acquired = self.inner.acquire(waiting_for(timeout)).ok();
        acquired.map(|acquired| self.guard(acquired)).transpose()
    }

    /// How many guards the calling thread has.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.inner.depth()
    }
}

impl Drop for RLockGuard<'_> {
    fn drop(&mut self) {
        // As this is the thread that took it, only another language could have released it.
        let _ = self.lock.inner.release();
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock")
            .field("name", &Name(self.handle()))
            .field("held_by", &HeldBy(self.handle(), self.inner.owner()))
            .finish()
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard").field("name", &Name(self.lock.handle())).finish()
    }
}

travels_by_handle!(RLock);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_takes_it_again_and_others_wait_for_the_last_guard() {
        let lock = RLock::new().unwrap();
        let outer = lock.lock().unwrap();
        let inner = lock.try_lock().unwrap();
        assert_eq!(lock.depth(), 2);
        let held = || {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let short = Duration::from_millis(2);
                    assert_eq!(lock.depth(), 0);
                    lock.try_lock().unwrap().is_none()
                        && lock.lock_timeout(short).unwrap().is_none()
                });
                other.join().unwrap()
            })
        };
        assert!(held());
        drop(outer);
        assert!(held());
        drop(inner);
        assert!(!held());
    }
}
