//! Lock, RLock, Semaphore and Event: objects of the arena that processes agree through.
//!
//! Their semantics are those of Python's `multiprocessing` (any process may release a lock; an RLock
//! belongs to a thread), with one addition: a lock knows its owner, and when the owner is dead,
//! exactly one waiter is told.

mod event;
mod lock;
mod rlock;
mod semaphore;

pub use event::Event;
pub use lock::Lock;
pub use rlock::{NotOwner, RLock};
pub use semaphore::{PERMITS_RECOVERED_MOST, ReleaseError, Semaphore};
