//! The queue of tasks.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Deref;
use std::panic::Location;
use std::time::Duration;

use procession_shm::queue::{self, QueueJoinError, TaskDoneError};
use procession_shm::wait::Wait;

use super::{ByteQueue, Queue, TasksLostError};
use crate::arena::{self, Handle, Result};
use crate::codec::travels_by_handle;
use crate::sync::waiting_for;

/// A [`Queue`] that knows how many of its messages have been dealt with, as Python's
/// `multiprocessing.JoinableQueue`.
///
/// Each message is a task from [`Queue::put`] until a process, usually its receiver, says that it
/// is done. If the receiver dies before, the task is lost, and [`join`](Self::join) reports that.
///
/// Any process may call a task [done](Self::task_done), but a call does not say which task it
/// means. So what is lost is known exactly only if each process calls for the tasks that it got
/// itself. If other processes have called since all tasks were last done, and a process that got
/// tasks dies, `join` reports that some [may be lost](TasksLostError::Perhaps). The death of a
/// process that did not get the task from this queue is not noticed.
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
///     tasks.join()?;
///     tasks.put(0)?; // the end
///     worker.join()?;
///     Ok(())
/// }
/// ```
pub struct JoinableQueue<T> {
    queue: Queue<T>,
}

impl<T> JoinableQueue<T> {
    /// A queue without a bound, named after the location of the call.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn new() -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()), None)
    }

    /// A queue that holds at most `capacity` messages, at least one.
    ///
    /// # Errors
    /// If the arena is full.
    #[track_caller]
    pub fn bounded(capacity: u64) -> Result<Self> {
        Self::named(&arena::caller_name(Location::caller()), NonZeroU64::new(capacity.max(1)))
    }

    /// A queue with a name for inspection of the family, and at most `capacity` messages.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn named(name: &str, capacity: Option<NonZeroU64>) -> Result<Self> {
        let capacity = capacity.map(NonZeroU64::get);
        let inner = queue::Queue::joinable(arena::family()?, name, capacity)?;
        Ok(Self { queue: Queue::over(ByteQueue { inner }) })
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
    /// [`TaskDoneError`] if as many messages were called done as were put. Messages that `join`
    /// reported as lost count as done.
    pub fn task_done(&self) -> Result<(), TaskDoneError> {
        self.queue.bytes.inner.task_done()
    }

    /// Waits until all messages that were put are done.
    ///
    /// # Errors
    /// [`TasksLostError::Certainly`] if processes died with some of them. Exactly one joiner is
    /// told; the lost ones count as done, so that joining again waits for the others.
    /// [`TasksLostError::Perhaps`] if that can't be known; every call of every joiner is told.
    pub fn join(&self) -> Result<(), TasksLostError> {
        self.join_waiting(Wait::FOREVER).map(|_| ())
    }

    /// Waits until all messages that were put are done, no longer than `timeout`; returns whether
    /// they are.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<bool, TasksLostError> {
        self.join_waiting(waiting_for(timeout))
    }

    fn join_waiting(&self, waiting: Wait) -> Result<bool, TasksLostError> {
        match self.queue.bytes.inner.join(waiting) {
            Ok(()) => Ok(true),
            Err(QueueJoinError::Wait(_)) => Ok(false),
            Err(QueueJoinError::Lost(count)) => Err(TasksLostError::Certainly { count }),
            Err(QueueJoinError::PerhapsLost(max)) => Err(TasksLostError::Perhaps { max }),
        }
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
            .field("name", &arena::Name(self.handle()))
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
        tasks.join().unwrap();
        tasks.put_many([1u64, 2]).unwrap();
        assert_eq!(tasks.get_many(2).unwrap(), [1, 2]);
        assert_eq!(tasks.unfinished(), 2);
        tasks.task_done().unwrap();
        assert!(!tasks.join_timeout(Duration::from_millis(5)).unwrap());
        tasks.task_done().unwrap();
        tasks.join().unwrap();
        assert_eq!(tasks.task_done(), Err(TaskDoneError));
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
        tasks.join().unwrap();
        assert_eq!(tasks.unfinished(), 0);
        worker.join().unwrap();
    }
}
