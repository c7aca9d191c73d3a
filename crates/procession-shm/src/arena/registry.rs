//! The arenas of this process, and what happens to them when it forks.
//!
//! At a fork each arena reserves a slot for the child before it exists, with a share in all that
//! the parent holds; the child's first step is to make it its own. So there is no moment at which
//! the child could use an object that nobody holds for it. Meanwhile no other thread of the parent
//! may begin to hold anything ([`unforked`]): the child would believe to hold it as well.
//!
//! A reservation is made, and left to its child, between the two handlers of one fork, which may be
//! nested: a handler of another library, or a signal's, may fork in between. A parent that wants to
//! follow the child says so before ([`FollowedFork`]), so that the child is followed from the
//! start. It learns of the reservation afterwards. If it made one fork meanwhile, there is one; if
//! hooks made others, the child's own row tells which is its.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use procession_os::atfork::{self, Handlers};
use procession_os::pidfd::PidFd;
use procession_os::process::{self, Fork};
use procession_os::thread_end;

use super::error::{Error, Result};
use super::processes::NAME_WORDS;
use super::{Arena, Handle, Slot, load_text, store_text};

/// How many arenas a process may be part of.
const MOST: usize = if cfg!(test) { 64 } else { 16 };

/// How deep forks of a thread may be nested with a reservation for each.
const DEPTH: usize = 4;

static ARENAS: [AtomicPtr<Arena>; MOST] = [const { AtomicPtr::new(ptr::null_mut()) }; MOST];
static USED: AtomicUsize = AtomicUsize::new(0);

/// The slots that were reserved for a child, one in each arena.
type Reserved = [Option<Slot>; MOST];

thread_local! {
    /// The reservations of the forks that this thread is making, each nested in the one before, and
    /// how many they are.
    static FORKS: Cell<([Reserved; DEPTH], usize)> =
        const { Cell::new(([[None; MOST]; DEPTH], 0)) };

    /// Those of the forks that this thread has made since it said that it will follow a child;
    /// `None` if it has not.
    static FOLLOWED: RefCell<Option<Vec<Reserved>>> = const { RefCell::new(None) };

    /// How many times this thread is within [`unforked`]: a signal handler may fork there.
    static HOLDS: Cell<u32> = const { Cell::new(0) };
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
    thread_end::register(release_watches);
    let at = USED.fetch_add(1, Ordering::Relaxed);
    let too_many = Error::TooMany { what: "arenas", asked: 1 + MOST as u64, most: MOST as u64 };
    let entry = ARENAS.get(at).ok_or(too_many)?;
    entry.store(ptr::from_ref(arena).cast_mut(), Ordering::Release);
    Ok(())
}

/// The calling thread is about to end.
fn release_watches() {
    for (_, arena) in arenas() {
        arena.release_watch();
    }
}

/// Threads of this process that are forking, and those that do what no fork may cut in two.
static FORKING: AtomicU32 = AtomicU32::new(0);
static UNFORKED: AtomicU32 = AtomicU32::new(0);

/// While it lives, no other thread of this process forks.
///
/// Neither side is a lock that a child could inherit: the child begins with both counts at zero.
pub(super) struct Unforked(u32);

