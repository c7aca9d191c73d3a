//! The arenas of this process, and what happens to them when it forks.
//!
//! At a fork each arena reserves a slot for the child before it exists, with a share in all that
//! the parent holds; the child's first step is to make it its own. So there is no moment at which
//! the child could use an object that no process holds for it. What threads do that open objects
//! meanwhile is in [`mod@super::fork`].
//!
//! # The process's own slot
//! A process's slot is in a [word that is 0 in every copy](wiped) of it. A copy that finds 0 claims
//! what was reserved for it: in our handler, or before that, where a handler of another library
//! uses an arena first. Where nothing was reserved, since no handler of ours ran or the table was
//! full, it takes a slot by itself, and a share in what it has open.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use procession_os::atfork::Handlers;
use procession_os::{atfork, process, signals, thread_end, wiped};

use super::error::{Error, Result};
use super::family::{Arena, Registration};
use super::fork::{
    ANNOUNCED, Announced, DEPTH, FOLLOWED, MAX_ARENAS, MINE, Reserved, take_own_reservations,
};

static ARENAS: [AtomicPtr<Arena>; MAX_ARENAS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_ARENAS];
static USED: AtomicUsize = AtomicUsize::new(0);

/// The word of a process that says whether it knows its slots; the arenas' follow.
const SETTLED: usize = 1;
const FIRST_SLOT: usize = 2;
const _: () = assert!(FIRST_SLOT + MAX_ARENAS <= wiped::WORDS);

/// The process knows its slots. Before that the word has the number of the thread that finds out.
const YES: u64 = u64::MAX;

/// An arena, joined or about to be joined by this process.
fn arena_at(at: usize) -> Option<&'static Arena> {
    // SAFETY: a non-null entry was leaked in `joined_by` and is never freed.
    unsafe { ARENAS.get(at)?.load(Ordering::SeqCst).as_ref() }
}

pub(super) fn arenas() -> impl Iterator<Item = (usize, &'static Arena)> {
    (0..MAX_ARENAS)
        .filter_map(|at| arena_at(at).filter(|arena| arena.is_joined()).map(|it| (at, it)))
}

/// Called before `main`, or when the library is loaded, so that no fork of the program can have
/// begun before. [`register_arena`] does the same, if the linker has left this out.
#[used]
// SAFETY: the section has pointers to functions of the C convention.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    // Tried again where the error can be told.
    let _ = register();
}

fn register() -> Result<()> {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if REGISTERED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    // What is a copy from now on finds 0.
    wiped::word(SETTLED).store(YES, Ordering::SeqCst);
    let handlers = Handlers {
        before: before_fork,
        in_parent: after_fork_in_parent,
        in_child: after_fork_in_child,
    };
    atfork::register(handlers).map_err(|source| {
        REGISTERED.store(false, Ordering::SeqCst);
        Error::Os { what: "pthread_atfork", source }
    })
}

/// Makes room for one more arena; returns what that is to know of the process.
pub(super) fn register_arena() -> Result<Registration> {
    register()?;
    settle();
    thread_end::register(release_watches);
    let index = USED.fetch_add(1, Ordering::SeqCst);
    if index < MAX_ARENAS {
        let slot = wiped::word(FIRST_SLOT + index);
        Ok(Registration { index, slot, settle, watch, find: arena_at })
    } else {
        let (asked, max) = (1 + MAX_ARENAS as u64, MAX_ARENAS as u64);
        Err(Error::TooMany { what: "arenas", asked, max })
    }
}

/// Adds an arena that this process is about to join.
pub(super) fn add(arena: &'static Arena) {
    ARENAS[arena.registration.index].store(ptr::from_ref(arena).cast_mut(), Ordering::SeqCst);
}

/// The calling thread is about to end.
fn release_watches() {
    for (_, arena) in arenas() {
        arena.release_watch();
    }
}

fn reserve_for_child(announced: &'static Announced, follows: bool) {
    // Those that are added later know by the number that nothing is reserved for the child.
    let used = loop {
        let used = USED.load(Ordering::SeqCst).min(MAX_ARENAS);
        announced.know(used);
        if USED.load(Ordering::SeqCst).min(MAX_ARENAS) == used {
            break used;
        }
    };
    for at in 0..used {
        let joined = || arena_at(at).filter(|arena| arena.has_slot());
        let is_reserved = announced.reserve_at(at, |announcement| {
            joined().is_some_and(|arena| arena.reserve(follows, Some(announcement)).is_ok())
        });
        if !is_reserved && let Some(arena) = joined() {
            arena.pin_for_rowless();
        }
    }
}

fn before_fork() {
    settle();
    for (_, arena) in arenas() {
        arena.sweep();
    }
    let follows =
        FOLLOWED.with(|followed| followed.try_borrow().is_ok_and(|followed| followed.is_some()));
    // A copy that a handler makes of this thread must not find a fork half announced.
    let _signals = signals::block();
    let (mut mine, depth) = MINE.get();
    let begun = if depth < DEPTH { Announced::begin() } else { None };
    match begun {
        Some(number) => reserve_for_child(Announced::at(number), follows),
        None => arenas().for_each(|(_, arena)| arena.pin_for_rowless()),
    }
    if let Some(place) = mine.get_mut(depth) {
        *place = begun;
    }
    MINE.set((mine, depth + 1));
}

fn after_fork_in_parent() {
    let signals = signals::block();
    let (mine, depth) = MINE.get();
    let depth = depth.saturating_sub(1);
    MINE.set((mine, depth));
    let Some(number) = mine.get(depth).copied().flatten() else { return };
    let reserved = ANNOUNCED[number as usize].reserved();
    ANNOUNCED[number as usize].end(number);
    let is_noted = FOLLOWED.with(|followed| match followed.try_borrow_mut() {
        Ok(mut followed) => followed.as_mut().is_none_or(|followed| followed.push(&reserved)),
        Err(_) => true,
    });
    drop(signals);
    for (at, arena) in arenas() {
        if let Some(slot) = reserved[at] {
            arena.fork_is_over(slot);
        }
    }
    if !is_noted {
        unfollow(&reserved);
    }
}

fn after_fork_in_child() {
    settle();
}

/// Makes sure that this process knows its slots, which a fresh copy does not. Async-signal-safe.
pub(super) fn settle() {
    let word = wiped::word(SETTLED);
    let me = u64::from(process::thread_id());
    loop {
        match word.load(Ordering::SeqCst) {
            YES => return,
            0 => {
                let _signals = signals::block();
                if word.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    find_own_slots();
                    word.store(YES, Ordering::SeqCst);
                    return;
                }
            }
            // It asks on the way.
            other if other == me => return,
            _ => std::thread::yield_now(),
        }
    }
}

fn find_own_slots() {
    for (at, reserved) in take_own_reservations().into_iter().enumerate() {
        let Some(arena) = arena_at(at) else { continue };
        if reserved.is_some() || arena.is_joined() {
            arena.adopt(reserved);
        } else {
            // A thread of the parent was about to join.
            ARENAS[at].store(ptr::null_mut(), Ordering::SeqCst);
        }
    }
}

pub(super) fn unfollow(reserved: &Reserved) {
    for (at, arena) in arenas() {
        if let Some(slot) = reserved[at] {
            arena.unfollow(slot);
        }
    }
}

/// Has the calling thread watch over this process's rows where the thread that did so has ended.
#[cold]
pub(super) fn watch() {
    for (_, arena) in arenas() {
        arena.watch();
    }
}
