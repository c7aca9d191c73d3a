//! The forks that are under way in this process, and what is reserved for their children.
//!
//! # Threads that open objects meanwhile
//! A thread does not wait for a fork, nor a fork for a thread: between our handlers run those of
//! others, which may wait for a thread of this process. So a fork that is under way is *announced*
//! in private memory, with the slots of its child, before what the parent holds is copied to them.
//! A thread that opens an object sets its own bit first and looks for forks then; it sets the bit
//! of each child to come as well. All this is sequentially consistent, so the copying sees the
//! thread's bit, or the thread sees the fork. Only after that the private count says that the
//! object is open. The child goes by its copy of the count; a count that is marked as being changed
//! counts for nothing there.
//!
//! The bit may come to the child's row later than the child itself. Then the child holds an object
//! that it does not have open, and lets it go at its next visit (`drop_late`).

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::family::Arena;
use super::row::Slot;
use crate::wait::Owner;

/// How many arenas a process may be part of.
pub(super) const MAX_ARENAS: usize = if cfg!(test) { 64 } else { 16 };

/// How deep forks of a thread may be nested with a reservation for each.
pub(super) const DEPTH: usize = 8;

/// How many forks a process may make at once with a reservation for each: the bits of a word.
const FORKS: usize = 64;

/// How many further forks, made during a followed one, are told from it.
const MAX_FOLLOWED: usize = 8;

/// The slots that were reserved for a child, one in each arena.
pub(super) type Reserved = [Option<Slot>; MAX_ARENAS];

/// A fork that is under way.
pub(super) struct Announced {
    /// How many arenas it knows of, + 1; 0 until it knows.
    pub(super) arenas: AtomicUsize,
    /// The slot that is reserved for the child in each, packed as [`Owner::process`] does; 0 until
    /// it is.
    pub(super) slots: [AtomicU64; MAX_ARENAS],
}

/// In place of a slot: the child will have none that is reserved.
const NO_SLOT: u64 = u64::MAX;

pub(super) static ANNOUNCED: [Announced; FORKS] = [const {
    Announced { arenas: AtomicUsize::new(0), slots: [const { AtomicU64::new(0) }; MAX_ARENAS] }
}; FORKS];

/// Which of them are in use.
static UNDER_WAY: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The forks that this thread is making, each nested in the one before, and how many they are.
    pub(super) static MINE: Cell<([Option<u8>; DEPTH], usize)> =
        const { Cell::new(([None; DEPTH], 0)) };

    /// Those that this thread has made since it said that it will follow a child; `None` if it has
    /// not.
    pub(super) static FOLLOWED: RefCell<Option<Followed>> = const { RefCell::new(None) };
}

/// The reservations of forks that were made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Followed {
    pub(super) forks: [Reserved; MAX_FOLLOWED],
    pub(super) count: usize,
}

impl Followed {
    pub(super) const NONE: Self = Self { forks: [[None; MAX_ARENAS]; MAX_FOLLOWED], count: 0 };

    pub(super) fn push(&mut self, reserved: &Reserved) -> bool {
        let Some(place) = self.forks.get_mut(self.count) else { return false };
        *place = *reserved;
        self.count += 1;
        true
    }

    pub(super) fn as_slice(&self) -> &[Reserved] {
        &self.forks[..self.count]
    }
}

pub(super) fn pack(slot: Slot) -> u64 {
    Owner::process(slot.index, slot.generation)
}

pub(super) fn unpack(word: u64) -> Option<Slot> {
    let owner = if word == NO_SLOT { None } else { Owner::from_bits(word) };
    owner.map(|owner| Slot { index: owner.slot(), generation: owner.generation() })
}

/// A slot in an arena for a child that is about to be forked.
pub(super) struct Announcement(&'static AtomicU64);

impl Announcement {
    /// From now on, a thread that opens an object of the arena opens it for the child too.
    pub(super) fn tell(self, slot: Slot) {
        self.0.store(pack(slot), Ordering::SeqCst);
    }
}

impl Announced {
    /// The announcement with this number.
    pub(super) fn at(number: u8) -> &'static Self {
        &ANNOUNCED[usize::from(number)]
    }

    /// Takes an announcement that is not in use; returns its number.
    pub(super) fn begin() -> Option<u8> {
        let order = Ordering::SeqCst;
        let lowest_free = |used: u64| (used != u64::MAX).then(|| used | (used + 1));
        let before = UNDER_WAY.fetch_update(order, order, lowest_free).ok()?;
        Some((!before).trailing_zeros() as u8)
    }

    /// Notes how many arenas the announcement knows of: for an arena that is added later nothing is
    /// reserved.
    pub(super) fn know(&self, arenas: usize) {
        self.arenas.store(arenas + 1, Ordering::SeqCst);
    }

    /// Reserves in an arena, by `reserve`; returns whether there is a slot.
    pub(super) fn reserve_at(
        &'static self,
        arena: usize,
        reserve: impl FnOnce(Announcement) -> bool,
    ) -> bool {
        let slot = &self.slots[arena];
        let is_reserved = reserve(Announcement(slot));
        if !is_reserved {
            slot.store(NO_SLOT, Ordering::SeqCst);
        }
        is_reserved
    }

    pub(super) fn reserved(&self) -> Reserved {
        std::array::from_fn(|at| unpack(self.slots[at].load(Ordering::SeqCst)))
    }

    pub(super) fn clear(&self) {
        self.slots.iter().for_each(|slot| slot.store(0, Ordering::SeqCst));
        self.arenas.store(0, Ordering::SeqCst);
    }

    pub(super) fn end(&self, number: u8) {
        self.clear();
        UNDER_WAY.fetch_and(!(1 << number), Ordering::SeqCst);
    }
}

/// In a fresh copy: what is reserved for it. The forks of the parent's other threads are the
/// parent's, and what the parent follows is no concern of the copy's.
pub(super) fn take_own_reservations() -> Reserved {
    let (mine, depth) = MINE.replace(([None; DEPTH], 0));
    let number = depth.checked_sub(1).and_then(|top| mine.get(top).copied().flatten());
    let reserved = number.map_or([None; MAX_ARENAS], |number| Announced::at(number).reserved());
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
    reserved
}

impl Arena {
    /// Has the children of the forks that are under way hold an object that this process has come
    /// to hold. Its private count does not say so yet.
    pub(super) fn hold_for_children_to_come(&self, object: u32) {
        let mut forks = UNDER_WAY.load(Ordering::SeqCst);
        while forks != 0 {
            let fork = &ANNOUNCED[forks.trailing_zeros() as usize];
            forks &= forks - 1;
            let known = fork.arenas.load(Ordering::SeqCst);
            let index = self.registration.index;
            match fork.slots[index].load(Ordering::SeqCst) {
                // It copies what this process holds when it comes to this arena.
                0 if known == 0 || index < known - 1 => {}
                0 | NO_SLOT => self.pin_one_for_rowless(object),
                slot => {
                    if let Some(slot) = unpack(slot) {
                        self.hold_for(slot, object);
                    }
                }
            }
        }
    }
}
