//! How a process gets its slot in an arena, and a child its own from its parent.
//!
//! # A process without a row
//! A process that forks by itself when the table is full can't be refused, so its child has no row.
//! What its parent had open is then held for ever, by a row of its own behind the table
//! ([`Arena::pin_for_rowless`]), so that no handle of the child's names nothing. The child itself
//! may neither acquire locks nor make objects, as no other process could see it die with them.

use procession_os::process;

use super::error::{Error, Result};
use super::family::Arena;
use super::fork::Announcement;
use super::row::{NO_SLOT_GENERATION, NO_SLOT_INDEX, Slot};
use crate::atomics::Ordering;
use crate::failpoint::failpoint;
use crate::wait::Owner;

/// How many rows a sweep looks at. A fork adds one row, so that sweeps catch up with forks.
const SWEEP: u32 = 8;

impl Arena {
    /// Takes a free slot for this process, which becomes live at once.
    pub(super) fn join(&'static self) -> Result<Slot> {
        loop {
            let slot = self.take_slot(None)?;
            let row = self.row(slot.index)?;
            row.parent.store(process::parent_id(), Ordering::Relaxed);
            row.introduce_self(&self.memory, slot);
            if row.slot.claim(slot.generation, slot.index) {
                self.set_me(slot);
                self.look_again_at(slot.index);
                return Ok(slot);
            }
        }
    }

    /// As [`Self::adopt`], for a process that was not forked and has no slot yet.
    pub(super) fn begin_as(&'static self, slot: Slot) -> Result<()> {
        if self.claim_slot(slot)? { Ok(()) } else { self.join().map(|_| ()) }
    }

    /// Refuses a slot that the arena does not have.
    pub(super) fn check_slot(&self, slot: Slot) -> Result<()> {
        let (asked, slots) = (slot.index, self.slots());
        if u32::from(asked) < slots {
            Ok(())
        } else {
            Err(Error::NoSuchSlot { asked, last: slots - 1 })
        }
    }

    /// Makes a slot this process's own that was reserved for it; returns whether it still was.
    fn claim_slot(&'static self, slot: Slot) -> Result<bool> {
        let row = self.row(slot.index)?;
        if row.slot.is_reserved(slot.generation) {
            row.introduce_self(&self.memory, slot);
        }
        let claimed = row.slot.claim(slot.generation, slot.index);
        if claimed {
            self.set_me(slot);
            self.look_again_at(slot.index);
        }
        Ok(claimed)
    }

    /// Takes a slot for a child that is about to be forked, with a share in all that this process
    /// holds. `follows` says whether this process will read what the child leaves. Threads that
    /// open objects meanwhile are told by the announcement, if there is one.
    pub(super) fn reserve(
        &self,
        follows: bool,
        announcement: Option<Announcement>,
    ) -> Result<Slot> {
        let me = self.me();
        let slot = self.take_slot(Some(me.index))?;
        let (from, to) = (self.row(me.index)?, self.row(slot.index)?);
        to.slot.follow(follows.then(|| Owner::process(me.index, me.generation)));
        if let Some(announcement) = announcement {
            announcement.tell(slot);
        }
        self.copy_held(me.index, slot.index)?;
        to.copy_name(slot.generation, from, me.generation);
        // Here, as a child that is orphaned before its first step could not tell any more.
        to.parent.store(process::id(), Ordering::Relaxed);
        to.namespace.store(process::pid_namespace(), Ordering::Relaxed);
        failpoint!("process.reserved");
        Ok(slot)
    }

    /// As `reserve`, for a child that comes to be by other means than fork: it
    /// [inherits](super::inherit) the slot, or [takes it over](Self::take_over). This process
    /// follows it, and withdraws the slot if it does not come.
    ///
    /// # Errors
    /// [`TooManyProcesses`](super::Error::TooManyProcesses).
    pub fn reserve_for_child(&self) -> Result<Slot> {
        self.sweep();
        self.reserve(true, None)
    }

    /// Takes a share in all that a reserved slot holds, and frees the slot. Does nothing if it is
    /// reserved no more.
    ///
    /// # Errors
    /// [`NoSuchSlot`](super::Error::NoSuchSlot).
    pub fn take_over(&self, slot: Slot) -> Result<()> {
        self.check_slot(slot)?;
        if self.row(slot.index)?.slot.is_reserved(slot.generation) {
            self.copy_held(slot.index, self.me().index)?;
            self.unreserve(slot);
        }
        Ok(())
    }

    /// Looks at some rows, the next in turn, so that dead processes which no process follows are
    /// buried in time.
    pub(super) fn sweep(&self) {
        self.drop_late();
        self.look_after_heap();
        let used = self.slots_used();
        for _ in 0..SWEEP.min(used.into()) {
            self.bury_if_abandoned(self.next_in_turn(used));
        }
    }

    /// The child's side: makes the slot that the parent reserved its own. Async-signal-safe.
    ///
    /// Without a reservation it takes a slot if there is one now, and a share in what it has open:
    /// for which the parent holds it, or [`Self::pin_for_rowless`].
    pub(super) fn adopt(&'static self, slot: Option<Slot>) {
        self.joined.store(true, Ordering::SeqCst);
        if slot.is_some_and(|slot| self.claim_slot(slot).unwrap_or(false)) {
            self.forget_half_open();
            return;
        }
        self.set_me(Slot { index: NO_SLOT_INDEX, generation: NO_SLOT_GENERATION });
        let _ = self.join();
        self.forget_half_open();
        if self.is_member() {
            self.hold_what_is_open();
        }
    }
}
