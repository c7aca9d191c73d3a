//! The queue whose messages are tasks.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Deref;
use std::panic::Location;
use std::time::Duration;

use procession_shm::queue::DoneTooOften;
use procession_shm::wait::Waiting;

use super::Queue;
use crate::arena::{self, Handle, Result};
use crate::codec::travels_by_handle;
use crate::sync::waiting_for;

/// A [`Queue`] that knows how many of its messages have been dealt with, as Python's
/// `multiprocessing.JoinableQueue`.
///
/// Each message is a task from [`Queue::put`] until somebody, mostly who got it, says that it is done.
/// A task that a process died with stays open, until somebody else says so.
///
/// ```
/// use procession::{JoinableQueue, spawn};
///
/// fn work(tasks: JoinableQueue<u64>) {
///     while tasks.get().expect("a task or the end comes") != 0 {
///         tasks.task_done().expect("this one was open");
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let tasks = JoinableQueue::new()?;
///     let worker = spawn(work, tasks.clone())?;
///     tasks.put_many(1..100)?;
///     tasks.join();
///     tasks.put(0)?; // the end
///     worker.join()?;
///     Ok(())
/// }
/// ```
pub struct JoinableQueue<T> {
    queue: Queue<T>,
}

impl<T> JoinableQueue<T> {
    /// A queue without a bound, named after the place of the call.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn new() -> Result<Self> {
        Self::named(&arena::place(Location::caller()), None)
    }

    /// A queue that holds at most `most` messages, at least one.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn bounded(most: u64) -> Result<Self> {
        Self::named(&arena::place(Location::caller()), NonZeroU64::new(most.max(1)))
    }

    /// A queue with a name for who looks at the family, and at most `most` messages.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn named(name: &str, most: Option<NonZeroU64>) -> Result<Self> {
        Ok(Self { queue: Queue::named(name, most)? })
    }

    /// The queue that a handle names; any queue will do.
    ///
    /// # Errors
    /// If it is no more, is no queue, or belongs to another family.
    pub fn open(handle: Handle) -> Result<Self> {
        Ok(Self { queue: Queue::open(handle)? })
    }

    /// How many messages were put and are not done yet, at this instant.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.queue.bytes.inner.unfinished()
    }

    /// Says that a message that was got has been dealt with.
    ///
    /// # Errors
    /// [`DoneTooOften`] if that was said of as many as were put.
    pub fn task_done(&self) -> Result<(), DoneTooOften> {
        self.queue.bytes.inner.task_done()
    }

    /// Waits until all messages that were put are done.
    pub fn join(&self) {
        let joined = self.queue.bytes.inner.join(Waiting::FOREVER);
        debug_assert!(joined.is_ok(), "a wait without end");
    }

    /// Waits until all messages that were put are done, no longer than `timeout`; gives whether they
    /// are.
    #[must_use]
    pub fn join_timeout(&self, timeout: Duration) -> bool {
        self.queue.bytes.inner.join(waiting_for(timeout)).is_ok()
    }
}

/// Putting and getting are a queue's.
impl<T> Deref for JoinableQueue<T> {
    type Target = Queue<T>;

    fn deref(&self) -> &Queue<T> {
        &self.queue
    }
}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<T> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinableQueue")
            .field("handle", &self.handle())
            .field("len", &self.len())
            .field("unfinished", &self.unfinished())
            .finish()
    }
}

travels_by_handle!(JoinableQueue<T>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_open_until_it_is_done() {
        let tasks = JoinableQueue::new().unwrap();
        tasks.join();
        tasks.put_many([1u64, 2]).unwrap();
        assert_eq!(tasks.get_many(2).unwrap(), [1, 2]);
        assert_eq!(tasks.unfinished(), 2);
        tasks.task_done().unwrap();
        assert!(!tasks.join_timeout(Duration::from_millis(5)));
        tasks.task_done().unwrap();
        tasks.join();
        assert_eq!(tasks.task_done(), Err(DoneTooOften));
        assert_eq!(tasks.unfinished(), 0);
    }

    #[test]
    fn who_joins_is_woken_by_the_last_task() {
        let tasks = JoinableQueue::<u64>::new().unwrap();
        tasks.put_many(0..1000u64).unwrap();
        let others = tasks.clone();
        let worker = std::thread::spawn(move || {
            for task in others.try_iter() {
                task.unwrap();
                others.task_done().unwrap();
            }
        });
        tasks.join();
        assert_eq!(tasks.unfinished(), 0);
        worker.join().unwrap();
    }
}
