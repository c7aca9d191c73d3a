//! How children are started, and the default for it.

use std::sync::atomic::{AtomicU8, Ordering};

/// How a child is started.
///
/// If nothing is chosen, it is `Fork` while this process has one thread, and `Spawn` while it has
/// several. The two differ in what the child finds in the program's statics (`static`, `OnceLock`,
/// `thread_local!`), and in everything else that is not among its arguments:
///
/// | | `Fork` | `Spawn` |
/// | --- | --- | --- |
/// | statics | as they are in the parent at this moment | as at the start of the program |
/// | environment, directory | the parent's as they are now | the parent's as they are now |
/// | open files | all of the parent's | those without `CLOEXEC`, as the standard streams |
/// | memory, the parent's signal handlers | a copy | none |
/// | what it costs | less the less memory the parent uses | as starting the program |
///
/// In both cases a change that the child makes is its own: statics are not shared, but
/// [objects](crate::Value) are. A function that is to behave the same however it was started takes
/// what it needs from its arguments. Where it can't, choose: for one child with
/// [`Builder::start_method`](crate::Builder::start_method), for all of the program with
/// [`set_start_method`].
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use procession::{Builder, StartMethod};
///
/// static LEVEL: AtomicU32 = AtomicU32::new(1);
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     LEVEL.store(5, Ordering::Relaxed);
///     let seen = |method| -> Result<u32, Box<dyn std::error::Error>> {
///         let child = Builder::new().start_method(method);
///         Ok(child.spawn(|()| LEVEL.load(Ordering::Relaxed), ())?.join()?)
///     };
///     assert_eq!(seen(StartMethod::Fork)?, 5);
///     assert_eq!(seen(StartMethod::Spawn)?, 1);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartMethod {
    /// A copy of this process, which must have one thread (`fork(2)`). Fast.
    Fork,
    /// This program started a second time (`posix_spawn(3)` of `/proc/self/exe`, same arguments);
    /// [`init`](crate::init) must come first in its main.
    Spawn,
}

const UNSET: u8 = 0;
const FORK: u8 = 1;
const SPAWN: u8 = 2;

/// The start method of children if their builder doesn't say.
static DEFAULT: AtomicU8 = AtomicU8::new(UNSET);

/// Chooses how this process, and the children that it starts from now on, start their children
/// if a [`Builder`](crate::Builder) doesn't say; with `None` it depends on the number of threads
/// again.
///
/// With `Spawn`, children always find the statics of a fresh program, whether there are threads or
/// not. With `Fork`, a start is an error ([`SpawnErrorKind::Threads`]) if the child can't be a
/// copy.
///
/// [`SpawnErrorKind::Threads`]: crate::process::SpawnErrorKind::Threads
///
/// ```
/// use procession::{StartMethod, set_start_method, spawn, start_method};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     set_start_method(StartMethod::Spawn);
///     let of_the_child = spawn(|()| start_method() == Some(StartMethod::Spawn), ())?.join()?;
///     assert!(of_the_child);
///     Ok(())
/// }
/// ```
pub fn set_start_method(method: impl Into<Option<StartMethod>>) {
    DEFAULT.store(to_number(method.into()), Ordering::Relaxed);
}

/// What was chosen with [`set_start_method`], in this process or in one that it descends from.
#[must_use]
pub fn start_method() -> Option<StartMethod> {
    from_number(DEFAULT.load(Ordering::Relaxed))
}

/// The choice as a number, for a respawned child.
pub(super) fn to_number(method: Option<StartMethod>) -> u8 {
    match method {
        None => UNSET,
        Some(StartMethod::Fork) => FORK,
        Some(StartMethod::Spawn) => SPAWN,
    }
}

pub(super) fn from_number(number: u8) -> Option<StartMethod> {
    match number {
        FORK => Some(StartMethod::Fork),
        SPAWN => Some(StartMethod::Spawn),
        _ => None,
    }
}
