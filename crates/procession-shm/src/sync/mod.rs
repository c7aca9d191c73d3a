//! Lock, RLock, Semaphore, Condition, Event and Barrier: objects of the arena that processes agree
//! through.
//!
//! Their semantics are those of Python's `multiprocessing` (any process may release a lock; an
//! RLock belongs to a thread), with one addition: a lock knows its owner, and when the owner is
//! dead, exactly one waiter is told.
//!
//! [`raw`] is how they work, the other files where they lie.

#[cfg(not(model))]
mod barrier;
#[cfg(not(model))]
mod condition;
#[cfg(not(model))]
mod event;
#[cfg(not(model))]
mod lock;
pub mod raw;
#[cfg(not(model))]
mod rlock;
#[cfg(not(model))]
mod semaphore;

#[cfg(not(model))]
pub use barrier::Barrier;
#[cfg(not(model))]
pub use condition::Condition;
#[cfg(not(model))]
pub use event::Event;
#[cfg(not(model))]
pub use lock::Lock;
pub use raw::{Arrival, Monitor, NotOwnerError, Outcome, Ticket, Waited, Waiter};
#[cfg(not(model))]
pub use rlock::RLock;
#[cfg(not(model))]
pub use semaphore::{MAX_RECOVERED_PERMITS, ReleaseError, Semaphore};
