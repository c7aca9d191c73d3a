//! Units cut into blocks of one size, for what is smaller than a unit.
//!
//! A slab begins with a head: its derived free list and count, then a word for each block, which is
//! the truth about it. The blocks follow, aligned to their size. Called with the heap's lock held,
//! except [`Arena::allocate_in_slab`], which takes it.

use procession_os::memory::Shared;

use super::Arena;
use super::error::{Error, Result};
use super::extents::{Effort, Temperature};
use super::heap::{Block, BlockOwner, BlockState, Word};
use super::layout::UNIT;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;

/// Sizes of blocks: 64 bytes to 8 KiB, in powers of two.
pub(super) const CLASSES: usize = 8;
const SMALLEST: u64 = 64;
const HEAD: u64 = 16;

/// What is derived about a slab.
#[repr(C)]
struct Head {
    /// First free block + 1; the words of free blocks hold the next ones.
    free: AtomicU32,
    used: AtomicU32,
}

#[allow(unsafe_code)]
// SAFETY: atomics alone.
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
    if (class as usize) < CLASSES {
        Ok(SMALLEST << class)
    } else {
        Err(Error::Corrupt("a slab has an unknown class"))
    }
}

/// Where the first block of a slab begins, and how many there are.
fn blocks(size: u64) -> (u64, u32) {
    let mut count = (UNIT - HEAD) / (size + 8);
    loop {
        let first = (HEAD + count * 8).next_multiple_of(size);
        if first + count * size <= UNIT {
            return (first, count as u32);
        }
        count -= 1;
    }
}

impl Arena {
    fn slab_head(&self, unit: u32) -> Result<&Head> {
        Ok(self.memory.cell(self.layout.unit(unit))?)
    }

    fn slab_word(&self, unit: u32, index: u32) -> Result<&AtomicU64> {
        Ok(self.memory.cell(self.layout.unit(unit) + HEAD + u64::from(index) * 8)?)
    }

    /// The word of the block that lies `inside` bytes into a slab.
    pub(super) fn slab_word_at(&self, unit: u32, class: u32, inside: u64) -> Result<&AtomicU64> {
        self.slab_word(unit, self.index_in_slab(class, inside)?)
    }

    fn index_in_slab(&self, class: u32, inside: u64) -> Result<u32> {
        let size = size_of_class(class)?;
        let (first, count) = blocks(size);
        match inside.checked_sub(first) {
            Some(into) if into % size == 0 && into / size < u64::from(count) => {
                Ok((into / size) as u32)
            }
            _ => Err(Error::Corrupt("an offset is inside a block")),
        }
    }

    pub(super) fn allocate_in_slab(&self, class: u32, owner: BlockOwner) -> Result<Block> {
        let size = size_of_class(class)?;
        let (first, _) = blocks(size);
        let list = self
            .heap()
            .slabs
            .get(class as usize)
            .ok_or(Error::Corrupt("a slab has an unknown class"))?;
        let _guard = self.lock_heap()?;
        let unit = match list.load(Ordering::Relaxed).checked_sub(1) {
            Some(unit) => unit,
            None => self.make_slab(class, size)?,
        };
        let head = self.slab_head(unit)?;
        let index = head.free.load(Ordering::Relaxed).checked_sub(1);
        let index = index.ok_or(Error::Corrupt("a listed slab has no free block"))?;
        let cell = self.slab_word(unit, index)?;
        let free = Word::unpack(cell.load(Ordering::Relaxed))?;
        if !free.is_free() {
            return Err(Error::Corrupt("a slab's free list has a block in use"));
        }
        head.free.store(free.owner, Ordering::Relaxed);
        failpoint!("heap.slab.unlinked");
        let generation = self.heap().generation.fetch_add(1, Ordering::Relaxed) & 0xffff;
        let word = Word { state: BlockState::Process, owner: 0, units: 0, generation };
        cell.store(word.owned_by(owner).pack(), Ordering::SeqCst);
        failpoint!("heap.slab.taken");
        head.used.fetch_add(1, Ordering::Relaxed);
        if free.owner == 0 {
            self.remove(list, unit)?;
        }
        let offset = self.layout.unit(unit) + first + u64::from(index) * size;
        Ok(Block::recorded(offset, generation))
    }

