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

use std::fmt;
use std::panic::Location;

use procession_shm::arena::arena_of;
use procession_shm::wait::Owner;

pub use procession_shm::arena::{
    Arena, Error, Handle, Kind, ObjectInfo, ParseHandleError, ProcessInfo, Result, SleepsOn, Slot,
    attach,
};
pub use procession_shm::process::{Member, ProcessState};

/// The arena of this process's own family, made at the first call.
///
/// If a child was to be taken over by [`init`](crate::init) and calls this without that, this does
/// not return: the process ends, and its parent's join says why.
///
/// # Errors
/// As [`Arena::create`].
pub fn family() -> Result<&'static Arena> {
    crate::process::refuse_stray_child();
    procession_shm::arena::family()
}

/// Bytes that the process table keeps of a process's name.
const PROCESS_NAME: usize = 48;
/// Bytes that the object table keeps of an object's name.
const OBJECT_NAME: usize = 32;

/// The default name of an object: the location in the program that made it.
pub(crate) fn caller_name(at: &Location<'_>) -> String {
    location_within(at.file(), at.line(), OBJECT_NAME)
}

/// The default name of a child: the location in the program that spawned it.
pub(crate) fn caller_name_of_child(at: &Location<'_>) -> String {
    location_within(at.file(), at.line(), PROCESS_NAME)
}

/// The file as the compiler names it and the line, as in `src/main.rs:12`; where that is too long,
/// without the first directories.
fn location_within(file: &str, line: u32, max: usize) -> String {
    let line = format!(":{line}");
    // A file that cargo was told of by a path out of its package: `crate/../../shared/main.rs`.
    let mut rest = file.rsplit_once("/../").map_or(file, |(_, rest)| rest);
    while rest.len() + line.len() > max
        && let Some((_, shorter)) = rest.split_once('/')
    {
        rest = shorter;
    }
    format!("{rest}{line}")
}

/// An object's kind and name, as long as they are known.
pub(crate) fn name_of(handle: Handle) -> Option<(Kind, String)> {
    arena_of(handle).ok()?.name_of(handle)
}

/// An object's name, in a `Debug` text.
pub(crate) struct Name(pub(crate) Handle);

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = name_of(self.0).map(|(_, name)| name);
        fmt::Debug::fmt(&name.unwrap_or_default(), f)
    }
}

/// The number of the process that holds a lock, in a `Debug` text.
pub(crate) struct HeldBy(pub(crate) Handle, pub(crate) Option<Owner>);

impl fmt::Debug for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(owner) = self.1 else { return f.write_str("<nobody>") };
        match arena_of(self.0).ok().and_then(|arena| arena.process_of(owner)) {
            Some(process) => write!(f, "{}", process.pid),
            None => f.write_str("<a dead process>"),
        }
    }
}

/// What a `Debug` text does not show, as the standard library writes it.
pub(crate) struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_as_the_compiler_names_it_where_that_fits() {
        assert_eq!(location_within("src/main.rs", 12, PROCESS_NAME), "src/main.rs:12");
        let long = "/home/somebody/projects/procession/crates/app/src/main.rs";
        assert_eq!(location_within(long, 12, OBJECT_NAME), "crates/app/src/main.rs:12");
        assert_eq!(location_within("crates/app/../../src/main.rs", 1, 32), "src/main.rs:1");
        assert_eq!(
            location_within(&"x".repeat(99), 1, OBJECT_NAME),
            format!("{}:1", "x".repeat(99))
        );
    }

    #[test]
    fn what_was_given_no_name_has_its_location() {
        let (line, name) = (line!(), caller_name(Location::caller()));
        assert!(name.ends_with(&format!("src/arena.rs:{line}")), "{name}");
    }
}
