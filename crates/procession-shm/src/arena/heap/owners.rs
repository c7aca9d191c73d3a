//! A block goes from one owner to another, and what is known of one by its offset.

use super::super::error::{Error, Result};
use super::super::family::Arena;
use super::super::layout::UNIT;
use super::block::{Block, BlockOwner, Place};
use super::cut::size_of_class;
use crate::atomics::Ordering;

impl Arena {
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
        let words = self.words_in_use(block.offset())?;
        let old = words.of(block, from)?;
        let old = old.ok_or(Error::Corrupt("a block has another owner than was written down"))?;
        if words.change(old, old.owned_by(to)) {
            Ok(())
        } else {
            Err(Error::Corrupt("a block changed its owner behind its back"))
        }
    }

    /// The block at an offset, as it is recorded.
    pub(crate) fn block_at(&self, offset: u64) -> Result<Block> {
        let words = self.words_in_use(offset)?;
        if words.load()?.owner().is_none() {
            return Err(Error::Corrupt("a block that is in use lies in free memory"));
        }
        Ok(Block::recorded(offset, words.generation.load(Ordering::Relaxed)))
    }

    /// How many bytes the block at an offset has.
    pub(crate) fn size_at(&self, offset: u64) -> Result<u64> {
        let words = self.words_in_use(offset)?;
        if let Place::Slab(class) = words.place {
            return size_of_class(class);
        }
        let (unit, _) = self.layout.unit_of(offset)?;
        let units = words.load()?.units;
        // Callers make room for as much: what was never in use is not believed.
        if units > self.units_used().saturating_sub(unit) {
            return Err(Error::Corrupt("an extent has an impossible length"));
        }
        Ok(u64::from(units) * UNIT)
    }
}
