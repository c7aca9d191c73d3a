//! Blocks of bytes that all processes see.

use std::fmt;
use std::panic::Location;

use procession_shm::memory;

use crate::arena::{self, Handle, Name, Result};
use crate::codec::travels_by_handle;

/// Bytes that all processes see, zero at first.
///
/// The program decides which process writes when, usually by a [`Lock`](crate::Lock) beside it.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let block = procession::SharedBlock::new(16)?;
/// block.write(8, &7u64.to_le_bytes())?;
/// assert_eq!(block.read_u64(8)?, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SharedBlock {
    inner: memory::SharedBlock,
}

impl SharedBlock {
    /// A block of `size` zero bytes, named after the location of the call.
    ///
    /// # Errors
    /// If the arena or the machine has no memory for it.
    #[track_caller]
    pub fn new(size: u64) -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()), size)
    }

    /// A block of `size` zero bytes with a name, for inspection of the family.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn named(name: &str, size: u64) -> Result<Self> {
        Ok(Self { inner: memory::SharedBlock::new(arena::family()?, name, size)? })
    }

    /// The block that a handle names.
    ///
    /// # Errors
    /// If it is no more, is no block, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { inner: memory::SharedBlock::open(handle)? })
    }

    /// The value that names the block in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.inner.handle()
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.size()
    }

    /// Copies bytes out, from `at` on.
    ///
    /// # Errors
    /// [`arena::Error::OutOfRange`] if they lie outside the block.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.inner.read(at, into)
    }

    /// Copies bytes in, from `at` on.
    ///
    /// # Errors
    /// [`arena::Error::OutOfRange`] if they lie outside the block.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        self.inner.write(at, from)
    }

    /// The little-endian number in the eight bytes from `at` on.
    ///
    /// # Errors
    /// [`arena::Error::OutOfRange`] if they lie outside the block.
    pub fn read_u64(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a number into the eight bytes from `at` on, little-endian.
    ///
    /// # Errors
    /// [`arena::Error::OutOfRange`] if they lie outside the block.
    pub fn write_u64(&self, at: u64, number: u64) -> Result<()> {
        self.write(at, &number.to_le_bytes())
    }
}

impl fmt::Debug for SharedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBlock")
            .field("name", &Name(self.handle()))
            .field("size", &self.size())
            .finish()
    }
}

travels_by_handle!(SharedBlock);
