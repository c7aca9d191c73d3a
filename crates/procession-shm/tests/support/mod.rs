//! What the tests with several processes share: children, a watchdog, random numbers.

#![allow(dead_code, unreachable_pub, unsafe_code)]

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::Duration;

use procession_os::pidfd::{ExitStatus, PidFd};
use procession_os::{parent_death, process};
use procession_shm::arena::{self, Arena, Forked, Slot};
use procession_shm::memory::SharedBlock;

pub const SIGKILL: i32 = 9;
pub const SIGCONT: i32 = 18;
pub const SIGSTOP: i32 = 19;

/// The arena of a test program. A process can be part of 16, and each child takes part in all.
pub fn arena() -> &'static Arena {
    static ARENA: OnceLock<&Arena> = OnceLock::new();
    ARENA.get_or_init(|| Arena::with_capacity(256 << 20).unwrap())
}

/// One test at a time: the children of one would hold the objects of the others. Ends the program
/// if the test takes so long that it must be hanging, and says where.
pub fn alone(test: &'static str) -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    let lock = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    report_panics_of_children();
    // Before any thread of the test could be making it while another forks.
    arena();
    at(test);
    let (done, ended) = channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(120)) == Err(RecvTimeoutError::Timeout) {
            let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner).clone();
            say(&format!("{test} hangs at {place}\n{:#?}\n", arena().processes()));
            std::process::abort();
        }
    });
    Alone { _lock: lock, _done: done }
}

pub struct Alone {
    _lock: MutexGuard<'static, ()>,
    _done: Sender<()>,
}

static PLACE: Mutex<String> = Mutex::new(String::new());

/// Tells the watchdog where the test is.
pub fn at(place: &str) {
    place.clone_into(&mut PLACE.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Writes past the harness's capture, which a child could not give back.
pub fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

pub fn report_panics_of_children() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let root = process::id();
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if process::id() == root { usual(info) } else { say(&format!("in a child: {info}\n")) }
        }));
    });
}

/// A child of the test. It is killed if the test's thread ends first.
pub struct Child {
    pub pid: u32,
    pidfd: PidFd,
    pub slot: Option<Slot>,
}

/// Forks a child that runs `body` and leaves with status 0, or 101 if it panics.
pub fn child(body: impl FnOnce()) -> Child {
    let parent = process::id();
    // SAFETY: the child takes no lock that another thread of the harness could hold; the C
    // library's allocator sees to its own at a fork.
    match unsafe { arena::fork() }.unwrap() {
        Forked::Parent(pid, slot) => Child::of(pid, slot),
        Forked::Child => {
            let body = || {
                parent_death::die_with_parent(parent, true).unwrap();
                body();
            };
            process::exit_now(if catch_unwind(AssertUnwindSafe(body)).is_ok() { 0 } else { 101 })
        }
    }
}

impl Child {
    /// Follows a child that was forked in another way.
    pub fn of(pid: u32, slot: Option<Slot>) -> Self {
        Self { pid, pidfd: PidFd::open(pid).unwrap(), slot }
    }

    pub fn kill(&self) {
        self.signal(SIGKILL);
    }

    pub fn signal(&self, number: i32) {
        let _ = self.pidfd.signal(number);
    }

    pub fn has_ended(&self) -> bool {
        self.pidfd.has_ended()
    }

    /// Waits for its end and buries it.
    pub fn join(self) -> ExitStatus {
        while !self.pidfd.ended_by(None).unwrap_or(false) {}
        let status = self.pidfd.reap().unwrap().expect("it has ended");
        match self.slot {
            Some(slot) => arena().bury(slot),
            None => arena().bury_dead() > 0,
        };
        status
    }

    pub fn succeeds(self) {
        assert_eq!(self.join(), ExitStatus::Exited(0));
    }
}

/// Words that all processes of a test see.
#[derive(Clone)]
pub struct Words(SharedBlock);

impl Words {
    pub fn new(count: u64) -> Self {
        Self(SharedBlock::new(arena(), "words", count * 8).unwrap())
    }

    pub fn at(&self, index: usize) -> &AtomicU64 {
        assert!((index as u64) < self.0.size() / 8);
        // SAFETY: inside the block, which is aligned to 64 and open as long as `self`; every access
        // to it is by these atomics.
        unsafe { AtomicU64::from_ptr(self.0.address().unwrap().as_ptr().cast::<u64>().add(index)) }
    }

    pub fn get(&self, index: usize) -> u64 {
        self.at(index).load(Ordering::SeqCst)
    }

    pub fn set(&self, index: usize, value: u64) {
        self.at(index).store(value, Ordering::SeqCst);
    }
}

/// Marsaglia's xorshift64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

pub fn millis(count: u64) {
    std::thread::sleep(Duration::from_millis(count));
}

pub fn micros(count: u64) {
    std::thread::sleep(Duration::from_micros(count));
}

/// Waits until this process is the only one of the family, then checks that the arena is whole.
pub fn only_me() {
    while arena().processes().len() > 1 {
        if arena().bury_dead() == 0 {
            millis(1);
        }
    }
    arena().check().unwrap();
}

/// As [`only_me`], and that nothing is left in the arena.
pub fn nothing_left() {
    only_me();
    assert_eq!(arena().objects(), []);
    assert_eq!(arena().blocks_in_use().unwrap(), 0);
}
