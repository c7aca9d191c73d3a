//! Blocks of shared bytes.

use std::ptr::NonNull;

use procession_os::memory::Shared;

use crate::arena::{Arena, Error, Handle, Kind, ObjectRef, Result, arena_of};
use crate::atomics::{AtomicU64, Ordering};

#[repr(C)]
#[derive(Debug)]
struct Payload {
    size: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Payload {}

/// Bytes that all processes see, zero at first. Which process writes when is up to the caller: a
/// lock beside it, or atomics in it.
#[derive(Clone, Debug)]
pub struct SharedBlock {
    object: ObjectRef,
    offset: u64,
    size: u64,
}

impl SharedBlock {
    /// A block of `size` zero bytes, aligned to at least 64.
    ///
    /// # Errors
    /// If the arena or the machine has no memory for it.
    pub fn new(arena: &'static Arena, name: &str, size: u64) -> Result<Self> {
        let body = arena.allocate(size.max(1), Arena::while_making())?;
        arena.memory().zero(body.offset(), size)?;
        Self::over(arena.make::<Payload>(Kind::Block, name, Some(body), |payload| {
            payload.size.store(size, Ordering::Relaxed);
            Ok(())
        })?)
    }

    /// The block that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no block.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::Block)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        let size = object.payload::<Payload>()?.size.load(Ordering::Relaxed);
        let offset = object.body()?;
        if size > object.arena().size_at(offset)? {
            return Err(Error::Corrupt("a block is longer than the memory it has"));
        }
        Ok(Self { object, offset, size })
    }

    /// The value that names the block in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Copies bytes out, from `at` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if they lie outside the block.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.inside(at, into.len())?;
        Ok(self.object.arena().memory().read(self.offset + at, into)?)
    }

    /// Copies bytes in, from `at` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if they lie outside the block.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        self.inside(at, from.len())?;
        Ok(self.object.arena().memory().write(self.offset + at, from)?)
    }

    fn inside(&self, at: u64, len: usize) -> Result<()> {
        match at.checked_add(len as u64) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::OutOfRange { at, len: len as u64, size: self.size }),
        }
    }

    /// Where the bytes lie in this process, for as long as the block is open. Another process may
    /// write them at any time, so no Rust reference to them may be made.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the block isn't where it should be.
    pub fn address(&self) -> Result<NonNull<u8>> {
        Ok(self.object.arena().memory().address(self.offset, self.size)?)
    }
}
