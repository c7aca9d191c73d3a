//! What a respawned child is told. One environment variable says where the arena is, which of its
//! blocks holds the payload, and where the child is taken over. The payload says everything else.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use procession_os::spawn::respawn;
use procession_shm::memory::SharedBlock;
use serde::{Deserialize, Serialize};

use super::child_env::ChildEnv;
use super::error::SpawnErrorKind;
use super::init::Entrance;
use super::program::{Build, FnOffset};
use crate::arena::{self, Handle};
use crate::codec;

/// Where a child finds its payload: the arena's descriptor, the block's handle, and its entrance.
pub(super) const VARIABLE: &str = "PROCESSION_CHILD";

/// What the child is to do. The arguments' bytes follow it in the block.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Payload {
    pub(super) build: Build,
    /// [`super::child::respawned`] for the function's types.
    pub(super) entry: FnOffset,
    pub(super) function: FnOffset,
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
    /// How it starts children of its own, as [`super::start_method::to_number`] has it.
    pub(super) start_method: u8,
}

impl Payload {
    /// Writes the payload down. The block must stay open until the child has begun.
    pub(super) fn write(&self, arguments: &[u8]) -> Result<SharedBlock, SpawnErrorKind> {
        let mut bytes = Vec::new();
        codec::encode(self, &mut bytes)?;
        let head = bytes.len() as u64;
        let size = 8 + head + arguments.len() as u64;
        let block = SharedBlock::new(arena::family()?, "payload", size)?;
        block.write(0, &head.to_le_bytes())?;
        block.write(8, &bytes)?;
        block.write(8 + head, arguments)?;
        Ok(block)
    }

    /// The payload in a block, and the arguments' bytes.
    pub(super) fn read(block: &SharedBlock) -> Result<(Self, Vec<u8>), String> {
        let size = usize::try_from(block.size()).map_err(|error| error.to_string())?;
        let no_memory = |_| format!("no memory in this process for a payload of {size} bytes");
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(no_memory)?;
        bytes.resize(size, 0);
        block.read(0, &mut bytes).map_err(|error| error.to_string())?;
        let short = || "the payload is too short".to_owned();
        let (head, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        let head = usize::try_from(u64::from_le_bytes(*head)).map_err(|_| short())?;
        let (payload, _) = rest.split_at_checked(head).ok_or_else(short)?;
        let payload = codec::decode(payload).map_err(|error| error.to_string())?;
        // The rest are the arguments.
        bytes.drain(..8 + head);
        Ok((payload, bytes))
    }
}

/// Starts this program a second time, with a payload; returns the child's number.
pub(super) fn start(
    payload: &SharedBlock,
    entrance: Entrance,
    env: &ChildEnv,
) -> Result<u32, SpawnErrorKind> {
    let fd = arena::family()?.as_fd();
    // The number is in use here while the child is made. So it is no other descriptor's there.
    let number = fd
        .try_clone_to_owned()
        .map_err(|source| SpawnErrorKind::Os { what: "duplicating a descriptor", source })?;
    let (fd_number, word) = (number.as_raw_fd(), entrance.word());
    let value = OsString::from(format!("{fd_number} {} {word}", payload.handle()));
    respawn(&env.environment(VARIABLE, &value), fd, number.as_raw_fd())
        .map_err(|source| SpawnErrorKind::Os { what: "starting the program a second time", source })
}

/// The descriptor's number, the payload's handle and the child's entrance in the variable's value.
pub(super) fn parse(value: &OsStr) -> Option<(i32, Handle, Entrance)> {
    let mut words = value.to_str()?.split(' ');
    let (number, handle, word) = (words.next()?, words.next()?, words.next()?);
    let entrances = [Entrance::Main, Entrance::BeforeMain];
    let entrance = entrances.into_iter().find(|entrance| entrance.word() == word)?;
    Some((number.parse().ok()?, handle.parse().ok()?, entrance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_says_where_the_order_is() {
        let handle = Handle { family: 1, index: 2, generation: 3 };
        for entrance in [Entrance::Main, Entrance::BeforeMain] {
            let value = OsString::from(format!("7 {handle} {}", entrance.word()));
            assert_eq!(parse(&value), Some((7, handle, entrance)));
        }
        let elsewhere = format!("7 {handle} elsewhere");
        for wrong in ["", "7", "x y", "7 procession: main", &elsewhere] {
            assert_eq!(parse(OsStr::new(wrong)), None, "{wrong}");
        }
    }
}
