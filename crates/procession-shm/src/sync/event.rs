//! A flag that processes wait for.

use procession_os::memory::Shared;

use crate::arena::{Arena, Handle, Kind, ObjectRef, Result, arena_of};
use crate::atomics::{AtomicU64, Ordering};
use crate::wait::{BlockedOn, EventCount, Operation, Stopped, Waiting, block};

/// The flag is the lowest bit; the rest counts how often it was set, so that a waiter which slept
/// through a set and a clear still sees that it was set.
#[repr(C)]
#[derive(Debug)]
struct Payload {
    state: AtomicU64,
    sleepers: EventCount,
}

#[allow(unsafe_code)]
// SAFETY: atomics alone.
unsafe impl Shared for Payload {}

/// A flag between processes, as `multiprocessing.Event`. There is no handshake with those who wait,
/// so one that is killed blocks nobody.
#[derive(Clone, Debug)]
pub struct Event {
    object: ObjectRef,
    payload: &'static Payload,
}

impl Event {
    /// An event that is not set.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn new(arena: &'static Arena, name: &str) -> Result<Self> {
        Self::over(arena.make::<Payload>(Kind::Event, name, None, |_| Ok(()))?)
    }

    /// The event that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no event.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::Event)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        Ok(Self { payload: object.payload()?, object })
    }

    /// The value that names the event in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// Sets the flag and lets all waiters go on. Async-signal-safe.
    pub fn set(&self) {
        let mut state = self.payload.state.load(Ordering::Relaxed);
        loop {
            let next = (state | 1).wrapping_add(2);
            let order = Ordering::SeqCst;
            match self.payload.state.compare_exchange_weak(state, next, order, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        self.payload.sleepers.notify_all();
    }

    /// Takes the flag back.
    pub fn clear(&self) {
        self.payload.state.fetch_and(!1, Ordering::SeqCst);
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.payload.state.load(Ordering::SeqCst) & 1 != 0
    }

    /// Waits until the flag is set, or was set meanwhile.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn wait(&self, waiting: Waiting) -> Result<(), Stopped> {
        let state = &self.payload.state;
        let begun = state.load(Ordering::SeqCst);
        if begun & 1 != 0 {
            return Ok(());
        }
        let on = BlockedOn { object: self.object.index(), operation: Operation::Event };
        block(self.object.arena(), on, waiting, &self.payload.sleepers, |_| {
            let now = state.load(Ordering::SeqCst);
            (now & 1 != 0 || now >> 1 != begun >> 1).then_some(())
        })
    }
}
