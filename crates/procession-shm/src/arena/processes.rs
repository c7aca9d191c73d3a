//! The process table: one row for each process of the family.
//!
//! # A slot's life
//! ```text
//! free → reserved (by the parent, before the fork) → live (by the process itself)
//!      → burying (by whoever finds it dead) → free, generation + 1
//! ```
//! Each arrow is one compare-exchange on the state word, which holds who made it. A slot whose
//! burier died is taken over by the next: every step of a burial can be done twice. Before a slot is
//! free again, what its process had reserved or begun to bury is taken off its name.
//!
//! A reservation whose maker is dead may be that of a child which is about to take its first step,
//! and nobody can see whether there is one. It has [`GRACE`] for it, from when somebody first looks.
//!
//! All but the state is written by the process itself (or before it runs, by its parent) and read by
//! anybody: states to look at, never to rely on for safety.

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::memory::Shared;
use procession_os::process;

use super::Arena;
use super::blocked::SleepsOn;
use super::error::{Error, Result};
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::Owner;

pub(super) const NAME_WORDS: usize = 6;

/// The slot of a process that was forked by itself when the table was full: it is in the table nowhere,
/// and its death can't be seen.
const NOBODY: u16 = Owner::SLOTS;
/// The generation that goes with it, so that foreign bytes are not taken for such a process.
const NOBODYS: u32 = 0x6e_6f_62;

/// How long a reservation outlives its maker.
const GRACE: Duration = Duration::from_secs(1);

/// A process's row.
#[repr(C)]
pub(super) struct Row {
    state: AtomicU64,
    /// The process's number, below the generation that it is meant for.
    pid: AtomicU64,
    parent: AtomicU32,
    /// At least one more than the highest object index that the process ever held.
    pub(super) held_high: AtomicU32,
    started: AtomicU64,
    pub(super) name: [AtomicU64; NAME_WORDS],
    pub(super) blocked_on: AtomicU64,
    pub(super) blocked_since: AtomicU64,
    pub(super) task: AtomicU64,
    /// At least the number of heap blocks that belong to the process alone, and of objects that it
    /// is making or freeing.
    pub(super) unsettled: AtomicU64,
    /// When the reservation was first seen without a maker; 0 if it wasn't.
    orphaned: AtomicU64,
    /// The generation whose parent will wait for it, and read what it left before it buries it.
    followed: AtomicU64,
    /// The exit code that the process is about to leave with, + 1; 0 if it has not said so.
    leaving: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: atomics alone.
unsafe impl Shared for Row {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Free = 0,
    Reserved = 1,
    Live = 2,
    Burying = 3,
}

/// The state word: status, by whom (a slot), and the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) status: Status,
    pub(super) by: u16,
    pub(super) generation: u32,
}

impl State {
    fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.by) << 8 | self.status as u64
    }

    fn from_word(word: u64) -> Result<Self> {
        let status = match word as u8 {
            0 => Status::Free,
            1 => Status::Reserved,
            2 => Status::Live,
            3 => Status::Burying,
            _ => return Err(Error::Corrupt("a process row has an unknown state")),
        };
        Ok(Self { status, by: (word >> 8) as u16, generation: (word >> 32) as u32 })
    }
}

/// A slot and which of its processes is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The row in the process table.
    pub index: u16,
    /// Which of the processes that had the row.
    pub generation: u32,
}

/// What the process table says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its slot.
    pub slot: Slot,
    /// Its number; 0 while it is being started.
    pub pid: u32,
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

impl Row {
    pub(super) fn state(&self) -> Result<State> {
        State::from_word(self.state.load(Ordering::SeqCst))
    }

    fn change(&self, from: State, to: State) -> bool {
        let order = Ordering::SeqCst;
        self.state.compare_exchange(from.word(), to.word(), order, order).is_ok()
    }

