//! A process that is bound to its parent's life ends with the parent, whichever of the parent's
//! threads forked, and not with that thread.

#![allow(unsafe_code)]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use procession_os::parent_death;
use procession_os::pidfd::PidFd;
use procession_os::process::{self, Fork};

/// Which thread of the parent starts the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starter {
    Main,
    /// One that lives as long as the parent.
    Lasting,
    /// One that ends when it has forked.
    ShortLived,
    /// As that, with every signal blocked, as some libraries do in their threads.
    Blocking,
}

const STARTERS: [Starter; 4] =
    [Starter::Main, Starter::Lasting, Starter::ShortLived, Starter::Blocking];

/// Longer than any of the tests.
const LONG: Duration = Duration::from_secs(60);

fn start_daemon(writer: &OwnedFd) {
    let (parent, by_main_thread) = (process::id(), process::is_main_thread());
    // SAFETY: the child only makes system calls.
    if unsafe { process::fork() }.unwrap() == Fork::Child {
        parent_death::die_with_parent(parent, by_main_thread).unwrap();
        rustix::io::write(writer, &process::id().to_le_bytes()).unwrap();
        std::thread::sleep(LONG);
        process::exit_now(0)
    }
}

fn block_all_signals() {
    // SAFETY: the set is initialised whole.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
}

/// Starts a daemon from the chosen thread, then sleeps.
fn parent(starter: Starter, writer: &OwnedFd) {
    std::thread::scope(|scope| match starter {
        Starter::Main => start_daemon(writer),
        Starter::Lasting => drop(scope.spawn(|| {
            start_daemon(writer);
            std::thread::sleep(LONG);
        })),
        Starter::ShortLived => scope.spawn(|| start_daemon(writer)).join().unwrap(),
        Starter::Blocking => {
            let blocking = || {
                block_all_signals();
                start_daemon(writer);
            };
            scope.spawn(blocking).join().unwrap();
        }
    });
    std::thread::sleep(LONG);
}

/// A parent and its daemon.
fn family(starter: Starter) -> (PidFd, PidFd) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // SAFETY: the C library's allocator handles its own locks at a fork, and the child takes no
    // other lock that a thread of the harness could hold.
    let pid = match unsafe { process::fork() }.unwrap() {
        Fork::Child => {
            parent(starter, &writer);
            process::exit_now(0)
        }
        Fork::Parent(pid) => pid,
    };
    let mut number = [0; 4];
    std::fs::File::from(reader).read_exact(&mut number).unwrap();
    (PidFd::open(pid).unwrap(), PidFd::open(u32::from_le_bytes(number)).unwrap())
}

#[test]
fn a_daemon_is_gone_soon_after_its_parents_sigkill() {
    // Short-lived threads have ended by then, or end in this moment: both must be right.
    for pause in [Duration::ZERO, Duration::from_millis(20)] {
        for starter in STARTERS {
            let (parent, daemon) = family(starter);
            std::thread::sleep(pause);
            assert!(!daemon.has_ended());
            parent.signal(9).unwrap();
            let killed = Instant::now();
            while !daemon.has_ended() {
                assert!(killed.elapsed() < Duration::from_secs(30), "{starter:?}: it lives on");
                std::thread::sleep(Duration::from_micros(100));
            }
            println!("{starter:?}: {:?}", killed.elapsed());
            while parent.reap().unwrap().is_none() {}
        }
    }
}

#[test]
fn a_daemon_outlives_the_thread_that_started_it() {
    for starter in [Starter::ShortLived, Starter::Blocking] {
        let (parent, daemon) = family(starter);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!daemon.has_ended(), "{starter:?}");
        // From here on the signal is SIGKILL, which ends the process even if it is stopped.
        daemon.signal(19).unwrap();
        parent.signal(9).unwrap();
        assert!(daemon.ended_by(None).unwrap());
        while parent.reap().unwrap().is_none() {}
    }
}
