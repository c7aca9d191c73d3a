//! Where the words of extents and of slabs' blocks lie.

use procession_os::memory::Shared;

use super::super::error::{Error, Result};
use super::super::family::Arena;
use super::block::{BlockState, Place, Words};
use super::cut::{Cut, HEAD, Head, SlabWords, WORDS};
use super::state::HeapState;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};

/// A unit's words: the truth about the extent that begins here, and what is derived from it.
#[repr(C)]
pub(super) struct UnitWords {
    pub(super) word: AtomicU64,
    pub(super) generation: AtomicU64,
    /// At an extent's last unit: its first unit.
    pub(super) footer: AtomicU32,
    unused: AtomicU32,
    /// At a free extent's (or a slab's) first unit: its neighbours in the list, + 1.
    pub(super) next: AtomicU32,
    pub(super) previous: AtomicU32,
}

impl UnitWords {
    /// The words of the extent that begins with the unit.
    pub(super) fn block_words(&self) -> Words<'_> {
        Words { word: &self.word, generation: &self.generation, place: Place::Extent }
    }
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for UnitWords {}

impl Arena {
    pub(in super::super) fn heap(&self) -> &HeapState {
        &self.header().heap
    }

    pub(super) fn units_used(&self) -> u32 {
        self.heap().units_used.load(Ordering::Acquire)
    }

    pub(super) fn unit_words(&self, unit: u32) -> Result<&UnitWords> {
        Ok(self.memory.cell(self.layout.unit_words(unit)?)?)
    }

    pub(super) fn unit_word(&self, unit: u32) -> Result<&AtomicU64> {
        Ok(&self.unit_words(unit)?.word)
    }

    pub(super) fn slab_head(&self, unit: u32) -> Result<&Head> {
        Ok(self.memory.cell(self.layout.unit(unit))?)
    }

    pub(super) fn slab_words(&self, unit: u32, index: u32) -> Result<&SlabWords> {
        Ok(self.memory.cell(self.layout.unit(unit) + HEAD + u64::from(index) * WORDS)?)
    }

    pub(super) fn slab_word(&self, unit: u32, index: u32) -> Result<&AtomicU64> {
        Ok(&self.slab_words(unit, index)?.word)
    }

    /// The words of the block that begins `inside` bytes into a slab; `None` if none does.
    fn slab_words_at(&self, unit: u32, class: u32, inside: u64) -> Result<Option<Words<'_>>> {
        let Some(index) = Cut::of(class)?.index_of(inside) else { return Ok(None) };
        let SlabWords { word, generation } = self.slab_words(unit, index)?;
        Ok(Some(Words { word, generation, place: Place::Slab(class) }))
    }

    /// The words of the block that begins at an offset; `None` if none does.
    pub(super) fn words_at(&self, offset: u64) -> Result<Option<Words<'_>>> {
        let (unit, inside) = self.layout.unit_of(offset)?;
        let words = self.unit_words(unit)?;
        let extent = words.block_words();
        let word = extent.load()?;
        if word.state == BlockState::Slab {
            return self.slab_words_at(unit, word.owner, inside);
        }
        Ok((inside == 0).then_some(extent))
    }

    pub(super) fn words_in_use(&self, offset: u64) -> Result<Words<'_>> {
        self.words_at(offset)?.ok_or(Error::Corrupt("an offset is inside a block"))
    }
}
