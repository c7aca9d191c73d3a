//! What a fork may meet: a signal's handler that forks, hooks of other libraries that run before or
//! after ours, and copies of the process that no hook was told of.

#![cfg(not(model))]
#![allow(unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use procession_os::process;
use procession_shm::arena::{self, Forked};
use procession_shm::queue::Queue;
use procession_shm::sync::{Lock, RLock};
use procession_shm::wait::{Acquired, Wait};
use support::{Child, Words, alone, arena, at, child, micros, millis, nothing_left};

const FOREVER: Wait = Wait::FOREVER;

/// Registers hooks before anything else of the program does: functions of a section with a
/// priority are called before those of plain `.init_array`.
#[used]
// SAFETY: the section has pointers to functions of the C convention.
#[unsafe(link_section = ".init_array.00001")]
static REGISTER: extern "C" fn() = register;

extern "C" fn register() {
    // SAFETY: the hooks live as long as the program.
    unsafe { libc::pthread_atfork(Some(before), Some(after), Some(in_child)) };
}

/// Whether a fork has come to the library's hook.
static IS_AT_HOOK: AtomicBool = AtomicBool::new(false);

/// The mutex of a library that takes it around each fork.
static MUTEX: AtomicPtr<libc::pthread_mutex_t> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn before() {
    let mutex = MUTEX.load(Ordering::SeqCst);
    if !mutex.is_null() {
        IS_AT_HOOK.store(true, Ordering::SeqCst);
        // SAFETY: it was initialised, and is never freed.
        unsafe { libc::pthread_mutex_lock(mutex) };
    }
}

extern "C" fn after() {
    let mutex = MUTEX.load(Ordering::SeqCst);
    if !mutex.is_null() {
        // SAFETY: as above; this thread has it.
        unsafe { libc::pthread_mutex_unlock(mutex) };
    }
}

/// What a hook does in the child before ours has run.
static IN_CHILD: AtomicPtr<Early> = AtomicPtr::new(std::ptr::null_mut());

struct Early {
    rlock: RLock,
    lock: Lock,
    said: Words,
}

extern "C" fn in_child() {
    after();
    // SAFETY: it is leaked, or null.
    if let Some(early) = unsafe { IN_CHILD.load(Ordering::SeqCst).as_ref() } {
        early.said.set(1, u64::from(early.rlock.acquire(Wait::TRY).is_ok()));
        let _ = early.lock.acquire(Wait::TRY);
        early.said.set(2, early.lock.owner().map_or(0, |owner| owner.thread().into()));
        early.said.set(0, 1);
    }
}

/// Has a thread of the C library's fork, that neither the arena nor the harness is told of.
fn bare_fork(body: impl FnOnce()) {
    // SAFETY: the child only uses the arena.
    match unsafe { libc::fork() } {
        0 => {
            body();
            process::exit_now(0)
        }
        pid => process::reap(pid as u32).unwrap(),
    }
}

mod signals {
    use super::*;

    static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());
    static FORKS: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
    static SEED: AtomicU64 = AtomicU64::new(88_172_645_463_325_252);

    /// The next signal comes within a third of a millisecond, at some instruction.
    fn arm() {
        let mut random = support::Random(SEED.load(Ordering::Relaxed));
        // SAFETY: the structure is initialised whole; the timer was made.
        unsafe {
            let mut time: libc::itimerspec = std::mem::zeroed();
            time.it_value.tv_nsec = 5_000 + random.below(300_000) as i64;
            let timer = TIMER.load(Ordering::Relaxed);
            libc::timer_settime(timer, 0, &raw const time, std::ptr::null_mut());
        }
        SEED.store(random.0, Ordering::Relaxed);
    }

    extern "C" fn fork(_signal: libc::c_int) {
        // SAFETY: fork, _exit and waitpid are async-signal-safe; the word is in shared memory.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::_exit(0);
            }
            libc::waitpid(pid, std::ptr::null_mut(), 0);
            (*FORKS.load(Ordering::Relaxed)).fetch_add(1, Ordering::SeqCst);
        }
        arm();
    }

    /// Has the calling thread, the only one, be interrupted by handlers that fork.
    pub(super) fn fork_in_handlers(count: &AtomicU64) {
        FORKS.store(std::ptr::from_ref(count).cast_mut(), Ordering::Relaxed);
        // SAFETY: the structures are initialised whole; the handler is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = fork as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = libc::SIGUSR1;
            let mut timer = std::ptr::null_mut();
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer);
            TIMER.store(timer, Ordering::Relaxed);
        }
        arm();
    }
}

