//! The lock that its thread may acquire again.

use procession_shm::arena::family;
use procession_shm::sync;
use pyo3::exceptions::PyAssertionError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::owner_pid;
use super::robust::Robust;
use crate::errors::handle;
use crate::init_once::InitOnce;
use crate::truthy::Truthy;
use crate::waiting::{deadline, wait};

/// A lock that its thread may acquire again, as `multiprocessing.RLock`.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct RLock {
    pub(super) made: InitOnce<Robust<sync::RLock>>,
}

impl RLock {
    fn lock(&self) -> PyResult<&sync::RLock> {
        Ok(&self.made.get()?.lock)
    }
}

#[pymethods]
impl RLock {
    #[new]
    #[pyo3(signature = (*_args, **_kwds))]
    fn new(_args: &Bound<'_, PyTuple>, _kwds: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    fn _make(&self, name: &str, on_owner_death: &str) -> PyResult<()> {
        let lock = || family().and_then(|arena| sync::RLock::new(arena, name));
        self.made.set(Robust::new(on_owner_death, lock)?)
    }

    fn __getstate__(&self) -> PyResult<(String, &'static str)> {
        let made = self.made.get()?;
        Ok(made.state(made.lock.handle()))
    }

    fn __setstate__(&self, state: (String, String)) -> PyResult<()> {
        let handle = handle(&state.0)?;
        self.made.set(Robust::new(&state.1, || sync::RLock::open(handle))?)
    }

    /// What names the lock in other processes, as text; it is valid while some process has the
    /// lock open.
    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.lock()?.handle().to_string())
    }

    /// Acquire the lock.
    ///
    /// Parameters
    /// ----------
    /// block : bool
    ///     Whether to wait if another thread holds it.
    /// timeout : float, optional
    ///     The seconds to wait at most; without it there is no limit.
    ///
    /// Returns
    /// -------
    /// bool
    ///     Whether the lock was acquired.
    ///
    /// Raises
    /// ------
    /// procession.OwnerDiedError
    ///     If the process that held the lock has died. The lock is free again; no other waiter is
    ///     told.
    #[pyo3(
        signature = (block=Truthy(true), timeout=None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, block: Truthy, timeout: Option<f64>) -> PyResult<bool> {
        let made = self.made.get()?;
        let lock = &made.lock;
        let acquired = match lock.try_acquire() {
            None if block.0 => wait(py, deadline(timeout), |waiting| lock.acquire(waiting))?,
            acquired => acquired,
        };
        made.outcome(py, made.lock.handle(), acquired, |lock| {
            let _ = lock.release();
        })
    }

    /// Release the lock once; it is free after as many releases as acquisitions.
    ///
    /// Raises
    /// ------
    /// AssertionError
    ///     If this thread does not hold the lock.
    fn release(&self) -> PyResult<()> {
        self.lock()?.release().map_err(|_| {
            PyAssertionError::new_err("attempt to release recursive lock not owned by thread")
        })
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, Truthy(true), None)
    }

    #[pyo3(signature = (_type=None, _value=None, _traceback=None))]
    fn __exit__(
        &self,
        _type: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.release()
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

    fn _count(&self) -> PyResult<u64> {
        Ok(self.lock()?.depth())
    }
}
