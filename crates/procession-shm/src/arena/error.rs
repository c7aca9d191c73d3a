//! What can go wrong with shared memory.

use super::handle::Handle;
use super::kind::{Kind, Named};
use crate::wait::WaitError;
use procession_os::memory::OutOfBounds;

/// An operation on the arena failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The handle names an object that is no more.
    #[error(
        "{handle} names a {} that has been freed: keep one handle open for as long as it is used",
        Named(*kind, name.as_deref())
    )]
    Stale {
        /// What was given.
        handle: Handle,
        /// What the object was; if that is not known any more, what it was to be opened as.
        kind: Kind,
        /// What the object was called; `None` if that is not known any more, as another has its
        /// row.
        name: Option<Box<str>>,
    },
    /// The handle names an object of another kind.
    #[error("{handle} names a {found}, not a {expected}")]
    WrongKind {
        /// What was given.
        handle: Handle,
        /// What the operation is for.
        expected: Kind,
        /// What it names.
        found: Kind,
    },
    /// The handle belongs to a family whose arena this process has not attached.
    #[error("{0} belongs to another family: attach to one of its processes first")]
    ForeignFamily(Handle),
    /// There is no room for so many bytes.
    #[error(
        "out of shared memory: {asked} bytes asked for, {used} of {capacity} bytes are in use: \
         free what is not needed, or raise the limits on address space (ulimit -v) and file size \
         (ulimit -f)"
    )]
    OutOfMemory {
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes there are.
        capacity: u64,
    },
    /// The machine has no memory for so many bytes.
    #[error("the machine has no memory for {asked} bytes: {source}")]
    MachineFull {
        /// Bytes that were asked for.
        asked: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Another process is at the allocator for longer than the caller waits: it was stopped there.
    #[error("waiting for another process to leave the allocator of shared memory: {0}")]
    Wait(#[from] WaitError),
    /// The object table is full.
    #[error("the family has {0} shared objects, which is as many as its arena holds")]
    TooManyObjects(u32),
    /// The process table is full.
    #[error("the family has {0} live processes, which is as many as its arena holds")]
    TooManyProcesses(u32),
    /// More of something was asked for than there may be.
    #[error("{asked} {what} were asked for, and there can be at most {max}")]
    TooMany {
        /// What: as in "parties of a barrier".
        what: &'static str,
        /// How many were asked for.
        asked: u64,
        /// How many there can be.
        max: u64,
    },
    /// A slot was named that the arena doesn't have.
    #[error("slot {asked} was named, and the arena has slots 0 to {last}")]
    NoSuchSlot {
        /// The slot that was named.
        asked: u16,
        /// The last slot of the arena.
        last: u32,
    },
    /// An arena of this capacity can't be.
    #[error("an arena has from {min} to {max} bytes, not {asked}")]
    CapacityOutOfRange {
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes that an arena has at least.
        min: u64,
        /// Bytes that an arena has at most.
        max: u64,
    },
    /// Bytes were asked for that lie outside their block.
    #[error("bytes {at}..+{len} were asked for, of a block of {size} bytes")]
    OutOfRange {
        /// Where the first of them would be.
        at: u64,
        /// How many they are.
        len: u64,
        /// How many bytes the block has.
        size: u64,
    },
    /// An object was opened as one of values of another size.
    #[error("a block of {found} bytes was opened for values of {expected} bytes each")]
    WrongSize {
        /// The bytes of a value.
        expected: u64,
        /// The bytes that there are.
        found: u64,
    },
    /// Shared memory does not hold what this library writes there.
    #[error("the arena is damaged: {0}")]
    Corrupt(&'static str),
    /// A descriptor or process that is not of a family.
    #[error("{0} is not the arena of a family")]
    NotAnArena(String),
    /// An arena written by another version.
    #[error("the arena has layout version {found}, this program knows {expected}")]
    WrongVersion {
        /// The version found.
        found: u64,
        /// The version of this program.
        expected: u64,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether something had no room, which the dead may hold.
    pub(super) fn is_full(&self) -> bool {
        matches!(
            self,
            Self::OutOfMemory { .. }
                | Self::MachineFull { .. }
                | Self::TooManyObjects(_)
                | Self::TooManyProcesses(_)
        )
    }
}

impl From<OutOfBounds> for Error {
    fn from(_: OutOfBounds) -> Self {
        Self::Corrupt("an offset points outside")
    }
}

/// The outcome of an operation on the arena.
pub type Result<T, E = Error> = std::result::Result<T, E>;
