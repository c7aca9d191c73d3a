//! Where things lie in the arena.
//!
//! ```text
//! header │ process rows │ object rows │ held bits, a row for each slot │ unit words
//!        │ caches, a row for each slot │ heap units…
//! ```
//!
//! The sizes follow from the capacity and are written in the header, so that a process which
//! attaches computes the same layout and checks it. All of it is sparse: what is not used costs
//! only address space.

use procession_os::memory::Shared;

use super::error::{Error, Result};
use super::heap::state::HeapState;
use crate::atomics::{AtomicU32, AtomicU64};
use crate::wait::EventCount;

/// "processn" in ASCII.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"processn");
/// Changes whenever a byte of the layout does.
pub(super) const VERSION: u64 = 4;
/// The heap's grain in bytes.
pub const UNIT: u64 = 64 * 1024;
/// The least capacity that holds the tables and some heap.
pub(super) const MIN_CAPACITY: u64 = 16 << 20;
/// The capacity asked for first.
pub(super) const MAX_CAPACITY: u64 = 1 << 40;

const ROW: u64 = 256;
const OBJECT: u64 = 128;
const UNIT_WORDS: u64 = 32;
pub(super) const CACHE: u64 = 2048;
const PAGE: u64 = 4096;

/// How many process rows a watcher looks after: as many words as it can sleep on, but for a few.
pub(super) const RANGE: u16 = 96;
/// More than there are rows for.
pub(super) const RANGES: usize = 22;

/// The words about the watcher of a range of process rows.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The watcher; 0 if there is none.
    pub(super) watcher: AtomicU64,
    /// Changes when the watcher is to look again; odd while it is asleep, or about to be.
    pub(super) sequence: AtomicU32,
    unused: AtomicU32,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Watch {}

#[repr(C)]
pub(super) struct Header {
    pub(super) magic: AtomicU64,
    pub(super) version: AtomicU64,
    pub(super) family: AtomicU64,
    pub(super) capacity: AtomicU64,
    pub(super) slots_used: AtomicU32,
    pub(super) objects_used: AtomicU32,
    pub(super) object_hint: AtomicU32,
    /// The row at which the next look for dead processes begins.
    pub(super) sweep_hint: AtomicU32,
    /// A row before which none is free.
    pub(super) slot_hint: AtomicU32,
    /// 1 once a process was forked that the table had no row for.
    pub(super) rowless: AtomicU32,
    /// When the family last looked for processes that are not in the table, and when such a look
    /// that found none began last.
    pub(super) looked_for_unclaimed: AtomicU64,
    pub(super) none_unclaimed: AtomicU64,
    /// Where the threads sleep that a death may wake; it counts the announced deaths.
    pub(super) deaths: EventCount,
    pub(super) heap: HeapState,
    pub(super) watches: [Watch; RANGES],
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Header {}

/// The sizes and offsets that follow from a capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) capacity: u64,
    pub(super) slots: u32,
    pub(super) objects: u32,
    pub(super) units: u32,
    rows: u64,
    object_rows: u64,
    held: u64,
    unit_words: u64,
    caches: u64,
    heap: u64,
}

impl Layout {
    pub(super) fn of(capacity: u64) -> Result<Self> {
        if !(MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity) {
            return Err(Error::CapacityOutOfRange {
                asked: capacity,
                min: MIN_CAPACITY,
                max: MAX_CAPACITY,
            });
        }
        let slots = (capacity / (1 << 20)).clamp(64, 2048) as u32;
        let objects = (capacity / UNIT).clamp(1024, 1 << 20) as u32;
        let rows = PAGE;
        // One row more, for what is held for processes that have none.
        let all_rows = u64::from(slots) + 1;
        let object_rows = rows + all_rows * ROW;
        let held = object_rows + u64::from(objects) * OBJECT;
        let unit_words = (held + all_rows * u64::from(objects) / 8).next_multiple_of(PAGE);
        // Each unit takes its words and itself from what is left.
        let left = capacity - unit_words - u64::from(slots) * CACHE - PAGE;
        let units = (left / (UNIT + UNIT_WORDS)).saturating_sub(1) as u32;
        let caches = (unit_words + u64::from(units) * UNIT_WORDS).next_multiple_of(PAGE);
        let heap = (caches + u64::from(slots) * CACHE).next_multiple_of(UNIT);
        Ok(Self {
            capacity,
            slots,
            objects,
            units,
            rows,
            object_rows,
            held,
            unit_words,
            caches,
            heap,
        })
    }

