//! Wait, beside a lock, for another process to say that something has changed.

use super::raw::{Monitor, NotOwnerError, RawCondition, Waited, Waiter};
use crate::arena::{Arena, Handle, Kind, ObjectRef, Result, arena_of};
use crate::wait::{BlockedOn, Operation, Wait};

/// A condition variable between processes, as `multiprocessing.Condition`.
///
/// It goes with a [`Lock`](super::Lock) or [`RLock`](super::RLock), the same one whenever it is
/// used. A killed waiter blocks no other process and takes no notification with it. If the process
/// that holds the lock dies, one of those that wait for the condition or the lock is told.
#[derive(Clone, Debug)]
pub struct Condition {
    object: ObjectRef,
    notices: &'static RawCondition,
}

impl Condition {
    /// A condition without waiters.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn new(arena: &'static Arena, name: &str) -> Result<Self> {
        Self::over(arena.make::<RawCondition>(Kind::Condition, name, None, |_| Ok(()))?)
    }

    /// The condition that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no condition.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::Condition)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        Ok(Self { notices: object.payload()?, object })
    }

    /// The value that names the condition in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    fn on(&self) -> BlockedOn {
        BlockedOn { object: self.object.index(), operation: Operation::Condition }
    }

    /// Releases the lock, waits for a notification, and acquires the lock again, which the caller
    /// holds afterwards whatever the end.
    ///
    /// # Errors
    /// [`NotOwnerError`] if the caller does not hold the lock.
    pub fn wait(&self, lock: &impl Monitor, waiting: Wait) -> Result<Waited, NotOwnerError> {
        self.notices.wait(lock, self.object.arena(), self.on(), waiting)
    }

    /// The first step of a wait, for a caller that has to do something else between its steps.
    ///
    /// # Errors
    /// [`NotOwnerError`] if the caller does not hold the lock.
    pub fn begin<'a, M: Monitor>(
        &'a self,
        lock: &'a M,
    ) -> Result<Waiter<'a, M, Arena>, NotOwnerError> {
        self.notices.begin(lock, self.object.arena(), self.on())
    }

    /// Lets `count` waiters go on.
    ///
    /// # Errors
    /// [`NotOwnerError`] if the caller does not hold the lock.
    pub fn notify(&self, lock: &impl Monitor, count: u32) -> Result<(), NotOwnerError> {
        if !lock.is_mine() {
            return Err(NotOwnerError);
        }
        self.notices.notify(count);
        Ok(())
    }

    /// How many wait and have not been notified. Those killed while they waited may be among them.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.notices.waiting()
    }

    /// How many notifications have not been taken yet.
    #[must_use]
    pub fn notified(&self) -> u32 {
        self.notices.open()
    }
}
