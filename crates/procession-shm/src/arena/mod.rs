//! The memory that a family shares: one sparse memfd, mapped whole in each of its processes.
//!
//! # Invariant
//! Every change becomes true by one atomic store; what comes before it can be thrown away, and what
//! comes after it can be derived. So a process may be killed at any instruction, and what it leaves
//! is put in order by the next that comes along: the allocator's lists by whoever takes its lock
//! next, a process's references by whoever [buries](Arena::bury) it.
//!
//! Inside the arena there are only offsets, and everything that is read from it is checked: another
//! process may have written anything.

mod blocked;
mod error;
mod handle;
mod heap;
mod layout;
mod names;
mod objects;
mod processes;
mod registry;
mod watch;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32 as PrivateU32, AtomicU64 as PrivateU64};

use procession_os::memory::{PrivateCells, SharedMemory};
use procession_os::process;
use procession_os::robust::{LifeWord, Sign};

pub use blocked::SleepsOn;
pub use error::{Error, Result};
pub use handle::{Handle, ParseHandleError};
pub(crate) use heap::{Block, BlockOwner};
pub use heap::{IDLE, WARM_FLOOR, WARM_MAX, make_interruptibly};
pub use layout::UNIT;
pub use names::{Named, ProcessName};
pub use objects::{Kind, ObjectInfo, ObjectRef};
pub use processes::{ProcessInfo, Slot};
pub use registry::{
    FollowedFork, Forked, arena_of, attach, family, fork, inherit, inherit_as, is_founded,
    leave_without_row, name_process,
};

use crate::atomics::{AtomicU64, Ordering};
use crate::slots::Status;
use crate::wait::Owner;
use layout::{Header, Layout, MAGIC, MAX_CAPACITY, MIN_CAPACITY, VERSION};

/// What an arena has for a slot that its process is not yet part of.
static NO_SLOT_YET: PrivateU64 = PrivateU64::new(0);

/// A family's shared memory, as this process sees it.
///
/// It stays mapped for the life of the process, so it is handed about as `&'static Arena`.
#[derive(Debug)]
pub struct Arena {
    memory: SharedMemory,
    layout: Layout,
    family: u64,
    /// This process's slot and its generation, as [`Owner::process`] packs them; 0 in a copy that
    /// has not found out yet.
    me: &'static PrivateU64,
    /// Which of the process's arenas it is.
    place: usize,
    /// Whether this process, or the one that it is a copy of, has been in the table.
    joined: AtomicBool,
    counts: PrivateCells,
    /// At least one more than the highest index of `counts` that was ever changed.
    counted: PrivateU32,
    /// Objects + 1 that a thread of the parent was opening when it forked this process.
    late: [PrivateU32; objects::LATE],
    visits: heap::HeapVisits,
}

/// What a thread found out when it last asked for itself as an owner.
#[derive(Clone, Copy)]
struct Known {
    arena: &'static Arena,
    /// Its process's slot there: a copy of the process has another.
    me: u64,
    owner: Owner,
    /// Says whether a thread watches over the process.
    life: &'static LifeWord,
}

