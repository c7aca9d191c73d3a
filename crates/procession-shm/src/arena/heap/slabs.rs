//! Units cut into blocks of one size, for what is smaller than a unit.
//!
//! A slab begins with a head: its derived free list and count, then two words for each block, the
//! truth about it and its generation. The blocks follow, aligned to their size. Called with the
//! heap's lock held, except [`Arena::allocate_in_slab`], which takes it where the process's cache
//! has no block.

use procession_os::memory::Shared;

use super::super::Arena;
use super::super::error::{Error, Result};
use super::super::layout::UNIT;
use super::block::{Block, BlockOwner, BlockState, Place, Word, Words};
use super::caches::BATCH;
use super::extents::{Effort, Extent, Temperature};
use super::{HeapGuard, Memory};
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::Wait;

/// Sizes of blocks: 64 bytes to 8 KiB, in powers of two.
pub(super) const CLASSES: usize = 8;
const SMALLEST: u64 = 64;
const HEAD: u64 = 16;
/// The words of a block: the truth about it, its generation.
const WORDS: u64 = size_of::<SlabWords>() as u64;

/// The words of a slab's block.
#[repr(C)]
struct SlabWords {
    word: AtomicU64,
    generation: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for SlabWords {}

/// What is derived about a slab.
#[repr(C)]
struct Head {
    /// First free block + 1; the words of free blocks hold the next ones.
    free: AtomicU32,
    used: AtomicU32,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Head {}

/// The class whose blocks hold `size` bytes; `None` if that takes units of its own.
pub(super) fn class_of(size: u64) -> Option<u32> {
    if size > UNIT {
        return None;
    }
    let class = size.max(SMALLEST).next_power_of_two().ilog2() - SMALLEST.ilog2();
    ((class as usize) < CLASSES).then_some(class)
}

pub(super) fn size_of_class(class: u32) -> Result<u64> {
    Cut::of(class).map(|cut| 1 << cut.shift)
}

/// How the slabs of a class are cut.
#[derive(Clone, Copy)]
struct Cut {
    /// The logarithm of a block's size.
    shift: u32,
    /// Where the first block begins.
    first: u64,
    count: u32,
}

impl Cut {
    const fn into_blocks_of(size: u64) -> Self {
        let mut count = (UNIT - HEAD) / (size + WORDS);
        loop {
            let first = (HEAD + count * WORDS).next_multiple_of(size);
            if first + count * size <= UNIT {
                return Self { shift: size.trailing_zeros(), first, count: count as u32 };
            }
            count -= 1;
        }
    }

    fn of(class: u32) -> Result<Self> {
        /// Computed once: each allocation and each free looks here.
        const CUTS: [Cut; CLASSES] = {
            let mut cuts = [Cut::into_blocks_of(SMALLEST); CLASSES];
            let mut class = 1;
            while class < CLASSES {
                cuts[class] = Cut::into_blocks_of(SMALLEST << class);
                class += 1;
            }
            cuts
        };
        CUTS.get(class as usize).copied().ok_or(Error::Corrupt("a slab has an unknown class"))
    }

    /// Where a block begins.
    fn place_of(self, index: u32) -> u64 {
        self.first + (u64::from(index) << self.shift)
    }

    /// The block that begins there; `None` if none does.
    fn index_of(self, inside: u64) -> Option<u32> {
        let into = inside.checked_sub(self.first)?;
        let index = into >> self.shift;
        (index << self.shift == into && index < u64::from(self.count)).then_some(index as u32)
    }
}

impl Arena {
    fn slab_head(&self, unit: u32) -> Result<&Head> {
        Ok(self.memory.cell(self.layout.unit(unit))?)
    }

    fn slab_words(&self, unit: u32, index: u32) -> Result<&SlabWords> {
        Ok(self.memory.cell(self.layout.unit(unit) + HEAD + u64::from(index) * WORDS)?)
    }

    fn slab_word(&self, unit: u32, index: u32) -> Result<&AtomicU64> {
        Ok(&self.slab_words(unit, index)?.word)
    }

    /// The words of the block that begins `inside` bytes into a slab; `None` if none does.
    pub(super) fn slab_words_at(
        &self,
        unit: u32,
        class: u32,
        inside: u64,
    ) -> Result<Option<Words<'_>>> {
        let Some(index) = Cut::of(class)?.index_of(inside) else { return Ok(None) };
        let SlabWords { word, generation } = self.slab_words(unit, index)?;
        Ok(Some(Words { word, generation, place: Place::Slab(class) }))
    }

