//! The arenas of this process, and what happens to them when it forks.
//!
//! At a fork each arena reserves a slot for the child before it exists, with a share in all that
//! the parent holds; the child's first step is to make it its own. So there is no moment at which
//! the child could use an object that nobody holds for it.
//!
//! # Threads that open objects meanwhile
//! Nobody waits for a fork, nor a fork for anybody: between our handlers run those of others, which
//! may wait for a thread of this process. So a fork that is under way is *announced* in private
//! memory, with the slots of its child, before what the parent holds is copied to them. A thread
//! that opens an object sets its own bit first and looks for forks then; it sets the bit of each
//! child to come as well. All this is sequentially consistent, so the copying sees the thread's
//! bit, or the thread sees the fork. Only after that the private count says that the object is
//! open, and the child's copy of the count is what the child goes by: one that is marked as being
//! changed counts for nothing there.
//!
//! The bit may come to the child's row later than the child itself. Then the child holds an object
//! that it has not open, and lets it go when it next comes by (`drop_late`).
//!
//! # Who one is
//! A process's slot is in a [word that is 0 in every copy](wiped) of it. A copy that finds 0 claims
//! what was reserved for it: in our handler, or before that, where a handler of others uses an
//! arena first. Where nothing was reserved, since no handler of ours ran or the table was full, it
//! takes a slot by itself, and a share in what it has open.
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
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use procession_os::atfork::{self, Handlers};
use procession_os::clock::Monotonic;
use procession_os::pidfd::PidFd;
use procession_os::process::{self, Fork};
use procession_os::{signals, thread_end, wiped};

use super::error::{Error, Result};
use super::processes::NAME_WORDS;
use super::{Arena, Handle, Slot, load_text, store_text};
use crate::wait::Owner;

/// How many arenas a process may be part of.
const MAX_ARENAS: usize = if cfg!(test) { 64 } else { 16 };

/// How deep forks of a thread may be nested with a reservation for each.
const DEPTH: usize = 8;

/// How many forks a process may make at once with a reservation for each: the bits of a word.
const FORKS: usize = 64;

/// How many forks that come about within one that is followed are told from it.
const MAX_FOLLOWED: usize = 8;

static ARENAS: [AtomicPtr<Arena>; MAX_ARENAS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_ARENAS];
static USED: AtomicUsize = AtomicUsize::new(0);

/// The slots that were reserved for a child, one in each arena.
type Reserved = [Option<Slot>; MAX_ARENAS];

/// A fork that is under way.
struct Announced {
    /// How many arenas it knows of, + 1; 0 until it knows.
    arenas: AtomicUsize,
    /// The slot that is reserved for the child in each, packed as [`Owner::process`] does; 0 until
    /// it is.
    slots: [AtomicU64; MAX_ARENAS],
}

/// In place of a slot: the child will have none that is reserved.
const NO_SLOT: u64 = u64::MAX;

static ANNOUNCED: [Announced; FORKS] = [const {
    Announced { arenas: AtomicUsize::new(0), slots: [const { AtomicU64::new(0) }; MAX_ARENAS] }
}; FORKS];

/// Which of them are in use.
static UNDER_WAY: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The forks that this thread is making, each nested in the one before, and how many they are.
    static MINE: Cell<([Option<u8>; DEPTH], usize)> = const { Cell::new(([None; DEPTH], 0)) };

    /// Those that this thread has made since it said that it will follow a child; `None` if it has
    /// not.
    static FOLLOWED: RefCell<Option<Followed>> = const { RefCell::new(None) };
}

/// The reservations of forks that were made.
#[derive(Clone, Copy, Debug)]
struct Followed {
    forks: [Reserved; MAX_FOLLOWED],
    count: usize,
}

impl Followed {
    const NONE: Self = Self { forks: [[None; MAX_ARENAS]; MAX_FOLLOWED], count: 0 };

    fn push(&mut self, reserved: &Reserved) -> bool {
        let Some(place) = self.forks.get_mut(self.count) else { return false };
        *place = *reserved;
        self.count += 1;
        true
    }

    fn as_slice(&self) -> &[Reserved] {
        &self.forks[..self.count]
    }
}

