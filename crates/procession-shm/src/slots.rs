//! What becomes of a process's slot, from its reservation to its burial.
//!
//! # A slot's life
//! ```text
//! free → reserved (by the parent, for one fork) → live (by the process itself)
//!      → burying (by a process that finds it over) → ended → burying → free
//! ```
//! Each arrow is one compare-exchange of the state word, which holds the generation and the slot of
//! the process that made the change. *Ended* is left out where no process follows this one.
//!
//! # Invariants
//! - A reservation belongs to one fork of one thread. The child [claims](SlotWords::claim) it, or
//!   the parent [withdraws](SlotWords::withdraw) it. Withdrawing needs the state *reserved*, so it
//!   never meets a process that runs.
//! - A slot whose process lives is not buried. A burier names the state that it looked at, so a
//!   reservation that was claimed meanwhile is left as it is.
//! - What a process wrote about itself stays until its *follower* has read it. The follower stands
//!   in the slot before the process runs. A burial gives back what the process held, and stops at
//!   *ended* for as long as there is a follower that lives.
//! - A burier that dies is replaced by the next one: each step of a burial may be done twice.
//!
//! A generation is never used twice: a slot whose generations are used up is
//! [retired](MAX_GENERATION).

use procession_os::memory::Shared;

use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::Owner;

/// The last generation of a slot: as many as an [`Owner`] has bits for.
pub const MAX_GENERATION: u32 = Owner::GENERATIONS;

/// How often a step is tried again that another process has come in between. Each step meets that
/// once or twice in a slot's life; the bound is for words that something else changes.
const TRIES: u32 = 64;

/// A state that no slot has: another process wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownStatus;

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It has no process.
    Free = 0,
    /// It was taken for a process that is about to take its first step.
    Reserved = 1,
    /// Its process has taken its first step.
    Live = 2,
    /// Its process is over, and what it held is being given back.
    Burying = 3,
    /// What its process held was given back, and its follower has still to read what it wrote.
    Ended = 4,
}

/// The state word: the status, the slot that set it, and the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Where the slot is in its life.
    pub status: Status,
    /// The slot of the process that set this status.
    pub by: u16,
    /// Which of the processes that have had the slot.
    pub generation: u32,
}

impl State {
    fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.by) << 8 | self.status as u64
    }

    fn from_word(word: u64) -> Result<Self, UnknownStatus> {
        let status = match word as u8 {
            0 => Status::Free,
            1 => Status::Reserved,
            2 => Status::Live,
            3 => Status::Burying,
            4 => Status::Ended,
            _ => return Err(UnknownStatus),
        };
        Ok(Self { status, by: (word >> 8) as u16, generation: (word >> 32) as u32 })
    }
}

/// What a slot needs to know of the other processes.
pub trait Census {
    /// The slot of the calling process.
    fn me(&self) -> u16;
    /// Whether the process with this slot and generation is over.
    fn is_over(&self, slot: u16, generation: u32) -> bool;
    /// Whether the process that has this slot now is over.
    fn has_left(&self, slot: u16) -> bool;
}

/// The steps of a burial that are not the slot's own; each may be done twice.
pub trait Rites {
    /// Gives back what the process held. Returns whether it came to its end: not if another process
    /// was stopped at a lock that this needs.
    fn give_back(&self) -> bool;
    /// Clears what the process wrote about itself.
    fn clear(&self);
}

/// The words of a slot; all zero is a free one.
#[repr(C)]
#[derive(Debug, Default)]
pub struct SlotWords {
    state: AtomicU64,
    /// The generation whose fork is over, so that its child is there or never comes.
    forked: AtomicU64,
    /// The process that follows this one, as [`Owner::process`] packs it; 0 if none does.
    follower: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for SlotWords {}

impl SlotWords {
    /// The state at this instant.
    ///
    /// # Errors
    /// [`UnknownStatus`].
    pub fn state(&self) -> Result<State, UnknownStatus> {
        State::from_word(self.state.load(Ordering::SeqCst))
    }

    fn change(&self, from: State, to: State) -> bool {
        let order = Ordering::SeqCst;
        self.state.compare_exchange(from.word(), to.word(), order, order).is_ok()
    }

    /// Takes a free slot in the name of the slot `by`; returns the generation.
    pub fn reserve(&self, by: u16) -> Option<u32> {
        let state = self.state().ok()?;
        let free = state.status == Status::Free && state.generation < MAX_GENERATION;
        let generation = state.generation.wrapping_add(1);
        let reserved = State { status: Status::Reserved, by, generation };
        (free && self.change(state, reserved)).then_some(generation)
    }

