//! Processes of several PID namespaces, and processes over whose row no thread watches any more:
//! what their numbers say is nothing, or not enough.
//!
//! A kernel that refuses namespaces skips the tests that need them, and they say so.

#![cfg(not(model))]
#![allow(unsafe_code)]

mod support;

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::pidfd::ExitStatus;
use procession_os::process;
use procession_os::stat::Stat;
use procession_shm::arena::{self, Forked};
use procession_shm::sync::Lock;
use procession_shm::wait::{Acquired, Wait, WaitError};
use support::{Child, Words, alone, arena, child, millis, nothing_left, say};

const FOREVER: Wait = Wait::FOREVER;
/// What a child leaves with to which the kernel refused what the test needs.
const REFUSED: i32 = 77;

/// Makes a PID namespace for the children of this process, or leaves if that is refused.
fn unshare(and: libc::c_int) {
    // SAFETY: plain calls of the kernel.
    let refused = unsafe {
        libc::unshare(libc::CLONE_NEWPID | and) != 0
            && libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID | and) != 0
    };
    if refused {
        process::exit_now(REFUSED);
    }
}

/// As [`child`], for the first process of another PID namespace, which can't see its parent.
fn first_of_namespace(body: impl FnOnce()) -> Child {
    // SAFETY: the child takes no lock that another thread of the harness could hold.
    match unsafe { arena::fork() }.unwrap() {
        Forked::Parent(pid, slot) => Child::of(pid, slot),
        Forked::Child => {
            // SAFETY: a plain call of the kernel.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let lived = catch_unwind(AssertUnwindSafe(body));
            process::exit_now(if lived.is_ok() { 0 } else { 101 })
        }
    }
}

/// Whether a child did what it was to do; not if the kernel refused it.
fn was_done(test: &str, child: Child) -> bool {
    match child.join() {
        ExitStatus::Exited(REFUSED) => say(&format!("{test}: skipped, namespaces are refused\n")),
        status => {
            assert_eq!(status, ExitStatus::Exited(0));
            return true;
        }
    }
    false
}

/// Has the next process of this PID namespace get a number, or leaves if that is refused.
fn next_is(pid: u32) {
    if std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_err() {
        process::exit_now(REFUSED);
    }
}

fn run_sleep(pid: u32) -> std::process::Child {
    loop {
        next_is(pid);
        let mut sleep = Command::new("sleep").arg("600").spawn().unwrap();
        if sleep.id() == pid {
            return sleep;
        }
        sleep.kill().unwrap();
        sleep.wait().unwrap();
    }
}

/// Forks a child whose first thread runs `body` and ends, while the process goes on.
///
/// What it runs is not on the stack of a thread, which the C library takes for others in a child
/// that another thread has forked.
fn child_whose_first_thread_ends(body: impl Fn() + 'static) -> Child {
    struct Start {
        body: Box<dyn Fn()>,
        child: Option<(u32, Option<arena::Slot>)>,
    }
    extern "C" fn start(argument: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the caller waits for this thread, and lends the value to it.
        let start = unsafe { &mut *argument.cast::<Start>() };
        // SAFETY: the child takes no lock that another thread of the harness could hold.
        match unsafe { arena::fork() }.unwrap() {
            Forked::Parent(pid, slot) => start.child = Some((pid, slot)),
            Forked::Child => (start.body)(),
        }
        std::ptr::null_mut()
    }
    let mut argument = Box::new(Start { body: Box::new(body), child: None });
    // SAFETY: the thread is joined before what it works on goes.
    unsafe {
        let mut thread: libc::pthread_t = std::mem::zeroed();
        let work = (&raw mut *argument).cast();
        assert_eq!(libc::pthread_create(&mut thread, std::ptr::null(), start, work), 0);
        libc::pthread_join(thread, std::ptr::null_mut());
    }
    let (pid, slot) = argument.child.unwrap();
    Child::of(pid, slot)
}

fn run_other_program() {
    let argv: [*const libc::c_char; 3] = [c"sleep".as_ptr(), c"600".as_ptr(), std::ptr::null()];
    let path: &CStr = c"/bin/sleep";
    // SAFETY: the array is NULL-terminated, as are its strings.
    unsafe { libc::execv(path.as_ptr(), argv.as_ptr()) };
}

/// Waits, without any call of ours, until this process goes on without its first thread.
fn until_first_thread_has_left() {
    while !std::fs::read_to_string("/proc/self/stat").unwrap().contains(") Z ") {
        millis(1);
    }
}

/// Waits for a lock whose owner has died, or is about to.
fn is_told(lock: &Lock) {
    assert!(matches!(lock.acquire(FOREVER).unwrap(), Acquired::OwnerDied(_)));
    lock.release().unwrap();
}

