//! What the heap keeps in the arena's header, and what a process notes of its own visits.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64 as PrivateU64;
use std::time::Duration;

use procession_os::memory::Shared;

use crate::atomics::{AtomicU32, AtomicU64};
use crate::wait::OwnerLock;

/// Free extents that keep their memory, at most, in bytes.
pub const WARM_MAX: u64 = 256 << 20;

/// Free extents that keep their memory though no process takes them, in bytes.
pub const WARM_FLOOR: u64 = 32 << 20;

/// How long free memory beyond [`WARM_FLOOR`] may lie idle before it goes back to the machine.
pub const IDLE: Duration = Duration::from_secs(1);

/// Lists of free extents, by the logarithm of their length.
pub(super) const BINS: usize = 25;

/// Sizes of blocks: 64 bytes to 8 KiB, in powers of two.
pub(super) const CLASSES: usize = 8;

/// The heap's part of the arena's header.
#[repr(C)]
pub(in super::super) struct HeapState {
    pub(super) lock: OwnerLock,
    /// Units before the frontier; those behind were never used.
    pub(super) units_used: AtomicU32,
    unused: AtomicU32,
    /// The last generation that was given out, in steps of a range.
    pub(super) generation: AtomicU64,
    /// Bytes of free extents that have memory.
    pub(super) warm: AtomicU64,
    /// Units that are not free.
    pub(super) used: AtomicU64,
    /// How often the lists were derived again.
    pub(super) rebuilt: AtomicU64,
    /// The least of `warm` since `watched_since`, in nanoseconds of the monotonic clock.
    pub(super) warm_min: AtomicU64,
    pub(super) watched_since: AtomicU64,
    /// First free extent + 1 of each size, warm and cold.
    pub(super) bins: [[AtomicU32; BINS]; 2],
    /// First slab + 1 with a free block, for each class.
    pub(super) slabs: [AtomicU32; CLASSES],
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for HeapState {}

/// What a process knows of its own dealings with the heap. A forked child that has its parent's
/// copy finds nothing of its own by it.
#[derive(Debug, Default)]
pub(in super::super) struct HeapVisits {
    /// The holder of the heap's lock that was last waited for in vain.
    pub(super) stuck: PrivateU64,
    /// Blocks were put off since this process last freed those.
    pub(super) put_off: AtomicBool,
}
