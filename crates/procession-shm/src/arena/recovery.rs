//! What a death leaves: the burial of a process.
//!
//! Which process may bury which, and in which steps, is in [`slots`](crate::slots). Here is what a
//! burial gives back, which rows are due, and how a burial is finished whose burier died.
//!
//! # Reservations
//! A row is reserved for one fork, and the number of its process is not known before the child has
//! claimed it, or the parent has told it. Until then no process can see whether there is a child.
//! So such a reservation stays for as long as its maker's fork goes on. After that, and after
//! [`GRACE`], it is void if no process has the arena that is not in the table. That is looked for
//! in `/proc`: rarely, since it is only after a failed fork, or after a child that was killed
//! before its first step.

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::holders;
use procession_os::robust::Sign;

use super::error::{Error, Result};
use super::family::Arena;
use super::liveness::is_past;
use super::names;
use super::row::{Row, Slot};
use crate::atomics::Ordering;
use crate::slots::{Rites, State, Status};

/// How long a reservation outlives its fork when no child has claimed it.
const GRACE: Duration = Duration::from_secs(1);

/// The burial of the process of a slot.
struct Burial<'a> {
    arena: &'a Arena,
    slot: u16,
    row: &'a Row,
    /// Whether it is part of another one, which the process of the slot had been about to end.
    is_nested: bool,
}

impl Rites for Burial<'_> {
    fn give_back(&self) -> bool {
        let (arena, slot) = (self.arena, self.slot);
        // The processes that wait for it can see by now that it is over.
        if let Ok(state) = self.row.state() {
            arena.announce_death(self.row, state.generation);
        }
        if self.row.unsettled.load(Ordering::SeqCst) != 0 {
            let finished = if self.is_nested {
                arena.burials_of(slot).next().is_none()
            } else {
                arena.finish_burials_of(slot)
            };
            let settled = arena.settle_objects_of(slot);
            let freed = settled.and_then(|()| arena.free_private_blocks_of(slot));
            if !finished || is_stopped(&freed) {
                return false;
            }
            self.row.unsettled.store(0, Ordering::SeqCst);
        }
        if is_stopped(&arena.free_cache_of(slot)) {
            return false;
        }
        arena.drop_all_held(slot);
        arena.orphan_reservations_of(slot);
        true
    }

    fn clear(&self) {
        let row = self.row;
        if let Ok(state) = row.state() {
            let slot = Slot { index: self.slot, generation: state.generation };
            let pid = row.pid(state.generation);
            if pid != 0 {
                let name = row.name_bytes(state.generation);
                names::remember(self.arena.family(), slot, pid, name);
            }
        }
        let words = [
            &row.task,
            &row.blocked_on,
            &row.started,
            &row.orphaned,
            &row.gone,
            &row.leaving,
            &row.namespace,
        ];
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        row.life.0.clear();
        self.arena.header().slot_hint.fetch_min(self.slot.into(), Ordering::Relaxed);
    }
}

/// Whether another process was stopped in the middle of the heap. Damage is no reason to come back.
fn is_stopped(done: &Result<()>) -> bool {
    matches!(done, Err(Error::Wait(_)))
}

impl Arena {
    /// Gives back all that a dead process held: its references, and the blocks that were its own,
    /// and frees its slot. Returns whether this call did it. Does nothing if the slot has another
    /// process by now.
    ///
    /// The caller knows that the process is over, and that what it wrote is needed no more.
    pub fn bury(&self, slot: Slot) -> bool {
        self.settled_by_burial(slot.index, |burial| {
            burial.row.slot.release(slot.generation, self, &burial)
        })
    }

    /// Buries every dead process, also those that a follower has still to read; returns how many
    /// slots were freed.
    pub fn bury_dead(&self) -> usize {
        let dead = |&index: &u16| {
            let state = self.dead_state(index)?;
            let slot = Slot { index, generation: state.generation };
            self.bury(slot).then_some(())
        };
        (0..self.slots_used()).filter(|index| dead(index).is_some()).count()
    }

    /// Gives back what the dead held. The row of a dead process stays until its follower, if that
    /// lives, has read it. Returns how many slots were freed.
    pub fn bury_abandoned(&self) -> usize {
        (0..self.slots_used()).filter(|&index| self.bury_if_abandoned(index)).count()
    }

    pub(super) fn bury_if_abandoned(&self, index: u16) -> bool {
        let Some(state) = self.dead_state(index) else { return false };
        // In the state that was looked at: a reservation may have come alive meanwhile.
        self.settled_by_burial(index, |burial| {
            let (row, generation) = (burial.row, state.generation);
            if state.status == Status::Reserved && row.pid(generation) == 0 {
                // There was no process, so there is nothing to read.
                return row.slot.withdraw(generation, self, &burial);
            }
            row.slot.bury_unread(state, self, &burial)
        })
    }

    /// Gives back a slot that was reserved for a process that was not started. Does nothing if the
    /// process has come.
    pub fn unreserve(&self, slot: Slot) {
        self.settled_by_burial(slot.index, |burial| {
            burial.row.slot.withdraw(slot.generation, self, &burial)
        });
    }

