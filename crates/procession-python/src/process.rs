//! `procession.process`: following children.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::pidfd::{ExitStatus, PidFd};
use procession_os::process;
use procession_os::program;
use procession_os::report::Report;
use procession_os::spawn::inherited;
use procession_os::stat::{RunState, Stat};
use procession_shm::arena::{
    self, FollowedFork, Member, ProcessState, Slot, is_founded, leave_without_row,
};
use procession_shm::wait::{BlockedOn, Deadline, Operation, Probe};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::errors::{arena_error, os_error, text_of};
use crate::waiting::{deadline, look_around};

/// A child process, followed by pidfd.
#[pyclass(frozen, module = "procession._native")]
pub(crate) struct Child {
    pid: u32,
    /// The process that follows it.
    parent: u32,
    pidfd: PidFd,
    slot: Option<Slot>,
    /// A slot that was reserved for what the child is to hold until it has opened it.
    shares: Option<Slot>,
    /// Where the child's parent tells how it ended, if that is not this process.
    report: Option<Report>,
    /// How it ended, and the task that it had not finished; once it has been waited for.
    ended: OnceLock<(ExitStatus, Option<u64>)>,
}

/// Follows a child that has just been started; ends it if that can't be.
fn followed(pid: u32) -> PyResult<PidFd> {
    PidFd::open(pid).map_err(|error| {
        let _ = process::kill(pid, SIGKILL);
        let _ = process::reap(pid);
        os_error(error)
    })
}

const SIGKILL: i32 = 9;

/// After what time who joins a child looks after the others.
const TICK: Duration = Duration::from_millis(500);

/// After what time it is looked whether somebody is stopped who is to tell of an end.
const MOMENT: Duration = Duration::from_millis(5);

/// Forks by `os.fork`, with its hooks; the copy calls `run` and leaves with the status that it returns,
/// or with 1 if it raises. All in one call, so that a signal's handler runs neither between the fork
/// and its being known here, nor outside of `run` in the copy.
fn forked(py: Python<'_>, run: &Bound<'_, PyAny>) -> PyResult<(u32, PidFd, Option<Slot>)> {
    let os = py.import("os")?;
    // Children share the family's memory whatever is made first.
    arena::family().map_err(arena_error)?;
    // Given up for the descriptor by which the child is followed.
    let spare = PidFd::open(process::id()).map_err(os_error)?;
    let fork = FollowedFork::begin();
    let pid = match os.call_method0("fork").and_then(|pid| pid.extract()) {
        Ok(pid) => pid,
        Err(error) => {
            if error.is_instance_of::<PyOSError>(py) {
                fork.failed();
            }
            return Err(error);
        }
    };
    drop(spare);
    if pid == 0 {
        leave_without_row();
        let code = run.call0().and_then(|code| code.extract::<i64>());
        // The kernel has eight bits of it.
        leave(code.map_or(1, |code| (code & 0xff) as i32));
    }
    let slot = fork.forked(pid).inspect_err(|_| {
        // It has left by itself.
        let _ = process::reap(pid);
    });
    let slot = slot.map_err(arena_error)?;
    Ok((pid, followed(pid)?, slot))
}

/// Makes a copy of this process that calls `run` and leaves with the status that it returns; gives
/// the child to follow.
#[pyfunction]
pub(crate) fn fork(py: Python<'_>, run: &Bound<'_, PyAny>) -> PyResult<Child> {
    let (pid, pidfd, slot) = forked(py, run)?;
    let parent = process::id();
    Ok(Child { pid, parent, pidfd, slot, shares: None, report: None, ended: OnceLock::new() })
}

/// As `fork`, for another process that is to follow the child: gives the child's number, its pidfd and
/// its slot. Until the other follows it, this process does.
#[pyfunction]
pub(crate) fn fork_for_another(
    py: Python<'_>,
    run: &Bound<'_, PyAny>,
) -> PyResult<(u32, i32, Option<u64>)> {
    let (pid, pidfd, slot) = forked(py, run)?;
    Ok((pid, OwnedFd::from(pidfd).into_raw_fd(), slot.map(packed)))
}

/// A slot as a number.
fn packed(slot: Slot) -> u64 {
    u64::from(slot.generation) << 16 | u64::from(slot.index)
}

fn unpacked(slot: u64) -> Slot {
    Slot { index: slot as u16, generation: (slot >> 16) as u32 }
}

/// Reserves a slot for a child that does not come by fork, with a share in all that is open here.
#[pyfunction]
pub(crate) fn reserve() -> PyResult<u64> {
    let arena = arena::family().map_err(arena_error)?;
    arena.reserve_for_child().map(packed).map_err(arena_error)
}

/// Gives back what `reserve` gave, for a child that was not started.
#[pyfunction]
pub(crate) fn unreserve(slot: u64) -> PyResult<()> {
    arena::family().map_err(arena_error)?.unreserve(unpacked(slot));
    Ok(())
}

