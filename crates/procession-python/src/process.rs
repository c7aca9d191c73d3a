//! `procession.process`: following children.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use procession_os::clock::Monotonic;
use procession_os::pidfd::{ExitStatus, PidFd};
use procession_os::process;
use procession_shm::arena::{self, Slot, is_founded};
use procession_shm::wait::{BlockedOn, Operation, Probe};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::waiting::deadline;

/// A child process, followed by pidfd.
#[pyclass(frozen, module = "procession.process")]
pub(crate) struct Child {
    pid: u32,
    pidfd: PidFd,
    slot: Option<Slot>,
    /// How it ended, and the task that it had not finished; once it has been waited for.
    ended: OnceLock<(ExitStatus, Option<u64>)>,
}

/// The parent's side of a fork: gives the child to follow.
#[pyfunction]
pub(crate) fn forked(pid: u32) -> PyResult<Child> {
    let slot = arena::forked(Some(pid));
    Ok(Child { pid, pidfd: PidFd::open(pid)?, slot, ended: OnceLock::new() })
}

/// The parent's side of a fork that failed.
#[pyfunction]
pub(crate) fn not_forked() {
    arena::forked(None);
}

/// The child's first step: says what it is called.
#[pyfunction]
pub(crate) fn begin(name: &str) {
    if is_founded()
        && let Ok(arena) = arena::family()
    {
        arena.set_name(name);
    }
}

/// Binds the life of this process to that of its parent.
#[pyfunction]
pub(crate) fn die_with_parent(parent: u32, by_main_thread: bool) -> PyResult<()> {
    Ok(process::die_with_parent(parent, by_main_thread)?)
}

impl Child {
    fn bury(&self) {
        if let Some(slot) = self.slot
            && let Ok(arena) = arena::family()
        {
            arena.bury(slot);
        }
    }
}

#[pymethods]
impl Child {
    #[getter]
    fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor that is readable once the process has ended.
    fn fileno(&self) -> i32 {
        self.pidfd.as_fd().as_raw_fd()
    }

    /// Waits for the end; gives the exit code (negative for a signal, 255 where someone else took
    /// it), or None if the timeout came first.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<i32>> {
        let deadline = deadline(timeout);
        if deadline.is_none_or(|deadline| deadline > Monotonic::now()) && !self.pidfd.has_ended() {
            let arena = if is_founded() { arena::family().ok() } else { None };
            if let (Some(arena), Some(slot)) = (arena, self.slot) {
                let object = u32::from(slot.index);
                arena.blocked(BlockedOn { object, operation: Operation::Join });
            }
            let ended = loop {
                match py.detach(|| self.pidfd.ended_by(deadline)) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                        if let Err(raised) = py.check_signals() {
                            break Err(raised);
                        }
                    }
                    other => break other.map_err(PyErr::from),
                }
            };
            if let Some(arena) = arena {
                arena.running();
            }
            if !ended? {
                return Ok(None);
            }
        }
        // Attached, so no other thread that waits comes between.
        let (status, _) = match self.ended.get() {
            Some(&ended) => ended,
            None => {
                let Some(status) = self.pidfd.reap()? else { return Ok(None) };
                let task = self.task();
                self.bury();
                *self.ended.get_or_init(|| (status, task))
            }
        };
        Ok(Some(match status {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled(signal) => -signal,
            ExitStatus::Unknown => 255,
        }))
    }

    /// Sends a signal; nothing happens if the process is over.
    fn signal(&self, number: i32) -> PyResult<()> {
        match self.pidfd.signal(number) {
            Err(error) if error.raw_os_error() == Some(3) => Ok(()),
            other => other.map_err(PyOSError::new_err),
        }
    }

    /// The task that the process has written down and not finished, by its number; also after it was
    /// waited for, whoever did that.
    fn task(&self) -> Option<u64> {
        match self.ended.get() {
            Some(&(_, task)) => task,
            None => arena::family().ok()?.task_of(self.slot?),
        }
    }
}

/// Says that the task of this process, if any, is done.
#[pyfunction]
pub(crate) fn task_done() -> PyResult<()> {
    let task = crate::arena::own()?.task().map_err(crate::errors::arena_error)?;
    task.store(0, Ordering::Release);
    Ok(())
}
