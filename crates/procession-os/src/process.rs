//! This process and others: identity, liveness, fork, signals.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pidfd::PidFd;
use crate::stat::{self, RunState, Stat};
use crate::wiped;

/// This process's number, remembered for the process's life, as the C library does not.
#[inline]
#[must_use]
pub fn id() -> u32 {
    match wiped::process_id() {
        0 => ask_id(),
        id => id,
    }
}

#[cold]
fn ask_id() -> u32 {
    // SAFETY: getpid has no preconditions.
    let id = unsafe { libc::getpid() as u32 };
    wiped::keep_process_id(id);
    id
}

/// The number of this process's parent.
#[must_use]
pub fn parent_id() -> u32 {
    // SAFETY: getppid has no preconditions.
    unsafe { libc::getppid() as u32 }
}

thread_local! {
    /// The number of this thread, below the stamp of the process that it was asked in.
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// This thread's number in the kernel (`gettid(2)`), remembered for the thread's life. A copy of
/// the process does not inherit the remembered number, whatever code it runs first.
#[inline]
#[must_use]
pub fn thread_id() -> u32 {
    let known = THREAD.get();
    if known != 0 && known >> 32 == wiped::stamp() { known as u32 } else { ask_thread_id() }
}

#[cold]
fn ask_thread_id() -> u32 {
    let stamp = wiped::make_stamp(forget_namespace);
    // SAFETY: gettid has no preconditions.
    let id = unsafe { libc::syscall(libc::SYS_gettid) as u32 };
    THREAD.set(stamp << 32 | u64::from(id));
    id
}

/// In a copy of a process: forgets what it knew of `/proc`, and its PID namespace if it made one
/// for its children.
fn forget_namespace() {
    stat::forget_after_fork();
    // The parent can't be seen from another namespace than its own.
    if parent_id() == 0 {
        NAMESPACE.store(0, Ordering::Relaxed);
    }
}

static NAMESPACE: AtomicU64 = AtomicU64::new(0);

/// The PID namespace that this process's number is of (`pid_namespaces(7)`), by its inode; 1 where
/// the kernel doesn't tell. Async-signal-safe.
#[must_use]
pub fn pid_namespace() -> u64 {
    wiped::make_stamp(forget_namespace);
    match NAMESPACE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: the path is NUL-terminated, and stat writes the whole structure.
            let inode = unsafe {
                let mut stat: libc::stat = std::mem::zeroed();
                let path = c"/proc/self/ns/pid".as_ptr();
                if libc::stat(path, &raw mut stat) == 0 { stat.st_ino } else { 1 }
            };
            NAMESPACE.store(inode, Ordering::Relaxed);
            inode
        }
        inode => inode,
    }
}

/// When the process started, in clock ticks since boot: see [`Stat::started`].
///
/// `None` if there is no such process, or only its zombie, or `/proc` is that of another PID
/// namespace. Allocates nothing, so that it may be called in a freshly forked child.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = Stat::of(pid)?;
    (!matches!(stat.state, RunState::Zombie | RunState::Dead)).then_some(stat.started)
}

/// Whether the process that had this number and start time still runs. A zombie doesn't.
///
/// A `started` of 0 means that the start time isn't known; then only the number is compared. The
/// same holds if `/proc` is that of another PID namespace.
#[must_use]
pub fn is_alive(pid: u32, started: u64) -> bool {
    let pidfd = match PidFd::open(pid) {
        Ok(pidfd) => pidfd,
        // Without a free descriptor (`EMFILE`) this process can't look closely. A process that is
        // not found to be dead counts as alive.
        Err(error) => return !means_nobody(&error) && exists(pid),
    };
    // If the first thread of a process has left while others run, the process looks like a zombie
    // in /proc, but its pidfd isn't readable.
    !pidfd.has_ended() && (started == 0 || start_time(pid).is_none_or(|time| time == started))
}

/// Whether this error of `pidfd_open(2)` means that there is no such process: the number is free,
/// or a thread's.
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

/// Makes a copy of this process (`fork(2)`); the copy has only the calling thread.
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
    // SAFETY: kill has no preconditions; with SIGKILL to this process it does not return.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
    exit_now(137)
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

/// Waits for the end of a child and takes its status (`waitpid(2)`).
///
/// # Errors
/// `ECHILD` if it is no child of this process.
pub fn reap(pid: u32) -> io::Result<()> {
    // SAFETY: waitpid writes no status if it gets a null pointer for it.
    match unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
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
