//! The news that a lock's holder died.
//!
//! A method that takes a lock returns the news with the guard ([`OwnerDied`]), so that the caller
//! can put in order what the lock protects before any other thread sees it. That is no [`Error`],
//! on purpose: an error is handed up, logged, collected and sent on, and a lock must not be held
//! for so long. The error is [`OwnerDiedError`], which says the same without the guard. Turning the
//! one into the other, as the operator `?` does, releases the lock.

use std::error::Error;
use std::fmt;

use procession_shm::arena::{Named, arena_of};
use procession_shm::wait::Owner;

use crate::arena::{self, Handle, Kind};

/// The process that held the lock died, and the caller holds the lock now, by the guard in here.
/// What the lock protects may be half changed. This is as [`std::sync::PoisonError`], but it is
/// reported once: the next to take the lock is told nothing.
///
/// There are two ways on.
///
/// - [`into_guard`](Self::into_guard) takes the guard, to put things in order and go on.
/// - `?`, in a function that returns a `Box<dyn Error>`, releases the lock and returns an
///   [`OwnerDiedError`], to which the box may be downcast. The lock is free however long the error
///   is kept. For other types of errors (`anyhow`'s, one's own) there is
///   `map_err(OwnerDiedError::from)`.
///
/// ```
/// use procession::sync::{OwnerDied, OwnerDiedError};
/// use procession::{Lock, SharedBlock, spawn};
///
/// fn half((lock, pair): (Lock, SharedBlock)) {
///     let _guard = lock.lock();
///     pair.write_u64(0, 1).unwrap();
///     std::process::abort(); // before the second is written
/// }
///
/// /// Gives up if the pair may be half written.
/// fn difference(lock: &Lock, pair: &SharedBlock) -> Result<u64, Box<dyn std::error::Error>> {
///     let _guard = lock.lock()?;
///     Ok(pair.read_u64(0)? - pair.read_u64(8)?)
/// }
///
/// /// Puts it in order.
/// fn repair(lock: &Lock, pair: &SharedBlock) -> Result<(), procession::arena::Error> {
///     let _guard = lock.lock().unwrap_or_else(OwnerDied::into_guard);
///     pair.write_u64(8, pair.read_u64(0)?)
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let (lock, pair) = (Lock::named("pair")?, SharedBlock::new(16)?);
///     spawn(half, (lock.clone(), pair.clone()))?.join().unwrap_err();
///
///     let error = difference(&lock, &pair).unwrap_err();
///     assert!(error.is::<OwnerDiedError>() && !lock.is_locked());
///     repair(&lock, &pair)?;
///     assert_eq!(difference(&lock, &pair)?, 0);
///     Ok(())
/// }
/// ```
#[must_use = "the lock is released when this is dropped"]
pub struct OwnerDied<G> {
    guard: G,
    /// Boxed, so that the result of taking a lock stays small.
    error: Box<OwnerDiedError>,
}

/// A guard, or the news that the owner before died, with the guard.
pub type OwnedResult<G> = Result<G, OwnerDied<G>>;

impl<G> OwnerDied<G> {
    pub(crate) fn new(guard: G, lock: Handle, owner: Owner) -> Self {
        Self { guard, error: Box::new(OwnerDiedError::new(lock, owner)) }
    }

    /// The guard, to put in order what the lock protects.
    pub fn into_guard(self) -> G {
        self.guard
    }

    /// Which lock it is, and which process died.
    #[must_use]
    pub fn error(&self) -> &OwnerDiedError {
        &self.error
    }

    pub(crate) fn map<H>(self, into: impl FnOnce(G) -> H) -> OwnerDied<H> {
        OwnerDied { guard: into(self.guard), error: self.error }
    }
}

impl<G> fmt::Debug for OwnerDied<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerDied({})", self.error)
    }
}

impl<G> fmt::Display for OwnerDied<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// Releases the lock.
impl<G> From<OwnerDied<G>> for OwnerDiedError {
    fn from(died: OwnerDied<G>) -> Self {
        *died.error
    }
}

/// Releases the lock.
impl<G> From<OwnerDied<G>> for Box<dyn Error> {
    fn from(died: OwnerDied<G>) -> Self {
        died.error
    }
}

/// Releases the lock.
impl<G> From<OwnerDied<G>> for Box<dyn Error + Send + Sync> {
    fn from(died: OwnerDied<G>) -> Self {
        died.error
    }
}

/// The process that held a lock died with it, and what it protects may be half changed. The lock is
/// free again.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnerDiedError {
    kind: Kind,
    name: String,
    process: Option<(u32, String)>,
    thread: u32,
}

impl OwnerDiedError {
    fn new(lock: Handle, owner: Owner) -> Self {
        let (kind, name) = arena::name_of(lock).unwrap_or((Kind::Lock, String::new()));
        let process = arena_of(lock).ok().and_then(|arena| arena.process_of(owner));
        let process = process.map(|process| (process.pid, process.name));
        Self { kind, name, process, thread: owner.thread() }
    }

    /// What kind of lock it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the lock is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of the process that died. `None` if that is not known any more: another process
    /// has buried it, and a later process has its row in the process table.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|(pid, _)| *pid)
    }

    /// The name of the process that died; `None` as for [`Self::pid`], or if it had no name.
    #[must_use]
    pub fn process_name(&self) -> Option<&str> {
        let name = self.process.as_ref().map(|(_, name)| &name[..]);
        name.filter(|name| !name.is_empty())
    }

    /// The number of the thread that held the lock, in the kernel (`gettid(2)`); that of a
    /// process's first thread is the process's.
    #[must_use]
    pub fn thread_id(&self) -> u32 {
        self.thread
    }
}

impl fmt::Display for OwnerDiedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((pid, name)) if name.is_empty() => write!(f, "process {pid}")?,
            Some((pid, name)) => write!(f, "process {pid} ({name:?})")?,
            None => write!(f, "the process of thread {}", self.thread)?,
        }
        write!(
            f,
            " died while it held {}: what the lock protects may be half changed (to put it in \
             order, take the guard: OwnerDied::into_guard)",
            Named(self.kind, Some(&self.name))
        )
    }
}

/// It contains the text of `Display`, as an error that `main` returns is shown by `Debug`.
impl fmt::Debug for OwnerDiedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerDiedError({self})")
    }
}

impl Error for OwnerDiedError {}
