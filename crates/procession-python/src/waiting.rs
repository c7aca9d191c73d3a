//! The only place where Python waits: detached from the interpreter, until a deadline. Pending
//! signals are handled whenever one comes or some time has passed.

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_shm::arena::{self, Arena, Error, family, is_founded};
use procession_shm::wait::{Deadline, Wait, WaitError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::errors::arena_error;

/// The deadline that a timeout in seconds means: `None` is never, negative is now.
pub(crate) fn deadline(timeout: Option<f64>) -> Deadline {
    timeout.map(|seconds| {
        let span = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        Monotonic::now().after(span)
    })
}

/// What is to be done whenever a wait comes back before its end:
///
/// - signal handlers are called, which may raise;
/// - children that have ended are reaped, since they may never be joined;
/// - shared memory that has been idle goes back to the machine.
pub(crate) fn look_around(py: Python<'_>) -> PyResult<()> {
    static REAP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    py.check_signals()?;
    if is_founded()
        && let Ok(arena) = family()
    {
        py.detach(|| arena.look_after_heap());
    }
    // What this raises comes from a signal handler as well.
    REAP.import(py, "procession.process", "reap_unjoined")?.call0().map(|_| ())
}

/// Makes an object in the family's arena. If another process blocks that for long, pending signals
/// are handled meanwhile.
pub(crate) fn make<T: Send>(
    py: Python<'_>,
    make: impl Fn(&'static Arena) -> arena::Result<T> + Sync,
) -> PyResult<T> {
    loop {
        match py.detach(|| make(family()?)) {
            Err(Error::Wait(WaitError::Interrupted)) => look_around(py)?,
            made => return made.map_err(arena_error),
        }
    }
}

/// Calls `wait` again and again, until it ends by anything but a signal; a signal ends the wait
/// only if its handler raises.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    wait: impl Fn(Wait) -> Result<T, WaitError> + Sync,
) -> PyResult<Option<T>> {
    if is_founded() {
        family().and_then(|arena| arena.check_member()).map_err(arena_error)?;
    }
    let waiting = Wait { deadline, interruptible: true };
    loop {
        match py.detach(|| wait(waiting)) {
            Ok(value) => return Ok(Some(value)),
            Err(WaitError::TimedOut) => return Ok(None),
            Err(WaitError::Interrupted) => look_around(py)?,
        }
    }
}
