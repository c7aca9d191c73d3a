//! Functions that run in processes of their own.
//!
//! # How a child starts
//! If this process has one thread, [`spawn`] forks it. If it has several, a fork would copy locks
//! that no thread of the child can release. So the program is started a second time, and [`init`],
//! the first call in its `main`, runs the function there instead of the rest of the program. The
//! function travels as its distance from a fixed one in the program, the arguments as bytes in the
//! arena.
//!
//! So the child finds the program's statics as they are in this process now, or as at the program's
//! start. [`StartMethod`] says what else differs; [`Builder::start_method`] and
//! [`set_start_method`] choose.
//!
//! # How it ends
//! The child puts a report into a queue of its own (`report`): the result, or the text of its
//! panic. The parent follows the process by pidfd. When the child has ended, the parent reads the
//! report and gives back what the child held. So a child that is killed at any instant is noticed,
//! and what it had reported before is not lost.

mod builder;
mod child;
mod child_env;
mod detached;
mod error;
mod handle;
mod init;
mod payload;
mod program;
mod report;
mod start_method;

pub use builder::{Builder, spawn};
pub use error::{JoinError, JoinTimeoutError, SpawnError, SpawnErrorKind, TryJoinError};
pub use handle::JoinHandle;
#[doc(hidden)]
pub use init::enter_test;
pub use init::init;
pub(crate) use init::refuse_stray_child;
pub use procession_shm::arena::ProcessName;
pub use procession_shm::process::{Blocked, ExitStatus, ProcessState};
pub use start_method::{StartMethod, set_start_method, start_method};
