//! The one place where Python waits: detached from the interpreter, until a deadline, and with a
//! look at pending signals whenever one comes or some time has passed.

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_shm::wait::{Deadline, Stopped, Waiting};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The deadline that a timeout in seconds means: `None` is never, negative is now.
pub(crate) fn deadline(timeout: Option<f64>) -> Deadline {
    timeout.map(|seconds| {
        let span = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        Monotonic::now().after(span)
    })
}

/// What is to be done whenever a wait comes back before its end: signal handlers are called, which may
/// raise, and children that have ended are reaped, for it may be that nobody joins them.
pub(crate) fn look_around(py: Python<'_>) -> PyResult<()> {
    static REAP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    py.check_signals()?;
    // What this raises comes from a signal handler as well.
    REAP.import(py, "procession.process", "reap_unjoined")?.call0().map(|_| ())
}

/// Calls `wait` until it ends otherwise than by a signal whose handler lets the program go on.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    wait: impl Fn(Waiting) -> Result<T, Stopped> + Sync,
) -> PyResult<Option<T>> {
    let waiting = Waiting { deadline, interruptible: true };
    loop {
        match py.detach(|| wait(waiting)) {
            Ok(value) => return Ok(Some(value)),
            Err(Stopped::TimedOut) => return Ok(None),
            Err(Stopped::Interrupted) => look_around(py)?,
        }
    }
}