    /// Whether the slot is reserved with this generation.
    pub fn is_reserved(&self, generation: u32) -> bool {
        self.state()
            .is_ok_and(|state| state.status == Status::Reserved && state.generation == generation)
    }

    /// The child's first step: makes the slot `me`, reserved for it, its own.
    pub fn claim(&self, generation: u32, me: u16) -> bool {
        self.leave_reserved(generation, |state| State { status: Status::Live, by: me, ..state })
    }

    /// Frees a slot that was reserved for a process that does not come. Does nothing if the process
    /// has come.
    pub fn withdraw(&self, generation: u32, census: &impl Census, rites: &impl Rites) -> bool {
        let by = census.me();
        let burying = State { status: Status::Burying, by, generation };
        let reserved = State { status: Status::Reserved, by, generation };
        self.leave_reserved(generation, |_| burying) && {
            self.follower.store(0, Ordering::SeqCst);
            self.lay_to_rest(reserved, burying, census, rites);
            true
        }
    }

    fn leave_reserved(&self, generation: u32, to: impl Fn(State) -> State) -> bool {
        // Tried again where the reservation was taken off the name of its dead maker meanwhile.
        for _ in 0..TRIES {
            match self.state() {
                Ok(state) if state.status == Status::Reserved && state.generation == generation => {
                    if self.change(state, to(state)) {
                        return true;
                    }
                }
                _ => return false,
            }
        }
        false
    }

    /// Takes a reservation off the name of its maker `by`, which is over: once that slot has
    /// another process, it can't be told that the maker is gone. The slot `me` itself stands for it
    /// then.
    pub fn orphan(&self, by: u16, me: u16) {
        if let Ok(state) = self.state()
            && state.status == Status::Reserved
            && state.by == by
        {
            self.change(state, State { by: me, ..state });
        }
    }

    /// Says that the fork which the reservation is for is over.
    pub fn fork_is_over(&self, generation: u32) {
        self.forked.store(generation.into(), Ordering::SeqCst);
    }

    /// Whether the fork which the reservation is for is over.
    pub fn is_fork_over(&self, generation: u32) -> bool {
        self.forked.load(Ordering::SeqCst) == u64::from(generation)
    }

    /// Writes down the follower of the process to come. Only for the process that has reserved the
    /// slot, before there is a process in it.
    pub fn follow(&self, follower: Option<u64>) {
        self.follower.store(follower.unwrap_or(0), Ordering::SeqCst);
    }

    /// Has another process follow, on behalf of the one that does.
    pub fn hand_over(&self, generation: u32, to: u64) {
        let follower = self.follower.load(Ordering::SeqCst);
        if self.state().is_ok_and(|state| state.generation == generation) {
            let order = Ordering::SeqCst;
            let _ = self.follower.compare_exchange(follower, to, order, order);
        }
    }

    /// Whether a process that lives follows this one.
    pub fn is_followed(&self, census: &impl Census) -> bool {
        let mut bits = self.follower.load(Ordering::SeqCst);
        for _ in 0..TRIES {
            let Some(follower) = Owner::from_bits(bits) else { return false };
            if !census.is_over(follower.slot(), follower.generation()) {
                return true;
            }
            // It may have handed over before it ended.
            let now = self.follower.load(Ordering::SeqCst);
            if now == bits {
                return false;
            }
            bits = now;
        }
        // A living process is changing it.
        true
    }

    /// The follower's last word: it has read what it wanted. The process is over, or never came to
    /// be. Returns whether this call freed the slot.
    pub fn release(&self, generation: u32, census: &impl Census, rites: &impl Rites) -> bool {
        if self.state().is_ok_and(|state| state.generation == generation) {
            self.follower.store(0, Ordering::SeqCst);
            failpoint!("process.released");
        }
        self.to_be_buried(census, |_| true)
            .is_some_and(|state| state.generation == generation && self.bury(state, census, rites))
    }

    /// Whether a burial was left by its burier.
    fn is_abandoned(&self, burying: State, census: &impl Census) -> bool {
        // Of the burier only the slot is known. It is the burier's until it is freed, and before
        // that this burial is finished.
        burying.by != census.me() && census.has_left(burying.by)
    }

