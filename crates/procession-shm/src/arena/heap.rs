//! The allocator: extents of 64 KiB units, and slabs of smaller blocks in them.
//!
//! # What is true and what is derived
//! The truth is one word for each extent (in the unit words, at its first unit) and one for each
//! block of a slab (in the slab's head): its state, length, owner and generation. A change of state
//! is one store to that word. Free lists, footers and counts are derived from the words: whoever
//! finds that a process died with the heap's lock derives them anew ([`Arena::rebuild`]) and goes on.
//!
//! Splitting writes the rest's word first, where nobody looks as long as the extent before it covers
//! it, then shortens that extent with the store that takes it. Freeing is one store, and
//! joining another that lengthens the first of two. The frontier (`units_used`) moves after the word behind it is written.
//!
//! # Owners
//! A block belongs to a process while it is filled or read (`Process`), and to an object once it is
//! part of it (`Object`). A process's blocks are freed when it is buried; an object's when it ends.
//! The generation in the word tells a block from a later one at the same place.
//!
//! # Memory
//! Extents that fall free stay warm up to [`WARM_MOST`], then they are punched out of the memfd.
//! Memory is taken from the machine (`SharedMemory::reserve`) before a block is handed out, so that a machine
//! without memory is an error here and not SIGBUS later.

use procession_os::memory::Shared;

use super::Arena;
use super::error::{Error, Result};
use super::extents::{Effort, Temperature};
use super::layout::UNIT;
use super::slabs::CLASSES;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{Acquired, BlockedOn, OwnerLock, Waiting};

/// Free extents that are kept with their memory, in bytes all told.
pub const WARM_MOST: u64 = 256 << 20;

pub(super) const BINS: usize = 25;

/// The heap's part of the arena's header.
#[repr(C)]
pub(super) struct HeapState {
    pub(super) lock: OwnerLock,
    /// Units before the frontier; those behind were never used.
    pub(super) units_used: AtomicU32,
    pub(super) generation: AtomicU32,
    pub(super) warm: AtomicU64,
    pub(super) used: AtomicU64,
    /// How often the lists were derived anew.
    pub(super) rebuilt: AtomicU64,
    /// First free extent + 1 of each size, warm and cold.
    pub(super) bins: [[AtomicU32; BINS]; 2],
    /// First slab + 1 with a free block, for each class.
    pub(super) slabs: [AtomicU32; CLASSES],
}

#[allow(unsafe_code)]
// SAFETY: atomics alone.
unsafe impl Shared for HeapState {}

/// What is known of the memory behind a block that is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// It was reserved.
    There,
    /// Somebody died while it was being reserved or given back.
    InDoubt,
}

/// Whom a block belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockOwner {
    /// A slot's process.
    Process(u16),
    /// An object, by its index.
    Object(u32),
}

/// Bytes of the heap that the caller is in charge of.
///
/// There is no `Drop`: where a block goes is part of a protocol, step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Block {
    offset: u64,
    generation: u32,
}

impl Block {
    /// Where it begins in the arena.
    pub(crate) fn offset(self) -> u64 {
        self.offset
    }

    /// Tells it from other blocks at the same place.
    pub(crate) fn generation(self) -> u32 {
        self.generation
    }

    /// The block that a protocol wrote down.
    pub(crate) fn recorded(offset: u64, generation: u32) -> Self {
        Self { offset, generation }
    }

    /// Whether a word still is this block's, with this owner.
    fn is_of(self, owner: BlockOwner) -> impl Fn(Word) -> bool {
        move |word| word.owner() == Some(owner) && word.generation == self.generation & 0xffff
    }
}

/// The word that is the truth about an extent or a slab's block: 4 bits of state, 20 of owner (or
/// class, or next free block), 24 of length in units, 16 of generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) state: BlockState,
    pub(super) owner: u32,
    pub(super) units: u32,
    pub(super) generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BlockState {
    Cold = 1,
    Warm = 2,
    Process = 3,
    Object = 4,
    Slab = 5,
}

impl Word {
    pub(super) fn pack(self) -> u64 {
        self.state as u64
            | u64::from(self.owner & 0xf_ffff) << 4
            | u64::from(self.units & 0xff_ffff) << 24
            | u64::from(self.generation & 0xffff) << 48
    }

