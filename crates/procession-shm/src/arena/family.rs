//! A family's shared memory, as one of its processes sees it: where its tables are, and which slot
//! is this process's.
//!
//! # Which slot
//! The slot's word is 0 in every copy of the process (see the registry). A copy that finds 0 has
//! the registry find its slot, by way of the [`Registration`] that the arena was given.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32 as PrivateU32;
use std::sync::atomic::AtomicU64 as PrivateU64;

use procession_os::memory::{PrivateCells, SharedMemory};
use procession_os::process;
use procession_os::robust::{LifeWord, Sign};

use super::error::{Error, Result};
use super::heap::state::HeapVisits;
use super::layout::{Header, Layout};
use super::object_row::Object;
use super::row::{NO_SLOT_INDEX, Row, Slot};
use crate::atomics::{AtomicU64, Ordering};
use crate::wait::Owner;

/// What an arena has for a slot that its process is not yet part of.
static NO_SLOT_YET: PrivateU64 = PrivateU64::new(0);

/// How many objects a forked process remembers that its parent may come to hold on its behalf. Of
/// more it keeps its share until it ends.
const LATE: usize = 8;

/// What an arena knows of the process that it is one of the arenas of.
#[derive(Debug)]
pub(super) struct Registration {
    /// Which of the process's arenas it is.
    pub(super) index: usize,
    /// This process's slot and its generation, as [`Owner::process`] packs them; 0 in a copy that
    /// has not found out yet.
    pub(super) slot: &'static PrivateU64,
    /// Makes sure that this process knows its slots.
    pub(super) settle: fn(),
    /// Has the calling thread watch over this process's rows.
    pub(super) watch: fn(),
    /// The arena with an index.
    pub(super) find: fn(usize) -> Option<&'static Arena>,
}

impl Registration {
    /// That of an arena which the process is not yet part of.
    pub(super) const NONE: Self =
        Self { index: 0, slot: &NO_SLOT_YET, settle: || {}, watch: || {}, find: |_| None };
}

/// What a thread found out when it last asked for itself as an owner: a lock is acquired so often
/// that each look at the tables tells.
#[derive(Clone, Copy)]
struct Known {
    arena: &'static Arena,
    /// The word of its process's slot: in a copy of the process it is another.
    slot: u64,
    owner: Owner,
    /// Tells whether a thread watches over the process.
    life: &'static LifeWord,
}

thread_local! {
    static KNOWN: Cell<Option<Known>> = const { Cell::new(None) };
}

/// The objects whose end this process had to put off. A forked child that has its parent's copy
/// finds nothing of its own by it.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// Whether there may be one.
    pub(super) any: AtomicBool,
    /// The slot of the process that is to end the object, and the object's index + 1.
    pub(super) objects: [PrivateU64; 16],
}

/// A family's shared memory, as this process sees it.
///
/// It stays mapped for the life of the process, so it is handed about as `&'static Arena`.
#[derive(Debug)]
pub struct Arena {
    pub(super) memory: SharedMemory,
    pub(super) layout: Layout,
    family: u64,
    pub(super) registration: Registration,
    /// Whether this process, or the one that it is a copy of, has been in the table.
    pub(super) joined: AtomicBool,
    /// How many references this process has to each object.
    pub(super) counts: PrivateCells,
    /// At least one more than the highest index of `counts` that was ever changed.
    pub(super) counted: PrivateU32,
    /// Objects + 1 that a thread of the parent was opening when it forked this process.
    pub(super) late: [PrivateU32; LATE],
    pub(super) visits: HeapVisits,
    pub(super) unfinished: Unfinished,
}

impl Arena {
    /// The arena in mapped memory, of which this process is not yet part.
    pub(super) fn over(memory: SharedMemory, layout: Layout, family: u64) -> Result<Self> {
        let counts = PrivateCells::new(layout.objects as usize)
            .map_err(|source| Error::Os { what: "making the table of references", source })?;
        Ok(Self {
            memory,
            layout,
            family,
            registration: Registration::NONE,
            joined: AtomicBool::new(false),
            counts,
            counted: PrivateU32::new(0),
            late: Default::default(),
            visits: HeapVisits::default(),
            unfinished: Unfinished::default(),
        })
    }

