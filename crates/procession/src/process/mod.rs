//! Functions that run in processes of their own.
//!
//! # How a child starts
//! Where this process has one thread, [`spawn`] forks it. With several threads a fork would copy
//! locks that nobody is left to release, so the program is started anew, and [`init`], the first
//! thing in its `main`, runs the function there instead of the rest of the program. The function
//! travels as its distance from a fixed one in the program, the arguments as bytes in the arena.
//!
//! # How it ends
//! The child puts a report into a queue of its own (`report`): the result, or the text of its
//! panic. The parent follows the process by pidfd, and when that has ended, reads the report and
//! gives back what the child held. So a child that is killed at any instant is seen, and what it had
//! reported before is not lost.

mod builder;
mod child;
mod detached;
mod error;
mod handle;
mod order;
mod program;
mod report;
mod surroundings;

pub use builder::{Builder, StartMethod, spawn};
pub use child::init;
pub use error::{JoinError, JoinTimeoutError, SpawnError, TryJoinError};
pub use handle::JoinHandle;
pub use procession_os::pidfd::ExitStatus;
pub use procession_shm::arena::{Blocked, ProcessName, ProcessState};
