//! `procession.synchronize`: Lock, RLock, Semaphore, Event, Condition, Barrier.

mod barrier;
mod condition;
pub(crate) mod lock_calls;

pub(crate) use barrier::Barrier;
pub(crate) use condition::Condition;

use procession_shm::arena::family;
use procession_shm::sync;
use procession_shm::wait::Acquired;
use pyo3::exceptions::{
    PyAssertionError, PyOSError, PyOverflowError, PyRuntimeWarning, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::{OwnerDiedError, arena_error, handle, open_as};
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

const OWNER_DIED: &std::ffi::CStr =
    c"the process that held the lock died without releasing it; what it guards may be half changed";

/// What becomes of an acquisition from a dead owner: true with a warning, or an exception.
#[cold]
fn owner_died(py: Python<'_>, recovers: bool, release: impl FnOnce()) -> PyResult<bool> {
    if recovers {
        let warned = PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), OWNER_DIED, 1);
        if warned.is_err() {
            release();
        }
        return warned.map(|()| true);
    }
    release();
    Err(OwnerDiedError::new_err(OWNER_DIED.to_string_lossy().into_owned()))
}

fn too_often() -> PyErr {
    PyValueError::new_err("semaphore or lock released too many times")
}

/// Mutual exclusion between processes, as `multiprocessing.Lock`.
#[pyclass(subclass, frozen, module = "procession._native")]
pub(crate) struct Lock {
    lock: sync::Lock,
    recovers: bool,
}

impl Lock {
    #[inline]
    fn try_acquire(&self) -> bool {
        self.lock.try_acquire()
    }

    #[inline]
    fn release(&self) -> bool {
        self.lock.release().is_ok()
    }
}

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (*, ctx=None, name="", on_owner_death="raise", _handle=None))]
    fn new(
        ctx: Option<Bound<'_, PyAny>>,
        name: &str,
        on_owner_death: &str,
        _handle: Option<&str>,
    ) -> PyResult<Self> {
        let _ = ctx;
        let recovers = recovers(on_owner_death)?;
        let lock = match _handle {
            Some(text) => sync::Lock::open(handle(text)?),
            None => family().and_then(|arena| sync::Lock::new(arena, name)),
        };
        Ok(Self { lock: lock.map_err(arena_error)?, recovers })
    }

    #[classmethod]
    #[pyo3(signature = (text, on_owner_death="raise"))]
    fn open<'py>(
        class: &Bound<'py, PyType>,
        text: &str,
        on_owner_death: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        open_as::<Self>(class, &[("_handle", text), ("on_owner_death", on_owner_death)])
    }

    #[getter]
    fn handle(&self) -> String {
        self.lock.handle().to_string()
    }

    #[pyo3(signature = (block=true, timeout=None))]
    fn _acquire(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        if self.try_acquire() {
            return Ok(true);
        }
        let acquired = if block {
            wait(py, deadline(timeout), |waiting| self.lock.acquire(waiting))?
        } else {
            self.lock.try_acquire_or_inherit()
        };
        match acquired {
            None => Ok(false),
            Some(Acquired::Clean) => Ok(true),
            Some(Acquired::OwnerDied(_)) => owner_died(py, self.recovers, || {
                let _ = self.lock.release();
            }),
        }
    }

    fn _release(&self) -> PyResult<()> {
        if self.release() { Ok(()) } else { Err(too_often()) }
    }

    /// Whether some thread holds it.
    fn locked(&self) -> bool {
        self.lock.owner().is_some()
    }

    fn _is_mine(&self) -> bool {
        self.lock.is_mine()
    }

    fn _owner_pid(&self) -> Option<u32> {
        owner_pid(self.lock.owner())
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (String, &'static str))> {
        let open = slf.get_type().getattr("open")?;
        let this = slf.get();
        let on_owner_death = if this.recovers { "recover" } else { "raise" };
        Ok((open, (this.handle(), on_owner_death)))
    }
}

fn owner_pid(owner: Option<procession_shm::wait::Owner>) -> Option<u32> {
    let slot = owner?.slot();
    let processes = family().ok()?.processes();
    processes.into_iter().find(|process| process.slot.index == slot).map(|process| process.pid)
}

/// A lock that its thread may acquire again, as `multiprocessing.RLock`.
#[pyclass(subclass, frozen, module = "procession._native")]
pub(crate) struct RLock {
    lock: sync::RLock,
    recovers: bool,
}

#[pymethods]
impl RLock {
    #[new]
    #[pyo3(signature = (*, ctx=None, name="", on_owner_death="raise", _handle=None))]
    fn new(
        ctx: Option<Bound<'_, PyAny>>,
        name: &str,
        on_owner_death: &str,
        _handle: Option<&str>,
    ) -> PyResult<Self> {
        let _ = ctx;
        let recovers = recovers(on_owner_death)?;
        let lock = match _handle {
            Some(text) => sync::RLock::open(handle(text)?),
            None => family().and_then(|arena| sync::RLock::new(arena, name)),
        };
        Ok(Self { lock: lock.map_err(arena_error)?, recovers })
    }

