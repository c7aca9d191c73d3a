//! Whether a process of the family is over.
//!
//! The kernel marks a word of a process's row when the thread that watches over it is gone
//! ([`LifeWord`](procession_os::robust::LifeWord)), which costs a look one load. Where no thread
//! watches over that word, the kernel is asked whether the process still has its memory
//! ([`image`]), and for its number, where that means the same here.

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::robust::Sign;
use procession_os::stat::Stat;
use procession_os::{holders, image, process};

use super::family::Arena;
use super::row::{NO_SLOT_GENERATION, NO_SLOT_INDEX, Row, Slot, mark_of};
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::slots::{Census, Status};

/// How long a process may be there after the thread is gone that watched over its row, before it is
/// known to run another program: the other threads have been stopped long before.
const LEAVING: Duration = Duration::from_millis(20);

/// Whether it is longer ago than `time` that this was asked first; 0 in the word is "not yet".
pub(super) fn is_past(since: &AtomicU64, time: Duration) -> bool {
    let now = Monotonic::now();
    let order = Ordering::Relaxed;
    let first = since.compare_exchange(0, now.as_nanos(), order, order);
    first.is_err_and(|first| now.since(Monotonic::from_nanos(first)) > time)
}

impl Arena {
    /// Announces that the process with this generation is over. It is noted down afterwards: so it
    /// may be announced twice, and is announced by the next process if this one is killed.
    pub(super) fn announce_death(&self, row: &Row, generation: u32) {
        if !row.is_announced(generation) {
            self.header().deaths.wake_all();
            failpoint!("watch.announced");
            row.set_announced(generation);
        }
    }
}

impl Arena {
    /// Whether the process of a slot, which has this row, is over, or runs another program by now.
    #[inline]
    pub(super) fn has_process_left(&self, row: &Row, slot: Slot) -> bool {
        match row.life.0.sign() {
            Sign::Runs => false,
            Sign::Confirmed => true,
            Sign::Gone => self.confirm_gone(row, slot),
            Sign::Unwatched => {
                let over = self.is_surely_over(row, slot);
                if over {
                    self.announce_death(row, slot.generation);
                }
                over
            }
        }
    }

    /// The kernel said that the watching thread is gone. The others may take some more steps.
    #[cold]
    fn confirm_gone(&self, row: &Row, slot: Slot) -> bool {
        let seen = row.life.0.observe();
        let over = self.is_surely_over(row, slot) || has_no_other_thread(row, slot) || {
            if !is_past(&row.gone, LEAVING) {
                return false;
            }
            // It runs another program by now; or its thread left past the C library, which would
            // have released the word.
            !self.still_has(row, slot)
        };
        if over {
            row.life.0.confirm(seen);
            self.announce_death(row, slot.generation);
        } else {
            row.life.0.give_up(seen);
        }
        over
    }

    /// Whether the kernel, asked by system calls, says that the process is over or runs another
    /// program. What it can't say is "no".
    fn is_surely_over(&self, row: &Row, slot: Slot) -> bool {
        self.has_image(row, slot) == Some(false) || has_ended_by_number(row, slot.generation)
    }

    /// Whether the process still has the memory with which it has introduced itself, from which
    /// another program parts it. `None` if it could not mark that, or this process can't ask.
    fn has_image(&self, row: &Row, slot: Slot) -> Option<bool> {
        let is_marked = row.marked.load(Ordering::Relaxed) == u64::from(slot.generation);
        is_marked.then(|| image::is_marked(&self.memory, mark_of(slot)).ok()).flatten()
    }

    /// Whether the process still has the arena, unless there is evidence that it hasn't.
    fn still_has(&self, row: &Row, slot: Slot) -> bool {
        self.has_image(row, slot).unwrap_or_else(|| {
            let Ok(file) = self.memory.file_id() else { return true };
            row.is_of_this_namespace()
                && holders::has_mapped(row.pid(slot.generation), file).unwrap_or(true)
        })
    }
}

impl Arena {
    /// Whether the process with this slot and generation is over.
    pub(crate) fn is_over(&self, slot: u16, generation: u32) -> bool {
        if slot == NO_SLOT_INDEX && generation == NO_SLOT_GENERATION {
            return false;
        }
        let Ok(row) = self.row(slot) else { return true };
        let Ok(state) = row.state() else { return true };
        if state.generation != generation {
            return true;
        }
        match state.status {
            Status::Free | Status::Burying | Status::Ended => true,
            Status::Reserved if row.pid(state.generation) == 0 => false,
            Status::Reserved | Status::Live => {
                self.has_process_left(row, Slot { index: slot, generation })
            }
        }
    }

    pub(super) fn runs(&self, slot: u16) -> bool {
        slot == self.me().index
            || self.row(slot).is_ok_and(|row| {
                row.state().is_ok_and(|state| match state.status {
                    Status::Free | Status::Ended => false,
                    _ => !self
                        .has_process_left(row, Slot { index: slot, generation: state.generation }),
                })
            })
    }

    /// The word that changes when the process with this slot and generation is gone, and its value.
    pub(super) fn life_word(&self, slot: u16, generation: u32) -> Option<(&AtomicU32, u32)> {
        let row = self.row(slot).ok()?;
        let word = row.life.0.sleep_on()?;
        // Looked at behind the mark: it is this process's, or another's by now.
        (row.state().ok()?.generation == generation).then_some(word)
    }

    /// Makes sure by system calls that the next row in turn tells the truth.
    pub(super) fn verify_next(&self) {
        self.verify(self.next_in_turn(self.slots_used()));
    }

    /// Makes sure by system calls that a row tells the truth: in case the kernel did not mark it,
    /// as where a program has a list of robust futexes of its own, or a broken one.
    pub(super) fn verify(&self, index: u16) {
        let Ok(row) = self.row(index) else { return };
        let seen = row.life.0.observe();
        if let Ok(state) = row.state()
            && state.status == Status::Live
            && seen.sign() == Sign::Runs
            && self.is_surely_over(row, Slot { index, generation: state.generation })
        {
            row.life.0.confirm(seen);
            self.announce_death(row, state.generation);
        }
    }

    pub(super) fn next_in_turn(&self, used: u16) -> u16 {
        // A cursor of its own, and not a count modulo the rows in use, which grow with it.
        let cursor = &self.header().sweep_hint;
        let at = cursor.load(Ordering::Relaxed);
        let next = at.checked_add(1).filter(|&next| next < u32::from(used)).unwrap_or(0);
        cursor.store(next, Ordering::Relaxed);
        next as u16
    }
}

/// Whether the thread that watched is the first of the process and has no others beside it. Its
/// number stays the process's for as long as there are others, so the program that it was is
/// gone.
fn has_no_other_thread(row: &Row, slot: Slot) -> bool {
    let pid = row.pid(slot.generation);
    row.is_of_this_namespace()
        && row.life.0.thread() == pid
        && Stat::of(pid).is_some_and(|stat| stat.threads == 1)
}

/// Whether the kernel has no such process any more. One of another namespace can't be looked
/// for.
fn has_ended_by_number(row: &Row, generation: u32) -> bool {
    row.is_of_this_namespace()
        && !process::is_alive(row.pid(generation), row.started.load(Ordering::Relaxed))
}

impl Census for Arena {
    fn me(&self) -> u16 {
        Self::me(self).index
    }

    fn is_over(&self, slot: u16, generation: u32) -> bool {
        Self::is_over(self, slot, generation)
    }

    fn has_left(&self, slot: u16) -> bool {
        !self.runs(slot)
    }
}
