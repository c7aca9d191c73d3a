//! Lock, Semaphore and Event between processes.

mod event;
mod lock;
mod semaphore;

pub use event::Event;
pub use lock::{Lock, LockError, LockGuard, LockTimeoutError, TryLockError};
pub use procession_shm::sync::ReleaseError;
pub use semaphore::{Permit, Semaphore};

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_shm::wait::Waiting;

pub(crate) fn waiting_for(timeout: Duration) -> Waiting {
    Waiting::until(Some(Monotonic::now().after(timeout)))
}

pub(crate) const NOT_AT_ALL: Waiting = Waiting::until(Some(Monotonic::from_nanos(0)));
