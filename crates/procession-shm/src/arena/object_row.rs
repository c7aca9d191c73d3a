//! An object's row: the words in which it stands in the object table.
//!
//! # An object's life
//! ```text
//! free → claimed (by its maker, which fills it) → live ⇄ freeing (by the last to let go)
//!                                                     → emptying → free, generation + 1
//! ```
//! Each arrow is one store to the state word. The maker and the freer stand in the word, so that a
//! process that buries them can bring the object to its end. The kind, generation and name of a
//! freed object stay, for errors about handles that still name it. The row's next maker changes the
//! generation first.

use procession_os::memory::Shared;

use super::error::{Error, Result};
use super::kind::Kind;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};

pub(super) const NAME_WORDS: usize = 4;
pub(super) const PAYLOAD_WORDS: usize = 8;

/// An object's row: a cache line about it, and one that is the object.
#[repr(C)]
pub(super) struct Object {
    pub(super) state: AtomicU64,
    pub(super) creator: AtomicU32,
    unused: AtomicU32,
    pub(super) created: AtomicU64,
    /// Where the object's block in the heap is, if it has one.
    pub(super) body: AtomicU64,
    /// Stays when the object has been freed, until the row is taken for another.
    pub(super) name: [AtomicU64; NAME_WORDS],
    pub(super) payload: [AtomicU64; PAYLOAD_WORDS],
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Object {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Free = 0,
    Claimed = 1,
    Live = 2,
    Freeing = 3,
    Emptying = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) status: Status,
    /// Distinguishes one attempt to free the object from the next.
    pub(super) turn: u8,
    pub(super) kind: u8,
    pub(super) by: u16,
    pub(super) generation: u32,
}

impl State {
    pub(super) fn word(self) -> u64 {
        let low = u64::from(self.kind & 0xf) << 12 | u64::from(self.turn) << 4 | self.status as u64;
        u64::from(self.generation) << 32 | u64::from(self.by) << 16 | low
    }

    fn from_word(word: u64) -> Result<Self> {
        let status = match word & 0xf {
            0 => Status::Free,
            1 => Status::Claimed,
            2 => Status::Live,
            3 => Status::Freeing,
            4 => Status::Emptying,
            _ => return Err(Error::Corrupt("an object row has an unknown state")),
        };
        let (turn, kind) = ((word >> 4) as u8, (word >> 12) as u8 & 0xf);
        Ok(Self { status, turn, kind, by: (word >> 16) as u16, generation: (word >> 32) as u32 })
    }
}

impl Object {
    pub(super) fn state(&self) -> Result<State> {
        State::from_word(self.state.load(Ordering::SeqCst))
    }

    /// The kind of the object with this generation; `None` if the row has another object, or the
    /// object is being made.
    pub(super) fn kind_of(&self, generation: u32) -> Option<Kind> {
        let state = self.state().ok()?;
        let is_made = state.generation == generation && state.status != Status::Claimed;
        is_made.then(|| Kind::from_number(state.kind))?
    }

    pub(super) fn change(&self, from: State, to: State) -> bool {
        let order = Ordering::SeqCst;
        self.state.compare_exchange(from.word(), to.word(), order, order).is_ok()
    }

    /// Whether the row is taken for an object.
    pub(super) fn is_in_use(&self) -> bool {
        self.state().is_ok_and(|state| state.status != Status::Free)
    }
}
