//! `procession.process`: following children.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::parent_death;
use procession_os::pidfd::PidFd;
use procession_os::process;
use procession_os::spawn::{inherited, start};
use procession_shm::arena::{self, Arena, FollowedFork, Slot, is_founded, leave_without_row};
use procession_shm::process::{
    Child as Followed, ExitReport, ExitStatus, Member, ProcessState, SpareDescriptor,
};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::errors::{arena_error, os_error, text_of};
use crate::pickling::prepare_pickling;
use crate::waiting::{deadline, look_around};

/// A child process, followed by pidfd. Until [`Child::keep`] is called, the process ends with this
/// object: the exception of a signal handler may drop the object at any point of a start.
#[pyclass(frozen, module = "procession._native")]
pub(crate) struct Child {
    followed: Followed,
    is_kept: AtomicBool,
}

impl From<Followed> for Child {
    fn from(followed: Followed) -> Self {
        Self { followed, is_kept: AtomicBool::new(false) }
    }
}

/// The longest wait for the end of a child that was not kept.
const LAST_WAIT: Duration = Duration::from_secs(1);

impl Drop for Child {
    fn drop(&mut self) {
        if *self.is_kept.get_mut() || !self.followed.is_mine() {
            return;
        }
        let _ = self.followed.signal(SIGKILL);
        let deadline = Some(Monotonic::now().after(LAST_WAIT));
        if let Ok(true) = self.followed.wait::<io::Error>(deadline, || Ok(()))
            && let Ok(Some(_)) = self.followed.take_status()
        {
            self.followed.bury();
        }
    }
}

const SIGKILL: i32 = 9;

/// Forks by `os.fork`, with its hooks; the copy calls `run` and exits with the status that `run`
/// returns, or with 1 if it raises. This is one call, so that no signal handler runs between the
/// fork and its entry here, or outside of `run` in the copy.
fn forked(py: Python<'_>, run: &Bound<'_, PyAny>) -> PyResult<(u32, PidFd, Option<Slot>)> {
    let os = py.import("os")?;
    // So that at the fork no other thread is in the middle of this.
    prepare_pickling(py)?;
    // Children share the family's memory whatever is made first.
    arena::family().map_err(arena_error)?;
    let spare = SpareDescriptor::reserve().map_err(os_error)?;
    let fork = FollowedFork::begin();
    let pid = match os.call_method0("fork").and_then(|pid| pid.extract()) {
        Ok(pid) => pid,
        Err(error) => {
            if error.is_instance_of::<PyOSError>(py) {
                fork.failed();
            } else if let Some(pid) = fork.child_despite_error() {
                // If the warning about threads is an error, it is raised after the fork.
                let _ = process::kill(pid, SIGKILL);
                let _ = process::reap(pid);
            }
            return Err(error);
        }
    };
    if pid == 0 {
        drop(spare);
        leave_without_row();
        let code = run.call0().and_then(|code| code.extract::<i64>());
        // The kernel keeps eight bits of it.
        leave(code.map_or(1, |code| (code & 0xff) as i32));
    }
    let slot = fork.forked(pid).inspect_err(|_| {
        // The child exits by itself.
        let _ = process::reap(pid);
    });
    let slot = slot.map_err(arena_error)?;
    let pidfd = spare.follow(pid).map_err(os_error)?;
    Ok((pid, pidfd, slot))
}

/// Makes a copy of this process that calls `run` and leaves with the status that `run` returns.
/// Returns the child to follow.
#[pyfunction]
pub(crate) fn fork(py: Python<'_>, run: &Bound<'_, PyAny>) -> PyResult<Child> {
    let (_, pidfd, slot) = forked(py, run)?;
    Ok(Followed::new(pidfd, slot).into())
}

/// Whether this process has the number `pid`, and is not a forked copy of the process that has it.
/// It takes no system call.
#[pyfunction]
pub(crate) fn is_process(pid: u32) -> bool {
    process::id() == pid
}

/// As `fork`, for another process that is to follow the child: returns the child's number, its
/// pidfd and its slot. Until the other follows it, this process does.
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

/// Reserves a slot for a child that is not forked, with a share in every object that is open here.
#[pyfunction]
pub(crate) fn reserve() -> PyResult<u64> {
    let arena = arena::family().map_err(arena_error)?;
    arena.reserve_for_child().map(packed).map_err(arena_error)
}

/// Gives back what `reserve` returned, for a child that was not started.
#[pyfunction]
pub(crate) fn unreserve(slot: u64) -> PyResult<()> {
    arena::family().map_err(arena_error)?.unreserve(unpacked(slot));
    Ok(())
}

/// Starts a program that is to take a reserved slot, which is given back if it can't be started;
/// returns the child to follow. It has the arena's descriptor as number 3 and those of `fds` behind
/// it.
#[pyfunction]
pub(crate) fn start_program(
    py: Python<'_>,
    arguments: Vec<Vec<u8>>,
    slot: u64,
    fds: Vec<i32>,
) -> PyResult<Child> {
    let slot = unpacked(slot);
    let arena = arena::family().map_err(arena_error)?;
    let started = spawned(py, arena, arguments, fds);
    let pidfd = started.inspect_err(|_| arena.unreserve(slot))?;
    arena.follow(slot, pidfd.pid());
    Ok(Followed::new(pidfd, Some(slot)).into())
}

