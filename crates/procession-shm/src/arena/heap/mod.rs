//! The allocator: extents of 64 KiB units, and slabs of smaller blocks in them.
//!
//! # What is true and what is derived
//! The truth is one word for each extent (in the unit words, at its first unit) and one for each
//! block of a slab (in the slab's head): its state, length, owner and, in a word beside it, its
//! generation. A change of state is one store to that word. Free lists, footers and counts are
//! derived from the words: whoever finds that a process died with the heap's lock derives them
//! again ([`Arena::rebuild`]) and goes on.
//!
//! A block comes from free to in use, and back, under the heap's lock. All other changes are one
//! compare-exchange by whoever has it: between processes and objects, and into a process's
//! [cache](caches) and out of it.
//!
//! Splitting writes the rest's word first, where nobody looks as long as the extent before it
//! covers it, then shortens that extent with the store that takes it. Freeing is one store, and
//! joining another that lengthens the first of two. The frontier (`units_used`) moves after the
//! word behind it is written.
//!
//! # Owners
//! A block belongs to a process while it is filled or read (`Process`), and to an object once it is
//! part of it (`Object`). A process's blocks are freed when it is buried; an object's when it ends.
//! The generation tells a block from all others that were or will be at the same place: what was
//! written down about one never comes to mean another.
//!
//! # Freeing
//! Whoever frees a block first makes it its own, or one that it keeps, with one compare-exchange:
//! so of all that try, one frees it, and that one's death is followed by its burial. What it does
//! then can be put off, so it never waits for the heap's lock for longer than [`PATIENCE`].
//!
//! # Memory
//! Memory is taken from the machine (`SharedMemory::reserve`) before a block is handed out, so that
//! a machine without memory is an error here and not SIGBUS later. Touching memory for the first
//! time costs four to five times what touching it again does, so what falls free stays *warm*,
//! within bounds:
//!
//! - never more than [`WARM_MAX`]: what is freed beyond that goes back to the machine at once;
//! - of what was warm and was not taken for a second ([`IDLE`]), all but [`WARM_FLOOR`] goes back,
//!   as soon as any process of the family comes to the heap, forks, or looks again at what it waits
//!   for.
//!
//! Beside that there are at most: an empty slab (one unit) for each of the eight classes, and in
//! each process's cache 255 KiB (or the slabs that these blocks lie in). The heap's lock is not
//! held while memory is reserved or given back.
//!
//! # A process that is stopped with the heap's lock
//! Small blocks come from the process's cache without the lock. An allocation that needs it waits
//! as long as its caller's [`Wait`] allows, which is until a signal where an object is made.
//! Freeing, the end of an object and burials are put off. So what remains is that memory beyond the
//! caches is not to be had until that process goes on or is killed.
//!
//! The lock is held for some hundred nanoseconds, except by a walk over the whole heap: the end of
//! a queue, the burial of a process that died in the middle of something, memory that is short,
//! [`Arena::check`].

mod block;
mod caches;
mod check;
mod extents;
mod free;
mod slabs;

use std::sync::atomic::{AtomicBool, AtomicU64 as PrivateU64};
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::memory::Shared;

use super::Arena;
use super::error::{Error, Result};
use super::layout::UNIT;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{Acquired, BlockedOn, Owner, OwnerLock, Probe, Wait};
pub(crate) use block::{Block, BlockOwner};
use extents::{BINS, Effort, Extent, Temperature};
use slabs::CLASSES;

/// Free extents that keep their memory, in bytes all told, at most.
pub const WARM_MAX: u64 = 256 << 20;

/// Free extents that keep their memory though nobody takes them, in bytes all told.
pub const WARM_FLOOR: u64 = 32 << 20;

/// How long free memory beyond [`WARM_FLOOR`] may lie idle before it goes back to the machine.
pub const IDLE: Duration = Duration::from_secs(1);

/// How long something that can be put off waits for the heap's lock.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long a look at the whole heap waits for the heap's lock.
const PATIENCE_OF_CHECKS: Duration = Duration::from_secs(10);

/// The heap's part of the arena's header.
#[repr(C)]
pub(super) struct HeapState {
    lock: OwnerLock,
    /// Units before the frontier; those behind were never used.
    units_used: AtomicU32,
    unused: AtomicU32,
    /// The last generation that was given out, in steps of a range.
    generation: AtomicU64,
    /// Bytes of free extents that have memory.
    warm: AtomicU64,
    /// Units that are not free.
    used: AtomicU64,
    /// How often the lists were derived again.
    rebuilt: AtomicU64,
    /// The least of `warm` since `watched_since`, in nanoseconds of the monotonic clock.
    warm_min: AtomicU64,
    watched_since: AtomicU64,
    /// First free extent + 1 of each size, warm and cold.
    bins: [[AtomicU32; BINS]; 2],
    /// First slab + 1 with a free block, for each class.
    slabs: [AtomicU32; CLASSES],
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for HeapState {}

/// What a process knows of its own dealings with the heap. A forked child that has its parent's
/// copy finds nothing of its own by it.
#[derive(Debug, Default)]
pub(super) struct HeapVisits {
    /// The holder of the heap's lock that was last waited for in vain.
    stuck: PrivateU64,
    /// Blocks were put off since this process last freed those.
    put_off: AtomicBool,
    /// Objects whose end was put off: the slot of the process that is to end them, the index + 1.
    unfinished: [PrivateU64; 16],
}

/// Whether waits for the heap while an object is made come back at a signal.
static INTERRUPTIBLE: AtomicBool = AtomicBool::new(false);

/// Has the making of objects come back with [`Error::Wait`] at a signal or a tick, if somebody
/// was stopped in the middle of the allocator: for a host language that runs signal handlers in
/// between.
pub fn make_interruptibly() {
    INTERRUPTIBLE.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// The heap's lock, held. Dropping it frees it.
pub(super) struct HeapGuard<'a>(&'a OwnerLock);

impl Drop for HeapGuard<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// A short wait beside what the process table says that this thread does, be it another wait.
struct Aside<'a>(&'a Arena);

