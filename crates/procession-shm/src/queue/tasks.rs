//! Messages as tasks: somebody waits until all that were put have been done.
//!
//! # Invariant
//! A message is a task that is open from the store that puts it until the store that raises `done`,
//! so what is open follows from two counts: `put_count` and `done`. Nothing is counted twice and
//! nothing is left half counted, whoever dies where.
//!
//! A consumer that dies with a task takes no note of it along: the task stays open, until somebody
//! else says that it is done.

use super::Queue;
use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{BlockedOn, EventCount, Operation, Stopped, Waiting, block};

/// A queue's account of what was done.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Tasks {
    done: AtomicU64,
    all_done: EventCount,
}

/// A task was called done that nobody had put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task_done() called too many times: all messages of the queue are done")]
pub struct DoneTooOften;

impl Queue {
    /// How many messages were put, and not yet said to be [done](Self::task_done), at this instant.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        loop {
            let done = self.control.tasks.done.load(Ordering::SeqCst);
            let put = self.control.put.count();
            // Both were true at once if nothing was done in between.
            if done == self.control.tasks.done.load(Ordering::SeqCst) {
                return put.saturating_sub(done);
            }
        }
    }

    /// Says that a message that was got has been dealt with.
    ///
    /// # Errors
    /// [`DoneTooOften`] if that was said of as many as were put.
    pub fn task_done(&self) -> Result<(), DoneTooOften> {
        let order = Ordering::SeqCst;
        // `put_count` only grows, so what was less than it stays so.
        let more = |done| (done < self.control.put.count()).then_some(done + 1);
        self.control.tasks.done.fetch_update(order, order, more).map_err(|_| DoneTooOften)?;
        failpoint!("queue.task_done.counted");
        if self.unfinished() == 0 {
            self.control.tasks.all_done.notify_all();
        }
        Ok(())
    }

    /// Waits until all messages that were put are [done](Self::task_done).
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn join(&self, waiting: Waiting) -> Result<(), Stopped> {
        if self.unfinished() == 0 {
            return Ok(());
        }
        let on = BlockedOn { object: self.object.index(), operation: Operation::TasksDone };
        block(self.object.arena(), on, waiting, &self.control.tasks.all_done, |_| {
            (self.unfinished() == 0).then_some(())
        })
    }
}
