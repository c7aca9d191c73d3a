//! A flag that processes wait for.

use super::raw::RawEvent;
use crate::arena::{Arena, Handle, Kind, ObjectRef, Result, arena_of};
use crate::wait::{BlockedOn, Operation, Wait, WaitError};

/// A flag between processes, as `multiprocessing.Event`. There is no handshake with the waiters, so
/// a killed waiter blocks no other process.
#[derive(Clone, Debug)]
pub struct Event {
    object: ObjectRef,
    flag: &'static RawEvent,
}

impl Event {
    /// An event that is not set.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn new(arena: &'static Arena, name: &str) -> Result<Self> {
        Self::over(arena.make::<RawEvent>(Kind::Event, name, None, |_| Ok(()))?)
    }

    /// The event that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no event.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::Event)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        Ok(Self { flag: object.payload()?, object })
    }

    /// The value that names the event in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// Sets the flag and lets all waiters go on. Async-signal-safe.
    pub fn set(&self) {
        self.flag.set();
    }

    /// Takes the flag back.
    pub fn clear(&self) {
        self.flag.clear();
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.flag.is_set()
    }

    /// Waits until the flag is set, or was set meanwhile.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait(&self, waiting: Wait) -> Result<(), WaitError> {
        let on = BlockedOn { object: self.object.index(), operation: Operation::Event };
        self.flag.wait(self.object.arena(), on, waiting)
    }
}