    #[inline]
    pub(super) fn row(&self, slot: u16) -> Result<u64> {
        if u32::from(slot) <= self.slots {
            Ok(self.rows + u64::from(slot) * ROW)
        } else {
            Err(Error::Corrupt("a slot is out of range"))
        }
    }

    #[inline]
    pub(super) fn object(&self, index: u32) -> Result<u64> {
        if index < self.objects {
            Ok(self.object_rows + u64::from(index) * OBJECT)
        } else {
            Err(Error::Corrupt("an object index is out of range"))
        }
    }

    /// The word of a slot's held bits that has an object's bit, and the bit in it.
    pub(super) fn held(&self, slot: u16, index: u32) -> Result<(u64, u64)> {
        if u32::from(slot) > self.slots || index >= self.objects {
            return Err(Error::Corrupt("a held bit is out of range"));
        }
        let bytes_a_slot = u64::from(self.objects) / 8;
        let word = self.held + u64::from(slot) * bytes_a_slot + u64::from(index / 64) * 8;
        Ok((word, 1 << (index % 64)))
    }

    pub(super) fn cache(&self, slot: u16) -> Result<u64> {
        if u32::from(slot) < self.slots {
            Ok(self.caches + u64::from(slot) * CACHE)
        } else {
            Err(Error::Corrupt("a slot is out of range"))
        }
    }

    pub(super) fn unit_words(&self, unit: u32) -> Result<u64> {
        if unit < self.units {
            Ok(self.unit_words + u64::from(unit) * UNIT_WORDS)
        } else {
            Err(Error::Corrupt("a heap unit is out of range"))
        }
    }

    pub(super) fn unit(&self, unit: u32) -> u64 {
        self.heap + u64::from(unit) * UNIT
    }

    /// The unit in which an offset lies, and how far in.
    pub(super) fn unit_of(&self, offset: u64) -> Result<(u32, u64)> {
        let inside =
            offset.checked_sub(self.heap).ok_or(Error::Corrupt("a block outside the heap"))?;
        let unit = inside / UNIT;
        if unit < u64::from(self.units) {
            Ok((unit as u32, inside % UNIT))
        } else {
            Err(Error::Corrupt("a block outside the heap"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_fits_its_page() {
        assert!(size_of::<Header>() as u64 <= PAGE);
    }

    #[test]
    fn nothing_overlaps_at_any_capacity() {
        let mut capacity = MIN_CAPACITY;
        while capacity <= MAX_CAPACITY {
            let layout = Layout::of(capacity).unwrap();
            assert!(layout.objects.is_multiple_of(64) && layout.slots <= 4096);
            assert!(
                layout.held(layout.slots as u16, layout.objects - 1).unwrap().0 < layout.unit_words
            );
            assert!(layout.unit_words(layout.units - 1).unwrap() + UNIT_WORDS <= layout.caches);
            assert!(layout.cache(layout.slots as u16 - 1).unwrap() + CACHE <= layout.heap);
            assert!(layout.unit(layout.units) <= capacity, "{capacity}");
            assert!(layout.units > 16, "{capacity}");
            capacity *= 2;
        }
        assert!(Layout::of(MIN_CAPACITY - 1).is_err());
        assert!(Layout::of(MAX_CAPACITY + 1).is_err());
    }
}
