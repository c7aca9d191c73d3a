//! A flag that processes wait for.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use procession_shm::sync;
use procession_shm::wait::Wait;

use super::waiting_for;
use crate::arena::{self, Handle, Name, Result};
use crate::codec::travels_by_handle;

/// A flag that is set and cleared, and waited for.
///
/// ```
/// use procession::{Event, spawn};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let ready = Event::new()?;
///     let child = spawn(|ready: Event| ready.set(), ready.clone())?;
///     ready.wait();
///     child.join()?;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Event {
    inner: sync::Event,
}

impl Event {
    /// An event that is not set, named after the location of the call.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn new() -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()))
    }

    /// An event that is not set, with a name for inspection of the family.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn named(name: &str) -> Result<Self> {
        Ok(Self { inner: sync::Event::new(arena::family()?, name)? })
    }

    /// The event that a handle names.
    ///
    /// # Errors
    /// If it is no more, is no event, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { inner: sync::Event::open(handle)? })
    }

    /// The value that names the event in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    /// Sets the flag and lets all waiters go on. May be called in a signal handler.
    pub fn set(&self) {
        self.inner.set();
    }

    /// Clears the flag.
    pub fn clear(&self) {
        self.inner.clear();
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.inner.is_set()
    }

    /// Waits until the flag is set, even if it is cleared again before the waiter runs.
    pub fn wait(&self) {
        let waited = self.inner.wait(Wait::FOREVER);
        waited.expect("a wait without a deadline that no signal interrupts");
    }

    /// Waits no longer than `timeout`; says whether the flag was set.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.inner.wait(waiting_for(timeout)).is_ok()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("name", &Name(self.handle()))
            .field("set", &self.is_set())
            .finish()
    }
}

travels_by_handle!(Event);
