//! Ending with another process: with the parent, or with one that the parent watches.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use crate::process::{id, kill_self, parent_id};

/// Installs a handler of the highest real-time signal, and unblocks it.
///
/// # Safety
/// The handler does only async-signal-safe work.
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

/// The pidfd of the watched process: this process is to end with it, though it is not the parent.
static WATCHED: AtomicI32 = AtomicI32::new(-1);

/// Whether this process checks at intervals if the watched one is over.
static WATCHES: AtomicBool = AtomicBool::new(false);

/// The interval at which a process checks the watched one, if its parent died before that: four
/// times a second.
const LOOK: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// The parent has ended, or it is time to look again.
extern "C" fn look_at_watched(_signal: libc::c_int) {
    // Only async-signal-safe calls; errno stays what it was for the code that is interrupted.
    // SAFETY: the address of this thread's errno is valid as long as the thread is; the structures
    // are initialised whole, and what is written to has its type.
    unsafe {
        let errno = *libc::__errno_location();
        let mut watched =
            libc::pollfd { fd: WATCHED.load(Ordering::Relaxed), events: libc::POLLIN, revents: 0 };
        if libc::poll(&raw mut watched, 1, 0) > 0 && watched.revents & libc::POLLIN != 0 {
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

/// Binds this process's life to that of `watched`, which is not its parent. The first thread of the
/// parent `parent` forked this process; the parent ends it when the watched process ends. If the
/// parent itself ends before, this process looks at the watched one from then on, within a second
/// and without a thread: by a timer (`timer_create(2)`) of the highest real-time signal, which it
/// must leave as it is, as in [`die_with_parent`].
///
/// # Errors
/// As `prctl(2)`, `sigaction(2)` and `pthread_sigmask(3)`.
pub fn die_with(watched: OwnedFd, parent: u32) -> io::Result<()> {
    // For as long as the process lives.
    WATCHED.store(watched.into_raw_fd(), Ordering::Relaxed);
    // SAFETY: the handler is async-signal-safe.
    let signal = unsafe { handle_last_signal(look_at_watched) }?;
    // SAFETY: prctl has no preconditions.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if parent_id() != parent {
        // It ended before the signal was asked for.
        look_at_watched(signal);
    }
    Ok(())
}

static PARENT: AtomicU32 = AtomicU32::new(0);

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
    // Checked after that call, so that an end of the process before it is seen too.
    if parent_id() != PARENT.load(Ordering::Relaxed) {
        kill_self();
    }
}

/// Binds this process's life to that of its parent `parent`: it is ended by SIGKILL when the parent
/// ends, by whatever cause.
///
/// `PR_SET_PDEATHSIG` (`prctl(2)`) follows the *thread* that forked.
///
/// - If that was the parent's main thread (`by_main_thread`), the thread's end is the process's,
///   and the signal is SIGKILL.
/// - Otherwise the signal is the highest real-time signal, and its handler checks whether the
///   process is still there. If it is, the kernel has made its main thread the parent, and the
///   signal is SIGKILL from then on.
///
/// If the parent's first thread ends while others run (`pthread_exit(3)`), the processes that are
/// bound to the parent end too: the kernel reports only that thread.
///
/// If another thread than the parent's first started this process, then for as long as that thread
/// lives this process must not block or handle SIGRTMAX, nor call `execve(2)`. The signal is
/// unblocked here, as the thread that forked may have had it blocked.
///
/// # Errors
/// As `prctl(2)`, `sigaction(2)` and `pthread_sigmask(3)`.
pub fn die_with_parent(parent: u32, by_main_thread: bool) -> io::Result<()> {
    let signal = if by_main_thread {
        libc::SIGKILL
    } else {
        PARENT.store(parent, Ordering::Relaxed);
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

/// Whether this process is a child of its parent's first thread (`proc_tid_children(5)`); `false`
/// where the kernel doesn't tell.
fn is_child_of_main_thread(parent: u32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let me = id().to_string();
    children.is_ok_and(|children| children.split(' ').any(|child| child == me))
}