thread_local! {
    static KNOWN: Cell<Option<Known>> = const { Cell::new(None) };
}

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

    fn over(memory: SharedMemory, layout: Layout, family: u64) -> Result<Self> {
        let counts = PrivateCells::new(layout.objects as usize)
            .map_err(|source| Error::Os { what: "making the table of references", source })?;
        let visits = heap::HeapVisits::default();
        Ok(Self {
            memory,
            layout,
            family,
            me: &NO_SLOT_YET,
            place: 0,
            joined: AtomicBool::new(false),
            counts,
            counted: PrivateU32::new(0),
            late: Default::default(),
            visits,
        })
    }

    fn joined(self) -> Result<&'static Self> {
        self.joined_by(|arena| arena.join().map(|_| ()))
    }

    fn joined_by(
        mut self,
        join: impl FnOnce(&'static Self) -> Result<()>,
    ) -> Result<&'static Self> {
        (self.place, self.me) = registry::place()?;
        let arena: &'static Self = Box::leak(Box::new(self));
        registry::add(arena.place, arena);
        join(arena)?;
        arena.joined.store(true, Ordering::SeqCst);
        Ok(arena)
    }

    fn place(&self) -> usize {
        self.place
    }

    fn is_joined(&self) -> bool {
        self.joined.load(Ordering::SeqCst)
    }

    /// Whether this process has a slot already, if it is about to join.
    fn has_slot(&self) -> bool {
        self.me.load(Ordering::SeqCst) != 0
    }

    fn header(&self) -> &Header {
        // The mapping holds at least the tables, which was checked when it was made.
        self.memory.cell(0).expect("the header is in the mapping")
    }

    /// The family's random number.
    #[must_use]
    pub fn family(&self) -> u64 {
        self.family
    }

    /// The arena's size in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.layout.capacity
    }

    /// Bytes of the machine's memory that the arena takes now.
    ///
    /// # Errors
    /// [`Error::Os`].
    pub fn resident(&self) -> Result<u64> {
        self.memory.resident().map_err(|source| Error::Os { what: "fstat", source })
    }

    /// This process's slot.
    #[must_use]
    #[inline]
    pub fn me(&self) -> Slot {
        let owner = Owner::from_bits(self.my_word());
        owner.map_or(Slot { index: 0, generation: 0 }, |owner| Slot {
            index: owner.slot(),
            generation: owner.generation(),
        })
    }

    #[inline]
    fn my_word(&self) -> u64 {
        match self.me.load(Ordering::Relaxed) {
            0 => self.find_me(),
            word => word,
        }
    }

    #[cold]
    fn find_me(&self) -> u64 {
        if self.is_joined() {
            registry::settle();
        }
        self.me.load(Ordering::Relaxed)
    }

    fn set_me(&self, slot: Slot) {
        self.me.store(Owner::process(slot.index, slot.generation), Ordering::SeqCst);
    }

    /// The calling thread, as the owner of a lock.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> Owner {
        let (me, known) = (self.me.load(Ordering::Relaxed), KNOWN.get());
        match known {
            Some(known)
                if known.me == me
                    && ptr::eq(known.arena, self)
                    && known.life.sign() != Sign::Unwatched =>
            {
                known.owner
            }
            _ => self.find_owner(),
        }
    }

    #[cold]
    fn find_owner(&self) -> Owner {
        if self.is_unwatched() {
            registry::watch();
        }
        let me = self.my_word();
        let owner = Owner::from_bits(me | u64::from(process::thread_id()));
        let owner = owner.expect("a thread's number is not 0");
        if me != 0
            && let Some(arena) =
                registry::arena_at(self.place).filter(|arena| ptr::eq(*arena, self))
            && let Some(life) = arena.my_life()
        {
            KNOWN.set(Some(Known { arena, me, owner, life }));
        }
        owner
    }

    /// The shared bytes, for the upper floors.
    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// A word of a block.
    pub(crate) fn word(&self, offset: u64) -> Result<&AtomicU64> {
        Ok(self.memory.cell(offset)?)
    }

    fn slot_in_use(&self, slot: u16) -> bool {
        self.row(slot)
            .and_then(processes::Row::state)
            .is_ok_and(|state| state.status != Status::Free)
    }
}

impl Arena {
    /// The shared memory's descriptor, to be passed to a process that is to
    /// [inherit](registry::inherit) it.
    ///
    /// # Errors
    /// [`Error::Os`] if the program has closed it.
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        let what = "passing shared memory on: the program has closed its descriptor";
        self.memory.descriptor().map_err(|source| Error::Os { what, source })
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u32(process::id());
    hasher.write_u64(procession_os::clock::Monotonic::now().as_nanos());
    hasher.finish().max(1)
}

/// Writes a text, so that a reader of a part of it sees all that the writer did before.
fn store_text(words: &[AtomicU64], text: &str) {
    let mut end = text.len().min(words.len() * 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = text.as_bytes()[..end].chunks(8);
    for word in words {
        let mut eight = [0; 8];
        let chunk = bytes.next().unwrap_or_default();
        eight[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(eight), Ordering::Release);
    }
}

fn load_text(words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect();
    text_of(&bytes)
}

/// The text in bytes that end with it, or with zeroes behind it.
fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests;
