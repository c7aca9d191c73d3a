//! Lock, RLock, Semaphore, Condition, Event and Barrier: objects of the arena that processes agree
//! through.
//!
//! Their semantics are those of Python's `multiprocessing` (any process may release a lock; an
//! RLock belongs to a thread), with one addition: a lock knows its owner, and when the owner is
//! dead, exactly one waiter is told.
//!
//! [`algorithm`] is how they work, the other files where they lie.

pub mod algorithm;
#[cfg(not(model))]
mod barrier;
#[cfg(not(model))]
mod condition;
#[cfg(not(model))]
mod event;
#[cfg(not(model))]
mod lock;
#[cfg(not(model))]
mod rlock;
#[cfg(not(model))]
mod semaphore;

pub use algorithm::{Arrival, Monitor, NotOwner, Outcome, Seat, Waited, Waiter};
#[cfg(not(model))]
pub use barrier::Barrier;
#[cfg(not(model))]
pub use condition::Condition;
#[cfg(not(model))]
pub use event::Event;
#[cfg(not(model))]
pub use lock::Lock;
#[cfg(not(model))]
pub use rlock::RLock;
#[cfg(not(model))]
pub use semaphore::{PERMITS_RECOVERED_MOST, ReleaseError, Semaphore};
