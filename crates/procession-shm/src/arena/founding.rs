//! How a process comes to have an arena: it makes one, inherits it, or attaches to it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use procession_os::memory::SharedMemory;
use procession_os::process;

use super::error::{Error, Result};
use super::family::Arena;
use super::handle::Handle;
use super::layout::{Header, Layout, MAGIC, MAX_CAPACITY, MIN_CAPACITY, VERSION};
use super::registry;
use super::registry::arenas;
use super::row::{NAME_WORDS, Slot};
use super::text::{load_text, store_text};

impl Arena {
    /// Makes an arena, and makes this process the first of its family.
    ///
    /// # Errors
    /// [`Error::Os`] if there is no memory for the least of arenas.
    pub fn create() -> Result<&'static Self> {
        // RLIMIT_AS and RLIMIT_FSIZE may forbid the terabyte: take what fits, at the most half of
        // what is left so that the program has room as well.
        let mut capacity = MAX_CAPACITY;
        loop {
            match SharedMemory::create("procession", capacity * 2).map(drop) {
                Ok(()) => return Self::with_capacity(capacity),
                Err(_) if capacity > MIN_CAPACITY => capacity /= 2,
                Err(source) => return Err(Error::Os { what: "making the shared memory", source }),
            }
        }
    }

    /// Makes an arena of `capacity` bytes, from 16 MiB to 1 TiB.
    ///
    /// # Errors
    /// [`Error::Os`] if the machine refuses, [`Error::CapacityOutOfRange`].
    pub fn with_capacity(capacity: u64) -> Result<&'static Self> {
        let layout = Layout::of(capacity)?;
        let memory = SharedMemory::create("procession", capacity)
            .map_err(|source| Error::Os { what: "making the shared memory", source })?;
        let family = random();
        let header: &Header = memory.cell(0)?;
        header.version.store(VERSION, Ordering::Relaxed);
        header.family.store(family, Ordering::Relaxed);
        header.capacity.store(capacity, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Self::over(memory, layout, family)?.joined()
    }

    /// Maps the arena behind a descriptor.
    fn from_fd(fd: OwnedFd) -> Result<Self> {
        let foreign = || Error::NotAnArena("the descriptor".to_owned());
        let memory = SharedMemory::from_fd(fd)
            .map_err(|source| Error::Os { what: "mapping the shared memory", source })?;
        let header: &Header = memory.cell(0).map_err(|_| foreign())?;
        if header.magic.load(Ordering::Acquire) != MAGIC {
            return Err(foreign());
        }
        let found = header.version.load(Ordering::Relaxed);
        if found != VERSION {
            return Err(Error::WrongVersion { found, expected: VERSION });
        }
        let capacity = header.capacity.load(Ordering::Relaxed);
        if capacity != memory.size() {
            return Err(Error::Corrupt("the capacity is not the memory's size"));
        }
        let family = header.family.load(Ordering::Relaxed);
        Self::over(memory, Layout::of(capacity)?, family)
    }

    pub(super) fn joined(self) -> Result<&'static Self> {
        self.joined_by(|arena| arena.join().map(|_| ()))
    }

    fn joined_by(
        mut self,
        join: impl FnOnce(&'static Self) -> Result<()>,
    ) -> Result<&'static Self> {
        self.registration = registry::register_arena()?;
        let arena: &'static Self = Box::leak(Box::new(self));
        registry::add(arena);
        join(arena)?;
        arena.joined.store(true, Ordering::SeqCst);
        Ok(arena)
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u32(process::id());
    hasher.write_u64(procession_os::clock::Monotonic::now().as_nanos());
    hasher.finish().max(1)
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
/// with a share in what the parent held. What the child does not open of that, it returns with
/// [`Arena::drop_unopened`].
///
/// # Errors
/// As [`inherit`]; [`Error::NoSuchSlot`].
pub fn inherit_as(fd: OwnedFd, slot: Slot) -> Result<&'static Arena> {
    let arena = Arena::from_fd(fd)?;
    arena.check_slot(slot)?;
    arena.joined_by(|arena| arena.begin_as(slot))
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