#[test]
fn a_signals_handler_may_fork_at_any_instruction() {
    let _alone = alone("a_signals_handler_may_fork_at_any_instruction");
    let words = Words::new(2);
    let worker = child(|| {
        signals::fork_in_handlers(words.at(0));
        while words.get(0) < 3000 {
            drop(Lock::new(arena(), "made and freed").unwrap());
        }
    });
    worker.succeeds();
    drop(words);
    nothing_left();
}

#[test]
fn a_library_may_take_its_mutex_around_each_fork() {
    let _alone = alone("a_library_may_take_its_mutex_around_each_fork");
    // SAFETY: a mutex of all zero is PTHREAD_MUTEX_INITIALIZER.
    let mutex: &mut libc::pthread_mutex_t = Box::leak(Box::new(unsafe { std::mem::zeroed() }));
    MUTEX.store(mutex, Ordering::SeqCst);
    for round in 0..20 {
        at(&format!("round {round}, beside a thread that has the mutex"));
        let has_mutex = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                before();
                IS_AT_HOOK.store(false, Ordering::SeqCst);
                has_mutex.store(true, Ordering::SeqCst);
                while !IS_AT_HOOK.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                drop(Lock::new(arena(), "made with the mutex").unwrap());
                after();
            });
            while !has_mutex.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            bare_fork(|| ());
        });
    }
    MUTEX.store(std::ptr::null_mut(), Ordering::SeqCst);
    nothing_left();
}

#[test]
fn a_hook_that_runs_in_the_child_before_ours_is_not_the_parent() {
    let _alone = alone("a_hook_that_runs_in_the_child_before_ours_is_not_the_parent");
    let rlock = RLock::new(arena(), "held by the parent").unwrap();
    let lock = Lock::new(arena(), "taken by the child").unwrap();
    let early = Box::into_raw(Box::new(Early { rlock, lock, said: Words::new(3) }));
    // SAFETY: it was boxed just now, and is freed below.
    let here = unsafe { &*early };
    let _ = here.rlock.acquire(FOREVER).unwrap();
    IN_CHILD.store(early, Ordering::SeqCst);
    let forked = child(|| {
        assert_eq!(here.said.get(0), 1, "the hook has run");
        assert_eq!(here.said.get(1), 0, "the parent holds the RLock, so the child does not");
        assert_eq!(here.said.get(2), process::id().into(), "the lock is the child's");
        assert!(here.lock.is_mine());
        assert_eq!(arena().slot_of(process::id()), Some(arena().me()));
    });
    IN_CHILD.store(std::ptr::null_mut(), Ordering::SeqCst);
    forked.succeeds();
    let told = here.lock.acquire(FOREVER).unwrap();
    assert!(matches!(told, Acquired::OwnerDied(_)), "{told:?}");
    here.lock.release().unwrap();
    here.rlock.release().unwrap();
    // SAFETY: nothing refers to it any more.
    drop(unsafe { Box::from_raw(early) });
    nothing_left();
}

/// A copy of this process that is made past the C library, so that no hook runs.
fn copy_without_hooks(body: impl FnOnce()) -> u32 {
    // SAFETY: as fork; the child only uses the arena.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    assert!(pid >= 0);
    if pid > 0 {
        return pid as u32;
    }
    body();
    process::exit_now(0)
}