pub(super) fn unforked() -> Unforked {
    let me = process::id();
    // Each side raises its own count before it looks at the other's, sequentially consistent, so at
    // least one of two sees the other; the one that isn't forking steps back.
    loop {
        HOLDS.set(HOLDS.get() + 1);
        UNFORKED.fetch_add(1, Ordering::SeqCst);
        if FORKING.load(Ordering::SeqCst) == 0 || HOLDS.get() > 1 || is_forking() {
            return Unforked(me);
        }
        drop(Unforked(me));
        while FORKING.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
}

/// Whether this thread is within a fork, in a handler of which it uses an arena.
fn is_forking() -> bool {
    FORKS.get().1 > 0
}

impl Drop for Unforked {
    fn drop(&mut self) {
        // The copy that a signal handler made of this thread has begun with zero.
        if process::id() == self.0 {
            HOLDS.set(HOLDS.get() - 1);
            UNFORKED.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn before_fork() {
    for (_, arena) in arenas() {
        arena.sweep();
    }
    FORKING.fetch_add(1, Ordering::SeqCst);
    while UNFORKED.load(Ordering::SeqCst) != HOLDS.get() {
        std::thread::yield_now();
    }
    let follows =
        FOLLOWED.with(|followed| followed.try_borrow().is_ok_and(|followed| followed.is_some()));
    let mut reserved = [None; MOST];
    for (at, arena) in arenas() {
        reserved[at] = arena.reserve(follows).ok();
        if reserved[at].is_none() {
            arena.pin_for_rowless();
        }
    }
    let (mut forks, depth) = FORKS.get();
    if let Some(place) = forks.get_mut(depth) {
        *place = reserved;
    }
    FORKS.set((forks, depth + 1));
}

fn after_fork_in_parent() {
    let (forks, depth) = FORKS.get();
    let depth = depth.saturating_sub(1);
    FORKS.set((forks, depth));
    FORKING.fetch_sub(1, Ordering::SeqCst);
    let Some(reserved) = forks.get(depth) else { return };
    for (at, arena) in arenas() {
        if let Some(slot) = reserved[at] {
            arena.fork_is_over(slot);
        }
    }
    let _ = FOLLOWED.try_with(|followed| {
        if let Ok(mut followed) = followed.try_borrow_mut()
            && let Some(followed) = followed.as_mut()
        {
            followed.push(*reserved);
        }
    });
}

fn after_fork_in_child() {
    FORKING.store(0, Ordering::SeqCst);
    UNFORKED.store(0, Ordering::SeqCst);
    HOLDS.set(0);
    let (forks, depth) = FORKS.get();
    FORKS.set((forks, 0));
    // What the parent follows is no concern of the child's. Not freed: this is a fresh child.
    let _ = FOLLOWED.try_with(|followed| {
        if let Ok(mut followed) = followed.try_borrow_mut() {
            std::mem::forget(followed.take());
        }
    });
    let reserved = depth.checked_sub(1).and_then(|top| forks.get(top)).copied();
    let reserved = reserved.unwrap_or([None; MOST]);
    for (at, arena) in arenas() {
        arena.adopt(reserved[at]);
    }
}

/// A fork that the calling thread is about to make, and whose child it will follow: nobody else
/// buries the child before its parent has read what it left.
///
/// One of [`Self::forked`] and [`Self::failed`] is to be called, in the parent. Dropped, it stands
/// for a fork of which the parent doesn't know whether it came about: nobody follows the child
/// then.
#[derive(Debug)]
#[must_use]
pub struct FollowedFork {
    /// The process that forks.
    parent: u32,
    /// What a fork around this one had noted.
    outer: Option<Vec<Reserved>>,
    /// It is the thread's.
    thread: PhantomData<*const ()>,
}

impl FollowedFork {
    /// From here to the end of this value, the children that the thread forks are its own to
    /// follow.
    pub fn begin() -> Self {
        let outer = FOLLOWED.replace(Some(Vec::new()));
        Self { parent: process::id(), outer, thread: PhantomData }
    }

    fn end(&mut self) -> Vec<Reserved> {
        if process::id() != self.parent {
            // A copy of the parent, on its way out.
            return Vec::new();
        }
        FOLLOWED.replace(self.outer.take()).unwrap_or_default()
    }

    /// The fork came about: tells the arenas the child's number. Returns the child's slot in the
    /// family's own arena; `None` for a child that was killed before its first step, where other
    /// forks were made meanwhile.
    ///
    /// # Errors
    /// [`Error::TooManyProcesses`] if the child has no row.
    pub fn forked(mut self, pid: u32) -> Result<Option<Slot>> {
        let forks = self.end();
        let mine = match forks.as_slice() {
            [] => return Ok(None),
            [only] => *only,
            several => match claimed(several, pid) {
                Some(mine) => mine,
                None => {
                    several.iter().for_each(unfollow);
                    return Ok(None);
                }
            },
        };
        for (at, arena) in arenas() {
            if let Some(slot) = mine[at] {
                arena.started(slot, pid);
            }
        }
        forks.iter().filter(|other| **other != mine).for_each(unfollow);
        match arenas().next() {
            Some((at, arena)) if mine[at].is_none() => Err(arena.is_full()),
            Some((at, _)) => Ok(mine[at]),
            None => Ok(None),
        }
    }

    /// There is no child.
    pub fn failed(mut self) {
        let forks = self.end();
        if let [only] = forks.as_slice() {
            for (at, arena) in arenas() {
                if let Some(slot) = only[at] {
                    arena.unreserve(slot);
                }
            }
        } else {
            forks.iter().for_each(unfollow);
        }
    }
}

impl Drop for FollowedFork {
    fn drop(&mut self) {
        self.end().iter().for_each(unfollow);
    }
}

fn unfollow(reserved: &Reserved) {
    for (at, arena) in arenas() {
        if let Some(slot) = reserved[at] {
            arena.unfollow(slot);
        }
    }
}

/// Which of several reservations the child `pid` has claimed; waits until it has, or is over.
fn claimed(several: &[Reserved], pid: u32) -> Option<Reserved> {
    let pidfd = PidFd::open(pid).ok();
    let has = |reserved: &&Reserved| {
        arenas().any(|(at, arena)| reserved[at].is_some_and(|slot| arena.pid_of(slot) == pid))
    };
    loop {
        let over = pidfd.as_ref().is_none_or(PidFd::has_ended);
        if let Some(mine) = several.iter().find(has) {
            return Some(*mine);
        }
        if over {
            return None;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Which side of [`fork`] this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process, which has a row in every arena.
    Child,
    /// The caller: the number of its child, and its slot in the family's own arena.
    Parent(u32, Option<Slot>),
}

/// Makes a copy of this process, which the caller follows. Where the table has no row for it, the
/// copy leaves before it does anything.
///
/// # Errors
/// [`Error::TooManyProcesses`]; [`Error::Os`] as `fork(2)`.
///
/// # Safety
/// As [`process::fork`].
pub unsafe fn fork() -> Result<Forked> {
    let followed = FollowedFork::begin();
    // SAFETY: passed on to the caller.
    match unsafe { process::fork() } {
        Ok(Fork::Child) => {
            leave_without_row();
            Ok(Forked::Child)
        }
        Ok(Fork::Parent(pid)) => {
            let slot = followed.forked(pid).inspect_err(|_| {
                let _ = process::reap(pid);
            })?;
            Ok(Forked::Parent(pid, slot))
        }
        Err(source) => {
            followed.failed();
            Err(Error::Os { what: "fork", source })
        }
    }
}

/// Ends this process, a child that its parent follows, if it has no row in an arena of its family:
/// the parent is told the same by [`FollowedFork::forked`].
pub fn leave_without_row() {
    if arenas().next().is_some_and(|(_, arena)| !arena.is_member()) {
        process::exit_now(WITHOUT_ROW);
    }
}

/// `EX_OSERR` (`sysexits.h`).
const WITHOUT_ROW: i32 = 71;

/// Has the calling thread watch over this process's rows where the thread that did so has ended.
#[cold]
pub(super) fn watch() {
    for (_, arena) in arenas() {
        arena.watch();
    }
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

/// As [`inherit`], for a child whose parent [reserved](Arena::reserve_for_child) a slot for it,
/// with a share in what the parent held. What the child does not open of that it gives back with
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
