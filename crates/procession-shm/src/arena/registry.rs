//! The arenas of this process, and what happens to them when it forks.
//!
//! At a fork each arena reserves a slot for the child before it exists, with a share in all that the
//! parent holds; the child's first step is to make it its own. So there is no moment at which the
//! child could use an object that nobody holds for it. Meanwhile no other thread of the parent may
//! begin to hold anything ([`unforked`]): the child would believe to hold it as well.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use procession_os::atfork::{self, Handlers};

use super::error::{Error, Result};
use super::processes::NAME_WORDS;
use super::{Arena, Handle, Slot, load_text, store_text};

/// How many arenas a process may be part of.
const MOST: usize = 16;

static ARENAS: [AtomicPtr<Arena>; MOST] = [const { AtomicPtr::new(ptr::null_mut()) }; MOST];
static USED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The slots that this thread reserved for the child of the fork that is under way, or was last.
    static RESERVED: Cell<[Option<Slot>; MOST]> = const { Cell::new([None; MOST]) };

    /// Those that it reserved for the child of a fork that is to come.
    static PREPARED: Cell<[Option<Slot>; MOST]> = const { Cell::new([None; MOST]) };
}

fn arenas() -> impl Iterator<Item = (usize, &'static Arena)> {
    ARENAS.iter().enumerate().filter_map(|(at, arena)| {
        // SAFETY: a non-null entry was leaked in `add` and is never freed.
        unsafe { arena.load(Ordering::Acquire).as_ref() }.map(|arena| (at, arena))
    })
}

pub(super) fn add(arena: &'static Arena) -> Result<()> {
    let handlers = Handlers {
        before: before_fork,
        in_parent: after_fork_in_parent,
        in_child: after_fork_in_child,
    };
    atfork::register(handlers).map_err(|source| Error::Os { what: "pthread_atfork", source })?;
    let at = USED.fetch_add(1, Ordering::Relaxed);
    let entry = ARENAS.get(at).ok_or(Error::Corrupt("a process can be part of 16 arenas"))?;
    entry.store(ptr::from_ref(arena).cast_mut(), Ordering::Release);
    Ok(())
}

/// Threads of this process that are forking, and those that do what no fork may cut in two.
static FORKING: AtomicU32 = AtomicU32::new(0);
static UNFORKED: AtomicU32 = AtomicU32::new(0);

/// While it lives, no other thread of this process forks. Not to be nested.
///
/// Neither side is a lock that a child could inherit: the child begins with both counts at zero.
pub(super) struct Unforked(());

pub(super) fn unforked() -> Unforked {
    // Each side raises its own count before it looks at the other's, sequentially consistent, so at
    // least one of two sees the other; the one that isn't forking steps back.
    loop {
        UNFORKED.fetch_add(1, Ordering::SeqCst);
        if FORKING.load(Ordering::SeqCst) == 0 {
            return Unforked(());
        }
        UNFORKED.fetch_sub(1, Ordering::SeqCst);
        while FORKING.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
}

impl Drop for Unforked {
    fn drop(&mut self) {
        UNFORKED.fetch_sub(1, Ordering::SeqCst);
    }
}

fn before_fork() {
    for (_, arena) in arenas() {
        arena.sweep();
    }
    FORKING.fetch_add(1, Ordering::SeqCst);
    while UNFORKED.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
    let mut reserved = PREPARED.replace([None; MOST]);
    for (at, arena) in arenas() {
        match reserved[at] {
            Some(slot) => arena.share_with(slot),
            None => reserved[at] = arena.reserve().ok(),
        }
    }
    RESERVED.set(reserved);
}

fn after_fork_in_parent() {
    FORKING.fetch_sub(1, Ordering::SeqCst);
}

fn after_fork_in_child() {
    FORKING.store(0, Ordering::SeqCst);
    UNFORKED.store(0, Ordering::SeqCst);
    let reserved = RESERVED.get();
    for (at, arena) in arenas() {
        arena.adopt(reserved[at]);
    }
}

/// Makes sure of a slot for the child that the calling thread forks next: `fork` itself can't say that
/// there is none. [`forked`] must follow, whether the fork comes about or not.
///
/// # Errors
/// [`Error::TooManyProcesses`].
pub fn prepare_fork() -> Result<()> {
    give_back_prepared();
    for (at, arena) in arenas() {
        let mut prepared = PREPARED.get();
        match arena.reserve() {
            Ok(slot) => prepared[at] = Some(slot),
            Err(error) => {
                give_back_prepared();
                return Err(error);
            }
        }
        PREPARED.set(prepared);
    }
    Ok(())
}

fn give_back_prepared() {
    let prepared = PREPARED.replace([None; MOST]);
    for (at, arena) in arenas() {
        if let Some(slot) = prepared[at] {
            arena.unreserve(slot);
        }
    }
}

/// The parent's side of a fork that the calling thread made: tells the arenas the child's number, or
/// that there is none. Gives the child's slot in the family's own arena.
pub fn forked(pid: Option<u32>) -> Option<Slot> {
    give_back_prepared();
    let reserved = RESERVED.replace([None; MOST]);
    for (at, arena) in arenas() {
        match (reserved[at], pid) {
            (Some(slot), Some(pid)) => arena.started(slot, pid),
            (Some(slot), None) => arena.unreserve(slot),
            (None, _) => {}
        }
    }
    reserved[0]
}

/// The arena of this process's own family, made at the first call.
///
/// # Errors
/// As [`Arena::create`].
pub fn family() -> Result<&'static Arena> {
    /// The process in which a thread makes the arena now. Not a lock: a child that was forked
    /// meanwhile, without that thread, finds another number than its own and goes ahead.
    static FOUNDING: AtomicU32 = AtomicU32::new(0);
    let me = procession_os::process::id();
    loop {
        if let Some((_, arena)) = arenas().next() {
            return Ok(arena);
        }
        let founding = FOUNDING.load(Ordering::Acquire);
        if founding == me {
            std::thread::yield_now();
        } else if FOUNDING
            .compare_exchange(founding, me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            let made = match arenas().next() {
                Some((_, arena)) => Ok(arena),
                None => Arena::create().inspect(|arena| arena.set_name(&load_text(&FOUNDER))),
            };
            FOUNDING.store(0, Ordering::Release);
            return made;
        }
    }
}