#[test]
fn a_copy_that_no_hook_was_told_of_is_a_process_of_its_own() {
    let _alone = alone("a_copy_that_no_hook_was_told_of_is_a_process_of_its_own");
    let rlock = RLock::new(arena(), "held by the parent").unwrap();
    let lock = Lock::new(arena(), "taken by the copy").unwrap();
    let said = Words::new(4);
    let _ = rlock.acquire(FOREVER).unwrap();
    let pid = copy_without_hooks(|| {
        let _ = lock.acquire(Wait::TRY);
        said.set(1, u64::from(rlock.acquire(Wait::TRY).is_ok()));
        said.set(2, lock.owner().map_or(0, |owner| owner.thread().into()));
        said.set(3, u64::from(arena().slot_of(process::id()) == Some(arena().me())));
        let me = arena().me().index;
        let holds = arena().objects().iter().all(|object| object.holders.contains(&me));
        said.set(0, 1 + u64::from(holds));
    });
    process::reap(pid).unwrap();
    assert_eq!(said.get(0), 2, "the copy holds what it has open");
    assert_eq!(said.get(1), 0, "the parent holds the RLock, so the copy does not");
    assert_eq!(said.get(2), pid.into(), "the lock is the copy's");
    assert_eq!(said.get(3), 1, "it has a row of its own");
    let told = lock.acquire(FOREVER).unwrap();
    assert!(matches!(told, Acquired::OwnerDied(_)), "{told:?}");
    lock.release().unwrap();
    rlock.release().unwrap();
    drop((lock, rlock, said));
    nothing_left();
}

struct Counting;

thread_local! {
    static FORKING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

fn note() {
    if FORKING.get() {
        ALLOCATED.set(ALLOCATED.get() + 1);
    }
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note();
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Forks, and counts what the hooks allocate and free in the parent and in the child.
fn allocations_of_a_fork(fork: impl FnOnce() -> Forked) -> u64 {
    ALLOCATED.set(0);
    FORKING.set(true);
    let forked = fork();
    FORKING.set(false);
    match forked {
        Forked::Child => process::exit_now(ALLOCATED.get().min(100) as i32),
        Forked::Parent(pid, slot) => {
            let mut status = 0;
            // SAFETY: it writes the status.
            unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, 0) };
            if let Some(slot) = slot {
                arena().bury(slot);
            }
            assert!(libc::WIFEXITED(status));
            ALLOCATED.get() + libc::WEXITSTATUS(status) as u64
        }
    }
}

fn by_the_c_library() -> Forked {
    // SAFETY: the child leaves at once.
    match unsafe { libc::fork() } {
        0 => Forked::Child,
        pid => Forked::Parent(pid as u32, None),
    }
}

fn followed() -> Forked {
    // SAFETY: the child leaves at once.
    unsafe { arena::fork() }.unwrap()
}

#[test]
fn forking_allocates_nothing() {
    let _alone = alone("forking_allocates_nothing");
    let queue = Queue::new(arena(), "queue", None).unwrap();
    let mut allocated = 0;
    for _ in 0..4 {
        // Members that no process follows, and that die with blocks in their caches: a process that
        // forks next buries them.
        let words = Words::new(2);
        let members: Vec<u32> = (0..12)
            .map(|_| match by_the_c_library() {
                Forked::Parent(pid, _) => pid,
                Forked::Child => {
                    arena().set_name("member");
                    let mut got = Vec::new();
                    for round in 0..6 {
                        queue.put(1, &vec![1; 3000 + round * 9000], FOREVER).unwrap();
                        queue.get(&mut got, FOREVER).unwrap();
                    }
                    words.at(1).fetch_add(1, Ordering::SeqCst);
                    while words.get(0) == 0 {
                        micros(200);
                    }
                    process::kill_self()
                }
            })
            .collect();
        while words.get(1) < 12 {
            millis(1);
        }
        words.set(0, 1);
        members.into_iter().for_each(|pid| process::reap(pid).unwrap());
        for _ in 0..20 {
            allocated += allocations_of_a_fork(by_the_c_library);
            allocated += allocations_of_a_fork(followed);
        }
    }
    assert_eq!(allocated, 0, "beside the dead");
    // A reservation that no process will claim, whose maker is gone: it is looked for in /proc.
    child(|| {
        arena().reserve_for_child().unwrap();
    })
    .succeeds();
    while arena().processes().iter().any(|process| process.pid == 0) {
        allocated += allocations_of_a_fork(by_the_c_library);
    }
    assert_eq!(allocated, 0, "beside a reservation of the dead");
    drop(queue);
    nothing_left();
}

#[test]
fn a_child_that_is_followed_is_still_told_of() {
    let _alone = alone("a_child_that_is_followed_is_still_told_of");
    let forks: Vec<Child> = (0..3).map(|_| child(|| ())).collect();
    assert!(forks.iter().all(|child| child.slot.is_some()));
    forks.into_iter().for_each(Child::succeeds);
    nothing_left();
}
