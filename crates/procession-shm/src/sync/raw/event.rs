//! A flag to wait for.

use procession_os::memory::Shared;

use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{BlockedOn, EventCount, Probe, Wait, WaitError, block};

/// Sixteen bytes of shared memory; all zero is a flag that is not set.
///
/// The flag is the lowest bit; the rest counts how often it was set, so that a waiter which slept
/// through a set and a clear still sees that it was set.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawEvent {
    state: AtomicU64,
    sleepers: EventCount,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for RawEvent {}

impl RawEvent {
    /// Sets the flag and lets all waiters go on. Async-signal-safe.
    pub fn set(&self) {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let next = (state | 1).wrapping_add(2);
            let order = Ordering::SeqCst;
            match self.state.compare_exchange_weak(state, next, order, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        failpoint!("event.set");
        self.sleepers.notify_all();
    }

    /// Takes the flag back.
    pub fn clear(&self) {
        self.state.fetch_and(!1, Ordering::SeqCst);
    }

    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.state.load(Ordering::SeqCst) & 1 != 0
    }

    /// Waits until the flag is set, or was set meanwhile.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait(&self, probe: &impl Probe, on: BlockedOn, waiting: Wait) -> Result<(), WaitError> {
        let begun = self.state.load(Ordering::SeqCst);
        if begun & 1 != 0 {
            return Ok(());
        }
        block(probe, on, waiting, &self.sleepers, |_| {
            let now = self.state.load(Ordering::SeqCst);
            (now & 1 != 0 || now >> 1 != begun >> 1).then_some(())
        })
    }
}
