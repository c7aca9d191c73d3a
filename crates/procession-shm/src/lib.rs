//! The memory that a family of processes shares, and what lives in it: locks, semaphores, events,
//! queues, blocks of bytes.
//!
//! The floors, each using only those above it in this list:
//! - [`wait`]: the one way to block, and the two words that waiting is built on;
//! - [`slots`]: what becomes of a process's slot, from its reservation to its burial;
//! - [`arena`]: one memfd with its allocator, object table, process table and recovery;
//! - [`process`]: a child to follow, what each process is doing, all that one has started;
//! - [`sync`]: Lock, RLock, Semaphore, Condition, Event, Barrier;
//! - [`queue`] and [`memory`]: messages, and blocks of bytes.
//!
//! Whatever another process wrote is input: offsets, lengths and kinds are checked at every load,
//! and what doesn't fit is an [`arena::Error::Corrupt`], never a wild access.

#![deny(unsafe_code)]

// A model checker's atomics can't lie over shared bytes, so with it there are only the algorithms.
#[cfg(not(model))]
pub mod arena;
pub mod failpoint;
#[cfg(not(model))]
pub mod memory;
#[cfg(not(model))]
pub mod process;
#[cfg(not(model))]
pub mod queue;
pub mod slots;
pub mod sync;
pub mod wait;

mod atomics;
