//! Lock, RLock, Semaphore, Condition, Event and Barrier between processes.

mod barrier;
mod condition;
mod event;
mod lock;
mod owner_died;
mod rlock;
mod semaphore;

pub use barrier::{Barrier, BarrierWaitResult, BrokenBarrierError};
pub use condition::Condition;
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use owner_died::{OwnedResult, OwnerDied, OwnerDiedError};
pub use procession_shm::sync::ReleaseError;
pub use rlock::{RLock, RLockGuard};
pub use semaphore::{Permit, Semaphore};

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_shm::wait::Wait;

pub(crate) fn waiting_for(timeout: Duration) -> Wait {
    Wait::until(Some(Monotonic::now().after(timeout)))
}
