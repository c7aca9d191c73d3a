//! The memory that a family shares: joining another's, and looking at one's own.
//!
//! A program rarely needs this: the arena is made with the first object, and children inherit it.
//! A process that is no descendant joins with [`attach`], and opens objects by their [`Handle`]s:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut arguments = std::env::args().skip(1);
//! let (pid, queue) = (arguments.next().unwrap(), arguments.next().unwrap());
//! procession::arena::attach(pid.parse()?)?;
//! let queue = procession::ByteQueue::open(queue.parse()?)?;
//! queue.put(procession::queue::BYTES, b"hello")?;
//! # Ok(())
//! # }
//! ```

pub use procession_shm::arena::{
    Arena, Error, Handle, Kind, Member, ObjectInfo, ParseHandleError, ProcessInfo, ProcessState,
    Result, SleepsOn, Slot, attach, family,
};
pub(crate) use procession_shm::arena::{signal_tree, state_of};

/// A name for an object that was given none: where in the program it was made.
pub(crate) fn place(at: &std::panic::Location<'_>) -> String {
    let file = at.file().rsplit('/').next().unwrap_or_default();
    format!("{file}:{}", at.line())
}
