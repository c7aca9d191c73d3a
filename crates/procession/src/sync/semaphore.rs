//! A counter of permits between processes.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use procession_shm::sync;
use procession_shm::wait::Wait;

use super::{ReleaseError, waiting_for};
use crate::arena::{self, Handle, Name, Result};
use crate::codec::travels_by_handle;

/// A number of permits that processes and threads take and give back.
///
/// Any thread of any process may [release](Semaphore::release). So a holder that died can't be told
/// from one that leaves its permits for others to release, and a dead holder's permits are lost. A
/// semaphore that is made [recovering](Semaphore::recovering) knows the holder of each permit and
/// takes back those of dead processes.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let seats = procession::Semaphore::new(2)?;
/// let one = seats.acquire();
/// let two = seats.acquire();
/// assert!(seats.try_acquire().is_none());
/// drop(one);
/// assert_eq!(seats.value(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    inner: sync::Semaphore,
}

/// A permit, given back when this is dropped.
#[must_use = "the permit is given back when this is dropped"]
pub struct Permit<'s> {
    semaphore: &'s Semaphore,
}

impl Permit<'_> {
    /// Drops the guard without giving the permit back: another thread or process will
    /// [release](Semaphore::release) it.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // It has too many permits only if this one was given back elsewhere.
        let _ = self.semaphore.release();
    }
}

impl Semaphore {
    /// A semaphore with `permits` permits, at most 2147483647; releasing adds to them up to that.
    ///
    /// # Errors
    /// If the arena is full; [`arena::Error::TooMany`].
    #[track_caller]
    pub fn new(permits: u32) -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()), permits)
    }

    /// As [`Self::new`], with a name for inspection of the family.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn named(name: &str, permits: u32) -> Result<Self> {
        Ok(Self { inner: sync::Semaphore::new(arena::family()?, name, permits, None)? })
    }

    /// A semaphore that never has more than its `permits` permits, at most 2147483647.
    ///
    /// # Errors
    /// As [`Self::new`].
    #[track_caller]
    pub fn bounded(permits: u32) -> Result<Self> {
        let name = arena::caller_name(Location::caller());
        Ok(Self { inner: sync::Semaphore::new(arena::family()?, &name, permits, Some(permits))? })
    }

    /// A semaphore of at most 8192 permits that come back when their holder dies.
    ///
    /// # Errors
    /// If the arena is full; [`arena::Error::TooMany`].
    #[track_caller]
    pub fn recovering(permits: u32) -> Result<Self> {
        let name = arena::caller_name(Location::caller());
        Ok(Self { inner: sync::Semaphore::recovering(arena::family()?, &name, permits)? })
    }

    /// The semaphore that a handle names.
    ///
    /// # Errors
    /// If it is no more, is no semaphore, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { inner: sync::Semaphore::open(handle)? })
    }

    /// The value that names the semaphore in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    /// Takes a permit, waiting for one.
    pub fn acquire(&self) -> Permit<'_> {
        let acquired = self.inner.acquire(Wait::FOREVER);
        acquired.expect("a wait without a deadline that no signal interrupts");
        Permit { semaphore: self }
    }

    /// Takes a permit if there is one.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.inner.try_acquire().then(|| Permit { semaphore: self })
    }

    /// Takes a permit, waiting for one no longer than `timeout`; `None` if none came.
    #[must_use]
    pub fn acquire_timeout(&self, timeout: Duration) -> Option<Permit<'_>> {
        self.inner.acquire(waiting_for(timeout)).ok().map(|()| Permit { semaphore: self })
    }

    /// Gives back a permit that was [kept](Permit::forget), or adds one.
    ///
    /// # Errors
    /// [`ReleaseError::TooOften`] if it has as many as it may.
    pub fn release(&self) -> Result<(), ReleaseError> {
        self.inner.release()
    }

    /// How many permits are free at this instant.
    #[must_use]
    pub fn value(&self) -> u32 {
        self.inner.value()
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("name", &Name(self.handle()))
            .field("value", &self.value())
            .finish()
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("name", &Name(self.semaphore.handle())).finish()
    }
}

travels_by_handle!(Semaphore);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back_with_their_guards() {
        let semaphore = Semaphore::bounded(1).unwrap();
        let permit = semaphore.acquire();
        assert!(semaphore.acquire_timeout(Duration::from_millis(5)).is_none());
        drop(permit);
        semaphore.acquire().forget();
        assert_eq!(semaphore.value(), 0);
        semaphore.release().unwrap();
        assert_eq!(semaphore.release(), Err(ReleaseError::TooOften(1)));
    }
}
