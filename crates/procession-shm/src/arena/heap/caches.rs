//! What each process keeps for its next allocations, so that most of them take no shared lock.
//!
//! # Invariant
//! A slot has a row of *cells*, each with the offset of a block or 0. The truth about a kept block
//! is its word, as for every block: `Cached`, and by which slot. A cell is a hint where to find
//! such a block. It is believed only after a compare-exchange of the word from `Cached` by this
//! slot, which only one of all that try can make: a thread of the process that takes the block, the
//! process itself that returns it, a process that [reclaims](Arena::reclaim) it because memory is
//! short, or the burier.
//!
//! So there is no lock that a fork, a signal or a death could leave taken. A forked child has a
//! slot of its own, and with it its own cells. What a process dies with is freed when it is buried:
//! by the cells, or, if it died between a word and a cell, by the walk that its `unsettled` asks
//! for.
//!
//! # Bounds
//! A process keeps at most [`KEPT`] blocks of each class of slab, in total 255 KiB. They are
//! fetched and returned half a row at a time, with one lock for all: so a message that goes from a
//! producer to a consumer costs a share of two, not two.
//!
//! # What could not be returned
//! A block that was to be freed while another process was stopped with the heap's lock is *put
//! off*: it waits in one of [`PUT_OFF`] further cells for the process's next visit to the heap,
//! also a large one. If these are full as well it has no cell: it is freed with the process, or
//! when memory is short.
//!
//! # Generations
//! Each time that a block comes into use it gets a number that no block had before. A process takes
//! them from the heap's counter [`RANGE`] at a time. At a billion blocks a second 64 bits last for
//! five centuries.

use procession_os::memory::Shared;

use super::super::error::{Error, Result};
use super::super::family::Arena;
use super::block::{Block, BlockOwner, Place};
use super::state::CLASSES;
use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;

/// Blocks of each class that a process keeps at most.
pub(super) const KEPT: usize = 16;

/// How many are fetched or returned at once.
pub(super) const BATCH: usize = KEPT / 2;

/// Blocks that wait to be freed.
const PUT_OFF: usize = 32;

/// Cells that a process has.
pub(super) const MAX_CELLS: usize = KEPT * CLASSES + PUT_OFF;
/// Generations that a process takes at once; a power of two.
pub(in super::super) const RANGE: u64 = 1024;

/// A slot's cells, of which threads of its process write most.
#[repr(C, align(64))]
pub(super) struct Cache {
    pub(super) kept: [[AtomicU64; KEPT]; CLASSES],
    pub(super) put_off: [AtomicU64; PUT_OFF],
    /// The next generation of the range; a multiple of [`RANGE`] if there is none left.
    pub(super) generation: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Cache {}
impl Arena {
    pub(super) fn cache(&self, slot: u16) -> Result<&Cache> {
        Ok(self.memory.cell(self.layout.cache(slot)?)?)
    }

    /// A number for a block of the process of a slot that comes into use.
    pub(super) fn fresh_generation(&self, slot: u16) -> Result<u64> {
        let mine = &self.cache(slot)?.generation;
        let order = Ordering::Relaxed;
        let next = |next: u64| (!next.is_multiple_of(RANGE)).then(|| next.wrapping_add(1));
        if let Ok(generation) = mine.fetch_update(order, order, next) {
            return Ok(generation);
        }
        let range = self.heap().generation.fetch_add(RANGE, order).wrapping_add(RANGE);
        let first = range - range % RANGE;
        // Of two threads that come here at once one loses the rest of its range.
        mine.store(first + 1, order);
        Ok(first)
    }

    /// Takes a block of a class that this process kept.
    pub(super) fn take_kept(&self, class: u32, me: u16) -> Result<Option<Block>> {
        let Some(cells) = self.cache(me)?.kept.get(class as usize) else { return Ok(None) };
        for cell in cells {
            if cell.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let offset = cell.swap(0, Ordering::Acquire);
            if offset == 0 {
                continue;
            }
            failpoint!("heap.cache.emptied");
            if let Some(block) = self.use_kept(offset, class, me)? {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Makes a kept block one in use, if it still is there.
    fn use_kept(&self, offset: u64, class: u32, me: u16) -> Result<Option<Block>> {
        let Ok(Some(words)) = self.words_at(offset) else { return Ok(None) };
        let word = words.load()?;
        if words.place != Place::Slab(class) || word.cached_by() != Some(me) {
            return Ok(None);
        }
        let generation = self.fresh_generation(me)?;
        if !words.change(word, word.owned_by(BlockOwner::Process(me)).at(generation)) {
            return Ok(None);
        }
        failpoint!("heap.cache.taken");
        words.generation.store(generation, Ordering::Release);
        Ok(Some(Block::recorded(offset, generation)))
    }

    /// Puts a block whose word says that this process keeps it where it is found again; says
    /// whether there was room.
    pub(super) fn keep(&self, offset: u64, class: u32, me: u16) -> Result<bool> {
        let cells = self.cache(me)?.kept.get(class as usize);
        let cells = cells.ok_or(Error::Corrupt("a slab has an unknown class"))?;
        Ok(place_in(cells, offset))
    }

    /// As [`Self::keep`], for a block of any size that waits to be freed.
    pub(super) fn keep_put_off(&self, offset: u64, me: u16) -> Result<bool> {
        Ok(place_in(&self.cache(me)?.put_off, offset))
    }

    /// Empties cells of a class; returns the blocks that they name.
    pub(super) fn some_kept(
        &self,
        class: u32,
        me: u16,
        max: usize,
    ) -> Result<impl Iterator<Item = u64>> {
        let cells = self.cache(me)?.kept.get(class as usize);
        let cells = cells.ok_or(Error::Corrupt("a slab has an unknown class"))?;
        Ok(take_out(cells).take(max))
    }

    /// Empties the cells of what was put off; returns the blocks that they name.
    pub(super) fn all_put_off(&self, me: u16) -> Result<impl Iterator<Item = u64>> {
        Ok(take_out(&self.cache(me)?.put_off))
    }
}

fn place_in(cells: &[AtomicU64], offset: u64) -> bool {
    cells.iter().any(|cell| {
        cell.load(Ordering::Relaxed) == 0
            && cell.compare_exchange(0, offset, Ordering::Release, Ordering::Relaxed).is_ok()
    })
}

fn take_out(cells: &[AtomicU64]) -> impl Iterator<Item = u64> {
    cells.iter().map(|cell| cell.swap(0, Ordering::Acquire)).filter(|&offset| offset != 0)
}

#[cfg(test)]
mod tests {
    use super::super::super::layout::CACHE;
    use super::super::cut::size_of_class;
    use super::*;

    #[test]
    fn a_row_of_cells_fits_and_keeps_what_the_page_says() {
        assert!(size_of::<Cache>() as u64 <= CACHE);
        let kept: u64 = (0..CLASSES as u32).map(|class| size_of_class(class).unwrap()).sum();
        assert_eq!(kept * KEPT as u64, 255 << 10);
    }
}
