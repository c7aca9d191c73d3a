//! A process's row: the words in which it stands in the process table.
//!
//! The words of the slot have their own protocol ([`slots`](crate::slots)). Whether a process is
//! over is told by the kernel in a word of its row ([`LifeWord`]). All other words are written by
//! the process itself, or before it runs by its parent, and are read by any process: they are
//! states to look at, and no other process's safety relies on them.

use procession_os::memory::{Shared, SharedMemory};
use procession_os::robust::{LifeWord, Sign};
use procession_os::stat::Stat;
use procession_os::{image, process};

use super::error::{Error, Result};
use super::text::{store_text, text_of};
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::slots::{SlotWords, State, UnknownStatus};
use crate::wait::Owner;

pub(super) const NAME_WORDS: usize = 6;
pub(super) type NameBytes = [u8; NAME_WORDS * 8];

/// The slot of a process without a row: it is in the table nowhere, and its death can't be seen.
pub(super) const NO_SLOT_INDEX: u16 = Owner::SLOTS;

/// The generation that goes with it, so that foreign bytes are not taken for such a process.
pub(super) const NO_SLOT_GENERATION: u32 = 0x6e_6f_62;

/// A process's row.
#[repr(C)]
pub(super) struct Row {
    pub(super) slot: SlotWords,
    /// The process's number, below the generation that it is meant for. It stays when the process
    /// was buried, as does its name.
    pub(super) pid: AtomicU64,
    pub(super) parent: AtomicU32,
    /// At least one more than the highest object index that the process ever held.
    pub(super) held_high: AtomicU32,
    pub(super) started: AtomicU64,
    pub(super) name: [AtomicU64; NAME_WORDS],
    pub(super) blocked_on: AtomicU64,
    pub(super) blocked_since: AtomicU64,
    pub(super) task: AtomicU64,
    /// At least the number of heap blocks that belong to the process and to no object, and of
    /// objects that it is making or freeing.
    pub(super) unsettled: AtomicU64,
    /// When the reservation was first seen without a fork to come; 0 if it wasn't.
    pub(super) orphaned: AtomicU64,
    /// When the watching thread was first seen to be gone; 0 if it wasn't.
    pub(super) gone: AtomicU64,
    /// The exit code that the process is about to end with, + 1; 0 if it has not noted one.
    pub(super) leaving: AtomicU64,
    /// The PID namespace that the process's number is of.
    pub(super) namespace: AtomicU64,
    /// The generation that the name is of.
    pub(super) named: AtomicU64,
    /// The generation of the process that has marked its [image](mark_of).
    pub(super) marked: AtomicU64,
    /// The generation of the last process whose death was announced.
    pub(super) announced: AtomicU64,
    /// On a cache line of its own, which is written twice in a process's life.
    pub(super) life: LifeLine,
}

/// The byte of the arena's file that the process of a slot marks: far behind the arena's end, and
/// no other process's ever.
pub(super) fn mark_of(slot: Slot) -> u64 {
    1 << 62 | u64::from(slot.index) << 32 | u64::from(slot.generation)
}

#[repr(C, align(64))]
pub(super) struct LifeLine(pub(super) LifeWord);

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

impl Row {
    pub(super) fn state(&self) -> Result<State> {
        Ok(self.slot.state()?)
    }

    /// Writes down the process's number and start. Async-signal-safe, for the child side of a fork.
    pub(super) fn introduce_self(&'static self, memory: &SharedMemory, slot: Slot) {
        let (pid, generation) = (process::id(), slot.generation);
        if image::mark(memory, mark_of(slot)).is_ok() {
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
    pub(super) fn watch(&'static self) -> bool {
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
    pub(super) fn name(&self, generation: u32) -> String {
        text_of(&self.name_bytes(generation))
    }

    /// The same, with zeroes behind it.
    pub(super) fn name_bytes(&self, generation: u32) -> NameBytes {
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

    pub(super) fn set_name(&self, generation: u32, name: &str) {
        store_text(&self.name, name);
        self.named.store(generation.into(), Ordering::Release);
    }

    /// Names the process to come like the one that forks it, until it changes its name.
    /// Async-signal-safe.
    pub(super) fn copy_name(&self, generation: u32, from: &Self, its_generation: u32) {
        if from.named.load(Ordering::Acquire) == u64::from(its_generation) {
            for (from, to) in from.name.iter().zip(&self.name) {
                to.store(from.load(Ordering::Relaxed), Ordering::Release);
            }
            self.named.store(generation.into(), Ordering::Release);
        }
    }

    /// The number of the process with this generation; 0 while it is not known.
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
}
