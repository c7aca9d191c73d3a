//! Blocks go out: from the process's cache, from a slab, or as an extent of their own.

use std::sync::atomic::AtomicBool;

use super::super::error::{Error, Result};
use super::super::family::Arena;
use super::super::layout::UNIT;
use super::block::{Block, BlockState, Word};
use super::caches::BATCH;
use super::cut::{Cut, class_of};
use super::extents::{Effort, Extent, Temperature};
use super::free::Memory;
use super::lock::HeapGuard;
use crate::atomics::Ordering;
use crate::failpoint::failpoint;
use crate::wait::Wait;

/// Whether waits for the heap while an object is made come back at a signal.
static INTERRUPTIBLE: AtomicBool = AtomicBool::new(false);

/// Has the making of objects come back with [`Error::Wait`] at a signal or a tick, if another
/// process was stopped in the middle of the allocator: for a host language that runs signal
/// handlers in between.
pub fn make_interruptibly() {
    INTERRUPTIBLE.store(true, std::sync::atomic::Ordering::Relaxed);
}

impl Arena {
    /// How the maker of an object waits for the heap.
    pub(crate) fn while_making() -> Wait {
        let interruptible = INTERRUPTIBLE.load(std::sync::atomic::Ordering::Relaxed);
        Wait { interruptible, ..Wait::FOREVER }
    }

    pub(in super::super) fn try_allocate(
        &self,
        size: u64,
        me: u16,
        effort: Effort,
        waiting: Wait,
    ) -> Result<Block> {
        match class_of(size) {
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

    fn allocate_in_slab(
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
}
