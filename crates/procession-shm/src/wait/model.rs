//! The kernel's part of waiting, as the model checker's threads see it.

use std::cell::Cell;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Condvar, Mutex};

use procession_os::clock::Monotonic;
use procession_os::futex::Wakeup;

use super::park::Words;
use crate::atomics::{AtomicU32, Ordering};

/// Whether time passes: a sleep may end by itself, and what is kept for a time falls free. Without
/// that a wake that is lost shows as a deadlock; with it the liveness tick is part of the model.
pub static TICKS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

shuttle::thread_local! {
    /// Whether the sleeps of this thread may end by themselves, as they do at a deadline.
    pub static IMPATIENT: Cell<bool> = const { Cell::new(false) };
}

shuttle::lazy_static! {
    /// The words that are slept on, one entry for each sleeper, numbered.
    static ref SLEEPERS: Mutex<(u64, Vec<(u64, usize)>)> = Mutex::new((0, Vec::new()));
    static ref WOKEN: Condvar = Condvar::new();
}

fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word) as usize
}

pub(super) fn sleep_on(
    word: &AtomicU32,
    ticket: u32,
    _others: &Words<'_>,
    _until: Monotonic,
) -> Wakeup {
    let mut sleepers = SLEEPERS.lock().unwrap();
    if word.load(Ordering::SeqCst) != ticket {
        return Wakeup::Changed;
    }
    sleepers.0 += 1;
    let me = sleepers.0;
    sleepers.1.push((me, address(word)));
    while sleepers.1.iter().any(|(sleeper, _)| *sleeper == me) {
        if TICKS.load(std::sync::atomic::Ordering::Relaxed) || IMPATIENT.with(Cell::get) {
            drop(sleepers);
            shuttle::thread::yield_now();
            sleepers = SLEEPERS.lock().unwrap();
            if let Some(at) = sleepers.1.iter().position(|(sleeper, _)| *sleeper == me) {
                sleepers.1.remove(at);
                return Wakeup::TimedOut;
            }
        } else {
            sleepers = WOKEN.wait(sleepers).unwrap();
        }
    }
    Wakeup::Woken
}

pub(crate) fn wake(word: &AtomicU32, count: u32) -> usize {
    let mut sleepers = SLEEPERS.lock().unwrap();
    let before = sleepers.1.len();
    let mut left = count;
    sleepers.1.retain(|(_, on)| {
        let wakes = *on == address(word) && left > 0;
        left -= u32::from(wakes);
        !wakes
    });
    WOKEN.notify_all();
    before - sleepers.1.len()
}

/// A moment that is no other.
pub(super) fn moment() -> u64 {
    static MOMENTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    MOMENTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// The time since a moment, in any unit: none, or where time passes perhaps an eternity.
pub(super) fn time_since() -> u64 {
    let passes = TICKS.load(std::sync::atomic::Ordering::Relaxed);
    if passes && thread_rng().r#gen() { u32::MAX.into() } else { 0 }
}

/// How long something took that may have taken a time or none.
pub(super) fn none_or(span: Duration) -> Duration {
    if thread_rng().r#gen() { span } else { Duration::ZERO }
}