    fn is_reserved(&self, slot: Slot) -> bool {
        self.state().is_ok_and(|state| {
            state.status == Status::Reserved && state.generation == slot.generation
        })
    }

    /// Makes a reserved row a live one, unless the reservation is no more.
    fn come_alive(&self, slot: Slot) -> bool {
        // Tried again where whoever buried the reservation's maker took it off its name meanwhile.
        while self.is_reserved(slot) {
            let Ok(state) = self.state() else { return false };
            let live = State { status: Status::Live, by: slot.index, ..state };
            if self.is_reserved(slot) && self.change(state, live) {
                return true;
            }
        }
        false
    }

    /// Whether a reservation without a maker had its time; the first to ask starts it.
    fn is_past_grace(&self) -> bool {
        let now = Monotonic::now();
        let order = Ordering::Relaxed;
        let since = self.orphaned.compare_exchange(0, now.as_nanos(), order, order);
        since.is_err_and(|since| now.since(Monotonic::from_nanos(since)) > GRACE)
    }

    /// Writes who the process is. Only async-signal-safe work, for the child side of a fork.
    fn introduce_self(&self, generation: u32) {
        let pid = process::id();
        self.started.store(process::start_time(pid).unwrap_or(0), Ordering::Relaxed);
        self.pid.store(u64::from(generation) << 32 | u64::from(pid), Ordering::Release);
        self.blocked_on.store(0, Ordering::Relaxed);
        self.task.store(0, Ordering::Relaxed);
        self.leaving.store(0, Ordering::Relaxed);
    }

    /// The number of the process with this generation; 0 while nobody has told it.
    pub(super) fn pid(&self, generation: u32) -> u32 {
        let word = self.pid.load(Ordering::Acquire);
        if (word >> 32) as u32 == generation { word as u32 } else { 0 }
    }

    /// When the process with the number of this row started; 0 if that isn't known.
    pub(super) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    fn is_running(&self, generation: u32) -> bool {
        process::is_alive(self.pid(generation), self.started.load(Ordering::Relaxed))
    }
}

impl Arena {
    pub(super) fn row(&self, slot: u16) -> Result<&Row> {
        if slot == NOBODY {
            return Err(Error::TooManyProcesses(self.layout.slots));
        }
        Ok(self.memory.cell(self.layout.row(slot)?)?)
    }

    /// How many processes the family can have.
    pub(crate) fn slots(&self) -> u32 {
        self.layout.slots
    }

    pub(super) fn slots_used(&self) -> u16 {
        self.header().slots_used.load(Ordering::SeqCst).min(self.layout.slots) as u16
    }

    /// Takes a free slot for this process, which becomes live at once.
    pub(super) fn join(&self) -> Result<Slot> {
        loop {
            let slot = self.take_slot(None)?;
            let row = self.row(slot.index)?;
            row.parent.store(process::parent_id(), Ordering::Relaxed);
            row.introduce_self(slot.generation);
            if row.come_alive(slot) {
                self.set_me(slot);
                return Ok(slot);
            }
        }
    }

    /// Reserves a free slot in the name of `by`, or of nobody.
    fn take_slot(&self, by: Option<u16>) -> Result<Slot> {
        for round in 0..2 {
            for index in 0..self.layout.slots as u16 {
                let row = self.row(index)?;
                let state = row.state()?;
                if state.status != Status::Free {
                    continue;
                }
                // Readers that look at all rows in use must see this one before it holds anything.
                self.header().slots_used.fetch_max(u32::from(index) + 1, Ordering::SeqCst);
                let generation = (state.generation.wrapping_add(1) & 0xff_ffff).max(1);
                let by = by.unwrap_or(index);
                if row.change(state, State { status: Status::Reserved, by, generation }) {
                    return Ok(Slot { index, generation });
                }
            }
            if round == 0 {
                self.bury_abandoned();
            }
        }
        Err(Error::TooManyProcesses(self.layout.slots))
    }

