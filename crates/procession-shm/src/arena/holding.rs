//! Which process holds which object.
//!
//! That is written in one place: a bit for each slot and object, in the slot's row of *held bits*.
//! Setting and clearing a bit can be repeated, so there is no count that a death could leave wrong:
//! burying a process clears its row, forking copies it.
//!
//! A row behind the table holds what is held for processes without a row.

use super::error::Result;
use super::family::Arena;
use super::row::Slot;
use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;

impl Arena {
    pub(super) fn set_held(&self, slot: u16, index: u32) -> Result<()> {
        let (word, bit) = self.layout.held(slot, index)?;
        self.row(slot)?.held_high.fetch_max(index + 1, Ordering::SeqCst);
        self.memory.cell::<AtomicU64>(word)?.fetch_or(bit, Ordering::SeqCst);
        Ok(())
    }

    pub(super) fn has_bit(&self, slot: u16, index: u32) -> bool {
        self.layout.held(slot, index).is_ok_and(|(word, bit)| {
            let word = self.memory.cell::<AtomicU64>(word);
            word.is_ok_and(|word| word.load(Ordering::SeqCst) & bit != 0)
        })
    }

    pub(super) fn held_words(&self, slot: u16) -> Result<impl Iterator<Item = (u32, &AtomicU64)>> {
        let high = self.row(slot)?.held_high.load(Ordering::SeqCst).min(self.layout.objects);
        let (first, _) = self.layout.held(slot, 0)?;
        Ok((0..high.div_ceil(64)).filter_map(move |n| {
            self.memory.cell(first + u64::from(n) * 8).ok().map(|word| (n * 64, word))
        }))
    }

    /// Gives one slot a share in all that another holds. Async-signal-safe.
    pub(super) fn copy_held(&self, from: u16, to: u16) -> Result<()> {
        let high = self.row(from)?.held_high.load(Ordering::SeqCst);
        self.row(to)?.held_high.fetch_max(high, Ordering::SeqCst);
        for ((_, from), (_, to)) in self.held_words(from)?.zip(self.held_words(to)?) {
            to.fetch_or(from.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        Ok(())
    }

    pub(super) fn holders(&self, index: u32) -> impl Iterator<Item = u16> {
        // Behind the table is the row that holds for processes without one.
        let rowless = self.header().rowless.load(Ordering::SeqCst) != 0;
        let pinned = rowless.then_some(self.layout.slots as u16);
        (0..self.slots_used()).chain(pinned).filter(move |&slot| self.has_bit(slot, index))
    }

    pub(super) fn is_held(&self, index: u32) -> bool {
        self.holders(index).next().is_some()
    }

    /// Has the process to come hold an object, for which a slot is reserved.
    pub(super) fn hold_for(&self, slot: Slot, object: u32) {
        if let Ok(row) = self.row(slot.index)
            && row.slot.is_reserved(slot.generation)
        {
            failpoint!("object.held.late");
            let _ = self.set_held(slot.index, object);
        }
    }

    /// Holds what this process holds for its children that the table has no row for.
    pub(super) fn pin_for_rowless(&self) {
        self.header().rowless.store(1, Ordering::SeqCst);
        let _ = self.copy_held(self.me().index, self.layout.slots as u16);
    }

    /// As [`Self::pin_for_rowless`], for one object.
    pub(super) fn pin_one_for_rowless(&self, object: u32) {
        self.header().rowless.store(1, Ordering::SeqCst);
        let _ = self.set_held(self.layout.slots as u16, object);
    }
}