#[test]
fn a_lock_s_owner_that_lives_is_not_taken_for_a_stranger_of_the_same_number() {
    let test = "a_lock_s_owner_that_lives_is_not_taken_for_a_stranger_of_the_same_number";
    let _alone = alone(test);
    let lock = Lock::new(arena(), "lock").unwrap();
    let words = Words::new(4);
    const NUMBER: u32 = 500;
    let (held, changed, judged) = (0, 1, 2);
    let until = |word: usize| {
        while words.get(word) == 0 {
            millis(1);
        }
    };
    // The outer namespace, with a /proc of its own; the inner one sees the same /proc.
    let outside = child(|| {
        unshare(libc::CLONE_NEWNS);
        let outer = first_of_namespace(|| {
            // SAFETY: plain calls of the kernel with NUL-terminated strings.
            let mounted = unsafe {
                let (none, no_data) = (std::ptr::null(), std::ptr::null());
                let private = libc::MS_REC | libc::MS_PRIVATE;
                libc::mount(none, c"/".as_ptr(), none, private, no_data) == 0
                    && libc::mount(
                        c"proc".as_ptr(),
                        c"/proc".as_ptr(),
                        c"proc".as_ptr(),
                        0,
                        no_data,
                    ) == 0
            };
            if !mounted {
                process::exit_now(REFUSED);
            }
            let mut stranger = run_sleep(NUMBER);
            let started = || Stat::of(NUMBER).unwrap().started;
            let before = started();
            // All that this one forks is of the inner namespace.
            let between = child(|| {
                unshare(0);
                let inner = first_of_namespace(|| {
                    next_is(NUMBER);
                    let owner = child(|| {
                        assert_eq!(process::id(), NUMBER);
                        assert_eq!(lock.acquire(FOREVER).unwrap(), Acquired::Clean);
                        words.set(held, 1);
                        until(judged);
                        lock.release().unwrap();
                    });
                    until(changed);
                    // Long enough for ticks at which a waiter makes sure of each row.
                    let soon = Monotonic::now().after(Duration::from_secs(2));
                    let acquired = lock.acquire(Wait::until(Some(soon)));
                    words.set(judged, 1);
                    owner.succeeds();
                    assert_eq!(acquired, Err(WaitError::TimedOut));
                });
                let ExitStatus::Exited(code) = inner.join() else { process::exit_now(1) };
                process::exit_now(code);
            });
            while words.get(held) == 0 && !between.has_ended() {
                millis(1);
            }
            stranger.kill().unwrap();
            stranger.wait().unwrap();
            let mut other = run_sleep(NUMBER);
            while started() == before {
                other.kill().unwrap();
                other.wait().unwrap();
                other = run_sleep(NUMBER);
            }
            words.set(changed, 1);
            let status = between.join();
            other.kill().unwrap();
            other.wait().unwrap();
            let ExitStatus::Exited(code) = status else { process::exit_now(1) };
            process::exit_now(code);
        });
        let ExitStatus::Exited(code) = outer.join() else { process::exit_now(1) };
        process::exit_now(code);
    });
    was_done(test, outside);
    drop((lock, words));
    nothing_left();
}

/// A child that acquires the lock in its second thread, and runs `then` in it once the first, which
/// watched over its row, has ended. The word is then 2.
fn unwatched_owner(lock: &Lock, held: &Words, then: fn()) -> Child {
    let (lock, held) = (lock.clone(), held.clone());
    child_whose_first_thread_ends(move || {
        let (lock, told) = (lock.clone(), held.clone());
        std::thread::spawn(move || {
            let _ = lock.acquire(FOREVER).unwrap();
            told.set(0, 1);
            until_first_thread_has_left();
            told.set(0, 2);
            then();
        });
        while held.get(0) == 0 {
            millis(1);
        }
    })
}

#[test]
fn another_program_is_told_of_after_the_watching_thread_has_ended() {
    let _alone = alone("another_program_is_told_of_after_the_watching_thread_has_ended");
    let lock = Lock::new(arena(), "lock").unwrap();
    let held = Words::new(1);
    let owner = unwatched_owner(&lock, &held, run_other_program);
    while held.get(0) != 2 {
        millis(1);
    }
    is_told(&lock);
    assert!(!owner.has_ended());
    owner.kill();
    owner.join();
    drop((lock, held));
    nothing_left();
}

#[test]
fn a_kill_in_another_namespace_is_told_of_after_the_watching_thread_has_ended() {
    let test = "a_kill_in_another_namespace_is_told_of_after_the_watching_thread_has_ended";
    let _alone = alone(test);
    let lock = Lock::new(arena(), "lock").unwrap();
    let held = Words::new(1);
    let outside = child(|| {
        unshare(0);
        // The first of the namespace, which ends with it.
        let first = first_of_namespace(|| {
            let owner = unwatched_owner(&lock, &held, || millis(600_000));
            while held.get(0) != 2 {
                millis(1);
            }
            owner.kill();
            // Not buried here, where its number says something.
            process::reap(owner.pid).unwrap();
        });
        let ExitStatus::Exited(code) = first.join() else { process::exit_now(1) };
        process::exit_now(code);
    });
    if was_done(test, outside) {
        is_told(&lock);
    }
    drop((lock, held));
    nothing_left();
}
