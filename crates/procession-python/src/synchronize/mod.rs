//! `procession.synchronize`: Lock, RLock, Semaphore, Event, Condition, Barrier.

mod barrier;
mod condition;
mod event;
mod lock;
mod lock_calls;
mod rlock;
mod robust;
mod semaphore;

pub(crate) use barrier::Barrier;
pub(crate) use condition::Condition;
pub(crate) use event::Event;
pub(crate) use lock::Lock;
pub(crate) use lock_calls::add_to as add_lock_calls;
pub(crate) use rlock::RLock;
pub(crate) use semaphore::Semaphore;

use procession_shm::arena::family;
use procession_shm::wait::Owner;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

fn too_often() -> PyErr {
    PyValueError::new_err("semaphore or lock released too many times")
}

/// The pid of a lock's owner, if that is known.
fn owner_pid(owner: Option<Owner>) -> Option<u32> {
    let slot = owner?.slot();
    let processes = family().ok()?.processes();
    processes.into_iter().find(|process| process.slot.index == slot).map(|process| process.pid)
}
