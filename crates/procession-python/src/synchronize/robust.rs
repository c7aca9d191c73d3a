//! What `acquire` does when the lock's owner has died.

use std::ffi::CString;

use procession_shm::arena::{self, Handle};
use procession_shm::wait::Acquired;
use pyo3::exceptions::{PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;

use crate::errors::{Death, arena_error};

/// What `acquire` does when the owner has died: to raise, or to acquire with a warning.
fn recovers(on_owner_death: &str) -> PyResult<bool> {
    match on_owner_death {
        "raise" => Ok(false),
        "recover" => Ok(true),
        other => Err(PyValueError::new_err(format!(
            "on_owner_death is {other:?}: expected \"raise\" or \"recover\""
        ))),
    }
}

const FREE_AGAIN: &str = "The lock is free again and no other waiter is told: acquire it, repair what \
                          it guards, and go on; or make the lock with \
                          on_owner_death=\"recover\", with which acquire() acquires it and \
                          warns instead";

/// The outcome of an acquisition from a dead owner: true with a warning, or an exception.
#[cold]
pub(super) fn owner_died(
    py: Python<'_>,
    recovers: bool,
    death: PyResult<Death>,
    then: &str,
    release: impl FnOnce(),
) -> PyResult<bool> {
    let told = death.and_then(|death| {
        if !recovers {
            return Err(death.error(py, then));
        }
        let text = CString::new(death.text())?;
        PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1)
    });
    if told.is_err() {
        release();
    }
    told.map(|()| true)
}

/// A lock and what `acquire` does when its owner has died.
pub(super) struct Robust<L> {
    pub(super) lock: L,
    pub(super) recovers: bool,
}

impl<L> Robust<L> {
    pub(super) fn new(
        on_owner_death: &str,
        lock: impl FnOnce() -> arena::Result<L>,
    ) -> PyResult<Self> {
        let recovers = recovers(on_owner_death)?;
        Ok(Self { lock: lock().map_err(arena_error)?, recovers })
    }

    /// What names the lock in another process, and what `acquire` does there.
    pub(super) fn state(&self, handle: Handle) -> (String, &'static str) {
        (handle.to_string(), if self.recovers { "recover" } else { "raise" })
    }

    /// The outcome of an acquisition that was tried or waited for.
    pub(super) fn outcome(
        &self,
        py: Python<'_>,
        handle: Handle,
        acquired: Option<Acquired>,
        release: impl FnOnce(&L),
    ) -> PyResult<bool> {
        match acquired {
            None => Ok(false),
            Some(Acquired::Clean) => Ok(true),
            Some(Acquired::OwnerDied(owner)) => {
                let death = Death::of(owner, handle);
                owner_died(py, self.recovers, death, FREE_AGAIN, || release(&self.lock))
            }
        }
    }
}
