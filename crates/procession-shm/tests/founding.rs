//! A thread founds the family while another is in the middle of a fork.

#![cfg(not(model))]
#![allow(unsafe_code)]

mod support;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use procession_os::process;
use procession_shm::sync::Lock;
use procession_shm::wait::{Acquired, Wait};
use support::{Words, arena, nothing_left};

#[used]
// SAFETY: the section has pointers to functions of the C convention. With this priority it is
// called before those without one, so the hook below is the last of all to run before a fork.
#[unsafe(link_section = ".init_array.00001")]
static REGISTER: extern "C" fn() = register;

extern "C" fn register() {
    // SAFETY: the hook lives as long as the program.
    unsafe { libc::pthread_atfork(Some(until_founded), None, None) };
}

static IS_FORKING: AtomicBool = AtomicBool::new(false);
static FOUNDED: OnceLock<(Lock, Words)> = OnceLock::new();

extern "C" fn until_founded() {
    IS_FORKING.store(true, Ordering::SeqCst);
    while FOUNDED.get().is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn a_child_whose_fork_began_before_the_family_was_founded_is_a_member() {
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(120));
        support::say("the founding hangs\n");
        std::process::abort();
    });
    let founder = std::thread::spawn(|| {
        while !IS_FORKING.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let lock = Lock::new(arena(), "lock").unwrap();
        let _ = FOUNDED.set((lock, Words::new(3)));
    });
    // SAFETY: the child only uses the arena.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let (lock, said) = FOUNDED.get().unwrap();
        said.set(0, u64::from(arena().slot_of(process::id()) == Some(arena().me())));
        let me = arena().me().index;
        let held = arena().objects().iter().all(|object| object.holders.contains(&me));
        said.set(1, u64::from(held));
        said.set(2, u64::from(lock.acquire(Wait::TRY).is_ok()));
        process::exit_now(0);
    }
    founder.join().unwrap();
    process::reap(pid as u32).unwrap();
    let (lock, said) = FOUNDED.get().unwrap();
    assert_eq!([0, 1, 2].map(|at| said.get(at)), [1, 1, 1], "a member, that holds and locks");
    let told = lock.acquire(Wait::FOREVER).unwrap();
    assert!(matches!(told, Acquired::OwnerDied(_)), "{told:?}");
    lock.release().unwrap();
    support::only_me();
    let _ = nothing_left;
}
