//! How a slab is cut: a head, two words for each block, and blocks of one size.

use procession_os::memory::Shared;

use super::super::error::{Error, Result};
use super::super::layout::UNIT;
use super::state::CLASSES;
use crate::atomics::{AtomicU32, AtomicU64};

const SMALLEST: u64 = 64;
pub(super) const HEAD: u64 = 16;

/// The words of a block: the truth about it, its generation.
pub(super) const WORDS: u64 = size_of::<SlabWords>() as u64;

/// The words of a slab's block.
#[repr(C)]
pub(super) struct SlabWords {
    pub(super) word: AtomicU64,
    pub(super) generation: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for SlabWords {}

/// What is derived about a slab.
#[repr(C)]
pub(super) struct Head {
    /// First free block + 1; the words of free blocks hold the next ones.
    pub(super) free: AtomicU32,
    pub(super) used: AtomicU32,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Head {}

/// The class whose blocks hold `size` bytes; `None` if that takes units of its own.
pub(super) fn class_of(size: u64) -> Option<u32> {
    if size > UNIT {
        return None;
    }
    let class = size.max(SMALLEST).next_power_of_two().ilog2() - SMALLEST.ilog2();
    ((class as usize) < CLASSES).then_some(class)
}

pub(super) fn size_of_class(class: u32) -> Result<u64> {
    Cut::of(class).map(|cut| 1 << cut.shift)
}

/// How the slabs of a class are cut.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    /// The logarithm of a block's size.
    pub(super) shift: u32,
    /// Where the first block begins.
    pub(super) first: u64,
    pub(super) count: u32,
}

impl Cut {
    const fn into_blocks_of(size: u64) -> Self {
        let mut count = (UNIT - HEAD) / (size + WORDS);
        loop {
            let first = (HEAD + count * WORDS).next_multiple_of(size);
            if first + count * size <= UNIT {
                return Self { shift: size.trailing_zeros(), first, count: count as u32 };
            }
            count -= 1;
        }
    }

    pub(in super::super) fn of(class: u32) -> Result<Self> {
        /// Computed once: each allocation and each free looks here.
        const CUTS: [Cut; CLASSES] = {
            let mut cuts = [Cut::into_blocks_of(SMALLEST); CLASSES];
            let mut class = 1;
            while class < CLASSES {
                cuts[class] = Cut::into_blocks_of(SMALLEST << class);
                class += 1;
            }
            cuts
        };
        CUTS.get(class as usize).copied().ok_or(Error::Corrupt("a slab has an unknown class"))
    }

    /// Where a block begins.
    pub(super) fn place_of(self, index: u32) -> u64 {
        self.first + (u64::from(index) << self.shift)
    }

    /// The block that begins there; `None` if none does.
    pub(super) fn index_of(self, inside: u64) -> Option<u32> {
        let into = inside.checked_sub(self.first)?;
        let index = into >> self.shift;
        (index << self.shift == into && index < u64::from(self.count)).then_some(index as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_fills_its_unit_without_overlap() {
        for class in 0..CLASSES as u32 {
            let size = size_of_class(class).unwrap();
            let Cut { first, count, .. } = Cut::of(class).unwrap();
            assert!(HEAD + u64::from(count) * WORDS <= first && first % size == 0);
            assert!(first + u64::from(count) * size <= UNIT && count >= 7);
            assert_eq!(class_of(size), Some(class));
            assert_eq!(class_of(size - 1), Some(class).filter(|_| size > 64).or(Some(0)));
        }
        assert_eq!(class_of(8193), None);
    }
}
