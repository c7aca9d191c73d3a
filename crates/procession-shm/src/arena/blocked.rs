//! What a thread waits for, as one word of its process's row.
//!
//! The word has the operation (8 bits), the object's index (32) and the thread (22). A process has one
//! such word, so of several threads that sleep the last to fall asleep is seen.

use std::cell::Cell;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::process;

use crate::wait::BlockedOn;

const THREAD: u32 = 0x3f_ffff;

/// How soon after a pause a wait for the same is the same wait.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn this_thread() -> u32 {
    process::thread_id() & THREAD
}

pub(super) fn word(on: BlockedOn) -> u64 {
    u64::from(this_thread()) << 40 | u64::from(on.object) << 8 | on.operation as u64
}

pub(super) fn thread(word: u64) -> u32 {
    (word >> 40) as u32 & THREAD
}

thread_local! {
    /// The last wait of this thread that a tick or a signal interrupted: the word, since when it had
    /// been waiting, and when it was interrupted.
    static PAUSED: Cell<(u64, u64, u64)> = const { Cell::new((0, 0, 0)) };
}

/// Notes a wait that is interrupted, mostly to be gone on with at once.
pub(super) fn remember(word: u64, since: u64) {
    PAUSED.set((word, since, Monotonic::now().as_nanos()));
}

/// Since when this thread waits for what the word says: since now, or since before its pause.
pub(super) fn since(word: u64) -> Monotonic {
    let now = Monotonic::now();
    match PAUSED.replace((0, 0, 0)) {
        (paused, since, at) if paused == word && now.since(Monotonic::from_nanos(at)) < PAUSE => {
            Monotonic::from_nanos(since)
        }
        _ => now,
    }
}