fn spawned(
    py: Python<'_>,
    arena: &Arena,
    arguments: Vec<Vec<u8>>,
    fds: Vec<i32>,
) -> PyResult<PidFd> {
    let text = |bytes| CString::new(bytes).map_err(|_| PyValueError::new_err("embedded null byte"));
    let arguments = arguments.into_iter().map(text).collect::<PyResult<Vec<_>>>()?;
    let arguments: Vec<&CStr> = arguments.iter().map(CString::as_c_str).collect();
    let program = arguments.first().ok_or_else(|| PyValueError::new_err("no program"))?;
    let mut pass = vec![arena.descriptor().map_err(arena_error)?.as_raw_fd()];
    pass.extend(fds);
    let spare = SpareDescriptor::reserve().map_err(os_error)?;
    let pid = py.detach(|| start(program, &arguments, None, &pass));
    let pid = pid.map_err(|error| match error.raw_os_error() {
        Some(number) => {
            let name = String::from_utf8_lossy(program.to_bytes()).into_owned();
            PyOSError::new_err((number, text_of(&error), name))
        }
        None => error.into(),
    })?;
    spare.follow(pid).map_err(os_error)
}

/// Follows a child that another process has forked for this one; returns it. `pidfd` and `report`
/// become the child's; from `report` the exit code is read, which the other process writes.
#[pyfunction]
pub(crate) fn follow(
    pid: u32,
    slot: Option<u64>,
    shares: u64,
    pidfd: i32,
    report: i32,
) -> PyResult<Child> {
    let slot = slot.map(unpacked);
    if let Some(slot) = slot {
        arena::family().map_err(arena_error)?.follow(slot, pid);
    }
    let pidfd = PidFd::from_fd(pid, inherited(pidfd).map_err(os_error)?);
    let report = ExitReport::from_fd(inherited(report).map_err(os_error)?);
    let followed = Followed::new(pidfd, slot).with_shares(unpacked(shares));
    Ok(followed.with_report(report).into())
}

/// The first step of a process that was not forked: joins the family by the descriptor of its
/// arena, in the slot that was reserved.
#[pyfunction]
pub(crate) fn inherit(fd: i32, slot: u64) -> PyResult<()> {
    arena::inherit_as(inherited(fd).map_err(os_error)?, unpacked(slot))
        .map(|_| ())
        .map_err(arena_error)
}

/// Takes a share in every object that a reserved slot holds.
#[pyfunction]
pub(crate) fn take_over(slot: u64) -> PyResult<()> {
    let arena = arena::family().map_err(arena_error)?;
    arena.take_over(unpacked(slot)).map_err(arena_error)
}

/// Gives back the shares in objects that this process has not opened.
#[pyfunction]
pub(crate) fn drop_unopened() -> PyResult<()> {
    arena::family().map_err(arena_error)?.drop_unopened();
    Ok(())
}

/// Buries a child that no process follows.
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

/// Says which process started this one, if that is not the process that forked it.
#[pyfunction]
pub(crate) fn set_parent(pid: u32) -> PyResult<()> {
    arena::family().map_err(arena_error)?.set_parent(pid);
    Ok(())
}

/// Binds the life of this process to that of its parent.
#[pyfunction]
pub(crate) fn die_with_parent(parent: u32, by_main_thread: bool) -> PyResult<()> {
    parent_death::die_with_parent(parent, by_main_thread).map_err(os_error)
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

/// Binds the life of this process to that of another, by its pidfd, which this function takes over.
/// The parent ends this process then, for as long as the parent lives itself.
#[pyfunction]
pub(crate) fn die_with(watched: i32, parent: u32) -> PyResult<()> {
    let watched = inherited(watched).map_err(os_error)?;
    parent_death::die_with(watched, parent).map_err(os_error)
}

#[pymethods]
impl Child {
    #[getter]
    fn pid(&self) -> u32 {
        self.followed.pid()
    }

    /// A descriptor that is readable once the process has ended.
    fn fileno(&self) -> i32 {
        self.followed.as_fd().as_raw_fd()
    }

    /// Lets the child live on when this object is dropped: its owner knows the child from now on.
    fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }

    /// Waits for the end; returns the exit code, or None if the timeout came first. The code is
    /// negative for a signal, and 255 if other code took the status and it can't be known.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<i32>> {
        if !self.followed.is_mine() {
            // In a copy of the parent: only the parent follows the child.
            return Ok(None);
        }
        let deadline = deadline(timeout);
        let attached_look = || Python::attach(look_around).map_err(Stop::Raised);
        let status = py.detach(|| {
            if !self.followed.wait(deadline, attached_look)? {
                return Ok(None);
            }
            let status = self.followed.take_status()?;
            if status.is_some() {
                self.followed.bury();
            }
            Ok(status)
        });
        let status = status.map_err(|stop| match stop {
            Stop::Os(error) => os_error(error),
            Stop::Raised(error) => error,
        })?;
        Ok(status.map(|status| match status {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled(signal) => -signal,
            ExitStatus::Unknown => 255,
        }))
    }

    /// Sends a signal; nothing happens if the process is over.
    fn signal(&self, number: i32) -> PyResult<()> {
        self.followed.signal(number).map_err(os_error)
    }

    /// Sends a signal to the process and all that it started, directly or not; returns how many got
    /// it.
    fn signal_tree(&self, py: Python<'_>, number: i32) -> PyResult<usize> {
        py.detach(|| self.followed.signal_tree(number)).map_err(os_error)
    }

    /// What the process is doing.
    fn state(&self, py: Python<'_>) -> StateParts {
        parts_of(&py.detach(|| self.followed.state()))
    }

    /// The task that the process has written down and not finished, by its number; also after the
    /// process was waited for, by any caller.
    fn task(&self, py: Python<'_>) -> Option<u64> {
        py.detach(|| self.followed.task())
    }
}

/// Why a wait for a child ended before the child.
enum Stop {
    Os(io::Error),
    /// A signal handler raised an exception.
    Raised(PyErr),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

/// A state in one word. If it is known what is waited for, also: the operation; the object's
/// handle, kind and name; the seconds so far; and the pid and name of the process waited for.
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
        // They have been listed, and their slots can be freed.
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
