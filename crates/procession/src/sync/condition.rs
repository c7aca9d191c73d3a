//! Wait, beside a lock, for another process to say that something has changed.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_shm::sync::{self, Monitor, NotOwnerError};
use procession_shm::wait::{Acquired, Owner, Wait, WaitError};

use super::lock::LockGuard;
use super::owner_died::{OwnedResult, OwnerDied};
use crate::arena::{self, Handle, Name, Result};
use crate::codec::travels_by_handle;

/// A condition variable between processes, as [`std::sync::Condvar`]; always used with one
/// [`Lock`](crate::Lock).
///
/// A waiter that is killed blocks no other and takes no notification with it. If a process dies
/// with the lock, one waiter of the lock or of the condition is told.
///
/// ```
/// use procession::{Condition, Lock, SharedBlock, spawn};
///
/// fn raise((lock, raised, level): (Lock, Condition, SharedBlock)) {
///     let guard = lock.lock().unwrap();
///     level.write_u64(0, 7).unwrap();
///     raised.notify_all(&guard);
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let (lock, raised, level) = (Lock::new()?, Condition::new()?, SharedBlock::new(8)?);
///     let child = spawn(raise, (lock.clone(), raised.clone(), level.clone()))?;
///     let guard = lock.lock().unwrap();
///     let guard = raised.wait_while(guard, || level.read_u64(0).unwrap() == 0).unwrap();
///     assert_eq!(level.read_u64(0)?, 7);
///     drop(guard);
///     child.join()?;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Condition {
    inner: sync::Condition,
}

/// A lock and the owner by which a guard holds it, whichever thread of this process has the guard.
struct Held<'l> {
    lock: &'l sync::Lock,
    owner: Owner,
}

impl Monitor for Held<'_> {
    fn leave(&self) -> Result<u64, NotOwnerError> {
        if !self.is_mine() {
            return Err(NotOwnerError);
        }
        self.lock.release_as(self.owner).map(|()| 1).map_err(|_| NotOwnerError)
    }

    fn enter(&self, _depth: u64, waiting: Wait) -> Result<Acquired, WaitError> {
        self.lock.acquire(waiting)
    }

    fn is_mine(&self) -> bool {
        self.lock.owner() == Some(self.owner)
    }

    fn holder(&self) -> Option<Owner> {
        self.lock.holder()
    }
}

impl Condition {
    /// A condition without waiters, named after the location of the call.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn new() -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()))
    }

    /// A condition with a name, for inspection of the family.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn named(name: &str) -> Result<Self> {
        Ok(Self { inner: sync::Condition::new(arena::family()?, name)? })
    }

    /// The condition that a handle names.
    ///
    /// # Errors
    /// If it is no more, is no condition, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { inner: sync::Condition::open(handle)? })
    }

    /// The value that names the condition in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    /// Releases the lock, waits, and takes the lock again; says also whether there was a
    /// notification.
    fn pause<'l>(&self, guard: LockGuard<'l>, waiting: Wait) -> OwnedResult<(LockGuard<'l>, bool)> {
        let (lock, owner) = guard.into_parts();
        let held = Held { lock: lock.core(), owner };
        let waited = self.inner.wait(&held, waiting);
        let waited = waited.expect("a guard holds its lock, unless another language released it");
        let guard = lock.guard();
        match waited.acquired {
            Acquired::Clean => Ok((guard, waited.notified)),
            Acquired::OwnerDied(owner) => {
                Err(OwnerDied::new((guard, waited.notified), lock.handle(), owner))
            }
        }
    }

    /// Releases the lock, waits for a notification, and takes the lock again. The caller must check
    /// afterwards what it waits for, as another waiter may have been faster ([`Self::wait_while`]
    /// checks).
    ///
    /// # Errors
    /// [`OwnerDied`], with the guard; also without a notification, as none may come any more.
    ///
    /// # Panics
    /// If another language took the lock away from its guard.
    pub fn wait<'l>(&self, guard: LockGuard<'l>) -> OwnedResult<LockGuard<'l>> {
        match self.pause(guard, Wait::FOREVER) {
            Ok((guard, _)) => Ok(guard),
            Err(died) => Err(died.map(|(guard, _)| guard)),
        }
    }

    /// As [`Self::wait`], but waits no longer than `timeout`; says whether there was a
    /// notification.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_timeout<'l>(
        &self,
        guard: LockGuard<'l>,
        timeout: Duration,
    ) -> OwnedResult<(LockGuard<'l>, bool)> {
        self.pause(guard, Wait::until(Some(Monotonic::now().after(timeout))))
    }

    /// Waits as long as `condition` holds. It is checked with the lock held.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_while<'l>(
        &self,
        mut guard: LockGuard<'l>,
        mut condition: impl FnMut() -> bool,
    ) -> OwnedResult<LockGuard<'l>> {
        while condition() {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// Lets one waiter go on, once it gets the lock.
    pub fn notify_one(&self, guard: &LockGuard<'_>) {
        self.notify(guard, 1);
    }

    /// Lets all waiters go on, one after the other.
    pub fn notify_all(&self, guard: &LockGuard<'_>) {
        self.notify(guard, u32::MAX);
    }

    fn notify(&self, guard: &LockGuard<'_>, count: u32) {
        let held = Held { lock: guard.lock().core(), owner: guard.owner() };
        // If another language released the lock, its present holder will notify.
        let _ = self.inner.notify(&held, count);
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition")
            .field("name", &Name(self.handle()))
            .field("waiting", &self.inner.waiting())
            .finish()
    }
}

travels_by_handle!(Condition);
