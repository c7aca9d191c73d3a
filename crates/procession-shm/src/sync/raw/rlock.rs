//! A lock that the thread which holds it may acquire again.

use procession_os::memory::Shared;

use crate::atomics::{AtomicU64, Ordering};
use crate::wait::{Acquired, BlockedOn, Owner, OwnerLock, Probe, Wait, WaitError};

/// The calling thread does not hold the lock that it releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the calling thread does not hold the lock")]
pub struct NotOwnerError;

/// Twenty-four bytes of shared memory; all zero is a free lock.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawRLock {
    lock: OwnerLock,
    /// How often the owner acquired it beyond the first time. Changed only by the owner; a new
    /// owner sets it before anything else, so what a dead one left doesn't matter.
    again: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for RawRLock {}

impl RawRLock {
    /// The holder of the lock at this instant.
    pub fn owner(&self) -> Option<Owner> {
        self.lock.owner()
    }

    /// How often `me` has acquired the lock.
    pub fn depth(&self, me: Owner) -> u64 {
        let mine = self.lock.owner() == Some(me);
        if mine { self.again.load(Ordering::Relaxed).saturating_add(1) } else { 0 }
    }

    /// Acquires the lock without waiting.
    pub fn try_lock(&self, me: Owner, probe: &impl Probe) -> Option<Acquired> {
        if self.lock.owner() == Some(me) {
            self.again.fetch_add(1, Ordering::Relaxed);
            return Some(Acquired::Clean);
        }
        let acquired = if self.lock.try_lock(me) {
            Acquired::Clean
        } else {
            self.lock.take_from_the_dead(me, probe)?
        };
        self.again.store(0, Ordering::Relaxed);
        Some(acquired)
    }

    /// Acquires the lock, waiting for it.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn lock(
        &self,
        me: Owner,
        probe: &impl Probe,
        on: BlockedOn,
        waiting: Wait,
    ) -> Result<Acquired, WaitError> {
        if self.lock.owner() == Some(me) {
            self.again.fetch_add(1, Ordering::Relaxed);
            return Ok(Acquired::Clean);
        }
        self.lock_to(1, me, probe, on, waiting)
    }

    /// Acquires the lock, which `me` does not hold, as often as it had been acquired before
    /// [`Self::unlock_all`].
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn lock_to(
        &self,
        depth: u64,
        me: Owner,
        probe: &impl Probe,
        on: BlockedOn,
        waiting: Wait,
    ) -> Result<Acquired, WaitError> {
        let acquired = self.lock.lock(me, probe, on, waiting)?;
        self.again.store(depth.saturating_sub(1), Ordering::Relaxed);
        Ok(acquired)
    }

    /// Undoes one acquisition.
    ///
    /// # Errors
    /// [`NotOwnerError`].
    pub fn unlock(&self, me: Owner) -> Result<(), NotOwnerError> {
        if self.lock.owner() != Some(me) {
            return Err(NotOwnerError);
        }
        match self.again.load(Ordering::Relaxed) {
            0 => self.lock.unlock().map_err(|_| NotOwnerError),
            again => {
                self.again.store(again - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Undoes all acquisitions of `me`, and says how many there were.
    ///
    /// # Errors
    /// [`NotOwnerError`].
    pub fn unlock_all(&self, me: Owner) -> Result<u64, NotOwnerError> {
        match self.depth(me) {
            0 => Err(NotOwnerError),
            depth => self.lock.unlock().map(|()| depth).map_err(|_| NotOwnerError),
        }
    }
}