/// What this process is called, for when it makes the family's arena.
static FOUNDER: [AtomicU64; NAME_WORDS] = [const { AtomicU64::new(0) }; NAME_WORDS];

/// Says what this process is called, in the family that it has or comes to found.
pub fn name_process(name: &str) {
    store_text(&FOUNDER, name);
    if let Some((_, arena)) = arenas().next() {
        arena.set_name(name);
    }
}

/// Whether this process has an arena yet.
#[must_use]
pub fn is_founded() -> bool {
    arenas().next().is_some()
}

/// The arena that a handle belongs to, if this process is part of it.
///
/// # Errors
/// [`Error::ForeignFamily`].
pub fn arena_of(handle: Handle) -> Result<&'static Arena> {
    arenas()
        .map(|(_, arena)| arena)
        .find(|arena| arena.family() == handle.family)
        .ok_or(Error::ForeignFamily(handle))
}

/// Becomes part of the family whose arena a descriptor is; a child that was not forked does so
/// before anything else.
///
/// # Errors
/// [`Error::NotAnArena`], [`Error::WrongVersion`], [`Error::TooManyProcesses`].
pub fn inherit(fd: OwnedFd) -> Result<&'static Arena> {
    Arena::from_fd(fd)?.joined()
}

/// As [`inherit`], for a child whose parent [reserved](Arena::reserve_for_child) a slot for it, with
/// a share in what the parent held. What the child does not open of that it gives back with
/// [`Arena::drop_unopened`].
///
/// # Errors
/// As [`inherit`].
pub fn inherit_as(fd: OwnedFd, slot: Slot) -> Result<&'static Arena> {
    Arena::from_fd(fd)?.joined_by(|arena| arena.begin_as(slot))
}

/// Attaches to the family of a running process of the same user, and takes part in it.
///
/// # Errors
/// [`Error::NotAnArena`] if it has none, [`Error::Os`] if it may not be looked into.
pub fn attach(pid: u32) -> Result<&'static Arena> {
    let what = "looking for the process's arena";
    let directory = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&directory).map_err(|source| Error::Os { what, source })?;
    for entry in entries.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if !target.to_string_lossy().starts_with("/memfd:procession") {
            continue;
        }
        let mut open = std::fs::OpenOptions::new();
        let file = open.read(true).write(true).open(entry.path());
        let file = file.map_err(|source| Error::Os { what, source })?;
        let arena = Arena::from_fd(file.into())?;
        if let Some((_, known)) = arenas().find(|(_, known)| known.family() == arena.family()) {
            return Ok(known);
        }
        return arena.joined();
    }
    Err(Error::NotAnArena(format!("what process {pid} has")))
}
