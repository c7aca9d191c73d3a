//! The process table: a row for each process of the family, what a process writes into its own, and
//! what is known of the others.

use procession_os::process;

use super::blocked::SleepsOn;
use super::error::Result;
use super::family::Arena;
use super::row::{Row, Slot};
use crate::atomics::{AtomicU64, Ordering};
use crate::slots::Status;
use crate::wait::Owner;

/// What the process table says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its slot.
    pub slot: Slot,
    /// Its number; 0 while it is being started.
    pub pid: u32,
    /// Whether its number is of another PID namespace, and says nothing here.
    pub foreign: bool,
    /// Its parent's number.
    pub parent: u32,
    /// Its name, at most 48 bytes of it.
    pub name: String,
    /// What it sleeps on.
    pub blocked_on: Option<SleepsOn>,
    /// The task that it runs, as the pool numbers them.
    pub task: Option<u64>,
    /// Whether it runs.
    pub alive: bool,
}

/// A process of the family, by number and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessName {
    /// Its number.
    pub pid: u32,
    /// Its name, at most 48 bytes of it.
    pub name: String,
}

impl ProcessInfo {
    /// The process's number and name.
    pub(crate) fn process_name(&self) -> ProcessName {
        ProcessName { pid: self.pid, name: self.name.clone() }
    }
}

impl Arena {
    /// Reserves a free slot in the name of `by`, or of no process.
    pub(super) fn take_free_slot(&self, by: Option<u16>) -> Result<Slot> {
        let slots = self.layout.slots as u16;
        let hint = self.header().slot_hint.load(Ordering::Relaxed).min(slots.into()) as u16;
        for index in (hint..slots).chain(0..hint) {
            let row = self.row(index)?;
            if row.state()?.status != Status::Free {
                continue;
            }
            // Readers that look at all rows in use must see this one before it holds anything.
            self.header().slots_used.fetch_max(u32::from(index) + 1, Ordering::SeqCst);
            if let Some(generation) = row.slot.reserve(by.unwrap_or(index)) {
                self.header().slot_hint.store(u32::from(index) + 1, Ordering::Relaxed);
                return Ok(Slot { index, generation });
            }
        }
        Err(self.is_full())
    }

    /// The parent's side of a fork, whether it succeeded or not: the reservation is the child's, or
    /// void.
    pub(super) fn fork_is_over(&'static self, slot: Slot) {
        if let Ok(row) = self.row(slot.index) {
            row.slot.fork_is_over(slot.generation);
            self.watch();
        }
    }

    /// Notes that this process does not follow the process of a slot.
    pub(super) fn unfollow(&self, slot: Slot) {
        if let Ok(row) = self.row(slot.index) {
            row.slot.hand_over(slot.generation, 0);
        }
    }

    /// As [`Self::started`], for a process that another forked, and reserved the slot for, on this
    /// one's behalf: from now on it is this process's child.
    pub fn follow(&self, slot: Slot, pid: u32) {
        if let Ok(row) = self.row(slot.index) {
            let me = self.me();
            row.slot.hand_over(slot.generation, Owner::process(me.index, me.generation));
            row.parent.store(process::id(), Ordering::Relaxed);
        }
        self.started(slot, pid);
    }

    /// The parent's side: tells which process has the slot that was reserved, so that its end can
    /// be seen even if it never came to say so itself.
    pub fn started(&self, slot: Slot, pid: u32) {
        let Ok(row) = self.row(slot.index) else { return };
        let seen = row.pid.load(Ordering::Acquire);
        // Not if the child has said so itself, nor if it has come and gone.
        if row.pid(slot.generation) == 0 && row.slot.is_reserved(slot.generation) {
            let word = u64::from(slot.generation) << 32 | u64::from(pid);
            let _ = row.pid.compare_exchange(seen, word, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Notes this process's name.
    pub fn set_name(&self, name: &str) {
        let me = self.me();
        if let Ok(row) = self.row(me.index) {
            row.set_name(me.generation, name);
        }
    }

    /// Notes which process started this one, where that is not the one that forked it: a server
    /// forks for others.
    pub fn set_parent(&self, pid: u32) {
        if let Ok(row) = self.row(self.me().index) {
            row.parent.store(pid, Ordering::Relaxed);
        }
    }

    /// The task word of this process's row.
    pub fn task(&self) -> Result<&AtomicU64> {
        Ok(&self.row(self.me().index)?.task)
    }

    /// The task that the process of a slot wrote down, whether it runs or has died.
    pub fn task_of(&self, slot: Slot) -> Option<u64> {
        let row = self.row(slot.index).ok()?;
        let task = row.task.load(Ordering::Acquire);
        let state = row.state().ok()?;
        (state.generation == slot.generation && task != 0).then(|| task - 1)
    }

    /// Notes that this process is about to end, and with which exit code.
    pub fn leave_with(&self, code: u8) {
        if let Ok(row) = self.row(self.me().index) {
            row.leaving.store(u64::from(code) + 1, Ordering::Release);
        }
    }

    /// The exit code that the process of a slot, which is over, said that it was about to leave
    /// with. For a process whose status another one has read.
    pub fn exit_code_of(&self, slot: Slot) -> Option<u8> {
        let row = self.row(slot.index).ok()?;
        let code = row.leaving.load(Ordering::Acquire).checked_sub(1)?;
        let state = row.state().ok()?;
        (state.generation == slot.generation).then(|| u8::try_from(code).ok())?
    }

    /// The number of the process that has claimed a reserved slot; 0 if none has.
    pub(super) fn pid_of(&self, slot: Slot) -> u32 {
        self.row(slot.index).map_or(0, |row| row.pid(slot.generation))
    }

    /// When the process of a slot started; 0 if that isn't known.
    pub(crate) fn start_of(&self, slot: Slot) -> u64 {
        self.row(slot.index).map_or(0, Row::started)
    }

    /// The number and name of the process of a slot, also if it was buried, but not once its row
    /// has another; the name is empty from when the row was taken for another.
    pub(super) fn process_name(&self, slot: Slot) -> Option<ProcessName> {
        let row = self.row(slot.index).ok()?;
        let pid = row.pid(slot.generation);
        (pid != 0).then(|| ProcessName { pid, name: row.name(slot.generation) })
    }

    /// What is known of each process of the family.
    pub fn processes(&self) -> Vec<ProcessInfo> {
        (0..self.slots_used()).filter_map(|index| self.process_info(index)).collect()
    }

    /// What is known of the process in a row, if there is one.
    pub(crate) fn process_info(&self, index: u16) -> Option<ProcessInfo> {
        let row = self.row(index).ok()?;
        let state = row.state().ok()?;
        let slot = Slot { index, generation: state.generation };
        let alive = match state.status {
            Status::Free => return None,
            Status::Burying | Status::Ended => false,
            Status::Reserved | Status::Live => !self.has_process_left(row, slot),
        };
        Some(ProcessInfo {
            slot,
            pid: row.pid(state.generation),
            foreign: !row.is_of_this_namespace(),
            parent: row.parent.load(Ordering::Relaxed),
            name: row.name(state.generation),
            blocked_on: row.sleeps_on(),
            task: row.task.load(Ordering::Relaxed).checked_sub(1),
            alive,
        })
    }
}