impl Probe for Aside<'_> {
    fn is_dead(&self, owner: Owner) -> bool {
        self.0.is_dead(owner)
    }

    fn blocked(&self, _: BlockedOn) {}

    fn running(&self) {}
}

impl Arena {
    fn heap(&self) -> &HeapState {
        &self.header().heap
    }

    fn units_used(&self) -> u32 {
        self.heap().units_used.load(Ordering::Acquire)
    }

    fn lock_heap(&self, waiting: Wait) -> Result<HeapGuard<'_>> {
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
    /// holder that was waited for already.
    fn lock_heap_briefly(&self) -> Result<HeapGuard<'_>> {
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

    fn lock_heap_to_check(&self) -> Result<HeapGuard<'_>> {
        self.lock_heap(Wait::until(Some(Monotonic::now().after(PATIENCE_OF_CHECKS))))
    }

    /// How whoever makes an object waits for the heap.
    pub(crate) fn while_making() -> Wait {
        let interruptible = INTERRUPTIBLE.load(std::sync::atomic::Ordering::Relaxed);
        Wait { interruptible, ..Wait::FOREVER }
    }

    /// A block of at least `size` bytes that belongs to this process until it is
    /// [given](Self::give) away or [freed](Self::free). What it holds is left from before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::MachineFull`]; [`Error::Wait`] if somebody is at the
    /// heap for longer than the caller waits.
    pub(crate) fn allocate(&self, size: u64, waiting: Wait) -> Result<Block> {
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        unsettled.fetch_add(1, Ordering::SeqCst);
        let mut allocated = self.try_allocate(size, me, Effort::Usual, waiting);
        if let Err(Error::OutOfMemory { .. } | Error::MachineFull { .. }) = allocated {
            // The dead may hold what is missing, or it is kept by somebody, or there in pieces.
            self.bury_abandoned();
            allocated = self
                .reclaim(matches!(allocated, Err(Error::MachineFull { .. })))
                .and_then(|()| self.try_allocate(size, me, Effort::Thorough, waiting));
        }
        if allocated.is_err() {
            unsettled.fetch_sub(1, Ordering::SeqCst);
        }
        allocated
    }

    fn try_allocate(&self, size: u64, me: u16, effort: Effort, waiting: Wait) -> Result<Block> {
        match slabs::class_of(size) {
            Some(class) => self.allocate_in_slab(class, me, effort, waiting),
            None => self.allocate_units(size, me, effort, waiting),
        }
    }

    fn allocate_units(&self, size: u64, me: u16, effort: Effort, waiting: Wait) -> Result<Block> {
        self.tidy();
        let units = u32::try_from(size.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1);
        let found = {
            let _guard = self.lock_heap(waiting)?;
            self.take_extent(units, me, effort)?
        };
        let extent = found.ok_or_else(|| self.out_of_memory(size))?;
        failpoint!("heap.extent.unreserved");
        if let Err(source) = self.reserve_extent(extent) {
            self.free_extent_of_mine(extent, Memory::InDoubt)?;
            return Err(Error::MachineFull { asked: size, source });
        }
        Ok(Block::recorded(self.layout.unit(extent.unit), extent.generation))
    }

    /// Makes sure that there is memory behind an extent of this process.
    fn reserve_extent(&self, extent: Extent) -> std::io::Result<()> {
        match extent.temperature {
            Temperature::Warm => Ok(()),
            Temperature::Cold => self.memory.reserve(self.layout.unit(extent.unit), extent.bytes()),
        }
    }

    fn out_of_memory(&self, asked: u64) -> Error {
        let (used, _) = self.heap_use();
        Error::OutOfMemory { asked, used, capacity: self.layout.capacity }
    }

    /// Bytes in use by blocks, and free bytes that keep their memory.
    pub fn heap_use(&self) -> (u64, u64) {
        let heap = self.heap();
        (heap.used.load(Ordering::Relaxed).saturating_mul(UNIT), heap.warm.load(Ordering::Relaxed))
    }
}

/// What is known of the memory behind a block that is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// It was reserved.
    There,
    /// Somebody died, or could not go on, while it was being reserved or given back.
    InDoubt,
}

#[cfg(test)]
mod tests;
