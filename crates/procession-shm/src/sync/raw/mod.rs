//! How the objects work, apart from where they lie: over [`crate::atomics`], without an arena, so
//! that the same code runs under a model checker with death as a step (`tests/model`).
//!
//! `Lock` has none here: it is an [`OwnerLock`](crate::wait::OwnerLock) and nothing else.

mod barrier;
mod condition;
mod event;
mod rlock;

pub use barrier::{Arrival, BarrierWords, Cell, Cells, Outcome, RawBarrier, Ticket};
pub use condition::{Monitor, RawCondition, Waited, Waiter};
pub use event::RawEvent;
pub use rlock::{NotOwnerError, RawRLock};
