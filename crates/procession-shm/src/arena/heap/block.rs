//! A block of the heap, and the two words that are the truth about it.

use super::super::error::{Error, Result};
use crate::atomics::{AtomicU64, Ordering};

/// What a block belongs to.
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
    generation: u64,
}

impl Block {
    /// Where it begins in the arena.
    pub(crate) fn offset(self) -> u64 {
        self.offset
    }

    /// Tells it from all other blocks that were or will be at the same place.
    pub(crate) fn generation(self) -> u64 {
        self.generation
    }

    /// The block that a protocol wrote down.
    pub(crate) fn recorded(offset: u64, generation: u64) -> Self {
        Self { offset, generation }
    }
}

/// The first word about an extent or a slab's block: 4 bits of state, 20 of owner (or class, or
/// next free block), 24 of length in units, and the low 16 of the generation.
///
/// The whole generation is in a word of its own beside it. These 16 bits make sure that a
/// compare-exchange fails if the block was freed and taken again since the word was read.
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
    /// Free, perhaps without memory.
    Cold = 1,
    /// Free, with memory.
    Warm = 2,
    /// A process's.
    Process = 3,
    /// An object's.
    Object = 4,
    /// An extent that is cut into blocks.
    Slab = 5,
    /// A process's, which has no use for it at present: any process may free it.
    Cached = 6,
}

impl Word {
    pub(super) fn free(state: BlockState, units: u32) -> Self {
        Self { state, owner: 0, units, generation: 0 }
    }

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
            6 => BlockState::Cached,
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

    /// The slot of the process that keeps the block for its next use.
    pub(super) fn cached_by(self) -> Option<u16> {
        (self.state == BlockState::Cached).then_some(self.owner as u16)
    }

    pub(super) fn owned_by(self, owner: BlockOwner) -> Self {
        match owner {
            BlockOwner::Process(slot) => {
                Self { state: BlockState::Process, owner: u32::from(slot), ..self }
            }
            BlockOwner::Object(index) => Self { state: BlockState::Object, owner: index, ..self },
        }
    }

    pub(super) fn kept_by(self, slot: u16) -> Self {
        Self { state: BlockState::Cached, owner: u32::from(slot), ..self }
    }

    /// With the low bits of a generation.
    pub(super) fn at(self, generation: u64) -> Self {
        Self { generation: generation as u32 & 0xffff, ..self }
    }
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An extent of its own.
    Extent,
    /// In a slab of this class.
    Slab(u32),
}

/// The words of a block.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) word: &'a AtomicU64,
    /// The whole generation. Written by the process that the block belongs to, or under the heap's
    /// lock while the block is free; read by a process that has written down that the block is an
    /// object's.
    pub(super) generation: &'a AtomicU64,
    pub(super) place: Place,
}

impl Words<'_> {
    pub(super) fn load(&self) -> Result<Word> {
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Changes the word in one step, if it still is what was read.
    pub(super) fn change(&self, from: Word, to: Word) -> bool {
        let order = Ordering::SeqCst;
        self.word.compare_exchange(from.pack(), to.pack(), order, order).is_ok()
    }

    /// The word, if this still is the block that was written down and the owner's.
    pub(super) fn of(&self, block: Block, owner: BlockOwner) -> Result<Option<Word>> {
        let word = self.load()?;
        let same = word.owner() == Some(owner)
            && word == word.at(block.generation)
            && self.generation.load(Ordering::Relaxed) == block.generation;
        Ok(same.then_some(word))
    }
}
