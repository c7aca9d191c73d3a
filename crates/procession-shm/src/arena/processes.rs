//! The process table: one row for each process of the family.
//!
//! What becomes of a row, and who may bury whom, is in [`slots`](crate::slots). Whether a process
//! is over is told by the kernel in a word of its row ([`LifeWord`]). Where no thread of the
//! process watches over that word, the kernel is asked whether the process still has its memory
//! ([`image`]), and for its number, where that means the same here.
//!
//! # Reservations
//! A row is reserved for one fork, and the number of its process is not known before the child has
//! claimed it, or the parent has told it. Until then nobody can see whether there is a child. So
//! such a reservation stays for as long as its maker's fork goes on. After that, and after
//! [`GRACE`], it is void if no process has the arena that is not in the table. That is looked for
//! in `/proc`: rarely, since it is only after a failed fork, or after a child that was killed
//! before its first step.
//!
//! # A process without a row
//! A process that forks by itself when the table is full can't be refused, so its child has no row.
//! What its parent had open is then held for ever, by a row of its own behind the table
//! ([`Arena::pin_for_rowless`]), so that no handle of the child's names nothing. The child itself
//! may neither acquire locks nor make objects, as nobody could see it die with them.
//!
//! All but the slot's words is written by the process itself (or before it runs, by its parent) and
//! read by anybody: states to look at, never to rely on for safety.

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::holders;
use procession_os::image;
use procession_os::memory::Shared;
use procession_os::process;
use procession_os::robust::{LifeWord, Sign};
use procession_os::stat::Stat;

use super::Arena;
use super::blocked::SleepsOn;
use super::error::{Error, Result};
use super::names;
use super::names::ProcessName;
use super::registry::Announcement;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::slots::{Census, Rites, SlotWords, State, Status, UnknownStatus};
use crate::wait::Owner;

pub(super) const NAME_WORDS: usize = 6;
pub(super) type NameBytes = [u8; NAME_WORDS * 8];

/// The slot of a process without a row: it is in the table nowhere, and its death can't be seen.
pub(super) const NOBODY: u16 = Owner::SLOTS;
/// The generation that goes with it, so that foreign bytes are not taken for such a process.
const NOBODYS: u32 = 0x6e_6f_62;

/// How long a reservation outlives its fork when no child has claimed it.
const GRACE: Duration = Duration::from_secs(1);

/// How long a process may be there after the thread is gone that watched over its row, before it is
/// known to run another program: the other threads have been stopped long before.
const LEAVING: Duration = Duration::from_millis(20);

/// How many rows a sweep looks at. A fork adds one row, so that sweeps catch up with forks.
const SWEEP: u32 = 8;

/// A process's row.
#[repr(C)]
pub(super) struct Row {
    slot: SlotWords,
    /// The process's number, below the generation that it is meant for. It stays when the process
    /// was buried, as does its name.
    pid: AtomicU64,
    parent: AtomicU32,
    /// At least one more than the highest object index that the process ever held.
    pub(super) held_high: AtomicU32,
    started: AtomicU64,
    name: [AtomicU64; NAME_WORDS],
    pub(super) blocked_on: AtomicU64,
    pub(super) blocked_since: AtomicU64,
    pub(super) task: AtomicU64,
    /// At least the number of heap blocks that belong to the process and to no object, and of
    /// objects that it is making or freeing.
    pub(super) unsettled: AtomicU64,
    /// When the reservation was first seen without a fork to come; 0 if it wasn't.
    orphaned: AtomicU64,
    /// When the watching thread was first seen to be gone; 0 if it wasn't.
    gone: AtomicU64,
    /// The exit code that the process is about to leave with, + 1; 0 if it has not said so.
    leaving: AtomicU64,
    /// The PID namespace that the process's number is of.
    namespace: AtomicU64,
    /// The generation that the name is of.
    named: AtomicU64,
    /// The generation of the process that has marked its [image](mark_of).
    marked: AtomicU64,
    /// The generation of the last process whose death was announced.
    announced: AtomicU64,
    /// On a cache line of its own, which is written twice in a process's life.
    life: LifeLine,
}

