//! The heap's lock, and what its next holder puts in order after a death.

use std::time::Duration;

use procession_os::clock::Monotonic;

use super::super::error::{Error, Result};
use super::super::family::Arena;
use super::block::BlockState;
use super::extents::Temperature;
use crate::atomics::Ordering;
use crate::wait::{Acquired, BlockedOn, Owner, OwnerLock, Probe, Wait};

/// How long something that can be put off waits for the heap's lock.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long a look at the whole heap waits for the heap's lock.
const PATIENCE_OF_CHECKS: Duration = Duration::from_secs(10);

/// The heap's lock, held. Dropping it frees it.
pub(super) struct HeapGuard<'a>(pub(super) &'a OwnerLock);

impl Drop for HeapGuard<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// A short wait that leaves in the process table what this thread does, which may be another wait.
struct Aside<'a>(&'a Arena);

impl Probe for Aside<'_> {
    fn is_dead(&self, owner: Owner) -> bool {
        self.0.is_dead(owner)
    }

    fn blocked(&self, _: BlockedOn) {}

    fn running(&self) {}
}

impl Arena {
    pub(super) fn lock_heap(&self, waiting: Wait) -> Result<HeapGuard<'_>> {
        self.lock_heap_with(self, waiting)
    }

    fn lock_heap_with(&self, probe: &impl Probe, waiting: Wait) -> Result<HeapGuard<'_>> {
        let lock = &self.heap().lock;
        let acquired = lock.lock(self.owner(), probe, BlockedOn::ALLOCATOR, waiting)?;
        let guard = HeapGuard(lock);
        if let Acquired::OwnerDied(_) = acquired {
            self.rebuild()?;
        }
        Ok(guard)
    }

    /// As [`Self::lock_heap`], for what can be put off: waits for a moment, and not again for a
    /// holder that this process has already waited for.
    pub(super) fn lock_heap_briefly(&self) -> Result<HeapGuard<'_>> {
        let lock = &self.heap().lock;
        if lock.try_lock(self.owner()) {
            return Ok(HeapGuard(lock));
        }
        let order = std::sync::atomic::Ordering::Relaxed;
        let holder = || lock.owner().map_or(0, Owner::word);
        let known = self.visits.stuck.load(order);
        let waiting = if known != 0 && known == holder() {
            Wait::TRY
        } else {
            Wait::until(Some(Monotonic::now().after(PATIENCE)))
        };
        let locked = self.lock_heap_with(&Aside(self), waiting);
        self.visits.stuck.store(if locked.is_ok() { 0 } else { holder() }, order);
        locked
    }

    pub(super) fn lock_heap_to_check(&self) -> Result<HeapGuard<'_>> {
        self.lock_heap(Wait::until(Some(Monotonic::now().after(PATIENCE_OF_CHECKS))))
    }

    /// Whether this process can have the heap's lock, without waiting for longer than a moment.
    pub(in super::super) fn is_heap_within_reach(&self) -> Result<bool> {
        Ok(unless_stopped(self.lock_heap_briefly())?.is_some())
    }

    /// Puts the heap in order after a process died with its lock, which is held.
    fn rebuild(&self) -> Result<()> {
        self.derive()?;
        self.heap().rebuilt.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Derives all that is derived from the words. The heap's lock is held.
    fn derive(&self) -> Result<()> {
        let heap = self.heap();
        for bin in heap.bins.iter().flatten().chain(&heap.slabs) {
            bin.store(0, Ordering::Relaxed);
        }
        heap.warm.store(0, Ordering::Relaxed);
        heap.used.store(0, Ordering::Relaxed);
        self.each_extent(|unit, word| {
            match word.state {
                BlockState::Cold => self.list_extent(unit, word.units, Temperature::Cold)?,
                BlockState::Warm => self.list_extent(unit, word.units, Temperature::Warm)?,
                BlockState::Slab => {
                    heap.used.fetch_add(u64::from(word.units), Ordering::Relaxed);
                    self.rebuild_slab(unit, word.owner)?;
                }
                BlockState::Process | BlockState::Cached | BlockState::Object => {
                    heap.used.fetch_add(u64::from(word.units), Ordering::Relaxed);
                }
            }
            self.write_footer(unit, word.units)
        })
    }
}

/// `None` where another process was stopped with the heap's lock; other errors stay what they are.
pub(super) fn unless_stopped<T>(locked: Result<T>) -> Result<Option<T>> {
    match locked {
        Ok(done) => Ok(Some(done)),
        Err(Error::Wait(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
