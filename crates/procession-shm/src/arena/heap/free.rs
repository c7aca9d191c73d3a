//! A block is freed: into the process's cache, into the heap, or, where the heap can't be reached,
//! later.

use procession_os::clock::Monotonic;

use super::super::error::{Error, Result};
use super::super::family::Arena;
use super::super::layout::UNIT;
use super::block::{Block, BlockOwner, BlockState, Place, Word, Words};
use super::caches::{BATCH, MAX_CELLS};
use super::extents::{Extent, Temperature};
use super::lock::{HeapGuard, unless_stopped};
use super::state::{IDLE, WARM_FLOOR, WARM_MAX};
use crate::atomics::Ordering;
use crate::failpoint::failpoint;

/// How many blocks one look at the heap collects to be freed: they are on the stack, since a burial
/// may be part of a fork in a signal's handler, where nothing may be allocated.
const COLLECTED: usize = 512;

/// How many extents one call returns to the machine.
const TRIMMED_AT_ONCE: usize = 64;
const _: () = assert!(MAX_CELLS <= COLLECTED, "a burial looks at all at once");

/// Offsets of blocks, up to [`COLLECTED`].
pub(super) struct Offsets {
    offsets: [u64; COLLECTED],
    count: usize,
}

impl Offsets {
    pub(super) const NONE: Self = Self { offsets: [0; COLLECTED], count: 0 };

    /// Adds one, if it is not 0 and there is room.
    pub(super) fn push(&mut self, offset: u64) {
        if offset != 0
            && let Some(place) = self.offsets.get_mut(self.count)
        {
            *place = offset;
            self.count += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.count == COLLECTED
    }

    pub(super) fn as_slice(&self) -> &[u64] {
        &self.offsets[..self.count]
    }

    /// Keeps those for which `keep` says so.
    fn retain(&mut self, mut keep: impl FnMut(u64) -> Result<bool>) -> Result<()> {
        let mut kept = 0;
        for at in 0..self.count {
            if keep(self.offsets[at])? {
                self.offsets[kept] = self.offsets[at];
                kept += 1;
            }
        }
        self.count = kept;
        Ok(())
    }
}

impl Arena {
    /// Frees a block of this process.
    pub(crate) fn free(&self, block: Block) -> Result<()> {
        self.free_word(block, BlockOwner::Process(self.me().index)).map(|_| ())
    }

    /// Frees a block if it still is the recorded one; returns whether it was.
    pub(crate) fn free_word(&self, block: Block, owner: BlockOwner) -> Result<bool> {
        let Some(words) = self.words_at(block.offset())? else { return Ok(false) };
        match words.of(block, owner)? {
            Some(word) => self.free_from(block.offset(), words, word),
            None => Ok(false),
        }
    }

    /// Frees the block at an offset, whatever its generation, if the owner has it.
    pub(in super::super) fn free_block_at(&self, offset: u64, owner: BlockOwner) -> Result<bool> {
        let Some(words) = self.words_at(offset)? else { return Ok(false) };
        let word = words.load()?;
        if word.owner() != Some(owner) {
            return Ok(false);
        }
        self.free_from(offset, words, word)
    }