    pub(super) fn is_joined(&self) -> bool {
        self.joined.load(Ordering::SeqCst)
    }

    /// Whether this process has a slot already, if it is about to join.
    pub(super) fn has_slot(&self) -> bool {
        self.registration.slot.load(Ordering::SeqCst) != 0
    }

    pub(super) fn header(&self) -> &Header {
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

    #[inline]
    pub(super) fn row(&self, slot: u16) -> Result<&Row> {
        if slot == NO_SLOT_INDEX {
            return Err(Error::TooManyProcesses(self.layout.slots));
        }
        Ok(self.memory.cell(self.layout.row(slot)?)?)
    }

    /// How many processes the family can have.
    pub(crate) fn slots(&self) -> u32 {
        self.layout.slots
    }

    pub(crate) fn slots_used(&self) -> u16 {
        self.header().slots_used.load(Ordering::SeqCst).min(self.layout.slots) as u16
    }

    #[inline]
    pub(super) fn object(&self, index: u32) -> Result<&Object> {
        Ok(self.memory.cell(self.layout.object(index)?)?)
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
        match self.registration.slot.load(Ordering::Relaxed) {
            0 => self.find_me(),
            word => word,
        }
    }

    #[cold]
    fn find_me(&self) -> u64 {
        if self.is_joined() {
            (self.registration.settle)();
        }
        self.registration.slot.load(Ordering::Relaxed)
    }

    pub(super) fn set_me(&self, slot: Slot) {
        let word = Owner::process(slot.index, slot.generation);
        self.registration.slot.store(word, Ordering::SeqCst);
    }

    /// The calling thread, as the owner of a lock.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> Owner {
        let slot = self.registration.slot.load(Ordering::Relaxed);
        match KNOWN.get() {
            Some(known)
                if known.slot == slot
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
        self.see_to_watch();
        let slot = self.my_word();
        let owner = Owner::from_bits(slot | u64::from(process::thread_id()));
        let owner = owner.expect("a thread's number is not 0");
        let arena = (self.registration.find)(self.registration.index);
        if slot != 0
            && let Some(arena) = arena.filter(|arena| ptr::eq(*arena, self))
            && let Ok(row) = arena.row(owner.slot())
        {
            KNOWN.set(Some(Known { arena, slot, owner, life: &row.life.0 }));
        }
        owner
    }

    /// Has the calling thread watch over this process's rows, where the thread that did so has
    /// ended.
    #[inline]
    pub(super) fn see_to_watch(&self) {
        if self.is_unwatched() {
            (self.registration.watch)();
        }
    }

    /// Whether no thread watches over this process's row, as after the end of the thread that did:
    /// the next thread that takes a lock or sleeps takes over. Only the row's word tells it, as the
    /// kernel and other processes change that too.
    #[inline]
    pub(super) fn is_unwatched(&self) -> bool {
        self.row(self.me().index).is_ok_and(|row| row.life.0.sign() == Sign::Unwatched)
    }

    /// Whether this process is in the table.
    #[inline]
    pub(crate) fn is_member(&self) -> bool {
        self.me().index != NO_SLOT_INDEX
    }

    /// Refuses a process that is not in the table: no other process could see it die with what it
    /// takes.
    ///
    /// # Errors
    /// [`Error::TooManyProcesses`].
    #[inline]
    pub fn check_member(&self) -> Result<()> {
        if self.is_member() { Ok(()) } else { Err(self.is_full()) }
    }

    /// The error of a full table.
    pub(crate) fn is_full(&self) -> Error {
        Error::TooManyProcesses(self.layout.slots)
    }

    /// The shared bytes, for the upper floors.
    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// A word of a block.
    pub(crate) fn word(&self, offset: u64) -> Result<&AtomicU64> {
        Ok(self.memory.cell(offset)?)
    }

    /// The shared memory's descriptor, to be passed to a process that is to
    /// [inherit](super::inherit) it.
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