    /// Takes a slot for a child that is about to be forked, with a share in all that this process
    /// holds.
    pub(super) fn reserve(&self) -> Result<Slot> {
        let me = self.me();
        let slot = self.take_slot(Some(me.index))?;
        self.copy_held(me.index, slot.index)?;
        let (from, to) = (self.row(me.index)?, self.row(slot.index)?);
        for (from, to) in from.name.iter().zip(&to.name) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        // Here, as a child that is orphaned before its first step could not tell any more.
        to.parent.store(process::id(), Ordering::Relaxed);
        failpoint!("process.reserved");
        Ok(slot)
    }

    /// Gives a reserved slot a share in what this process has come to hold since.
    pub(super) fn share_with(&self, slot: Slot) {
        let _ = self.copy_held(self.me().index, slot.index);
    }

    /// As [`Self::reserve`], for a child that comes to be by other means than fork: it
    /// [inherits](super::inherit) the slot, or [takes it over](Self::take_over).
    ///
    /// # Errors
    /// [`Error::TooManyProcesses`].
    pub fn reserve_for_child(&self) -> Result<Slot> {
        self.sweep();
        self.reserve()
    }

    /// Takes a share in all that a reserved slot holds, and frees the slot. Does nothing if it is
    /// reserved no more.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn take_over(&self, slot: Slot) -> Result<()> {
        if self.row(slot.index)?.is_reserved(slot) {
            self.copy_held(slot.index, self.me().index)?;
            self.unreserve(slot);
        }
        Ok(())
    }

    /// Looks at one row, the next in turn, so that dead strangers are buried in time.
    pub(super) fn sweep(&self) {
        let used = u32::from(self.slots_used()).max(1);
        let next = self.header().sweep_hint.fetch_add(1, Ordering::Relaxed) % used;
        self.bury_if_abandoned(next as u16);
    }

    /// The child's side: makes the slot that the parent reserved its own. Async-signal-safe.
    ///
    /// If it is no longer reserved for it (the parent died and was buried first), it is a slot of
    /// its own that it takes; what it holds it has to hold anew.
    pub(super) fn adopt(&self, slot: Option<Slot>) {
        if let Some(slot) = slot
            && let Ok(row) = self.row(slot.index)
        {
            if row.is_reserved(slot) {
                row.introduce_self(slot.generation);
            }
            if row.come_alive(slot) {
                self.set_me(slot);
                self.forget_half_open();
                return;
            }
        }
        let shares = self.me();
        if self.join().is_ok() {
            let _ = self.copy_held(shares.index, self.me().index);
            self.forget_half_open();
        } else {
            // Not as its parent: what needs a row fails from here on.
            self.set_me(Slot { index: NOBODY, generation: NOBODYS });
        }
    }

    /// As [`Self::adopt`], for a process that was not forked and has no slot yet.
    pub(super) fn begin_as(&self, slot: Slot) -> Result<()> {
        let row = self.row(slot.index)?;
        if row.is_reserved(slot) {
            row.introduce_self(slot.generation);
        }
        if row.come_alive(slot) {
            self.set_me(slot);
            return Ok(());
        }
        self.join().map(|_| ())
    }

    /// As [`Self::started`], for a process that another forked, and reserved the slot for, on this
    /// one's behalf: from now on it is this process's child.
    pub fn follow(&self, slot: Slot, pid: u32) {
        if let Ok(row) = self.row(slot.index) {
            row.parent.store(process::id(), Ordering::Relaxed);
        }
        self.started(slot, pid);
    }

    /// The parent's side: tells which process has the slot that was reserved, so that its end can be
    /// seen even if it never came to say so itself.
    pub fn started(&self, slot: Slot, pid: u32) {
        let Ok(row) = self.row(slot.index) else { return };
        row.followed.store(u64::from(slot.generation), Ordering::Release);
        let seen = row.pid.load(Ordering::Acquire);
        // Not if the child has said so itself, nor if it has come and gone.
        if row.pid(slot.generation) == 0 && row.is_reserved(slot) {
            let word = u64::from(slot.generation) << 32 | u64::from(pid);
            let _ = row.pid.compare_exchange(seen, word, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Gives back a slot that was reserved for a process that was not started.
    pub fn unreserve(&self, slot: Slot) {
        self.bury(slot);
    }

    /// Says what this process is called.
    pub fn set_name(&self, name: &str) {
        if let Ok(row) = self.row(self.me().index) {
            super::store_text(&row.name, name);
        }
    }

    /// Says who started this process, where that is not who forked it: a server that forks for others.
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
        let state = row.state().ok()?;
        let task = row.task.load(Ordering::Acquire);
        (state.generation == slot.generation && task != 0).then(|| task - 1)
    }

    /// Says that this process is about to leave, and with which exit code.
    pub fn leave_with(&self, code: u8) {
        if let Ok(row) = self.row(self.me().index) {
            row.leaving.store(u64::from(code) + 1, Ordering::Release);
        }
    }

    /// The exit code that the process of a slot, which is over, said that it was about to leave with.
    /// For those whose status someone else took.
    pub fn exit_code_of(&self, slot: Slot) -> Option<u8> {
        let row = self.row(slot.index).ok()?;
        let state = row.state().ok()?;
        let code = row.leaving.load(Ordering::Acquire).checked_sub(1)?;
        (state.generation == slot.generation).then(|| u8::try_from(code).ok())?
    }

    /// What is known of each process of the family.
    pub fn processes(&self) -> Vec<ProcessInfo> {
        (0..self.slots_used()).filter_map(|index| self.process_info(index)).collect()
    }

    /// What is known of the process in a row, if there is one.
    pub(super) fn process_info(&self, index: u16) -> Option<ProcessInfo> {
        let row = self.row(index).ok()?;
        let state = row.state().ok()?;
        let alive = match state.status {
            Status::Free => return None,
            Status::Burying => false,
            Status::Reserved | Status::Live => row.is_running(state.generation),
        };
        Some(ProcessInfo {
            slot: Slot { index, generation: state.generation },
            pid: row.pid(state.generation),
            parent: row.parent.load(Ordering::Relaxed),
            name: super::load_text(&row.name),
            blocked_on: row.sleeps_on(),
            task: row.task.load(Ordering::Relaxed).checked_sub(1),
            alive,
        })
    }

    /// Buries every dead process, also those that their parent has still to wait for; says how many
    /// there were.
    pub fn bury_dead(&self) -> usize {
        (0..self.slots_used()).filter(|&index| self.bury_if_dead(index)).count()
    }

    /// Buries the dead that nobody else will: not the children of a living parent that follows them,
    /// which may want to read first what they were at. Says how many there were.
    pub fn bury_abandoned(&self) -> usize {
        (0..self.slots_used()).filter(|&index| self.bury_if_abandoned(index)).count()
    }

    fn bury_if_abandoned(&self, index: u16) -> bool {
        let Ok(row) = self.row(index) else { return false };
        let Ok(state) = row.state() else { return false };
        let followed = row.followed.load(Ordering::Acquire) == u64::from(state.generation)
            && process::is_alive(row.parent.load(Ordering::Relaxed), 0);
        !followed && self.bury_if_dead(index)
    }

    fn bury_if_dead(&self, index: u16) -> bool {
        let Ok(row) = self.row(index) else { return false };
        let Ok(state) = row.state() else { return false };
        let dead = match state.status {
            Status::Free => false,
            Status::Live => !row.is_running(state.generation),
            // A number that isn't known yet is that of a child between its fork and its first
            // step; it is told by `started` or by the child.
            Status::Reserved if row.pid(state.generation) == 0 => {
                (state.by == index || !self.runs(state.by)) && row.is_past_grace()
            }
            Status::Reserved => !row.is_running(state.generation),
            Status::Burying => !self.runs(state.by),
        };
        // In the state that was looked at: a reservation may have come alive meanwhile.
        dead && self.bury_from(index, state)
    }

    fn runs(&self, slot: u16) -> bool {
        slot == self.me().index
            || self
                .row(slot)
                .is_ok_and(|row| row.state().is_ok_and(|state| row.is_running(state.generation)))
    }

    /// Gives back all that a dead process held: its references, and the blocks that were its alone.
    /// Says whether this call did it. Does nothing if the slot has another process by now.
    ///
    /// The caller knows that the process is over.
    pub fn bury(&self, slot: Slot) -> bool {
        let Ok(state) = self.row(slot.index).and_then(Row::state) else { return false };
        let me = self.me().index;
        let taken_over = state.status == Status::Burying && state.by != me && !self.runs(state.by);
        state.generation == slot.generation
            && (matches!(state.status, Status::Reserved | Status::Live) || taken_over)
            && self.bury_from(slot.index, state)
    }

    fn bury_from(&self, index: u16, state: State) -> bool {
        let me = self.me().index;
        let Ok(row) = self.row(index) else { return false };
        let Ok(mine) = self.row(me) else { return false };
        mine.unsettled.fetch_add(1, Ordering::SeqCst);
        let burying = State { status: Status::Burying, by: me, ..state };
        let buried = row.change(state, burying) && self.lay_to_rest(index, row, burying);
        mine.unsettled.fetch_sub(1, Ordering::SeqCst);
        buried
    }

    /// The steps of a burial, each of which may be done twice.
    fn lay_to_rest(&self, slot: u16, row: &Row, burying: State) -> bool {
        failpoint!("process.burying");
        if row.unsettled.load(Ordering::SeqCst) != 0 {
            self.finish_burials_of(slot);
            self.settle_objects_of(slot);
            self.free_private_blocks_of(slot);
            row.unsettled.store(0, Ordering::SeqCst);
        }
        self.drop_all_held(slot);
        self.orphan_reservations_of(slot);
        for word in row.name.iter().chain([&row.task, &row.blocked_on, &row.started]) {
            word.store(0, Ordering::Relaxed);
        }
        row.orphaned.store(0, Ordering::Relaxed);
        row.leaving.store(0, Ordering::Relaxed);
        row.pid.store(0, Ordering::Release);
        failpoint!("process.buried");
        row.change(burying, State { status: Status::Free, ..burying })
    }

    /// Ends the burials that a dead process had begun: once its slot has another process, nobody
    /// could tell that they are nobody's.
    fn finish_burials_of(&self, slot: u16) {
        for index in (0..self.slots_used()).filter(|&index| index != slot) {
            if let Ok(row) = self.row(index)
                && let Ok(state) = row.state()
                && state.status == Status::Burying
                && state.by == slot
            {
                self.bury(Slot { index, generation: state.generation });
            }
        }
    }

    /// Takes the reservations that a dead process had made off its name, for the same reason.
    fn orphan_reservations_of(&self, slot: u16) {
        for index in 0..self.slots_used() {
            if let Ok(row) = self.row(index)
                && let Ok(state) = row.state()
                && state.status == Status::Reserved
                && state.by == slot
            {
                row.change(state, State { by: index, ..state });
            }
        }
    }

    /// Whether the process with this slot and generation is over.
    pub(crate) fn is_over(&self, slot: u16, generation: u32) -> bool {
        if slot == NOBODY && generation == NOBODYS {
            return false;
        }
        let Ok(row) = self.row(slot) else { return true };
        let Ok(state) = row.state() else { return true };
        if state.generation & 0xff_ffff != generation {
            return true;
        }
        match state.status {
            Status::Free | Status::Burying => true,
            Status::Reserved if row.pid(state.generation) == 0 => false,
            Status::Reserved | Status::Live => !row.is_running(state.generation),
        }
    }
}