    /// The state of a slot that is to be buried; `is_over` tells it of the process of a slot that
    /// is reserved or live.
    pub fn to_be_buried(
        &self,
        census: &impl Census,
        is_over: impl FnOnce(State) -> bool,
    ) -> Option<State> {
        let state = self.state().ok()?;
        let due = match state.status {
            Status::Free => false,
            Status::Reserved | Status::Live => is_over(state),
            Status::Burying => self.is_abandoned(state, census),
            Status::Ended => true,
        };
        due.then_some(state)
    }

    /// As [`Self::bury`], but leaves a slot as it is of which only the follower's reading is
    /// missing.
    pub fn bury_unread(&self, seen: State, census: &impl Census, rites: &impl Rites) -> bool {
        let unread = seen.status == Status::Ended && self.is_followed(census);
        !unread && self.bury(seen, census, rites)
    }

    /// Buries the process of a slot, which is over, in the state that the caller has looked at.
    /// Returns whether this call freed the slot, which a follower that lives prevents.
    pub fn bury(&self, seen: State, census: &impl Census, rites: &impl Rites) -> bool {
        let burying = State { status: Status::Burying, by: census.me(), ..seen };
        self.change(seen, burying) && self.lay_to_rest(seen, burying, census, rites)
    }

    /// Passes a burial that a dead process left on to the process of the slot `to`, which is dead
    /// as well and not buried yet.
    pub fn hand_burial_over(&self, left: State, to: u16) {
        self.change(left, State { by: to, ..left });
    }

    fn lay_to_rest(
        &self,
        seen: State,
        mut burying: State,
        census: &impl Census,
        rites: &impl Rites,
    ) -> bool {
        failpoint!("process.burying");
        if !rites.give_back() {
            // As before, for the next to look.
            self.change(burying, seen);
            return false;
        }
        failpoint!("process.given_back");
        let ended = State { status: Status::Ended, ..burying };
        for _ in 0..TRIES {
            if !self.is_followed(census) {
                return self.free(burying, rites);
            }
            if !self.change(burying, ended) || self.is_followed(census) {
                return false;
            }
            // The follower left in between, and may not have seen that the slot was ended.
            burying = State { by: census.me(), ..burying };
            if !self.change(ended, burying) {
                return false;
            }
        }
        self.change(burying, ended);
        false
    }

    /// The last step of a burial. Returns whether this call did it.
    fn free(&self, burying: State, rites: &impl Rites) -> bool {
        self.follower.store(0, Ordering::SeqCst);
        self.forked.store(0, Ordering::SeqCst);
        rites.clear();
        failpoint!("process.buried");
        self.change(burying, State { status: Status::Free, ..burying })
    }
}

#[cfg(all(test, not(model)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What a burier sees of a slot's follower that foreign hands change at each look.
    struct Foreign<F> {
        looks: Cell<u32>,
        /// Whether the follower is over, at the look with this number.
        is_over: F,
    }

    impl<F: Fn(u32) -> bool> Foreign<F> {
        fn new(is_over: F) -> Self {
            Self { looks: Cell::new(0), is_over }
        }
    }

    impl<F: Fn(u32) -> bool> Census for Foreign<F> {
        fn me(&self) -> u16 {
            1
        }

        fn is_over(&self, _: u16, _: u32) -> bool {
            let look = self.looks.get();
            assert!(look < 100_000, "the loop has no end");
            self.looks.set(look + 1);
            (self.is_over)(look)
        }

        fn has_left(&self, _: u16) -> bool {
            true
        }
    }

    impl Rites for () {
        fn give_back(&self) -> bool {
            true
        }

        fn clear(&self) {}
    }

    fn followed() -> SlotWords {
        let slot = SlotWords::default();
        assert_eq!(slot.reserve(3), Some(1));
        slot.follow(Some(Owner::process(2, 1)));
        assert!(slot.claim(1, 0));
        slot
    }

    #[test]
    fn a_follower_that_changes_without_end_counts_as_one_that_lives() {
        let slot = followed();
        let always_another = Foreign::new(|look| {
            slot.hand_over(1, Owner::process(2, look + 2));
            true
        });
        assert!(slot.is_followed(&always_another));
    }

    #[test]
    fn a_slot_whose_follower_comes_and_goes_without_end_stays_ended() {
        let slot = followed();
        let comes_and_goes = Foreign::new(|look| look % 2 == 1);
        assert!(!slot.bury(slot.state().unwrap(), &comes_and_goes, &()));
        assert_eq!(slot.state().unwrap().status, Status::Ended);
    }
}
