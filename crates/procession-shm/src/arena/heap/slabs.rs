//! Units cut into blocks of one size, for what is smaller than a unit.
//!
//! A slab begins with a head: its derived free list and count, then two words for each block, the
//! truth about it and its generation. The blocks follow, aligned to their size. All functions here
//! are called with the heap's lock held.

use super::super::error::{Error, Result};
use super::super::family::Arena;
use super::block::{Block, BlockOwner, BlockState, Place, Word};
use super::cut::Cut;
use super::extents::Temperature;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;

impl Arena {
    pub(super) fn slabs_of(&self, class: u32) -> Result<&AtomicU32> {
        let list = self.heap().slabs.get(class as usize);
        list.ok_or(Error::Corrupt("a slab has an unknown class"))
    }

    /// Takes a block that is to be used, and to be kept as many more as there are and are asked
    /// for.
    pub(super) fn take_blocks(&self, class: u32, me: u16, others: &mut [u64]) -> Result<Block> {
        let word = Word::free(BlockState::Process, 0);
        let (offset, generation) = self.take_block(class, |words| {
            let generation = self.fresh_generation(me)?;
            // Before the store that takes it.
            words.store(generation, Ordering::Relaxed);
            Ok((word.owned_by(BlockOwner::Process(me)).at(generation), generation))
        })?;
        for other in others {
            if self.slabs_of(class)?.load(Ordering::Relaxed) == 0 {
                break;
            }
            (*other, _) = self.take_block(class, |_| Ok((word.kept_by(me), 0)))?;
        }
        Ok(Block::recorded(offset, generation))
    }

    /// Takes the first free block of the first slab that has one; returns its offset and
    /// generation.
    fn take_block(
        &self,
        class: u32,
        owned: impl FnOnce(&AtomicU64) -> Result<(Word, u64)>,
    ) -> Result<(u64, u64)> {
        let list = self.slabs_of(class)?;
        let unit = list.load(Ordering::Relaxed).checked_sub(1);
        let unit = unit.ok_or(Error::Corrupt("a fresh slab has no free block"))?;
        let slab = Word::unpack(self.unit_word(unit)?.load(Ordering::Relaxed))?;
        if slab.state != BlockState::Slab || slab.owner != class {
            return Err(Error::Corrupt("a listed slab is none of its class"));
        }
        let cut = Cut::of(class)?;
        let head = self.slab_head(unit)?;
        let index = head.free.load(Ordering::Relaxed).checked_sub(1);
        let index = index.filter(|&index| index < cut.count);
        let index = index.ok_or(Error::Corrupt("a listed slab has no free block"))?;
        let words = self.slab_words(unit, index)?;
        let free = Word::unpack(words.word.load(Ordering::Relaxed))?;
        if !free.is_free() {
            return Err(Error::Corrupt("a slab's free list has a block in use"));
        }
        let (word, generation) = owned(&words.generation)?;
        head.free.store(free.owner, Ordering::Relaxed);
        failpoint!("heap.slab.unlinked");
        words.word.store(word.pack(), Ordering::SeqCst);
        failpoint!("heap.slab.taken");
        head.used.fetch_add(1, Ordering::Relaxed);
        if free.owner == 0 {
            self.remove(list, unit)?;
        }
        Ok((self.layout.unit(unit) + cut.place_of(index), generation))
    }

    /// Derives a slab's free list and count, and lists it if it has room.
    pub(super) fn rebuild_slab(&self, unit: u32, class: u32) -> Result<()> {
        let count = Cut::of(class)?.count;
        let (mut next, mut used) = (0, 0);
        for index in (0..count).rev() {
            let cell = self.slab_word(unit, index)?;
            let word = Word::unpack(cell.load(Ordering::Relaxed))?;
            if word.is_free() {
                // Only a holder of the heap's lock changes the word of a free block.
                cell.store(Word { owner: next, ..word }.pack(), Ordering::Relaxed);
                next = index + 1;
            } else {
                used += 1;
            }
        }
        let head = self.slab_head(unit)?;
        head.free.store(next, Ordering::Relaxed);
        head.used.store(used, Ordering::Relaxed);
        if next != 0 {
            self.push(self.slabs_of(class)?, unit)?;
        }
        Ok(())
    }

    /// Frees the block at an offset in a slab, if it is the one meant. The slab may have become
    /// something else since the caller looked, and a block that is kept may be used again at any
    /// moment.
    pub(super) fn free_in_slab(
        &self,
        offset: u64,
        is_meant: impl Fn(Word) -> bool,
    ) -> Result<bool> {
        let (unit, inside) = self.layout.unit_of(offset)?;
        let Some(words) = self.words_at(offset)? else { return Ok(false) };
        let Place::Slab(class) = words.place else { return Ok(false) };
        let word = words.load()?;
        if word.is_free() || !is_meant(word) {
            return Ok(false);
        }
        let Some(index) = Cut::of(class)?.index_of(inside) else { return Ok(false) };
        let head = self.slab_head(unit)?;
        let next = head.free.load(Ordering::Relaxed);
        if !words.change(word, Word { owner: next, ..Word::free(BlockState::Warm, 0) }) {
            return Ok(false);
        }
        failpoint!("heap.free.freed");
        head.free.store(index + 1, Ordering::Relaxed);
        let used = head.used.fetch_sub(1, Ordering::Relaxed).wrapping_sub(1);
        let list = self.slabs_of(class)?;
        if next == 0 {
            self.push(list, unit)?;
        }
        // An empty slab goes back, unless it is the only one with room.
        let unit_words = self.unit_words(unit)?;
        let only = list.load(Ordering::Relaxed) == unit + 1
            && unit_words.next.load(Ordering::Relaxed) == 0;
        if used == 0 && !only {
            self.remove(list, unit)?;
            self.free_extent(unit, 1, Temperature::Warm)?;
        }
        Ok(true)
    }

    /// Calls `visit` for each block of a slab, with its offset and word.
    pub(super) fn each_in_slab(
        &self,
        unit: u32,
        class: u32,
        mut visit: impl FnMut(u64, Word),
    ) -> Result<()> {
        let cut = Cut::of(class)?;
        for index in 0..cut.count {
            let word = Word::unpack(self.slab_word(unit, index)?.load(Ordering::Acquire))?;
            visit(self.layout.unit(unit) + cut.place_of(index), word);
        }
        Ok(())
    }

    pub(super) fn count_listed_slab_blocks(&self) -> Result<u64> {
        let (mut count, mut slabs) = (0, 0);
        for (class, list) in self.heap().slabs.iter().enumerate() {
            let max = Cut::of(class as u32)?.count;
            let mut next = list.load(Ordering::Relaxed);
            while let Some(unit) = next.checked_sub(1) {
                let mut block = self.slab_head(unit)?.free.load(Ordering::Relaxed);
                let mut free = 0;
                while let Some(index) = block.checked_sub(1) {
                    free += 1;
                    if index >= max || free > max {
                        return Err(Error::Corrupt("a free list goes round in circles"));
                    }
                    block =
                        Word::unpack(self.slab_word(unit, index)?.load(Ordering::Relaxed))?.owner;
                }
                count += u64::from(free);
                next = self.unit_words(unit)?.next.load(Ordering::Relaxed);
                slabs += 1;
                if slabs > self.units_used() {
                    return Err(Error::Corrupt("a list of slabs goes round in circles"));
                }
            }
        }
        Ok(count)
    }
}
