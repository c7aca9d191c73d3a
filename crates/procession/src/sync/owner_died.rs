//! Errors that carry what was got nonetheless.

use std::fmt;
use std::time::Duration;

/// The process that held the lock died, and the caller holds it now, by the guard in here: what it
/// protects may be half changed. As [`std::sync::PoisonError`], but it is told once: who takes the lock
/// afterwards is told nothing.
pub struct OwnerDied<G> {
    guard: G,
}

impl<G> OwnerDied<G> {
    pub(crate) fn new(guard: G) -> Self {
        Self { guard }
    }

    /// The guard, for who puts things in order, or knows that there is no disorder.
    pub fn into_guard(self) -> G {
        self.guard
    }

    pub(crate) fn map<H>(self, into: impl FnOnce(G) -> H) -> OwnerDied<H> {
        OwnerDied { guard: into(self.guard) }
    }
}

impl<G> fmt::Debug for OwnerDied<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnerDied").finish_non_exhaustive()
    }
}

impl<G> fmt::Display for OwnerDied<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the process that held the lock died; what it protects may be half changed")
    }
}

impl<G> std::error::Error for OwnerDied<G> {}

/// A guard, or the news that the owner before died, with the guard.
pub type OwnedResult<G> = Result<G, OwnerDied<G>>;

/// A lock was not simply got without waiting.
#[derive(Debug, thiserror::Error)]
pub enum TryAcquireError<G> {
    /// See there.
    #[error(transparent)]
    OwnerDied(#[from] OwnerDied<G>),
    /// Another holds it.
    #[error("the lock is held")]
    WouldBlock,
}

/// A lock was not simply got within some time.
#[derive(Debug, thiserror::Error)]
pub enum AcquireTimeoutError<G> {
    /// See there.
    #[error(transparent)]
    OwnerDied(#[from] OwnerDied<G>),
    /// Another held it for all that time.
    #[error("the lock was held for the whole {0:?}")]
    TimedOut(Duration),
}
