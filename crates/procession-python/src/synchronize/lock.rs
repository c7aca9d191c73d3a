//! The lock.

use procession_shm::arena::family;
use procession_shm::sync;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::robust::Robust;
use super::{owner_pid, too_often};
use crate::errors::handle;
use crate::init_once::InitOnce;
use crate::truthy::Truthy;
use crate::waiting::{deadline, wait};

/// Mutual exclusion between processes, as `multiprocessing.Lock`.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct Lock {
    pub(super) made: InitOnce<Robust<sync::Lock>>,
}

impl Lock {
    #[inline]
    fn lock(&self) -> PyResult<&sync::Lock> {
        Ok(&self.made.get()?.lock)
    }

    /// Whether it was acquired at once; not if the object is not made yet.
    #[inline]
    pub(super) fn try_acquire(&self) -> bool {
        self.made.get_if_set().is_some_and(|made| made.lock.try_acquire())
    }

    #[inline]
    pub(super) fn release(&self) -> bool {
        self.made.get_if_set().is_some_and(|made| made.lock.release().is_ok())
    }
}

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (*_args, **_kwds))]
    fn new(_args: &Bound<'_, PyTuple>, _kwds: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    fn _make(&self, name: &str, on_owner_death: &str) -> PyResult<()> {
        let lock = || family().and_then(|arena| sync::Lock::new(arena, name));
        self.made.set(Robust::new(on_owner_death, lock)?)
    }

    fn __getstate__(&self) -> PyResult<(String, &'static str)> {
        let made = self.made.get()?;
        Ok(made.state(made.lock.handle()))
    }

    fn __setstate__(&self, state: (String, String)) -> PyResult<()> {
        let handle = handle(&state.0)?;
        self.made.set(Robust::new(&state.1, || sync::Lock::open(handle))?)
    }

    /// What names the lock in other processes, as text; it is valid while some process has the
    /// lock open.
    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.lock()?.handle().to_string())
    }

    #[pyo3(
        signature = (block=Truthy(true), timeout=None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn _acquire(&self, py: Python<'_>, block: Truthy, timeout: Option<f64>) -> PyResult<bool> {
        let made = self.made.get()?;
        let lock = &made.lock;
        if lock.try_acquire() {
            return Ok(true);
        }
        let acquired = if block.0 {
            wait(py, deadline(timeout), |waiting| lock.acquire(waiting))?
        } else {
            lock.try_acquire_or_inherit()
        };
        made.outcome(py, made.lock.handle(), acquired, |lock| {
            let _ = lock.release();
        })
    }

    fn _release(&self) -> PyResult<()> {
        self.lock()?.release().map_err(|_| too_often())
    }

    /// Return whether some thread holds the lock.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.lock()?.owner().is_some())
    }

    fn _is_mine(&self) -> PyResult<bool> {
        Ok(self.lock()?.is_mine())
    }

    fn _owner_pid(&self) -> PyResult<Option<u32>> {
        Ok(owner_pid(self.lock()?.owner()))
    }
}