/// The byte of the arena's file that the process of a slot marks: far behind the arena's end, and
/// no other process's ever.
fn mark_of(slot: Slot) -> u64 {
    1 << 62 | u64::from(slot.index) << 32 | u64::from(slot.generation)
}

#[repr(C, align(64))]
struct LifeLine(LifeWord);

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Row {}

impl From<UnknownStatus> for Error {
    fn from(_: UnknownStatus) -> Self {
        Self::Corrupt("a process row has an unknown state")
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

impl Row {
    pub(super) fn state(&self) -> Result<State> {
        Ok(self.slot.state()?)
    }

    /// Whether a reservation had its time since its fork was over; the first to ask starts it.
    fn is_past_grace(&self) -> bool {
        is_past(&self.orphaned, GRACE)
    }

    /// Writes who the process is. Only async-signal-safe work, for the child side of a fork.
    fn introduce_self(&'static self, arena: &Arena, slot: Slot) {
        let (pid, generation) = (process::id(), slot.generation);
        if image::mark(&arena.memory, mark_of(slot)).is_ok() {
            self.marked.store(generation.into(), Ordering::Relaxed);
        }
        let started = Stat::of_this_process().map_or(0, |stat| stat.started);
        self.started.store(started, Ordering::Relaxed);
        self.namespace.store(process::pid_namespace(), Ordering::Relaxed);
        self.pid.store(u64::from(generation) << 32 | u64::from(pid), Ordering::Release);
        self.blocked_on.store(0, Ordering::Relaxed);
        self.task.store(0, Ordering::Relaxed);
        self.leaving.store(0, Ordering::Relaxed);
        self.watch();
    }

    /// Has the calling thread watch over the word that tells of this process's end, if none does.
    /// Returns whether it has begun to.
    fn watch(&'static self) -> bool {
        self.life.0.sign() == Sign::Unwatched
            && procession_os::thread_end::at_this_end()
            && self.life.0.watch()
    }

    /// What the word says that tells of the process's end.
    pub(super) fn sign(&self) -> Sign {
        self.life.0.sign()
    }

    /// Whether the death of the process with this generation was announced.
    pub(super) fn is_announced(&self, generation: u32) -> bool {
        self.announced.load(Ordering::SeqCst) == u64::from(generation)
    }

    pub(super) fn set_announced(&self, generation: u32) {
        self.announced.store(generation.into(), Ordering::SeqCst);
    }

    /// What the process with this generation is called; empty if it has no name, or the row was
    /// taken for another.
    fn name(&self, generation: u32) -> String {
        super::text_of(&self.name_bytes(generation))
    }

    /// The same, with zeroes behind it.
    fn name_bytes(&self, generation: u32) -> NameBytes {
        let mut name = [0; NAME_WORDS * 8];
        if self.named.load(Ordering::Acquire) != u64::from(generation) {
            return name;
        }
        for (bytes, word) in name.chunks_exact_mut(8).zip(&self.name) {
            bytes.copy_from_slice(&word.load(Ordering::Acquire).to_le_bytes());
        }
        // Looked at behind the name: the row has its next generation before it has another name.
        let is_same = self.state().is_ok_and(|state| state.generation == generation);
        if is_same { name } else { [0; NAME_WORDS * 8] }
    }

    fn set_name(&self, generation: u32, name: &str) {
        super::store_text(&self.name, name);
        self.named.store(generation.into(), Ordering::Release);
    }

    /// Has the process to come be called as the one that forks it, until it says otherwise.
    /// Async-signal-safe.
    fn copy_name(&self, generation: u32, from: &Self, its_generation: u32) {
        if from.named.load(Ordering::Acquire) == u64::from(its_generation) {
            for (from, to) in from.name.iter().zip(&self.name) {
                to.store(from.load(Ordering::Relaxed), Ordering::Release);
            }
            self.named.store(generation.into(), Ordering::Release);
        }
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

    /// Whether the process's number means the same to this process.
    pub(super) fn is_of_this_namespace(&self) -> bool {
        self.namespace.load(Ordering::Relaxed) == process::pid_namespace()
    }

    /// Whether the process of a slot, which has this row, is over, or runs another program by now.
    #[inline]
    pub(super) fn has_left(&self, arena: &Arena, slot: Slot) -> bool {
        match self.life.0.sign() {
            Sign::Runs => false,
            Sign::Confirmed => true,
            Sign::Gone => self.confirm_gone(arena, slot),
            Sign::Unwatched => {
                let over = self.is_surely_over(arena, slot);
                if over {
                    arena.announce_death(self, slot.generation);
                }
                over
            }
        }
    }

    /// The kernel said that the watching thread is gone. The others may take some more steps.
    #[cold]
    fn confirm_gone(&self, arena: &Arena, slot: Slot) -> bool {
        let seen = self.life.0.observe();
        let over = self.is_surely_over(arena, slot) || self.has_no_other_thread(slot) || {
            if !is_past(&self.gone, LEAVING) {
                return false;
            }
            // It runs another program by now; or its thread left past the C library, which would
            // have released the word.
            !self.still_has(arena, slot)
        };
        if over {
            self.life.0.confirm(seen);
            arena.announce_death(self, slot.generation);
        } else {
            self.life.0.give_up(seen);
        }
        over
    }

    /// Whether the kernel, asked by system calls, says that the process is over or runs another
    /// program. What it can't say is "no".
    fn is_surely_over(&self, arena: &Arena, slot: Slot) -> bool {
        self.has_image(arena, slot) == Some(false) || self.has_ended_by_number(slot.generation)
    }

    /// Whether the process still has the memory with which it has introduced itself, from which
    /// another program parts it. `None` if it could not mark that, or this process can't ask.
    fn has_image(&self, arena: &Arena, slot: Slot) -> Option<bool> {
        let is_marked = self.marked.load(Ordering::Relaxed) == u64::from(slot.generation);
        is_marked.then(|| image::is_marked(&arena.memory, mark_of(slot)).ok()).flatten()
    }

    /// Whether the process still has the arena, unless there is evidence that it hasn't.
    fn still_has(&self, arena: &Arena, slot: Slot) -> bool {
        self.has_image(arena, slot).unwrap_or_else(|| {
            let Ok(file) = arena.memory.file_id() else { return true };
            self.is_of_this_namespace()
                && holders::has_mapped(self.pid(slot.generation), file).unwrap_or(true)
        })
    }

    /// Whether the thread that watched is the first of the process and has no others beside it. Its
    /// number stays the process's for as long as there are others, so the program that it was is
    /// gone.
    fn has_no_other_thread(&self, slot: Slot) -> bool {
        let pid = self.pid(slot.generation);
        self.is_of_this_namespace()
            && self.life.0.thread() == pid
            && Stat::of(pid).is_some_and(|stat| stat.threads == 1)
    }

    /// Whether the kernel has no such process any more. One of another namespace can't be looked
    /// for.
    fn has_ended_by_number(&self, generation: u32) -> bool {
        self.is_of_this_namespace()
            && !process::is_alive(self.pid(generation), self.started.load(Ordering::Relaxed))
    }
}

/// Whether it is longer ago than `time` that this was asked first; 0 in the word is "not yet".
fn is_past(since: &AtomicU64, time: Duration) -> bool {
    let now = Monotonic::now();
    let order = Ordering::Relaxed;
    let first = since.compare_exchange(0, now.as_nanos(), order, order);
    first.is_err_and(|first| now.since(Monotonic::from_nanos(first)) > time)
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
        // Whoever waits for it sees by now that it is over.
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

/// Whether somebody was stopped in the middle of the heap. Damage is no reason to come back.
fn is_stopped(done: &Result<()>) -> bool {
    matches!(done, Err(Error::Wait(_)))
}

impl Arena {
    #[inline]
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

    pub(crate) fn slots_used(&self) -> u16 {
        self.header().slots_used.load(Ordering::SeqCst).min(self.layout.slots) as u16
    }

    /// Takes a free slot for this process, which becomes live at once.
    pub(super) fn join(&'static self) -> Result<Slot> {
        loop {
            let slot = self.take_slot(None)?;
            let row = self.row(slot.index)?;
            row.parent.store(process::parent_id(), Ordering::Relaxed);
            row.introduce_self(self, slot);
            if row.slot.claim(slot.generation, slot.index) {
                self.set_me(slot);
                self.look_again_at(slot.index);
                return Ok(slot);
            }
        }
    }

    /// Reserves a free slot in the name of `by`, or of nobody.
    fn take_slot(&self, by: Option<u16>) -> Result<Slot> {
        let slots = self.layout.slots as u16;
        for round in 0..2 {
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
            if round == 0 {
                self.bury_abandoned();
            }
        }
        Err(Error::TooManyProcesses(self.layout.slots))
    }

    /// Takes a slot for a child that is about to be forked, with a share in all that this process
    /// holds. `follows` says whether this process will read what the child leaves.
    /// Who opens objects meanwhile is told by way of the announcement, if there is one.
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

    /// As [`Self::reserve`], for a child that comes to be by other means than fork: it
    /// [inherits](super::inherit) the slot, or [takes it over](Self::take_over). This process
    /// follows it, and withdraws the slot if it does not come.
    ///
    /// # Errors
    /// [`Error::TooManyProcesses`].
    pub fn reserve_for_child(&self) -> Result<Slot> {
        self.sweep();
        self.reserve(true, None)
    }

    /// The parent's side of a fork, whether it came about or not: its reservation is the child's,
    /// or nobody's.
    pub(super) fn fork_is_over(&'static self, slot: Slot) {
        if let Ok(row) = self.row(slot.index) {
            row.slot.fork_is_over(slot.generation);
            self.watch();
        }
    }

    /// Says that this process does not follow the process of a slot.
    pub(super) fn unfollow(&self, slot: Slot) {
        if let Ok(row) = self.row(slot.index) {
            row.slot.hand_over(slot.generation, 0);
        }
    }

    /// Whether no thread watches over this process's row, as where the one that did has ended: the
    /// next that takes a lock or sleeps takes its place. Only the row's word says so, as the kernel
    /// and other processes change it too.
    pub(super) fn is_unwatched(&self) -> bool {
        self.row(self.me().index).is_ok_and(|row| row.life.0.sign() == Sign::Unwatched)
    }

    /// The word of this process's life, if it has a row.
    pub(super) fn my_life(&'static self) -> Option<&'static LifeWord> {
        self.row(self.me().index).ok().map(|row| &row.life.0)
    }

    /// Has the calling thread watch over this process's row, if none does.
    pub(super) fn watch(&'static self) {
        let me = self.me().index;
        if self.row(me).is_ok_and(Row::watch) {
            self.look_again_at(me);
        }
    }

    /// Ends the watch of the calling thread, which is about to end.
    pub(super) fn release_watch(&self) {
        if let Ok(row) = self.row(self.me().index) {
            row.life.0.release();
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

    /// Has the process to come hold an object, for which a slot is reserved.
    pub(super) fn hold_for(&self, slot: Slot, object: u32) {
        if let Ok(row) = self.row(slot.index)
            && row.slot.is_reserved(slot.generation)
        {
            failpoint!("object.held.late");
            let _ = self.set_held(slot.index, object);
        }
    }

    /// Takes a share in all that a reserved slot holds, and frees the slot. Does nothing if it is
    /// reserved no more.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn take_over(&self, slot: Slot) -> Result<()> {
        if self.row(slot.index)?.slot.is_reserved(slot.generation) {
            self.copy_held(slot.index, self.me().index)?;
            self.unreserve(slot);
        }
        Ok(())
    }

    /// Looks at some rows, the next in turn, so that dead strangers are buried in time.
    pub(super) fn sweep(&self) {
        self.drop_late();
        self.look_after_heap();
        let used = self.slots_used();
        for _ in 0..SWEEP.min(used.into()) {
            self.bury_if_abandoned(self.next_in_turn(used));
        }
    }

    fn next_in_turn(&self, used: u16) -> u16 {
        // A cursor of its own, and not a count modulo the rows in use, which grow with it.
        let cursor = &self.header().sweep_hint;
        let at = cursor.load(Ordering::Relaxed);
        let next = at.checked_add(1).filter(|&next| next < u32::from(used)).unwrap_or(0);
        cursor.store(next, Ordering::Relaxed);
        next as u16
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
            && row.is_surely_over(self, Slot { index, generation: state.generation })
        {
            row.life.0.confirm(seen);
            self.announce_death(row, state.generation);
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
        let nobody = Slot { index: NOBODY, generation: NOBODYS };
        self.set_me(nobody);
        let _ = self.join();
        self.forget_half_open();
        if self.is_member() {
            self.hold_what_is_open();
        }
    }

    /// The number of the process that has claimed a reserved slot; 0 if none has.
    pub(super) fn pid_of(&self, slot: Slot) -> u32 {
        self.row(slot.index).map_or(0, |row| row.pid(slot.generation))
    }

    /// The error of a full table.
    pub(crate) fn is_full(&self) -> Error {
        Error::TooManyProcesses(self.layout.slots)
    }

    /// Refuses a process that is not in the table: nobody could see it die with what it takes.
    ///
    /// # Errors
    /// [`Error::TooManyProcesses`].
    #[inline]
    pub fn check_member(&self) -> Result<()> {
        if self.is_member() { Ok(()) } else { Err(self.is_full()) }
    }

    /// Whether this process is in the table.
    #[inline]
    pub(crate) fn is_member(&self) -> bool {
        self.me().index != NOBODY
    }

    /// As [`Self::adopt`], for a process that was not forked and has no slot yet.
    pub(super) fn begin_as(&'static self, slot: Slot) -> Result<()> {
        if self.claim_slot(slot)? { Ok(()) } else { self.join().map(|_| ()) }
    }

    /// Makes a slot this process's own that was reserved for it; returns whether it still was.
    fn claim_slot(&'static self, slot: Slot) -> Result<bool> {
        let row = self.row(slot.index)?;
        if row.slot.is_reserved(slot.generation) {
            row.introduce_self(self, slot);
        }
        let claimed = row.slot.claim(slot.generation, slot.index);
        if claimed {
            self.set_me(slot);
            self.look_again_at(slot.index);
        }
        Ok(claimed)
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

    /// Gives back a slot that was reserved for a process that was not started. Does nothing if the
    /// process has come.
    pub fn unreserve(&self, slot: Slot) {
        self.settled_by_burial(slot.index, |burial| {
            burial.row.slot.withdraw(slot.generation, self, &burial)
        });
    }

    /// Says what this process is called.
    pub fn set_name(&self, name: &str) {
        let me = self.me();
        if let Ok(row) = self.row(me.index) {
            row.set_name(me.generation, name);
        }
    }

    /// Says who started this process, where that is not who forked it: a server that forks for
    /// others.
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

    /// Says that this process is about to leave, and with which exit code.
    pub fn leave_with(&self, code: u8) {
        if let Ok(row) = self.row(self.me().index) {
            row.leaving.store(u64::from(code) + 1, Ordering::Release);
        }
    }

    /// The exit code that the process of a slot, which is over, said that it was about to leave
    /// with. For those whose status someone else took.
    pub fn exit_code_of(&self, slot: Slot) -> Option<u8> {
        let row = self.row(slot.index).ok()?;
        let code = row.leaving.load(Ordering::Acquire).checked_sub(1)?;
        let state = row.state().ok()?;
        (state.generation == slot.generation).then(|| u8::try_from(code).ok())?
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
            Status::Reserved | Status::Live => !row.has_left(self, slot),
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

    /// Gives back what the dead held. The row of one that is followed by a living process stays
    /// until that has read it. Returns how many slots were freed.
    pub fn bury_abandoned(&self) -> usize {
        (0..self.slots_used()).filter(|&index| self.bury_if_abandoned(index)).count()
    }

    pub(super) fn bury_if_abandoned(&self, index: u16) -> bool {
        let Some(state) = self.dead_state(index) else { return false };
        // In the state that was looked at: a reservation may have come alive meanwhile.
        self.settled_by_burial(index, |burial| {
            let (row, generation) = (burial.row, state.generation);
            if state.status == Status::Reserved && row.pid(generation) == 0 {
                // There was no process, so nobody has anything to read.
                return row.slot.withdraw(generation, self, &burial);
            }
            row.slot.bury_unread(state, self, &burial)
        })
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
            _ => row.has_left(self, Slot { index, generation: state.generation }),
        })
    }

    /// Whether no child will ever claim a reservation, of which no process is known.
    fn is_void(&self, index: u16, row: &Row, reserved: State) -> bool {
        let maker_runs = reserved.by != index && self.runs(reserved.by);
        if maker_runs && !row.slot.is_fork_over(reserved.generation) || !row.is_past_grace() {
            return false;
        }
        // A look at all processes that found nobody is good for all forks that were over before it.
        // It takes milliseconds, so the family looks once a second.
        let header = self.header();
        let over_since = row.orphaned.load(Ordering::Relaxed);
        let now = Monotonic::now();
        let last = header.looked_for_unclaimed.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        if over_since >= header.nobody_unclaimed.load(Ordering::SeqCst)
            && now.since(Monotonic::from_nanos(last)) > GRACE
            && header
                .looked_for_unclaimed
                .compare_exchange(last, now.as_nanos(), order, order)
                .is_ok()
            && !self.is_anybody_unclaimed()
        {
            header.nobody_unclaimed.fetch_max(now.as_nanos(), Ordering::SeqCst);
        }
        over_since < header.nobody_unclaimed.load(Ordering::SeqCst)
    }

    /// Whether a process has the arena that is not in the table, or this can't be told.
    fn is_anybody_unclaimed(&self) -> bool {
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

    fn runs(&self, slot: u16) -> bool {
        slot == self.me().index
            || self.row(slot).is_ok_and(|row| {
                row.state().is_ok_and(|state| match state.status {
                    Status::Free | Status::Ended => false,
                    _ => !row.has_left(self, Slot { index: slot, generation: state.generation }),
                })
            })
    }

    /// Gives back all that a dead process held: its references, and the blocks that were its own,
    /// and frees its slot. Returns whether this call did it. Does nothing if the slot has another
    /// process by now.
    ///
    /// The caller knows that the process is over, and nobody needs what it wrote any more.
    pub fn bury(&self, slot: Slot) -> bool {
        self.settled_by_burial(slot.index, |burial| {
            burial.row.slot.release(slot.generation, self, &burial)
        })
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

    /// Ends the burials that a dead process had begun: once its slot has another process, nobody
    /// could tell that they are nobody's. Returns whether all are ended.
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

    /// The word that changes when the process with this slot and generation is gone, and its value.
    pub(super) fn life_word(&self, slot: u16, generation: u32) -> Option<(&AtomicU32, u32)> {
        let row = self.row(slot).ok()?;
        let word = row.life.0.sleep_on()?;
        // Looked at behind the mark: it is this process's, or another's by now.
        (row.state().ok()?.generation == generation).then_some(word)
    }

    /// Whether the process with this slot and generation is over.
    pub(crate) fn is_over(&self, slot: u16, generation: u32) -> bool {
        if slot == NOBODY && generation == NOBODYS {
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
            Status::Reserved | Status::Live => row.has_left(self, Slot { index: slot, generation }),
        }
    }
}
