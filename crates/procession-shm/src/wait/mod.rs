//! The one way to block.
//!
//! Everything that waits goes through [`block`]: it spins for a while if a processor is free, says
//! in the process table what it waits for, and sleeps on a shared futex until it is woken, until a
//! deadline, a signal, or a *tick*. At a tick it checks the condition again: the process that
//! should have woken it may have been killed before it did.
//!
//! # Invariant
//! No waiter depends on another process to come to an end of its wait: every wake can be lost, and
//! the next tick makes up for it.

mod eventcount;
mod fairness;
#[cfg(model)]
pub mod model;
mod owner;
mod owner_lock;
mod park;

pub use eventcount::{EventCount, Relay, WithDeaths};
pub use owner::Owner;
pub use owner_lock::{Acquired, NotLockedError, OwnerLock};
pub(crate) use park::wake;
pub use park::{
    BlockedOn, Check, Deadline, Operation, Probe, Wait, WaitError, WaitPoint, Words, block,
};