    /// Frees a block whose word was read, unless it has changed since.
    fn free_from(&self, offset: u64, words: Words<'_>, word: Word) -> Result<bool> {
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        let mine = BlockOwner::Process(me);
        if word.owner() != Some(mine) {
            unsettled.fetch_add(1, Ordering::SeqCst);
        }
        let next = match words.place {
            Place::Slab(_) => word.kept_by(me),
            Place::Extent => word.owned_by(mine),
        };
        if !words.change(word, next) {
            if word.owner() != Some(mine) {
                unsettled.fetch_sub(1, Ordering::SeqCst);
            }
            return Ok(false);
        }
        failpoint!("heap.free.begun");
        match words.place {
            Place::Slab(class) => {
                if self.keep(offset, class, me)? || self.free_kept(offset, class, me)? {
                    unsettled.fetch_sub(1, Ordering::SeqCst);
                }
            }
            Place::Extent => {
                let (unit, _) = self.layout.unit_of(offset)?;
                let units = next.units;
                let extent = Extent { unit, units, generation: 0, temperature: Temperature::Warm };
                if self.free_extent_of_mine(extent, Memory::There)? {
                    unsettled.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
        Ok(true)
    }

    /// Frees a block that this process keeps and has no cell for, and half of those that it has
    /// cells for; returns whether the block was settled.
    pub(super) fn free_kept(&self, offset: u64, class: u32, me: u16) -> Result<bool> {
        self.tidy();
        {
            let Some(_guard) = unless_stopped(self.lock_heap_briefly())? else {
                return self.put_off(offset, me);
            };
            let kept = |word: Word| word.cached_by() == Some(me);
            self.free_in_slab(offset, kept)?;
            for offset in self.some_kept(class, me, BATCH)? {
                self.free_in_slab(offset, kept)?;
            }
        }
        self.trim();
        Ok(true)
    }

    /// Frees an extent of this process; returns whether it was settled.
    pub(super) fn free_extent_of_mine(&self, extent: Extent, memory: Memory) -> Result<bool> {
        let settled = self.return_extent(extent, memory)?;
        self.trim();
        Ok(settled)
    }

    fn return_extent(&self, extent: Extent, memory: Memory) -> Result<bool> {
        let unit = extent.unit;
        let (me, offset, bytes) = (self.me().index, self.layout.unit(unit), extent.bytes());
        let warm = self.heap().warm.load(Ordering::Relaxed);
        // Beyond the bound the memory goes back to the machine, while the block still is in use.
        let temperature = if memory == Memory::There && warm.saturating_add(bytes) <= WARM_MAX {
            Temperature::Warm
        } else {
            // Where the kernel refuses, the memory stays; cold says only that there may be none.
            let _ = self.memory.punch(offset, bytes);
            Temperature::Cold
        };
        failpoint!("heap.free.punched");
        let words = self.unit_words(unit)?.block_words();
        let guard = unless_stopped(self.lock_heap_briefly())?;
        let now = words.load()?;
        if now.owner() != Some(BlockOwner::Process(me)) {
            return Err(Error::Corrupt("a block changed its owner behind its back"));
        }
        match guard {
            Some(_guard) => self.free_extent(unit, now.units, temperature).map(|()| true),
            None if words.change(now, now.kept_by(me)) => self.put_off(offset, me),
            None => Err(Error::Corrupt("a block changed its owner behind its back")),
        }
    }

    /// Leaves a block that this process keeps to be freed later; returns whether it will be found.
    pub(super) fn put_off(&self, offset: u64, me: u16) -> Result<bool> {
        let found = self.keep_put_off(offset, me)?;
        self.visits.put_off.store(true, Ordering::Relaxed);
        Ok(found)
    }

    /// Does what this process had to put off.
    pub(in super::super) fn tidy(&self) {
        if self.visits.put_off.load(Ordering::Relaxed) {
            let _ = self.free_put_off();
        }
    }

    fn free_put_off(&self) -> Result<()> {
        // Not while the process that was in the way still is.
        let Some(guard) = unless_stopped(self.lock_heap_briefly())? else { return Ok(()) };
        self.visits.put_off.store(false, Ordering::Relaxed);
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        // Meanwhile the blocks have no cells.
        unsettled.fetch_add(1, Ordering::SeqCst);
        let mut found = Offsets::NONE;
        self.all_put_off(me)?.for_each(|offset| found.push(offset));
        self.free_found(guard, &mut found, &|word| word.cached_by() == Some(me))?;
        unsettled.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    /// Frees every block that a dead process had for itself.
    ///
    /// # Errors
    /// [`Error::Wait`] if another process was stopped in the middle of the heap.
    pub(in super::super) fn free_private_blocks_of(&self, slot: u16) -> Result<()> {
        let process = Some(BlockOwner::Process(slot));
        self.free_all(|word| word.owner() == process || word.cached_by() == Some(slot))
    }

    /// Frees every block of an object.
    ///
    /// # Errors
    /// As [`Self::free_private_blocks_of`].
    pub(in super::super) fn free_blocks_of(&self, index: u32) -> Result<()> {
        self.free_all(|word| word.owner() == Some(BlockOwner::Object(index)))
    }

    /// Frees what the dead process of a slot kept. May be done twice: a cell is emptied after its
    /// block was freed.
    pub(in super::super) fn free_cache_of(&self, slot: u16) -> Result<()> {
        let Ok(cache) = self.cache(slot) else { return Ok(()) };
        let cells = || cache.kept.iter().flatten().chain(&cache.put_off);
        let mut kept = Offsets::NONE;
        cells().for_each(|cell| kept.push(cell.load(Ordering::Acquire)));
        if kept.is_empty() {
            return Ok(());
        }
        let guard = self.lock_heap_briefly()?;
        self.free_found(guard, &mut kept, &|word| word.cached_by() == Some(slot))?;
        for cell in cells() {
            cell.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// Makes available what processes only keep: cached blocks and, if it is the machine that has
    /// no memory, what is warm.
    pub(in super::super) fn reclaim(&self, machine_full: bool) -> Result<()> {
        // If another process is stopped at the heap, the caller is about to find that out.
        unless_stopped(self.free_all(|word| word.cached_by().is_some()))?;
        for _ in 0..self.layout.units {
            if !machine_full || !self.give_back(u32::MAX)? {
                break;
            }
        }
        Ok(())
    }

    /// Frees all blocks that are meant.
    fn free_all(&self, is_meant: impl Fn(Word) -> bool) -> Result<()> {
        loop {
            let guard = self.lock_heap_briefly()?;
            let mut found = self.blocks_that(&is_meant)?;
            let are_all = !found.is_full();
            let freed = self.free_found(guard, &mut found, &is_meant)?;
            if are_all {
                return Ok(());
            }
            if freed == 0 {
                return Err(Error::Corrupt("blocks of the heap can't be freed"));
            }
        }
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

    /// Frees those of the blocks that were found which still are meant, the small ones with the
    /// lock that the caller has; says how many. Allocates nothing.
    fn free_found(
        &self,
        guard: HeapGuard<'_>,
        found: &mut Offsets,
        is_meant: &impl Fn(Word) -> bool,
    ) -> Result<usize> {
        let mut freed = 0;
        found.retain(|offset| match self.words_at(offset)? {
            Some(words) if words.place == Place::Extent => Ok(true),
            _ => {
                freed += usize::from(self.free_in_slab(offset, is_meant)?);
                Ok(false)
            }
        })?;
        drop(guard);
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        for &offset in found.as_slice() {
            // It may have become something else without the lock.
            let words = match self.words_at(offset)? {
                Some(words) if words.place == Place::Extent => words,
                _ => continue,
            };
            let word = words.load()?;
            if word.state == BlockState::Slab || !is_meant(word) {
                continue;
            }
            // A process that died with a block may have died while it reserved or returned its
            // memory.
            let memory = match word.owner() {
                Some(BlockOwner::Object(_)) => Memory::There,
                _ => Memory::InDoubt,
            };
            unsettled.fetch_add(1, Ordering::SeqCst);
            let mine = word.owned_by(BlockOwner::Process(me));
            let settled = if words.change(word, mine) {
                failpoint!("heap.free.begun");
                let (unit, _) = self.layout.unit_of(offset)?;
                let temperature = Temperature::Warm;
                let extent = Extent { unit, units: word.units, generation: 0, temperature };
                freed += 1;
                self.return_extent(extent, memory)?
            } else {
                true
            };
            if settled {
                unsettled.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.trim();
        Ok(freed)
    }

    /// Returns memory to the machine that has been free and warm for long. Never waits.
    pub(in super::super) fn trim(&self) {
        let heap = self.heap();
        for _ in 0..TRIMMED_AT_ONCE {
            let warm = heap.warm.load(Ordering::Relaxed);
            if warm <= WARM_FLOOR {
                return;
            }
            let now = Monotonic::now();
            let since = Monotonic::from_nanos(heap.watched_since.load(Ordering::Relaxed));
            if warm <= WARM_MAX && now.since(since) < IDLE {
                return;
            }
            let idle = if warm > WARM_MAX {
                warm - WARM_MAX
            } else {
                heap.warm_min.load(Ordering::Relaxed).min(warm).saturating_sub(WARM_FLOOR)
            };
            let units = u32::try_from(idle.div_ceil(UNIT)).unwrap_or(u32::MAX);
            if units == 0 {
                // All that is warm was taken since: a new second begins.
                heap.warm_min.store(warm, Ordering::Relaxed);
                heap.watched_since.store(now.as_nanos(), Ordering::Relaxed);
                return;
            }
            if !self.give_back(units).unwrap_or(false) {
                return;
            }
        }
    }

    /// Returns the memory of a free extent to the machine, or of its first `units` units; returns
    /// whether there was one. Never waits.
    pub(super) fn give_back(&self, units: u32) -> Result<bool> {
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        if !self.heap().lock.try_lock(self.owner()) {
            return Ok(false);
        }
        let guard = HeapGuard(&self.heap().lock);
        unsettled.fetch_add(1, Ordering::SeqCst);
        let found = self.take_warm(units, me);
        if let Ok(Some(extent)) = found {
            // What lay idle is less by as much.
            let min = &self.heap().warm_min;
            let left = min.load(Ordering::Relaxed).saturating_sub(extent.bytes());
            min.store(left, Ordering::Relaxed);
        }
        drop(guard);
        let settled = match found {
            Ok(Some(extent)) => {
                failpoint!("heap.trim.taken");
                self.return_extent(extent, Memory::InDoubt)?
            }
            _ => true,
        };
        if settled {
            unsettled.fetch_sub(1, Ordering::SeqCst);
        }
        found.map(|found| found.is_some())
    }
}

/// What is known of the memory behind a block that is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// It was reserved.
    There,
    /// A process died, or could not go on, while it was being reserved or returned.
    InDoubt,
}