/// The word of a process that says whether it knows its slots; the arenas' follow.
const SETTLED: usize = 1;
const FIRST_SLOT: usize = 2;
const _: () = assert!(FIRST_SLOT + MAX_ARENAS <= wiped::WORDS);

/// The process knows its slots. Before that the word has the number of the thread that finds out.
const YES: u64 = u64::MAX;

/// An arena, also one that this process is about to join.
pub(super) fn arena_at(at: usize) -> Option<&'static Arena> {
    // SAFETY: a non-null entry was leaked in `joined_by` and is never freed.
    unsafe { ARENAS.get(at)?.load(Ordering::SeqCst).as_ref() }
}

fn arenas() -> impl Iterator<Item = (usize, &'static Arena)> {
    (0..MAX_ARENAS)
        .filter_map(|at| arena_at(at).filter(|arena| arena.is_joined()).map(|it| (at, it)))
}

/// Called before `main`, or when the library is loaded, so that no fork of the program can have
/// begun before. [`place`] does the same, if the linker has left this out.
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

/// A place for one more arena, and the word that has this process's slot in it.
pub(super) fn place() -> Result<(usize, &'static AtomicU64)> {
    register()?;
    settle();
    thread_end::register(release_watches);
    let at = USED.fetch_add(1, Ordering::SeqCst);
    let too_many =
        Error::TooMany { what: "arenas", asked: 1 + MAX_ARENAS as u64, max: MAX_ARENAS as u64 };
    if at < MAX_ARENAS { Ok((at, wiped::word(FIRST_SLOT + at))) } else { Err(too_many) }
}

pub(super) fn add(at: usize, arena: &'static Arena) {
    ARENAS[at].store(ptr::from_ref(arena).cast_mut(), Ordering::SeqCst);
}

/// The calling thread is about to end.
fn release_watches() {
    for (_, arena) in arenas() {
        arena.release_watch();
    }
}

fn pack(slot: Slot) -> u64 {
    Owner::process(slot.index, slot.generation)
}

fn unpack(word: u64) -> Option<Slot> {
    let owner = if word == NO_SLOT { None } else { Owner::from_bits(word) };
    owner.map(|owner| Slot { index: owner.slot(), generation: owner.generation() })
}

