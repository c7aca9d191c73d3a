//! This process and others: identity, liveness, fork, and dying with one's parent.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::pidfd::PidFd;
use crate::stat::{RunState, Stat};

/// This process's number.
#[must_use]
pub fn id() -> u32 {
    // SAFETY: getpid has no preconditions.
    unsafe { libc::getpid() as u32 }
}

/// The number of this process's parent.
#[must_use]
pub fn parent_id() -> u32 {
    // SAFETY: getppid has no preconditions.
    unsafe { libc::getppid() as u32 }
}

thread_local! {
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

/// This thread's number in the kernel (`gettid(2)`), remembered for the thread's life.
#[inline]
#[must_use]
pub fn thread_id() -> u32 {
    let known = THREAD.get();
    if known != 0 {
        return known;
    }
    // SAFETY: gettid has no preconditions.
    let id = unsafe { libc::syscall(libc::SYS_gettid) as u32 };
    THREAD.set(id);
    id
}

/// Forgets what [`thread_id`] remembered: the one thread of a forked child has a new number.
pub(crate) fn forget_thread_id() {
    THREAD.set(0);
}

/// When the process started, in clock ticks since boot: see [`Stat::started`].
///
/// `None` if there is no such process, or only its zombie. Allocates nothing, so that it may be
/// called in a freshly forked child.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = Stat::of(pid)?;
    (!matches!(stat.state, RunState::Zombie | RunState::Dead)).then_some(stat.started)
}

/// Whether the process that had this number and start time still runs. A zombie doesn't.
///
/// A `started` of 0 means that the start time isn't known, and only the number is looked at.
#[must_use]
pub fn is_alive(pid: u32, started: u64) -> bool {
    let pidfd = match PidFd::open(pid) {
        Ok(pidfd) => pidfd,
        // Without a descriptor to spare (`EMFILE`) this process can't look closely; what it can't
        // see to be dead counts as alive.
        Err(error) => return !means_nobody(&error) && exists(pid),
    };
    // A process whose first thread has left while others run looks like a zombie in /proc, but its
    // pidfd isn't readable.
    !pidfd.has_ended() && (started == 0 || start_time(pid).is_none_or(|time| time == started))
}

/// Whether `pidfd_open(2)` says so that there is no such process: the number is free, or a thread's.
fn means_nobody(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL | libc::ENOENT))
}

fn exists(pid: u32) -> bool {
    kill(pid, 0).map_or_else(|error| error.raw_os_error() != Some(libc::ESRCH), |()| true)
}

/// Which side of [`fork`] this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The caller, told the number of its child.
    Parent(u32),
}

/// Makes a copy of this process (`fork(2)`); the copy has the calling thread alone.
///
/// # Errors
/// As `fork(2)`.
///
/// # Safety
/// Locks that other threads hold at this moment stay locked for ever in the child, so it may only
/// do what does not need them. With one thread ([`is_single_threaded`]) anything goes.
pub unsafe fn fork() -> io::Result<Fork> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as u32)),
    }
}

/// Whether this process has one thread, as the kernel counts them (`/proc/self/task`).
#[must_use]
pub fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Ends this process at once: no destructor, no `atexit`, no buffer is written (`_exit(2)`).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Ends this process by SIGKILL.
pub fn kill_self() -> ! {
    // SAFETY: kill has no preconditions; SIGKILL to oneself does not return.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
    exit_now(137)
}

static GUARDIAN: AtomicU32 = AtomicU32::new(0);

extern "C" fn parent_thread_ended(_signal: libc::c_int) {
    // Only async-signal-safe calls: getppid, _exit by way of kill.
    if parent_id() != GUARDIAN.load(Ordering::Relaxed) {
        kill_self();
    }
}

/// Binds this process's life to that of its parent `parent`: it is ended when the parent is, also
/// by SIGKILL.
///
/// `PR_SET_PDEATHSIG` (`prctl(2)`) follows the *thread* that forked. If that was the parent's main
/// thread (`by_main_thread`), whose end is the process's, the signal is SIGKILL. Otherwise it is the
/// highest real-time signal, with a handler that looks whether the process is still there; the
/// kernel sends it again at the next change of parent thread.
///
/// # Errors
/// As `prctl(2)` and `sigaction(2)`.
pub fn die_with_parent(parent: u32, by_main_thread: bool) -> io::Result<()> {
    let signal = if by_main_thread { libc::SIGKILL } else { libc::SIGRTMAX() };
    // SAFETY: the handler is async-signal-safe; the structures are initialised whole.
    unsafe {
        if !by_main_thread {
            GUARDIAN.store(parent, Ordering::Relaxed);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = parent_thread_ended as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            if libc::sigaction(signal, &action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    if parent_id() != parent {
        // It ended before the signal was asked for.
        kill_self();
    }
    Ok(())
}

/// Whether the calling thread is the process's first.
#[must_use]
pub fn is_main_thread() -> bool {
    thread_id() == id()
}

/// Sends a signal to a process, both by number.
///
/// # Errors
/// As `kill(2)`.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: kill has no preconditions.
    match unsafe { libc::kill(pid as libc::pid_t, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_has_a_start_time() {
        let started = start_time(id()).unwrap();
        assert!(is_alive(id(), started));
        assert!(is_alive(id(), 0));
        assert!(!is_alive(id(), started + 1), "the number was reused");
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = PidFd::open(child.id()).unwrap();
        pidfd.ended_by(None).unwrap();
        assert!(!is_alive(child.id(), 0));
        child.wait().unwrap();
    }
}