/// Starts a program; it has the arena's descriptor as number 3 and those of `fds` behind it.
#[pyfunction]
pub(crate) fn start_program(
    py: Python<'_>,
    program: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    fds: Vec<i32>,
) -> PyResult<u32> {
    let text = |bytes| CString::new(bytes).map_err(|_| PyValueError::new_err("embedded null byte"));
    let program = text(program)?;
    let arguments = arguments.into_iter().map(text).collect::<PyResult<Vec<_>>>()?;
    let arguments: Vec<&CStr> = arguments.iter().map(CString::as_c_str).collect();
    let arena = arena::family().map_err(arena_error)?;
    let mut pass = vec![arena.descriptor().map_err(arena_error)?.as_raw_fd()];
    pass.extend(fds);
    let started = py.detach(|| program::start(&program, &arguments, None, &pass));
    started.map_err(|error| match error.raw_os_error() {
        Some(number) => {
            let name = String::from_utf8_lossy(program.to_bytes()).into_owned();
            PyOSError::new_err((number, text_of(&error), name))
        }
        None => error.into(),
    })
}

/// The parent's side of a start: gives the child to follow. `pidfd` and `report` become the child's;
/// the latter is where another process, that forked it, tells its exit code.
#[pyfunction]
#[pyo3(signature = (pid, slot, *, shares=None, pidfd=None, report=None))]
pub(crate) fn follow(
    pid: u32,
    slot: Option<u64>,
    shares: Option<u64>,
    pidfd: Option<i32>,
    report: Option<i32>,
) -> PyResult<Child> {
    let slot = slot.map(unpacked);
    if let Some(slot) = slot {
        arena::family().map_err(arena_error)?.follow(slot, pid);
    }
    let pidfd = match pidfd {
        Some(number) => PidFd::from_fd(pid, inherited(number).map_err(os_error)?),
        None => followed(pid)?,
    };
    let report = report.map(inherited).transpose().map_err(os_error)?.map(Report::from_fd);
    let shares = shares.map(unpacked);
    let parent = process::id();
    Ok(Child { pid, parent, pidfd, slot, shares, report, ended: OnceLock::new() })
}

/// The first step of a process that was not forked: joins the family whose arena a descriptor is, in
/// the slot that was reserved.
#[pyfunction]
pub(crate) fn inherit(fd: i32, slot: u64) -> PyResult<()> {
    arena::inherit_as(inherited(fd).map_err(os_error)?, unpacked(slot))
        .map(|_| ())
        .map_err(arena_error)
}

/// Takes a share in all that a reserved slot holds.
#[pyfunction]
pub(crate) fn take_over(slot: u64) -> PyResult<()> {
    let arena = arena::family().map_err(arena_error)?;
    arena.take_over(unpacked(slot)).map_err(arena_error)
}

/// Gives back the shares in what this process has not opened.
#[pyfunction]
pub(crate) fn drop_unopened() -> PyResult<()> {
    arena::family().map_err(arena_error)?.drop_unopened();
    Ok(())
}

/// Buries a child that nobody follows.
#[pyfunction]
pub(crate) fn bury(slot: u64) -> PyResult<()> {
    arena::family().map_err(arena_error)?.bury(unpacked(slot));
    Ok(())
}

/// The child's first step: says what it is called.
#[pyfunction]
pub(crate) fn begin(name: &str) {
    arena::name_process(name);
}

/// Says that this process was started by another than the one that forked it.
#[pyfunction]
pub(crate) fn set_parent(pid: u32) -> PyResult<()> {
    arena::family().map_err(arena_error)?.set_parent(pid);
    Ok(())
}

/// Binds the life of this process to that of its parent.
#[pyfunction]
pub(crate) fn die_with_parent(parent: u32, by_main_thread: bool) -> PyResult<()> {
    process::die_with_parent(parent, by_main_thread).map_err(os_error)
}

/// Says that this process is about to leave, and with which exit code, if it belongs to a family.
#[pyfunction]
pub(crate) fn leave_with(code: i32) {
    if is_founded()
        && let Ok(arena) = arena::family()
    {
        // As the kernel does with what is given to `_exit(2)`.
        arena.leave_with(code as u8);
    }
}

/// Leaves at once, as `os._exit` does.
fn leave(code: i32) -> ! {
    leave_with(code);
    process::exit_now(code);
}

/// Binds the life of this process to that of another, by its pidfd, which becomes this function's; the
/// parent looks after that for as long as it lives itself.
#[pyfunction]
pub(crate) fn die_with_ward(ward: i32, keeper: u32) -> PyResult<()> {
    let ward = inherited(ward).map_err(os_error)?;
    process::die_with_ward(ward, keeper).map_err(os_error)
}

impl Child {
    /// Whether the process has ended, and it is known how, before the deadline.
    fn is_over_by(&self, deadline: Monotonic) -> io::Result<bool> {
        Ok(self.pidfd.ended_by(Some(deadline))?
            && match &self.report {
                Some(report) => self.is_told_by(report, deadline)?,
                None => true,
            })
    }