    #[classmethod]
    #[pyo3(signature = (text, on_owner_death="raise"))]
    fn open<'py>(
        class: &Bound<'py, PyType>,
        text: &str,
        on_owner_death: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        open_as::<Self>(class, &[("_handle", text), ("on_owner_death", on_owner_death)])
    }

    #[getter]
    fn handle(&self) -> String {
        self.lock.handle().to_string()
    }

    #[pyo3(signature = (block=true, timeout=None))]
    fn acquire(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let acquired = match self.lock.try_acquire() {
            None if block => wait(py, deadline(timeout), |waiting| self.lock.acquire(waiting))?,
            acquired => acquired,
        };
        match acquired {
            None => Ok(false),
            Some(Acquired::Clean) => Ok(true),
            Some(Acquired::OwnerDied(_)) => owner_died(py, self.recovers, || {
                let _ = self.lock.release();
            }),
        }
    }

    fn release(&self) -> PyResult<()> {
        self.lock.release().map_err(|_| {
            PyAssertionError::new_err("attempt to release recursive lock not owned by thread")
        })
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, true, None)
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

    fn _is_mine(&self) -> bool {
        self.lock.is_mine()
    }

    fn _count(&self) -> u64 {
        self.lock.depth()
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (String, &'static str))> {
        let open = slf.get_type().getattr("open")?;
        let this = slf.get();
        let on_owner_death = if this.recovers { "recover" } else { "raise" };
        Ok((open, (this.handle(), on_owner_death)))
    }
}

/// A counter of permits, as `multiprocessing.Semaphore` and `BoundedSemaphore`.
#[pyclass(subclass, frozen, module = "procession._native")]
pub(crate) struct Semaphore {
    semaphore: sync::Semaphore,
}

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (value=1, *, ctx=None, name="", bound=None, recover=false, _handle=None))]
    fn new(
        value: i64,
        ctx: Option<Bound<'_, PyAny>>,
        name: &str,
        bound: Option<u32>,
        recover: bool,
        _handle: Option<&str>,
    ) -> PyResult<Self> {
        let _ = ctx;
        if let Some(text) = _handle {
            let semaphore = sync::Semaphore::open(handle(text)?).map_err(arena_error)?;
            return Ok(Self { semaphore });
        }
        // The exceptions are those of `multiprocessing`.
        let value = i32::try_from(value)
            .map_err(|_| PyOverflowError::new_err("Python int too large to convert to C int"))?;
        let value =
            u32::try_from(value).map_err(|_| PyOSError::new_err((22, "Invalid argument")))?;
        if recover && value > sync::PERMITS_RECOVERED_MOST {
            return Err(PyValueError::new_err(format!(
                "a semaphore that recovers permits has at most {} of them, not {value}",
                sync::PERMITS_RECOVERED_MOST
            )));
        }
        let made = family().and_then(|arena| {
            if recover {
                sync::Semaphore::recovering(arena, name, value)
            } else {
                sync::Semaphore::new(arena, name, value, bound)
            }
        });
        Ok(Self { semaphore: made.map_err(arena_error)? })
    }

    #[classmethod]
    fn open<'py>(class: &Bound<'py, PyType>, text: &str) -> PyResult<Bound<'py, PyAny>> {
        open_as::<Self>(class, &[("_handle", text)])
    }

    #[getter]
    fn handle(&self) -> String {
        self.semaphore.handle().to_string()
    }

    #[pyo3(signature = (block=true, timeout=None))]
    fn acquire(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        if self.semaphore.try_acquire() {
            return Ok(true);
        }
        if !block {
            return Ok(false);
        }
        let acquired = wait(py, deadline(timeout), |waiting| self.semaphore.acquire(waiting))?;
        Ok(acquired.is_some())
    }

    fn release(&self) -> PyResult<()> {
        self.semaphore.release().map_err(|_| too_often())
    }

    fn get_value(&self) -> u32 {
        self.semaphore.value()
    }

    fn _bound(&self) -> u32 {
        self.semaphore.bound()
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, true, None)
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

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((slf.get_type().getattr("open")?, (slf.get().handle(),)))
    }
}

/// A flag that processes wait for, as `multiprocessing.Event`.
#[pyclass(subclass, frozen, module = "procession._native")]
pub(crate) struct Event {
    event: sync::Event,
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*, ctx=None, name="", _handle=None))]
    fn new(ctx: Option<Bound<'_, PyAny>>, name: &str, _handle: Option<&str>) -> PyResult<Self> {
        let _ = ctx;
        let event = match _handle {
            Some(text) => sync::Event::open(handle(text)?),
            None => family().and_then(|arena| sync::Event::new(arena, name)),
        };
        Ok(Self { event: event.map_err(arena_error)? })
    }

    #[classmethod]
    fn open<'py>(class: &Bound<'py, PyType>, text: &str) -> PyResult<Bound<'py, PyAny>> {
        open_as::<Self>(class, &[("_handle", text)])
    }

    #[getter]
    fn handle(&self) -> String {
        self.event.handle().to_string()
    }

    fn set(&self) {
        self.event.set();
    }

    fn clear(&self) {
        self.event.clear();
    }

    fn is_set(&self) -> bool {
        self.event.is_set()
    }

    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.event.is_set() {
            return Ok(true);
        }
        Ok(wait(py, deadline(timeout), |waiting| self.event.wait(waiting))?.is_some())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((slf.get_type().getattr("open")?, (slf.get().handle(),)))
    }
}