    pub(super) fn unpack(word: u64) -> Result<Self> {
        let state = match word & 0xf {
            1 => BlockState::Cold,
            2 => BlockState::Warm,
            3 => BlockState::Process,
            4 => BlockState::Object,
            5 => BlockState::Slab,
            _ => return Err(Error::Corrupt("a heap word has an unknown state")),
        };
        Ok(Self {
            state,
            owner: (word >> 4) as u32 & 0xf_ffff,
            units: (word >> 24) as u32 & 0xff_ffff,
            generation: (word >> 48) as u32,
        })
    }

    pub(super) fn is_free(self) -> bool {
        matches!(self.state, BlockState::Cold | BlockState::Warm)
    }

    pub(super) fn owner(self) -> Option<BlockOwner> {
        match self.state {
            BlockState::Process => Some(BlockOwner::Process(self.owner as u16)),
            BlockState::Object => Some(BlockOwner::Object(self.owner)),
            _ => None,
        }
    }

    pub(super) fn owned_by(self, owner: BlockOwner) -> Self {
        match owner {
            BlockOwner::Process(slot) => {
                Self { state: BlockState::Process, owner: u32::from(slot), ..self }
            }
            BlockOwner::Object(index) => Self { state: BlockState::Object, owner: index, ..self },
        }
    }
}

/// The heap's lock, held. Dropping it frees it.
pub(super) struct HeapGuard<'a>(&'a OwnerLock);

impl Drop for HeapGuard<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Arena {
    pub(super) fn heap(&self) -> &HeapState {
        &self.header().heap
    }

