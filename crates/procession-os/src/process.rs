//! This process and others: identity, liveness, fork, and dying with one's parent.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

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

/// Forgets what a forked child has not inherited: the number of its thread, and the PID namespace if
/// its parent made one for its children.
pub(crate) fn forget_after_fork() {
    THREAD.set(0);
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

/// Installs a handler of the highest real-time signal, and unblocks it.
///
/// # Safety
/// The handler does async-signal-safe work alone.
unsafe fn handle_last_signal(handler: extern "C" fn(libc::c_int)) -> io::Result<libc::c_int> {
    let signal = libc::SIGRTMAX();
    // SAFETY: the structures are initialised whole; the handler is as the caller says.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        if libc::sigaction(signal, &action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        match libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) {
            0 => Ok(signal),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// The pidfd of the process with which this one is to end though it is not its parent.
static WARD: AtomicI32 = AtomicI32::new(-1);

/// Whether this process looks at intervals whether its ward is over.
static WATCHES: AtomicBool = AtomicBool::new(false);

/// How often a process looks whose keeper has died before its ward: four times a second.
const LOOK: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// The keeper has ended, or it is time to look again.
extern "C" fn look_after_ward(_signal: libc::c_int) {
    // Only async-signal-safe calls; errno stays what it was for the code that is interrupted.
    // SAFETY: the address of this thread's errno is valid as long as the thread is; the structures are
    // initialised whole, and what is written to has its type.
    unsafe {
        let errno = *libc::__errno_location();
        let mut ward =
            libc::pollfd { fd: WARD.load(Ordering::Relaxed), events: libc::POLLIN, revents: 0 };
        if libc::poll(&raw mut ward, 1, 0) > 0 && ward.revents & libc::POLLIN != 0 {
            kill_self();
        }
        if !WATCHES.swap(true, Ordering::Relaxed) {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = libc::SIGRTMAX();
            let mut timer: libc::c_int = 0;
            let clock = libc::CLOCK_MONOTONIC;
            libc::syscall(libc::SYS_timer_create, clock, &raw const event, &raw mut timer);
            let every = libc::itimerspec { it_interval: LOOK, it_value: LOOK };
            let none = std::ptr::null_mut::<libc::itimerspec>();
            libc::syscall(libc::SYS_timer_settime, timer, 0, &raw const every, none);
        }
        *libc::__errno_location() = errno;
    }
}

/// Binds this process's life to that of `ward`, which is not its parent: the parent `keeper`, whose first
/// thread forked this process, ends it when the ward ends. If the keeper itself ends before, this
/// process looks after the ward from then on, within a second and without a thread: by a timer
/// (`timer_create(2)`) of the highest real-time signal, which it must leave alone, as in
/// [`die_with_parent`].
///
/// # Errors
/// As `prctl(2)`, `sigaction(2)` and `pthread_sigmask(3)`.
pub fn die_with_ward(ward: OwnedFd, keeper: u32) -> io::Result<()> {
    // For as long as the process lives.
    WARD.store(ward.into_raw_fd(), Ordering::Relaxed);
    // SAFETY: the handler is async-signal-safe.
    let signal = unsafe { handle_last_signal(look_after_ward) }?;
    // SAFETY: prctl has no preconditions.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if parent_id() != keeper {
        // It ended before the signal was asked for.
        look_after_ward(signal);
    }
    Ok(())
}

static GUARDIAN: AtomicU32 = AtomicU32::new(0);

/// The thread that forked has ended, and with it perhaps the process.
extern "C" fn parent_thread_ended(_signal: libc::c_int) {
    // Only async-signal-safe calls; errno stays what it was for the code that is interrupted.
    // SAFETY: the address of this thread's errno is valid as long as the thread is.
    unsafe {
        let errno = *libc::__errno_location();
        // The parent is another thread of the process now: its first, if that still runs. So from
        // here on the end of the parent is the end of the process.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
        *libc::__errno_location() = errno;
    }
    // Looked at after that, so the process's end is seen whichever side of it it comes on.
    if parent_id() != GUARDIAN.load(Ordering::Relaxed) {
        kill_self();
    }
}

/// Binds this process's life to that of its parent `parent`: it is ended by SIGKILL when the parent
/// ends, by whatever cause.
///
/// `PR_SET_PDEATHSIG` (`prctl(2)`) follows the *thread* that forked. If that was the parent's main
/// thread (`by_main_thread`), whose end is the process's, the signal is SIGKILL. Otherwise it is the
/// highest real-time signal, whose handler looks whether the process is still there. If it is, the
/// kernel has made its main thread the parent, and the signal is SIGKILL from then on.
///
/// A parent whose first thread ends while others run (`pthread_exit(3)`) takes the processes that are
/// bound to it along: the kernel tells of that thread only.
///
/// So as long as a thread of the parent lives that started this process and is not its first, this
/// process must leave SIGRTMAX alone: not block it, not handle it, and not `execve(2)`. It is unblocked
/// here, as the thread that forked may have had it blocked.
///
/// # Errors
/// As `prctl(2)`, `sigaction(2)` and `pthread_sigmask(3)`.
pub fn die_with_parent(parent: u32, by_main_thread: bool) -> io::Result<()> {
    let signal = if by_main_thread {
        libc::SIGKILL
    } else {
        GUARDIAN.store(parent, Ordering::Relaxed);
        // SAFETY: the handler is async-signal-safe.
        unsafe { handle_last_signal(parent_thread_ended) }?
    };
    // SAFETY: prctl has no preconditions.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if parent_id() != parent {
        // It ended before the signal was asked for.
        kill_self();
    }
    if !by_main_thread && is_child_of_main_thread(parent) {
        // The thread that forked ended before the signal was asked for.
        // SAFETY: as above.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) };
    }
    Ok(())
}

/// Whether it is the first thread of its parent that has this process as its child
/// (`proc_tid_children(5)`); `false` where the kernel doesn't tell.
fn is_child_of_main_thread(parent: u32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let me = id().to_string();
    children.is_ok_and(|children| children.split(' ').any(|child| child == me))
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
    // SAFETY: waitpid writes no status where it is given no place for it.
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