/// A slot in an arena for a child that is about to be forked.
pub(super) struct Announcement(&'static AtomicU64);

impl Announcement {
    /// From now on, who opens an object of the arena opens it for the child too.
    pub(super) fn tell(self, slot: Slot) {
        self.0.store(pack(slot), Ordering::SeqCst);
    }
}

impl Announced {
    fn begin() -> Option<u8> {
        let order = Ordering::SeqCst;
        let lowest_free = |used: u64| (used != u64::MAX).then(|| used | (used + 1));
        let before = UNDER_WAY.fetch_update(order, order, lowest_free).ok()?;
        Some((!before).trailing_zeros() as u8)
    }

    fn reserve(&'static self, follows: bool) {
        // Those that are added later know by the number that nothing is reserved for the child.
        let used = loop {
            let used = USED.load(Ordering::SeqCst).min(MAX_ARENAS);
            self.arenas.store(used + 1, Ordering::SeqCst);
            if USED.load(Ordering::SeqCst).min(MAX_ARENAS) == used {
                break used;
            }
        };
        for (at, slot) in self.slots.iter().enumerate().take(used) {
            let joined = || arena_at(at).filter(|arena| arena.has_slot());
            let reserved = joined().map(|arena| arena.reserve(follows, Some(Announcement(slot))));
            if !matches!(reserved, Some(Ok(_))) {
                slot.store(NO_SLOT, Ordering::SeqCst);
                if let Some(arena) = joined() {
                    arena.pin_for_rowless();
                }
            }
        }
    }

    fn reserved(&self) -> Reserved {
        std::array::from_fn(|at| unpack(self.slots[at].load(Ordering::SeqCst)))
    }

    fn clear(&self) {
        self.slots.iter().for_each(|slot| slot.store(0, Ordering::SeqCst));
        self.arenas.store(0, Ordering::SeqCst);
    }

    fn end(&self, number: u8) {
        self.clear();
        UNDER_WAY.fetch_and(!(1 << number), Ordering::SeqCst);
    }
}

/// Has the children of the forks that are under way hold an object that this process has come to
/// hold. Its private count does not say so yet.
pub(super) fn hold_for_children_to_come(arena: &Arena, object: u32) {
    let mut forks = UNDER_WAY.load(Ordering::SeqCst);
    while forks != 0 {
        let fork = &ANNOUNCED[forks.trailing_zeros() as usize];
        forks &= forks - 1;
        let known = fork.arenas.load(Ordering::SeqCst);
        match fork.slots[arena.place()].load(Ordering::SeqCst) {
            // It copies what this process holds when it comes to this arena.
            0 if known == 0 || arena.place() < known - 1 => {}
            0 | NO_SLOT => arena.pin_one_for_rowless(object),
            slot => {
                if let Some(slot) = unpack(slot) {
                    arena.hold_for(slot, object);
                }
            }
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
        Some(number) => ANNOUNCED[number as usize].reserve(follows),
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
    let (mine, depth) = MINE.replace(([None; DEPTH], 0));
    let number = depth.checked_sub(1).and_then(|top| mine.get(top).copied().flatten());
    let reserved =
        number.map_or([None; MAX_ARENAS], |number| ANNOUNCED[number as usize].reserved());
    // Other threads' forks are the parent's, and what it follows is no concern of the child's.
    let mut forks = UNDER_WAY.swap(0, Ordering::SeqCst);
    while forks != 0 {
        ANNOUNCED[forks.trailing_zeros() as usize].clear();
        forks &= forks - 1;
    }
    FOLLOWED.with(|followed| {
        if let Ok(mut followed) = followed.try_borrow_mut() {
            *followed = None;
        }
    });
    for (at, reserved) in reserved.into_iter().enumerate() {
        let Some(arena) = arena_at(at) else { continue };
        if reserved.is_some() || arena.is_joined() {
            arena.adopt(reserved);
        } else {
            // A thread of the parent was about to join.
            ARENAS[at].store(ptr::null_mut(), Ordering::SeqCst);
        }
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
    outer: Option<Followed>,
    /// It is the thread's.
    thread: PhantomData<*const ()>,
}

impl FollowedFork {
    /// From here to the end of this value, the children that the thread forks are its own to
    /// follow.
    pub fn begin() -> Self {
        let outer = FOLLOWED.replace(Some(Followed::NONE));
        Self { parent: process::id(), outer, thread: PhantomData }
    }

    fn end(&mut self) -> Followed {
        if process::id() != self.parent {
            // A copy of the parent, on its way out.
            return Followed::NONE;
        }
        FOLLOWED.replace(self.outer.take()).unwrap_or(Followed::NONE)
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
        forks.as_slice().iter().filter(|other| **other != mine).for_each(unfollow);
        match arenas().next() {
            Some((at, arena)) if mine[at].is_none() => Err(arena.is_full()),
            Some((at, _)) => Ok(mine[at]),
            None => Ok(None),
        }
    }

    /// The number of a child that has come about though the call that made it returned an error, as
    /// soon as it claims its row; `None` if the thread made no fork, or others as well, so that it
    /// can't be told. Waits a second at the most, since a child that is killed before claims
    /// nothing.
    #[must_use]
    pub fn child_despite_error(self) -> Option<u32> {
        let only = FOLLOWED.with_borrow(|forks| match forks.as_ref()?.as_slice() {
            [only] => Some(*only),
            _ => None,
        })?;
        let deadline = Monotonic::now().after(Duration::from_secs(1));
        while Monotonic::now() < deadline {
            let pid = |(at, arena): (usize, &Arena)| only[at].map(|slot| arena.pid_of(slot));
            if let Some(pid) = arenas().filter_map(pid).find(|&pid| pid != 0) {
                return Some(pid);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        None
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
            forks.as_slice().iter().for_each(unfollow);
        }
    }
}

impl Drop for FollowedFork {
    fn drop(&mut self) {
        self.end().as_slice().iter().for_each(unfollow);
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
