//! Functions as numbers that mean the same in every process that runs this program.
//!
//! # Invariant
//! The code of a program is one image: wherever it is loaded, the distances in it are the same. So
//! a function is named by its distance from [`anchor`], if it lies in the program's own code (not
//! in a shared library) and both processes run the same [`Build`].

#![allow(unsafe_code)]

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// Which file this process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Build {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Build {
    pub(super) fn of_this_program() -> std::io::Result<Self> {
        let file = fs::metadata("/proc/self/exe")?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        })
    }
}

/// A function of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FnOffset(i64);

#[inline(never)]
fn anchor() {}

fn anchor_address() -> usize {
    anchor as fn() as usize
}

impl FnOffset {
    /// Where the function at an address is; `None` if it is not in the program's own code.
    fn of_address(address: usize) -> Option<Self> {
        is_code(address).then(|| Self(address.wrapping_sub(anchor_address()) as i64))
    }

    fn address(self) -> Option<usize> {
        let address = anchor_address().wrapping_add(self.0 as usize);
        is_code(address).then_some(address)
    }

    /// The offset of a function.
    pub(super) fn of<A, R>(function: fn(A) -> R) -> Option<Self> {
        Self::of_address(function as usize)
    }

    /// The function that is there; `None` if there is no code.
    ///
    /// # Safety
    /// The offset was made by [`Self::of`] for the same `A` and `R`, in a process of the same
    /// build.
    pub(super) unsafe fn function<A, R>(self) -> Option<fn(A) -> R> {
        let address = self.address()?;
        // SAFETY: the caller says that a function of this type is there; the same build has the
        // same code at the same distance.
        Some(unsafe { std::mem::transmute::<*const (), fn(A) -> R>(address as *const ()) })
    }
}

/// Whether an address lies in the program's own code.
fn is_code(address: usize) -> bool {
    static CODE: OnceLock<Vec<Range<usize>>> = OnceLock::new();
    CODE.get_or_init(code).iter().any(|range| range.contains(&address))
}

/// The executable mappings of the file in which the anchor is (`proc_pid_maps(5)`).
fn code() -> Vec<Range<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mappings: Vec<_> = maps.lines().filter_map(mapping).collect();
    let anchor = anchor_address();
    let program = mappings.iter().find(|(range, _)| range.contains(&anchor)).map(|(_, file)| *file);
    mappings
        .iter()
        .filter(|(_, file)| Some(*file) == program)
        .map(|(range, _)| range.clone())
        .collect()
}

/// The device, inode and path of a mapped file.
type Mapped<'m> = (&'m str, &'m str, &'m str);

/// The range and the file of an executable mapping.
fn mapping(line: &str) -> Option<(Range<usize>, Mapped<'_>)> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let executable = fields.next()?.contains('x');
    let (device, inode) = (fields.nth(1)?, fields.next()?);
    let path = fields.next().unwrap_or_default().trim_start();
    executable.then_some((range, (device, inode, path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(number: u64) -> u64 {
        number * 2
    }

    #[test]
    fn an_offset_leads_back_to_its_function() {
        let offset = FnOffset::of(double).unwrap();
        // SAFETY: made one line above for the same types, in this process.
        let function = unsafe { offset.function::<u64, u64>() }.unwrap();
        assert_eq!(function(21), 42);
    }

    #[test]
    fn what_is_not_code_of_the_program_has_no_offset() {
        let local = 0u64;
        assert!(FnOffset::of_address(&raw const local as usize).is_none());
        assert!(FnOffset(i64::MAX).address().is_none());
    }

    #[test]
    fn the_build_is_the_same_at_every_look() {
        assert_eq!(Build::of_this_program().unwrap(), Build::of_this_program().unwrap());
    }
}