    pub(super) fn allocate_in_slab(
        &self,
        class: u32,
        me: u16,
        effort: Effort,
        waiting: Wait,
    ) -> Result<Block> {
        if let Some(block) = self.take_kept(class, me)? {
            return Ok(block);
        }
        self.tidy();
        let mut guard = self.lock_heap(waiting)?;
        if self.slabs_of(class)?.load(Ordering::Relaxed) == 0 {
            let extent = self.take_extent(1, me, effort)?;
            drop(guard);
            let extent = extent.ok_or_else(|| self.out_of_memory(UNIT))?;
            guard = self.make_slab(extent, class, me, waiting)?;
        }
        // The others are kept. A process that is killed before it has put them into its cells has
        // more that is unsettled than it had before.
        let max = if effort == Effort::Thorough { 1 } else { BATCH };
        let unsettled = &self.row(me)?.unsettled;
        unsettled.fetch_add(max as u64, Ordering::SeqCst);
        let mut others = [0; BATCH - 1];
        let block = self.take_blocks(class, me, &mut others[..max - 1]);
        drop(guard);
        for offset in others.into_iter().filter(|&offset| offset != 0) {
            // Without room, as other threads fetch some too, it goes back at once.
            if !self.keep(offset, class, me)? {
                self.free_kept(offset, class, me)?;
            }
        }
        unsettled.fetch_sub(max as u64, Ordering::SeqCst);
        block
    }

    fn slabs_of(&self, class: u32) -> Result<&AtomicU32> {
        let list = self.heap().slabs.get(class as usize);
        list.ok_or(Error::Corrupt("a slab has an unknown class"))
    }

    /// Takes a block that is to be used, and to be kept as many more as there are and are asked
    /// for.
    fn take_blocks(&self, class: u32, me: u16, others: &mut [u64]) -> Result<Block> {
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

    /// Cuts an extent of this process into blocks, without the lock of the heap; returns the lock
    /// with which it became a slab. Until then it is a block of this process.
    fn make_slab(
        &self,
        extent: Extent,
        class: u32,
        me: u16,
        waiting: Wait,
    ) -> Result<HeapGuard<'_>> {
        let unsettled = &self.row(me)?.unsettled;
        unsettled.fetch_add(1, Ordering::SeqCst);
        let settle = |settled: bool| {
            if settled {
                unsettled.fetch_sub(1, Ordering::SeqCst);
            }
        };
        if let Err(source) = self.reserve_extent(extent) {
            settle(self.free_extent_of_mine(extent, Memory::InDoubt)?);
            return Err(Error::MachineFull { asked: UNIT, source });
        }
        let count = Cut::of(class)?.count;
        // With its free list, so that there is little to do under the lock.
        for index in 0..count {
            let next = if index + 1 < count { index + 2 } else { 0 };
            let free = Word { owner: next, ..Word::free(BlockState::Warm, 0) };
            self.slab_word(extent.unit, index)?.store(free.pack(), Ordering::Relaxed);
        }
        let head = self.slab_head(extent.unit)?;
        head.free.store(1, Ordering::Relaxed);
        head.used.store(0, Ordering::Relaxed);
        failpoint!("heap.slab.made");
        let guard = match self.lock_heap(waiting) {
            Ok(guard) => guard,
            Err(error) => {
                settle(self.free_extent_of_mine(extent, Memory::There)?);
                return Err(error);
            }
        };
        let word = Word { owner: class, ..Word::free(BlockState::Slab, 1) };
        self.unit_word(extent.unit)?.store(word.pack(), Ordering::SeqCst);
        settle(true);
        self.push(self.slabs_of(class)?, extent.unit)?;
        Ok(guard)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_fills_its_unit_without_overlap() {
        for class in 0..CLASSES as u32 {
            let size = size_of_class(class).unwrap();
            let Cut { first, count, .. } = Cut::of(class).unwrap();
            assert!(HEAD + u64::from(count) * WORDS <= first && first % size == 0);
            assert!(first + u64::from(count) * size <= UNIT && count >= 7);
            assert_eq!(class_of(size), Some(class));
            assert_eq!(class_of(size - 1), Some(class).filter(|_| size > 64).or(Some(0)));
        }
        assert_eq!(class_of(8193), None);
    }
}
