//! What a thread waits for, as one word of its process's row.
//!
//! The word has the operation (8 bits), the object's index (32) and the thread (22). A process has
//! one such word, so of several threads that sleep the last to fall asleep is seen.

use std::cell::Cell;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::process;

use super::family::Arena;
use super::row::Row;
use crate::atomics::{AtomicU32, Ordering};
use crate::wait::{BlockedOn, Owner, Probe, Words};

/// What a thread of a process sleeps on, as it stands in the process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepsOn {
    /// The row in the object table; in the process table for a join.
    pub object: u32,
    /// The number of the [`Operation`](crate::wait::Operation).
    pub operation: u8,
    /// The thread's number in the kernel, 22 bits of it.
    pub thread: u32,
    /// Since when.
    pub since: Monotonic,
}

impl Row {
    /// What a thread of the process sleeps on.
    pub(super) fn sleeps_on(&self) -> Option<SleepsOn> {
        let word = self.blocked_on.load(Ordering::Acquire);
        let since = Monotonic::from_nanos(self.blocked_since.load(Ordering::Relaxed));
        (word != 0).then(|| SleepsOn {
            object: (word >> 8) as u32,
            operation: word as u8,
            thread: thread(word),
            since,
        })
    }
}

impl Probe for Arena {
    fn is_dead(&self, owner: Owner) -> bool {
        self.is_over(owner.slot(), owner.generation())
    }

    fn tick(&self, waits_for: Option<Owner>) {
        if let Some(owner) = waits_for {
            self.verify(owner.slot());
        }
        self.verify_next();
    }

    fn deaths(&self) -> Option<(&AtomicU32, u32)> {
        Some(self.header().deaths.announced())
    }

    fn keep_watch<'a>(&'a self, words: &mut Words<'a>) -> Option<Duration> {
        self.watch_others(words)
    }

    fn end_watch(&self) {
        self.leave_watch();
    }

    fn blocked(&self, on: BlockedOn) {
        self.see_to_watch();
        let Ok(row) = self.row(self.me().index) else { return };
        let word = word_of(on);
        row.blocked_since.store(since_of(word).as_nanos(), Ordering::Relaxed);
        row.blocked_on.store(word, Ordering::Release);
    }

    fn running(&self) {
        let Ok(row) = self.row(self.me().index) else { return };
        // Another thread of this process may have said meanwhile what it waits for.
        if thread(row.blocked_on.load(Ordering::Relaxed)) == this_thread() {
            row.blocked_on.store(0, Ordering::Relaxed);
        }
    }

    fn paused(&self) {
        if let Ok(row) = self.row(self.me().index) {
            let word = row.blocked_on.load(Ordering::Relaxed);
            remember(word, row.blocked_since.load(Ordering::Relaxed));
        }
        self.running();
    }
}

const THREAD: u32 = 0x3f_ffff;

/// How soon after a pause a wait for the same is the same wait.
const PAUSE: Duration = Duration::from_millis(10);

fn this_thread() -> u32 {
    process::thread_id() & THREAD
}

fn word_of(on: BlockedOn) -> u64 {
    u64::from(this_thread()) << 40 | u64::from(on.object) << 8 | on.operation as u64
}

pub(super) fn thread(word: u64) -> u32 {
    (word >> 40) as u32 & THREAD
}

thread_local! {
    /// The last wait of this thread that a tick or a signal interrupted: the word, since when it
    /// had been waiting, and when it was interrupted.
    static PAUSED: Cell<(u64, u64, u64)> = const { Cell::new((0, 0, 0)) };
}

/// Notes a wait that is interrupted, usually to be gone on with at once.
pub(super) fn remember(word: u64, since: u64) {
    PAUSED.set((word, since, Monotonic::now().as_nanos()));
}

/// Since when this thread waits for what the word says: since now, or since before its pause.
fn since_of(word: u64) -> Monotonic {
    let now = Monotonic::now();
    match PAUSED.replace((0, 0, 0)) {
        (paused, since, at) if paused == word && now.since(Monotonic::from_nanos(at)) < PAUSE => {
            Monotonic::from_nanos(since)
        }
        _ => now,
    }
}