    /// Whether it is told how the process ended, which it has. That comes in a moment, for which also
    /// those wait whose deadline has passed; unless the one is stopped that is to tell.
    fn is_told_by(&self, report: &Report, deadline: Monotonic) -> io::Result<bool> {
        loop {
            let now = Monotonic::now();
            match report.comes_by(Some(now.after(MOMENT))) {
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                told => return told,
            }
            let teller = Stat::of(self.pid).and_then(|process| Stat::of(process.parent));
            if deadline <= now && teller.is_some_and(|stat| stat.state == RunState::Stopped) {
                return Ok(false);
            }
        }
    }

    fn wait_until_over(&self, py: Python<'_>, deadline: Deadline) -> PyResult<bool> {
        loop {
            let tick = Monotonic::now().after(TICK);
            let until = deadline.map_or(tick, |deadline| deadline.min(tick));
            match py.detach(|| self.is_over_by(until)) {
                Ok(false) if deadline.is_none_or(|deadline| deadline > until) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                over => return over.map_err(os_error),
            }
            look_around(py)?;
        }
    }

    fn bury(&self) {
        if let Some(slot) = self.slot
            && let Ok(arena) = arena::family()
        {
            arena.bury(slot);
            if let Some(shares) = self.shares {
                arena.unreserve(shares);
            }
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
    /// it and nothing tells), or None if the timeout came first.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<i32>> {
        if process::id() != self.parent {
            // In a copy of the parent: what is to be known of it the parent finds out.
            return Ok(None);
        }
        let deadline = deadline(timeout);
        let now = Monotonic::now();
        if !py.detach(|| self.is_over_by(now)).map_err(os_error)? {
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(None);
            }
            let arena = if is_founded() { arena::family().ok() } else { None };
            if let (Some(arena), Some(slot)) = (arena, self.slot) {
                let object = u32::from(slot.index);
                arena.blocked(BlockedOn { object, operation: Operation::Join });
            }
            let ended = self.wait_until_over(py, deadline);
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
                let status = match &self.report {
                    Some(report) => match py.detach(|| report.exit_code()) {
                        Some(code) if code < 0 => Some(ExitStatus::Signaled(-code)),
                        Some(code) => Some(ExitStatus::Exited(code)),
                        None => arena::reap(&self.pidfd, self.slot).map_err(os_error)?,
                    },
                    None => arena::reap(&self.pidfd, self.slot).map_err(os_error)?,
                };
                let Some(status) = status else { return Ok(None) };
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
            other => other.map_err(os_error),
        }
    }

    /// Sends a signal to the process and all that it started, directly or not; gives how many got it.
    fn signal_tree(&self, py: Python<'_>, number: i32) -> PyResult<usize> {
        py.detach(|| arena::signal_tree(&self.pidfd, number)).map_err(os_error)
    }

    /// What the process is doing.
    fn state(&self, py: Python<'_>) -> StateParts {
        parts_of(&py.detach(|| arena::state_of(&self.pidfd, self.slot)))
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

/// A state in one word; if it is known what is waited for: the operation, the object's handle, kind and
/// name, the seconds so far, and the pid and name of who is waited for.
type StateParts = (&'static str, Option<BlockedParts>);
type BlockedParts = (String, Option<(String, String, String)>, f64, Option<(u32, String)>);

fn parts_of(state: &ProcessState) -> StateParts {
    let ProcessState::Blocked(Some(blocked)) = state else { return (state.name(), None) };
    let object = blocked
        .object
        .as_ref()
        .map(|(handle, kind, name)| (handle.to_string(), kind.to_string(), name.clone()));
    let seconds = Monotonic::now().since(blocked.since).as_secs_f64();
    let on = blocked.on.as_ref().map(|process| (process.pid, process.name.clone()));
    (state.name(), Some((blocked.operation.to_string(), object, seconds, on)))
}

/// A process of the family: pid, parent's pid, depth, name, state, task.
type MemberParts = (u32, u32, usize, String, StateParts, Option<u64>);

/// The processes of the family, each before its children.
#[pyfunction]
pub(crate) fn tree(py: Python<'_>) -> PyResult<Vec<MemberParts>> {
    let arena = arena::family().map_err(arena_error)?;
    let members = py.detach(|| {
        let members = arena.tree();
        // Seen, and no longer in the way.
        arena.bury_abandoned();
        members
    });
    let parts = |member: Member| {
        let state = parts_of(&member.state);
        (member.pid, member.parent, member.depth, member.name, state, member.task)
    };
    Ok(members.into_iter().map(parts).collect())
}

/// Says that the task of this process, if any, is done.
#[pyfunction]
pub(crate) fn task_done() -> PyResult<()> {
    let task = crate::arena::own()?.task().map_err(crate::errors::arena_error)?;
    task.store(0, Ordering::Release);
    Ok(())
}