    /// Cuts a fresh unit into blocks. It is a block of this process until it is whole.
    fn make_slab(&self, class: u32, size: u64) -> Result<u32> {
        let taken = self.take_extent(1, self.me().index, Effort::Usual)?;
        let (unit, _, temperature) = taken.ok_or_else(|| self.out_of_memory(size))?;
        if temperature == Temperature::Cold
            && let Err(source) = self.reserve_units(unit, 1)
        {
            self.free_extent(unit, 1, temperature)?;
            return Err(Error::MachineFull { asked: UNIT, source });
        }
        let (_, count) = blocks(size);
        for index in 0..count {
            let free = Word { state: BlockState::Warm, owner: 0, units: 0, generation: 0 };
            self.slab_word(unit, index)?.store(free.pack(), Ordering::Relaxed);
        }
        failpoint!("heap.slab.made");
        let word = Word { state: BlockState::Slab, owner: class, units: 1, generation: 0 };
        self.unit_word(unit)?.store(word.pack(), Ordering::SeqCst);
        self.rebuild_slab(unit, class)?;
        Ok(unit)
    }

    /// Derives a slab's free list and count, and lists it if it has room.
    pub(super) fn rebuild_slab(&self, unit: u32, class: u32) -> Result<()> {
        let (_, count) = blocks(size_of_class(class)?);
        let (mut next, mut used) = (0, 0);
        for index in (0..count).rev() {
            let cell = self.slab_word(unit, index)?;
            let word = Word::unpack(cell.load(Ordering::Relaxed))?;
            if word.is_free() {
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
            self.push(&self.heap().slabs[class as usize], unit)?;
        }
        Ok(())
    }

    /// Frees the block that lies `inside` bytes into the slab at `unit`, if it is the one meant. The
    /// slab may have become something else since the caller looked.
    pub(super) fn free_in_slab(
        &self,
        unit: u32,
        inside: u64,
        is_it: impl Fn(Word) -> bool,
    ) -> Result<bool> {
        let slab = Word::unpack(self.unit_word(unit)?.load(Ordering::Acquire))?;
        if slab.state != BlockState::Slab {
            return Ok(false);
        }
        let Ok(index) = self.index_in_slab(slab.owner, inside) else { return Ok(false) };
        let cell = self.slab_word(unit, index)?;
        let word = Word::unpack(cell.load(Ordering::Acquire))?;
        if word.is_free() || !is_it(word) {
            return Ok(false);
        }
        failpoint!("heap.free.begun");
        let head = self.slab_head(unit)?;
        let next = head.free.load(Ordering::Relaxed);
        let free = Word { state: BlockState::Warm, owner: next, units: 0, generation: 0 };
        cell.store(free.pack(), Ordering::SeqCst);
        failpoint!("heap.free.freed");
        head.free.store(index + 1, Ordering::Relaxed);
        let used = head.used.fetch_sub(1, Ordering::Relaxed).wrapping_sub(1);
        let list = &self.heap().slabs[slab.owner as usize];
        if next == 0 {
            self.push(list, unit)?;
        }
        // An empty slab goes back, unless it is the only one with room.
        let words = self.unit_words(unit)?;
        let alone =
            list.load(Ordering::Relaxed) == unit + 1 && words.next.load(Ordering::Relaxed) == 0;
        if used == 0 && !alone {
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
        let size = size_of_class(class)?;
        let (first, count) = blocks(size);
        for index in 0..count {
            let word = Word::unpack(self.slab_word(unit, index)?.load(Ordering::Acquire))?;
            visit(self.layout.unit(unit) + first + u64::from(index) * size, word);
        }
        Ok(())
    }

    pub(super) fn count_listed_slab_blocks(&self) -> Result<u64> {
        let (mut count, mut slabs) = (0, 0);
        for list in &self.heap().slabs {
            let mut next = list.load(Ordering::Relaxed);
            while let Some(unit) = next.checked_sub(1) {
                let mut block = self.slab_head(unit)?.free.load(Ordering::Relaxed);
                while let Some(index) = block.checked_sub(1) {
                    block =
                        Word::unpack(self.slab_word(unit, index)?.load(Ordering::Relaxed))?.owner;
                    count += 1;
                    if count > u64::from(self.layout.units) * 1024 {
                        return Err(Error::Corrupt("a free list goes round in circles"));
                    }
                }
                next = self.unit_words(unit)?.next.load(Ordering::Relaxed);
                slabs += 1;
                if slabs > self.layout.units {
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
            let (first, count) = blocks(size);
            assert!(HEAD + u64::from(count) * 8 <= first && first % size == 0);
            assert!(first + u64::from(count) * size <= UNIT && count >= 7);
            assert_eq!(class_of(size), Some(class));
            assert_eq!(class_of(size - 1), Some(class).filter(|_| size > 64).or(Some(0)));
        }
        assert_eq!(class_of(8193), None);
    }
}
