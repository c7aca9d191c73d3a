//! A look at the whole heap: whether it is in order, and how much of it is in use.

use super::super::error::{Error, Result};
use super::super::family::Arena;
use super::super::layout::UNIT;
use super::super::row::Row;
use super::block::{BlockState, Word};
use crate::atomics::Ordering;
use crate::slots::Status;

impl Arena {
    /// Walks the whole heap and checks that it is what it says: every extent in bounds, every owner
    /// there, every free extent in its list and no other.
    ///
    /// # Errors
    /// [`Error::Corrupt`], with what is wrong; [`Error::Wait`] if another process was stopped with
    /// the heap's lock.
    pub fn check(&self) -> Result<()> {
        let _guard = self.lock_heap_to_check()?;
        let mut used = 0;
        let mut free = 0;
        let mut slab_room = 0;
        self.each_extent(|unit, word| {
            match word.state {
                BlockState::Slab => {
                    used += u64::from(word.units);
                    let mut free_here = 0;
                    self.each_in_slab(unit, word.owner, |_, word| {
                        free_here += u32::from(word.is_free());
                    })?;
                    slab_room += u64::from(free_here);
                }
                BlockState::Warm | BlockState::Cold => free += 1,
                BlockState::Process | BlockState::Cached
                    if !self.slot_in_use(word.owner as u16) =>
                {
                    return Err(Error::Corrupt("a block belongs to a slot without a process"));
                }
                BlockState::Object if !self.object_lives(word.owner) => {
                    return Err(Error::Corrupt("a block belongs to an object that is no more"));
                }
                BlockState::Process | BlockState::Cached | BlockState::Object => {
                    used += u64::from(word.units);
                }
            }
            Ok(())
        })?;
        if used != self.heap().used.load(Ordering::Relaxed) {
            return Err(Error::Corrupt("the count of used units is wrong"));
        }
        if self.count_listed_extents()? != free {
            return Err(Error::Corrupt("a free extent is not listed, or a listed one not free"));
        }
        if self.count_listed_slab_blocks()? != slab_room {
            return Err(Error::Corrupt("a slab's free list is wrong"));
        }
        Ok(())
    }

    /// How often the free lists were derived again after a death.
    pub fn times_rebuilt(&self) -> u64 {
        self.heap().rebuilt.load(Ordering::Relaxed)
    }

    /// How many blocks belong to a process or an object. Those that a process only keeps are not
    /// among them.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn blocks_in_use(&self) -> Result<u64> {
        let _guard = self.lock_heap_to_check()?;
        let mut count = 0;
        self.each_extent(|unit, word| {
            if word.state == BlockState::Slab {
                let used = |_, word: Word| count += u64::from(word.owner().is_some());
                self.each_in_slab(unit, word.owner, used)?;
            } else {
                count += u64::from(word.owner().is_some());
            }
            Ok(())
        })?;
        Ok(count)
    }

    fn slot_in_use(&self, slot: u16) -> bool {
        self.row(slot).and_then(Row::state).is_ok_and(|state| state.status != Status::Free)
    }

    pub(in super::super) fn object_lives(&self, index: u32) -> bool {
        self.object(index).is_ok_and(|object| object.is_in_use())
    }

    /// Bytes in use by blocks, and free bytes that keep their memory.
    pub fn heap_use(&self) -> (u64, u64) {
        let heap = self.heap();
        (heap.used.load(Ordering::Relaxed).saturating_mul(UNIT), heap.warm.load(Ordering::Relaxed))
    }
}
