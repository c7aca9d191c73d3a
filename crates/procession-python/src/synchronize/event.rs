//! The event.

use procession_shm::arena::family;
use procession_shm::sync;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors::{arena_error, handle};
use crate::init_once::InitOnce;
use crate::waiting::{deadline, wait};

/// A flag that processes wait for, as `multiprocessing.Event`.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct Event {
    made: InitOnce<sync::Event>,
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*_args, **_kwds))]
    fn new(_args: &Bound<'_, PyTuple>, _kwds: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    fn _make(&self, name: &str) -> PyResult<()> {
        let event = family().and_then(|arena| sync::Event::new(arena, name));
        self.made.set(event.map_err(arena_error)?)
    }

    fn __getstate__(&self) -> PyResult<String> {
        self.handle()
    }

    fn __setstate__(&self, state: &str) -> PyResult<()> {
        self.made.set(sync::Event::open(handle(state)?).map_err(arena_error)?)
    }

    /// What names the event in other processes, as text; it is valid while some process has the
    /// event open.
    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.made.get()?.handle().to_string())
    }

    /// Set the flag; all waiters go on. It may be called in a signal handler.
    fn set(&self) -> PyResult<()> {
        self.made.get()?.set();
        Ok(())
    }

    /// Reset the flag, so that `wait` waits.
    fn clear(&self) -> PyResult<()> {
        self.made.get()?.clear();
        Ok(())
    }

    /// Return whether the flag is set.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.made.get()?.is_set())
    }

    /// Wait until the flag is set.
    ///
    /// Parameters
    /// ----------
    /// timeout : float, optional
    ///     The seconds to wait at most; without it there is no limit.
    ///
    /// Returns
    /// -------
    /// bool
    ///     Whether the flag was set in that time.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let event = self.made.get()?;
        if event.is_set() {
            return Ok(true);
        }
        Ok(wait(py, deadline(timeout), |waiting| event.wait(waiting))?.is_some())
    }
}
