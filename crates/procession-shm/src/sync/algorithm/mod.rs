//! How the objects work, apart from where they lie: over [`crate::atomics`], without an arena, so
//! that the same code runs under a model checker with death as a step (`tests/model`).
//!
//! `Lock` has none here: it is an [`OwnerLock`](crate::wait::OwnerLock) and nothing else.

mod condition;
mod event;
mod meeting;
mod rlock;

pub use condition::{Monitor, Notices, Waited, Waiter};
pub use event::Flag;
pub use meeting::{Arrival, Meeting, MeetingPoint, Outcome, Place, Places, Seat};
pub use rlock::{NotOwner, ReentrantLock};
