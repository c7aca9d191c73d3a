//! `procession.synchronize`: Lock, RLock, Semaphore, Event, Condition, Barrier.

mod barrier;
mod condition;
pub(crate) mod lock_calls;

pub(crate) use barrier::Barrier;
pub(crate) use condition::Condition;

use std::ffi::CString;

use procession_shm::arena::{self, Handle, family};
use procession_shm::sync;
use procession_shm::wait::Acquired;
use pyo3::exceptions::{
    PyAssertionError, PyOSError, PyOverflowError, PyRuntimeWarning, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors::{Death, arena_error, handle};
use crate::objects::{Made, Truth};
use crate::waiting::{deadline, wait};

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

const FREE_AGAIN: &str = "The lock is free again and nobody else is told: acquire it, repair what \
                          it guards, and go on; or make the lock with \
                          on_owner_death=\"recover\", with \
                          which acquire() acquires it and warns instead";

/// What becomes of an acquisition from a dead owner: true with a warning, or an exception.
#[cold]
fn owner_died(
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

fn too_often() -> PyErr {
    PyValueError::new_err("semaphore or lock released too many times")
}

/// A lock and what `acquire` does when its owner has died.
struct WithDeath<L> {
    lock: L,
    recovers: bool,
}

impl<L> WithDeath<L> {
    fn new(on_owner_death: &str, lock: impl FnOnce() -> arena::Result<L>) -> PyResult<Self> {
        let recovers = recovers(on_owner_death)?;
        Ok(Self { lock: lock().map_err(arena_error)?, recovers })
    }

    /// What names the lock in another process, and what `acquire` does there.
    fn state(&self, handle: Handle) -> (String, &'static str) {
        (handle.to_string(), if self.recovers { "recover" } else { "raise" })
    }

    /// What becomes of an acquisition that was tried or waited for.
    fn outcome(
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

/// Mutual exclusion between processes, as `multiprocessing.Lock`.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct Lock {
    made: Made<WithDeath<sync::Lock>>,
}

impl Lock {
    #[inline]
    fn lock(&self) -> PyResult<&sync::Lock> {
        Ok(&self.made.get()?.lock)
    }

    /// Whether it was acquired at once; not if the object is not made yet.
    #[inline]
    fn try_acquire(&self) -> bool {
        self.made.if_made().is_some_and(|made| made.lock.try_acquire())
    }

    #[inline]
    fn release(&self) -> bool {
        self.made.if_made().is_some_and(|made| made.lock.release().is_ok())
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
        self.made.set(WithDeath::new(on_owner_death, lock)?)
    }

    fn __getstate__(&self) -> PyResult<(String, &'static str)> {
        let made = self.made.get()?;
        Ok(made.state(made.lock.handle()))
    }

    fn __setstate__(&self, state: (String, String)) -> PyResult<()> {
        let handle = handle(&state.0)?;
        self.made.set(WithDeath::new(&state.1, || sync::Lock::open(handle))?)
    }

    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.lock()?.handle().to_string())
    }

    #[pyo3(
        signature = (block=Truth(true), timeout=None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn _acquire(&self, py: Python<'_>, block: Truth, timeout: Option<f64>) -> PyResult<bool> {
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

    /// Whether some thread holds it.
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

fn owner_pid(owner: Option<procession_shm::wait::Owner>) -> Option<u32> {
    let slot = owner?.slot();
    let processes = family().ok()?.processes();
    processes.into_iter().find(|process| process.slot.index == slot).map(|process| process.pid)
}

/// A lock that its thread may acquire again, as `multiprocessing.RLock`.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct RLock {
    made: Made<WithDeath<sync::RLock>>,
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
        self.made.set(WithDeath::new(on_owner_death, lock)?)
    }

    fn __getstate__(&self) -> PyResult<(String, &'static str)> {
        let made = self.made.get()?;
        Ok(made.state(made.lock.handle()))
    }

    fn __setstate__(&self, state: (String, String)) -> PyResult<()> {
        let handle = handle(&state.0)?;
        self.made.set(WithDeath::new(&state.1, || sync::RLock::open(handle))?)
    }

    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.lock()?.handle().to_string())
    }

    #[pyo3(
        signature = (block=Truth(true), timeout=None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, block: Truth, timeout: Option<f64>) -> PyResult<bool> {
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

    fn release(&self) -> PyResult<()> {
        self.lock()?.release().map_err(|_| {
            PyAssertionError::new_err("attempt to release recursive lock not owned by thread")
        })
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, Truth(true), None)
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

    /// Whether some thread holds it.
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

/// A counter of permits, as `multiprocessing.Semaphore` and `BoundedSemaphore`.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct Semaphore {
    made: Made<sync::Semaphore>,
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
        if recover && value > sync::PERMITS_RECOVERED_MOST {
            return Err(PyValueError::new_err(format!(
                "a semaphore that recovers permits has at most {} of them, not {value}",
                sync::PERMITS_RECOVERED_MOST
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

    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.made.get()?.handle().to_string())
    }

    #[pyo3(
        signature = (block=Truth(true), timeout=None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn acquire(&self, py: Python<'_>, block: Truth, timeout: Option<f64>) -> PyResult<bool> {
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

    fn release(&self) -> PyResult<()> {
        self.made.get()?.release().map_err(|_| too_often())
    }

    fn get_value(&self) -> PyResult<u32> {
        Ok(self.made.get()?.value())
    }

    /// Whether there is no permit.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.get_value()? == 0)
    }

    fn _bound(&self) -> PyResult<u32> {
        Ok(self.made.get()?.bound())
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, Truth(true), None)
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

/// A flag that processes wait for, as `multiprocessing.Event`.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct Event {
    made: Made<sync::Event>,
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

    #[getter]
    fn handle(&self) -> PyResult<String> {
        Ok(self.made.get()?.handle().to_string())
    }

    fn set(&self) -> PyResult<()> {
        self.made.get()?.set();
        Ok(())
    }

    fn clear(&self) -> PyResult<()> {
        self.made.get()?.clear();
        Ok(())
    }

    fn is_set(&self) -> PyResult<bool> {
        Ok(self.made.get()?.is_set())
    }

    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let event = self.made.get()?;
        if event.is_set() {
            return Ok(true);
        }
        Ok(wait(py, deadline(timeout), |waiting| event.wait(waiting))?.is_some())
    }
}
