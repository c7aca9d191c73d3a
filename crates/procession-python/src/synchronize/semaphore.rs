//! The semaphore.

use procession_shm::sync;
use pyo3::exceptions::{PyOSError, PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::too_often;
use crate::errors::{arena_error, handle};
use crate::init_once::InitOnce;
use crate::truthy::Truthy;
use crate::waiting::{deadline, wait};

/// A counter of permits, as `multiprocessing.Semaphore` and `BoundedSemaphore`.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct Semaphore {
    made: InitOnce<sync::Semaphore>,
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (*_args, **_kwds))]
    fn new(_args: &Bound<'_, PyTuple>, _kwds: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    #[pyo3(signature = (value, name, *, bounded=false, recover=false))]
    fn _make(
        &self,
        value: &Bound<'_, PyAny>,
        name: &str,
        bounded: bool,
        recover: bool,
    ) -> PyResult<()> {
        let py = value.py();
        // The exceptions are those of `multiprocessing`.
        let value = match value.extract::<i32>() {
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
                Err(PyOverflowError::new_err("Python int too large to convert to C int"))
            }
            other => other,
        }?;
        let value =
            u32::try_from(value).map_err(|_| PyOSError::new_err((22, "Invalid argument")))?;
        if recover && value > sync::MAX_RECOVERED_PERMITS {
            return Err(PyValueError::new_err(format!(
                "a semaphore that recovers permits has at most {} of them, not {value}",
                sync::MAX_RECOVERED_PERMITS
            )));
        }
        let made = crate::waiting::make(py, |arena| {
            if recover {
                sync::Semaphore::recovering(arena, name, value)
            } else {
                sync::Semaphore::new(arena, name, value, bounded.then_some(value))
            }
        });
        self.made.set(made?)
    }

    fn __getstate__(&self) -> PyResult<String> {
        self.handle()
    }

    fn __setstate__(&self, state: &str) -> PyResult<()> {
        self.made.set(sync::Semaphore::open(handle(state)?).map_err(arena_error)?)
    }

    /// What names the semaphore in other processes, as text; it is valid while some process has the
    /// semaphore open.
    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.made.get()?.handle().to_string())
    }

    /// Take a permit.
    ///
    /// Parameters
    /// ----------
    /// block : bool
    ///     Whether to wait if there is no permit.
    /// timeout : float, optional
    ///     The seconds to wait at most; without it there is no limit.
    ///
    /// Returns
    /// -------
    /// bool
    ///     Whether a permit was taken.
    #[pyo3(
        signature = (block=Truthy(true), timeout=None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, block: Truthy, timeout: Option<f64>) -> PyResult<bool> {
        let semaphore = self.made.get()?;
        if semaphore.try_acquire() {
            return Ok(true);
        }
        if !block.0 {
            return Ok(false);
        }
        let acquired = wait(py, deadline(timeout), |waiting| semaphore.acquire(waiting))?;
        Ok(acquired.is_some())
    }

    /// Give a permit back, or add one. Any process may do so.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     If the semaphore has as many permits as it may have.
    fn release(&self) -> PyResult<()> {
        self.made.get()?.release().map_err(|_| too_often())
    }

    /// Return the number of permits, which is exact at the instant.
    fn get_value(&self) -> PyResult<u32> {
        Ok(self.made.get()?.value())
    }

    /// Return whether there is no permit.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.get_value()? == 0)
    }

    fn _bound(&self) -> PyResult<u32> {
        Ok(self.made.get()?.bound())
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
}