    pub(super) fn lock_heap(&self) -> Result<HeapGuard<'_>> {
        let lock = &self.heap().lock;
        let outcome = lock.lock(self.owner(), self, BlockedOn::ALLOCATOR, Waiting::FOREVER);
        let guard = HeapGuard(lock);
        match outcome {
            Ok(Acquired::Clean) => Ok(guard),
            Ok(Acquired::OwnerDied(_)) => {
                self.rebuild()?;
                Ok(guard)
            }
            Err(_) => unreachable!("a wait without a deadline that is not interruptible"),
        }
    }

    /// A block of at least `size` bytes that belongs to this process until it is
    /// [given](Self::give) away or [freed](Self::free). What it holds is left from before.
    pub(crate) fn allocate(&self, size: u64) -> Result<Block> {
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        unsettled.fetch_add(1, Ordering::SeqCst);
        let mut allocated = self.try_allocate(size, me, Effort::Usual);
        if let Err(Error::OutOfMemory { .. }) = allocated {
            // The dead may hold what is missing, or it is there in pieces.
            self.bury_abandoned();
            allocated = self
                .join_free_extents()
                .and_then(|()| self.try_allocate(size, me, Effort::Thorough));
        }
        if allocated.is_err() {
            unsettled.fetch_sub(1, Ordering::SeqCst);
        }
        allocated
    }

    fn try_allocate(&self, size: u64, me: u16, effort: Effort) -> Result<Block> {
        match super::slabs::class_of(size) {
            Some(class) => self.allocate_in_slab(class, BlockOwner::Process(me)),
            None => self.allocate_units(size, me, effort),
        }
    }

    fn allocate_units(&self, size: u64, me: u16, effort: Effort) -> Result<Block> {
        let units = u32::try_from(size.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1);
        let found = {
            let _guard = self.lock_heap()?;
            self.take_extent(units, me, effort)?
        };
        let (unit, generation, temperature) = found.ok_or_else(|| self.out_of_memory(size))?;
        failpoint!("heap.extent.unreserved");
        let block = Block { offset: self.layout.unit(unit), generation };
        if temperature == Temperature::Cold
            && let Err(source) = self.reserve_units(unit, units)
        {
            self.free_left_behind(block, BlockOwner::Process(me))?;
            return Err(Error::MachineFull { asked: size, source });
        }
        Ok(block)
    }

    pub(super) fn reserve_units(&self, unit: u32, units: u32) -> std::io::Result<()> {
        let (offset, len) = (self.layout.unit(unit), u64::from(units) * UNIT);
        self.memory.reserve(offset, len)
    }

    pub(super) fn out_of_memory(&self, asked: u64) -> Error {
        let (used, _) = self.heap_use();
        Error::OutOfMemory { asked, used, capacity: self.layout.capacity }
    }

    /// Gives a block of this process to another owner.
    pub(crate) fn give(&self, block: Block, to: BlockOwner) -> Result<()> {
        let me = self.me().index;
        self.change_owner(block, BlockOwner::Process(me), to)?;
        self.row(me)?.unsettled.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    /// Takes a block from an object into this process's charge.
    pub(crate) fn take(&self, block: Block, from: BlockOwner) -> Result<()> {
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        unsettled.fetch_add(1, Ordering::SeqCst);
        let taken = self.change_owner(block, from, BlockOwner::Process(me));
        if taken.is_err() {
            unsettled.fetch_sub(1, Ordering::SeqCst);
        }
        taken
    }

    fn change_owner(&self, block: Block, from: BlockOwner, to: BlockOwner) -> Result<()> {
        let cell = self.word_cell(block.offset)?;
        let word = cell.load(Ordering::Acquire);
        let old = Word::unpack(word)?;
        if old.owner() != Some(from) || old.generation != block.generation {
            return Err(Error::Corrupt("a block has another owner than was written down"));
        }
        // The owner alone changes the word of a block in use, so a store would do as well.
        let order = Ordering::SeqCst;
        match cell.compare_exchange(word, old.owned_by(to).pack(), order, order) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Corrupt("a block changed its owner behind its back")),
        }
    }

    /// Frees a block of this process.
    pub(crate) fn free(&self, block: Block) -> Result<()> {
        let me = self.me().index;
        self.free_word(block, BlockOwner::Process(me))?;
        self.row(me)?.unsettled.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    /// Frees a block if it still is the one that was written down, and says whether it was.
    pub(crate) fn free_word(&self, block: Block, owner: BlockOwner) -> Result<bool> {
        self.free_if(block.offset, Memory::There, block.is_of(owner))
    }

    /// As [`Self::free_word`], for a block that somebody may have died in freeing.
    pub(crate) fn free_left_behind(&self, block: Block, owner: BlockOwner) -> Result<bool> {
        self.free_if(block.offset, Memory::InDoubt, block.is_of(owner))
    }

    /// Frees the block at an offset, whatever its generation, if the owner has it.
    pub(super) fn free_block_at(
        &self,
        offset: u64,
        owner: BlockOwner,
        memory: Memory,
    ) -> Result<bool> {
        self.free_if(offset, memory, |word| word.owner() == Some(owner))
    }

    /// The block at an offset, as it is recorded.
    pub(crate) fn block_at(&self, offset: u64) -> Result<Block> {
        let word = Word::unpack(self.word_cell(offset)?.load(Ordering::Acquire))?;
        if word.owner().is_none() {
            return Err(Error::Corrupt("a block that is in use lies in free memory"));
        }
        Ok(Block { offset, generation: word.generation })
    }

    /// How many bytes the block at an offset has.
    pub(crate) fn size_at(&self, offset: u64) -> Result<u64> {
        let (unit, inside) = self.layout.unit_of(offset)?;
        let word = Word::unpack(self.unit_word(unit)?.load(Ordering::Acquire))?;
        match word.state {
            BlockState::Slab => super::slabs::size_of_class(word.owner),
            _ if inside == 0 => Ok(u64::from(word.units) * UNIT),
            _ => Err(Error::Corrupt("an offset is inside a block")),
        }
    }

    fn word_cell(&self, offset: u64) -> Result<&AtomicU64> {
        let (unit, inside) = self.layout.unit_of(offset)?;
        let cell = self.unit_word(unit)?;
        let word = Word::unpack(cell.load(Ordering::Acquire))?;
        match word.state {
            BlockState::Slab => self.slab_word_at(unit, word.owner, inside),
            _ if inside == 0 => Ok(cell),
            _ => Err(Error::Corrupt("an offset is inside a block")),
        }
    }

    fn free_if(&self, offset: u64, memory: Memory, is_it: impl Fn(Word) -> bool) -> Result<bool> {
        let (unit, inside) = self.layout.unit_of(offset)?;
        let word = Word::unpack(self.unit_word(unit)?.load(Ordering::Acquire))?;
        if word.state == BlockState::Slab {
            let _guard = self.lock_heap()?;
            return self.free_in_slab(unit, inside, is_it);
        }
        if inside != 0 || !is_it(word) {
            return Ok(false);
        }
        failpoint!("heap.free.begun");
        // Beyond the bound the memory goes back to the machine, while the block still is in use.
        let bytes = u64::from(word.units) * UNIT;
        let warm = self.heap().warm.load(Ordering::Relaxed);
        let temperature = if memory == Memory::There && warm.saturating_add(bytes) <= WARM_MOST {
            Temperature::Warm
        } else {
            // Where the kernel refuses, the memory stays; cold says only that there may be none.
            let _ = self.memory.punch(offset, bytes);
            Temperature::Cold
        };
        failpoint!("heap.free.punched");
        let _guard = self.lock_heap()?;
        let now = Word::unpack(self.unit_word(unit)?.load(Ordering::Acquire))?;
        if now.state == BlockState::Slab || !is_it(now) {
            return Ok(false);
        }
        self.free_extent(unit, now.units, temperature)?;
        Ok(true)
    }

    /// Frees every block that a dead process had for itself.
    pub(super) fn free_private_blocks_of(&self, slot: u16) {
        let _ = self.free_all(BlockOwner::Process(slot), Memory::InDoubt);
    }

    /// Frees every block of an object.
    pub(super) fn free_blocks_of(&self, index: u32, memory: Memory) -> Result<()> {
        self.free_all(BlockOwner::Object(index), memory)
    }

    fn free_all(&self, owner: BlockOwner, memory: Memory) -> Result<()> {
        // Found under the lock, freed one by one: freeing takes the lock itself, and punches
        // without it.
        loop {
            let found = {
                let _guard = self.lock_heap()?;
                self.blocks_of(owner, 1024)?
            };
            for &offset in &found {
                self.free_block_at(offset, owner, memory)?;
            }
            if found.len() < 1024 {
                return Ok(());
            }
        }
    }

    fn blocks_of(&self, owner: BlockOwner, most: usize) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        self.each_extent(|unit, word| {
            if found.len() >= most {
            } else if word.state == BlockState::Slab {
                self.each_in_slab(unit, word.owner, |offset, word| {
                    if word.owner() == Some(owner) && found.len() < most {
                        found.push(offset);
                    }
                })?;
            } else if word.owner() == Some(owner) {
                found.push(self.layout.unit(unit));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Bytes in use by blocks, and free bytes that keep their memory.
    pub fn heap_use(&self) -> (u64, u64) {
        let heap = self.heap();
        (heap.used.load(Ordering::Relaxed).saturating_mul(UNIT), heap.warm.load(Ordering::Relaxed))
    }

    /// Walks the whole heap and checks that it is what it says: every extent in bounds, every owner
    /// there, every free extent in its list and no other.
    ///
    /// # Errors
    /// [`Error::Corrupt`], with what is wrong.
    pub fn check(&self) -> Result<()> {
        let _guard = self.lock_heap()?;
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
                BlockState::Process if !self.slot_in_use(word.owner as u16) => {
                    return Err(Error::Corrupt("a block belongs to a slot without a process"));
                }
                BlockState::Object if !self.object_lives(word.owner) => {
                    return Err(Error::Corrupt("a block belongs to an object that is no more"));
                }
                BlockState::Process | BlockState::Object => used += u64::from(word.units),
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

    /// How often the free lists were derived anew after a death.
    pub fn times_rebuilt(&self) -> u64 {
        self.heap().rebuilt.load(Ordering::Relaxed)
    }

    /// How many blocks belong to somebody, a process or an object.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn blocks_in_use(&self) -> Result<u64> {
        let _guard = self.lock_heap()?;
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

    /// Makes neighbouring free extents one, also where memory is behind some of them alone, and
    /// draws the frontier back.
    pub(super) fn join_free_extents(&self) -> Result<()> {
        let _guard = self.lock_heap()?;
        let mut runs: Vec<(u32, u32)> = Vec::new();
        self.each_extent(|unit, word| {
            match runs.last_mut() {
                Some((first, len)) if word.is_free() && *first + *len == unit => *len += word.units,
                _ if word.is_free() => runs.push((unit, word.units)),
                _ => {}
            }
            Ok(())
        })?;
        for &(unit, units) in &runs {
            // Cold before the memory goes: warm would promise that it is there.
            let word = Word { state: BlockState::Cold, owner: 0, units, generation: 0 };
            self.unit_word(unit)?.store(word.pack(), Ordering::SeqCst);
            let _ = self.memory.punch(self.layout.unit(unit), u64::from(units) * UNIT);
        }
        let used = &self.heap().units_used;
        if let Some(&(unit, units)) = runs.last()
            && unit + units == used.load(Ordering::Relaxed)
        {
            used.store(unit, Ordering::SeqCst);
        }
        self.derive()
    }

    /// Puts the heap in order after a process died with its lock, which is held.
    fn rebuild(&self) -> Result<()> {
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
                BlockState::Process | BlockState::Object => {
                    heap.used.fetch_add(u64::from(word.units), Ordering::Relaxed);
                }
            }
            self.write_footer(unit, word.units)
        })
    }
}
