//! A thread of a process of the family, as the word of a lock names it.
//!
//! The word has two flags, then the slot (12 bits), the slot's generation (28) and the thread's
//! number in the kernel (22). A lock that is [kept](super::fairness) for waiters has another layout
//! below the flags: one bit, the time, and 0 for the thread, which is no thread's number.

pub(super) const THREAD_BITS: u32 = 22;
const GENERATION_BITS: u32 = 28;
const SLOT_BITS: u32 = 12;
pub(super) const WAITERS: u64 = 1 << 63;
pub(super) const WOKEN: u64 = 1 << 62;
pub(super) const FLAGS: u64 = WAITERS | WOKEN;

/// A lock that is kept for waiters has this bit, the time below it, and 0 for the thread, which is
/// no thread's number.
pub(super) const KEPT: u64 = 1 << 61;

pub(super) const THREAD: u64 = (1 << THREAD_BITS) - 1;
pub(super) const TIME: u64 = (KEPT - 1) & !THREAD;

/// A thread of a process of the family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owner(pub(super) u64);

impl Owner {
    /// The bits of a slot that are part of an owner's word: more than any table has slots.
    #[cfg(not(model))]
    pub(crate) const SLOTS: u16 = (1 << SLOT_BITS) - 1;
    /// The highest generation of a slot that there can be.
    pub(crate) const GENERATIONS: u32 = (1 << GENERATION_BITS) - 1;

    /// The thread with the kernel's number `thread` in the process of a slot.
    #[inline]
    #[must_use]
    pub const fn new(slot: u16, generation: u32, thread: u32) -> Self {
        Self(Self::process(slot, generation) | (thread as u64 & ((1 << THREAD_BITS) - 1)))
    }

    /// The part of an owner's word that all threads of a process share.
    #[inline]
    #[must_use]
    pub const fn process(slot: u16, generation: u32) -> u64 {
        let slot = slot as u64 & ((1 << SLOT_BITS) - 1);
        let generation = generation as u64 & ((1 << GENERATION_BITS) - 1);
        (slot << (THREAD_BITS + GENERATION_BITS)) | (generation << THREAD_BITS)
    }

    #[inline]
    const fn from_word(word: u64) -> Option<Self> {
        match word & !FLAGS {
            0 => None,
            owner => Some(Self(owner)),
        }
    }

    /// The owner that [`Self::word`] gave.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Self::from_word(bits)
    }

    /// The owner that the word of an [`OwnerLock`] names.
    #[inline]
    #[must_use]
    pub const fn of_lock(word: u64) -> Option<Self> {
        if is_kept(word) { None } else { Self::from_word(word) }
    }

    /// The owner as one word, never 0.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Whether it is a thread of a process without a slot, which may own nothing.
    #[inline]
    pub(crate) const fn has_no_slot(self) -> bool {
        self.slot() == (1 << SLOT_BITS) - 1
    }

    /// The process's slot.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u16 {
        (self.0 >> (THREAD_BITS + GENERATION_BITS)) as u16 & ((1 << SLOT_BITS) - 1)
    }

    /// Which of the processes that had the slot it is.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> THREAD_BITS) as u32 & ((1 << GENERATION_BITS) - 1)
    }

    /// The thread's number in the kernel.
    #[must_use]
    pub const fn thread(self) -> u32 {
        self.0 as u32 & ((1 << THREAD_BITS) - 1)
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "slot {}.{} thread {}", self.slot(), self.generation(), self.thread())
    }
}

pub(super) const fn is_kept(word: u64) -> bool {
    word & (KEPT | THREAD) == KEPT
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_what_it_was_made_of() {
        let owner = Owner::new(4095, Owner::GENERATIONS, 0x3f_ffff);
        assert_eq!(
            (owner.slot(), owner.generation(), owner.thread()),
            (4095, Owner::GENERATIONS, 0x3f_ffff)
        );
        assert_eq!(owner.word() & FLAGS, 0);
    }
}
