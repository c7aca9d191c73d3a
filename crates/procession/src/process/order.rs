//! What a child that is started anew is told: by one environment variable where the arena is and
//! which block of it holds the order, and by the order all else.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use procession_os::spawn::respawn;
use procession_shm::memory::SharedBlock;
use serde::{Deserialize, Serialize};

use super::error::SpawnError;
use super::program::{Build, Place};
use super::surroundings::Surroundings;
use crate::arena::{self, Handle};
use crate::codec;

/// Where a child finds its order: the arena's descriptor, and the block's handle.
pub(super) const VARIABLE: &str = "PROCESSION_CHILD";

/// What the child is to do. The arguments' bytes follow it in the block.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) build: Build,
    /// [`super::child::called_anew`] for the function's types.
    pub(super) entry: Place,
    pub(super) function: Place,
    pub(super) name: String,
    /// The handle of the queue for its reports.
    pub(super) outbox: [u8; 16],
    pub(super) parent: u32,
    /// Whether it dies with its parent.
    pub(super) bound: bool,
    /// Whether the parent's main thread starts it.
    pub(super) by_main_thread: bool,
    /// Where it begins, if not where its parent is.
    pub(super) directory: Option<PathBuf>,
}

impl Order {
    /// Writes the order down. The block must stay open until the child has begun.
    pub(super) fn write(&self, arguments: &[u8]) -> Result<SharedBlock, SpawnError> {
        let mut bytes = Vec::new();
        codec::encode(self, &mut bytes)?;
        let head = bytes.len() as u64;
        let size = 8 + head + arguments.len() as u64;
        let block = SharedBlock::new(arena::family()?, "order", size)?;
        block.write(0, &head.to_le_bytes())?;
        block.write(8, &bytes)?;
        block.write(8 + head, arguments)?;
        Ok(block)
    }

    /// The order in a block, and the arguments' bytes.
    pub(super) fn read(block: &SharedBlock) -> Result<(Self, Vec<u8>), String> {
        let mut bytes = vec![0; usize::try_from(block.size()).map_err(|error| error.to_string())?];
        block.read(0, &mut bytes).map_err(|error| error.to_string())?;
        let short = || "the order is too short".to_owned();
        let (head, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        let head = usize::try_from(u64::from_le_bytes(*head)).map_err(|_| short())?;
        let (order, arguments) = rest.split_at_checked(head).ok_or_else(short)?;
        let order = codec::decode(order).map_err(|error| error.to_string())?;
        Ok((order, arguments.to_vec()))
    }
}

/// Starts this program anew with an order; gives the child's number.
pub(super) fn start(order: &SharedBlock, around: &Surroundings) -> Result<u32, SpawnError> {
    let fd = arena::family()?.as_fd();
    // The number is taken here as long as the child is being made, so nothing else has it there.
    let number = fd
        .try_clone_to_owned()
        .map_err(|source| SpawnError::Os { what: "duplicating a descriptor", source })?;
    let value = OsString::from(format!("{} {}", number.as_raw_fd(), order.handle()));
    respawn(&around.environment(VARIABLE, &value), fd, number.as_raw_fd())
        .map_err(|source| SpawnError::Os { what: "starting the program anew", source })
}

/// The descriptor's number and the order's handle in the variable's value.
pub(super) fn parse(value: &OsStr) -> Option<(i32, Handle)> {
    let (number, handle) = value.to_str()?.split_once(' ')?;
    Some((number.parse().ok()?, handle.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_says_where_the_order_is() {
        let handle = Handle { family: 1, index: 2, generation: 3 };
        let value = OsString::from(format!("7 {handle}"));
        assert_eq!(parse(&value), Some((7, handle)));
        for wrong in ["", "7", "x y", "7 procession:"] {
            assert_eq!(parse(OsStr::new(wrong)), None, "{wrong}");
        }
    }
}