    /// Buries in a way that this process's own burial finishes if it dies in the middle.
    fn settled_by_burial(&self, slot: u16, bury: impl FnOnce(Burial<'_>) -> bool) -> bool {
        let Ok(row) = self.row(slot) else { return false };
        let Ok(mine) = self.row(self.me().index) else { return false };
        mine.unsettled.fetch_add(1, Ordering::SeqCst);
        let buried = bury(Burial { arena: self, slot, row, is_nested: false });
        mine.unsettled.fetch_sub(1, Ordering::SeqCst);
        buried
    }

    /// Ends the burials that a dead process had begun: once its slot has another process, it can't
    /// be told that they have no burier. Returns whether all are ended.
    ///
    /// Buriers may have died one after the other, each with the burial of the one before. So what
    /// the process of a slot had begun goes over to `slot`, whose own burial comes after it in any
    /// case, before that process is buried: the depth is one, whatever stands in the rows.
    fn finish_burials_of(&self, slot: u16) -> bool {
        for _ in 0..self.slots_used() {
            let Some((index, row, state)) = self.burials_of(slot).next() else { return true };
            for (_, begun, state) in self.burials_of(index).filter(|(of, ..)| *of != slot) {
                begun.slot.hand_burial_over(state, slot);
            }
            let burial = Burial { arena: self, slot: index, row, is_nested: true };
            row.slot.bury(state, self, &burial);
            if row.state().is_ok_and(|now| now == state) {
                return false;
            }
        }
        self.burials_of(slot).next().is_none()
    }

    /// The burials that the process of a slot has begun: whose, and their state.
    fn burials_of(&self, slot: u16) -> impl Iterator<Item = (u16, &Row, State)> {
        (0..self.slots_used()).filter(move |&index| index != slot).filter_map(move |index| {
            let row = self.row(index).ok()?;
            let state = row.state().ok()?;
            let is_begun = state.status == Status::Burying && state.by == slot;
            is_begun.then_some((index, row, state))
        })
    }

    /// Takes the reservations that a dead process had made off its name, for the same reason.
    fn orphan_reservations_of(&self, slot: u16) {
        for index in 0..self.slots_used() {
            if let Ok(row) = self.row(index) {
                row.slot.orphan(slot, index);
            }
        }
    }

    /// Takes away a dead process's references. The caller has raised its own `unsettled`.
    fn drop_all_held(&self, slot: u16) {
        let Ok(words) = self.held_words(slot) else { return };
        for (first, word) in words {
            let mut bits = word.load(Ordering::SeqCst);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                word.fetch_and(!(1 << bit), Ordering::SeqCst);
                let _ = self.free_if_unheld(first + bit);
            }
        }
        if let Ok(row) = self.row(slot) {
            row.held_high.store(0, Ordering::SeqCst);
        }
    }

    /// Whether the process of a row is over, as far as that is seen without a system call.
    pub(super) fn is_dead_row(&self, index: u16) -> bool {
        self.row(index).is_ok_and(|row| {
            matches!(row.life.0.sign(), Sign::Gone | Sign::Confirmed)
                && self.dead_state(index).is_some()
        })
    }

    /// The state of a row whose process is over.
    fn dead_state(&self, index: u16) -> Option<State> {
        let row = self.row(index).ok()?;
        row.slot.to_be_buried(self, |state| match state.status {
            Status::Reserved if row.pid(state.generation) == 0 => self.is_void(index, row, state),
            _ => self.has_process_left(row, Slot { index, generation: state.generation }),
        })
    }

    /// Whether no child will ever claim a reservation, of which no process is known.
    fn is_void(&self, index: u16, row: &Row, reserved: State) -> bool {
        let maker_runs = reserved.by != index && self.runs(reserved.by);
        if maker_runs && !row.slot.is_fork_over(reserved.generation)
            || !is_past(&row.orphaned, GRACE)
        {
            return false;
        }
        // A look at all processes that found none is good for all forks that were over before it.
        // It takes milliseconds, so the family looks once a second.
        let header = self.header();
        let over_since = row.orphaned.load(Ordering::Relaxed);
        let now = Monotonic::now();
        let last = header.looked_for_unclaimed.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        if over_since >= header.none_unclaimed.load(Ordering::SeqCst)
            && now.since(Monotonic::from_nanos(last)) > GRACE
            && header
                .looked_for_unclaimed
                .compare_exchange(last, now.as_nanos(), order, order)
                .is_ok()
            && !self.is_any_unclaimed()
        {
            header.none_unclaimed.fetch_max(now.as_nanos(), Ordering::SeqCst);
        }
        over_since < header.none_unclaimed.load(Ordering::SeqCst)
    }

    /// Whether a process has the arena that is not in the table, or this can't be told.
    fn is_any_unclaimed(&self) -> bool {
        let is_known = |pid| {
            (0..self.slots_used()).any(|index| {
                self.row(index).is_ok_and(|row| {
                    row.state().is_ok_and(|state| {
                        state.status == Status::Live
                            && row.is_of_this_namespace()
                            && row.pid(state.generation) == pid
                    })
                })
            })
        };
        let file = self.memory.file_id();
        file.and_then(|file| holders::any(file, |pid| !is_known(pid))).unwrap_or(true)
    }
}
