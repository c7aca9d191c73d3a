//! Looks at the whole heap: what is whole, what belongs to whom, what follows from the words.

use super::super::Arena;
use super::super::error::{Error, Result};
use super::block::{BlockState, Word};
use super::extents::Temperature;
use super::free::Offsets;
use crate::atomics::Ordering;

impl Arena {
    /// Walks the whole heap and checks that it is what it says: every extent in bounds, every owner
    /// there, every free extent in its list and no other.
    ///
    /// # Errors
    /// [`Error::Corrupt`], with what is wrong; [`Error::Wait`] if somebody was stopped with the
    /// heap's lock.
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

    /// How many blocks belong to somebody, a process or an object. Those that a process only keeps
    /// are not among them.
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

    /// The offsets of blocks, as many as there is room for. The heap's lock is held.
    pub(super) fn blocks_that(&self, are_meant: &impl Fn(Word) -> bool) -> Result<Offsets> {
        let mut found = Offsets::NONE;
        self.each_extent(|unit, word| {
            if found.is_full() {
            } else if word.state == BlockState::Slab {
                self.each_in_slab(unit, word.owner, |offset, word| {
                    if are_meant(word) {
                        found.push(offset);
                    }
                })?;
            } else if are_meant(word) {
                found.push(self.layout.unit(unit));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Puts the heap in order after a process died with its lock, which is held.
    pub(super) fn rebuild(&self) -> Result<()> {
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
