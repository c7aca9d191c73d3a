//! Messages from many processes to many, in the order in which each put them.
//!
//! # Invariant
//! A message is in the queue from the store that raises `put_count` to the store that raises
//! `got_count`, and neither before nor after. Each of the two is made by the holder of its end's
//! lock. Everything else about an end (which chunk, where in it) follows from its count and the
//! chunks, and is derived again ([`chunks`]) by the process that takes the lock from a dead holder.
//!
//! # Structure
//! A chain of chunks; in a chunk, records one behind the other: eight bytes of length and kind,
//! then the message, or for one longer than [`INLINE_MAX`] where its block is. Producers and
//! consumers have a lock each and meet only in the two counts.
//!
//! # What is written down
//! Memory changes hands in more than one store, so an end writes down what it is about to hand over
//! (`pending`) before it does. The process that recovers the end sees from the counts how far the
//! dead one came: a block or chunk that was not reached yet, or is no longer, is freed, if it still
//! is the one that was meant (its generation) and still the queue's.
//!
//! - put: fill (the block is the producer's own) → lock → pending → block to the queue → record →
//!   **count** → pending off → unlock → notify.
//! - get: lock → room for the bytes → copy → pending → **count** → block to the consumer → pending
//!   off → unlock → copy the block, free it. A consumer that dies with a message in its hands takes
//!   it along; one that has no memory for it leaves it in the queue.

mod buffer;
mod chunks;
mod end;
pub mod kind;
mod tasks;

use std::iter::Peekable;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::memory::Shared;

use crate::arena::{Arena, Block, BlockOwner, Error, Handle, Kind, ObjectRef, Result, arena_of};
use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{BlockedOn, Check, EventCount, Operation, Relay, Wait, WaitError, block};
use end::{End, PutEnd, Taken};
use tasks::Tasks;

pub use buffer::MessageBuffer;
pub use tasks::{QueueJoinError, TaskDoneError};

/// Longer messages have a block of their own.
pub const INLINE_MAX: usize = 4096;

/// How long even a caller whose deadline has passed waits for others to leave an end, which usually
/// takes a microsecond: only a stopped process can stay there for longer.
const PATIENCE: Duration = Duration::from_millis(100);

/// How a caller that waits so for messages or room waits for an end; [`Wait::TRY`] stays what it
/// is.
fn patient(waiting: Wait) -> Wait {
    if waiting.deadline == Wait::TRY.deadline {
        return waiting;
    }
    let extended = |deadline: Monotonic| deadline.max(Monotonic::now().after(PATIENCE));
    Wait { deadline: waiting.deadline.map(extended), ..waiting }
}

/// A queue's body.
#[repr(C, align(64))]
#[derive(Debug)]
struct Control {
    put: End,
    get: End,
    not_empty: Relay,
    not_full: Relay,
    /// The most messages that it holds; 0 is no bound.
    capacity: AtomicU64,
    tasks: Tasks,
    unused: [AtomicU64; 6],
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Control {}

/// A queue of byte messages between processes. Each message has a [`kind`], which says how
/// its bytes are meant.
#[derive(Clone, Debug)]
pub struct Queue {
    object: ObjectRef,
    control: &'static Control,
    /// How many accounts of tasks are behind the body; 0 if it keeps none.
    accounts: u32,
}

/// Why a message was not put or got.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The wait ended first.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// This process has no memory for the message, which is in the queue still.
    #[error("no memory in this process for a message of {len} bytes, which is still in the queue")]
    NoMemory {
        /// The message's number.
        number: u64,
        /// How many bytes it has.
        len: usize,
    },
    /// Shared memory failed.
    #[error(transparent)]
    Arena(Error),
}

impl From<Error> for QueueError {
    fn from(error: Error) -> Self {
        match error {
            Error::Wait(stopped) => Self::Wait(stopped),
            error => Self::Arena(error),
        }
    }
}

impl Queue {
    /// A queue that holds at most `capacity` messages, or without a bound (it grows as it needs).
    ///
    /// # Errors
    /// If the arena is full.
    pub fn new(arena: &'static Arena, name: &str, capacity: Option<u64>) -> Result<Self> {
        Self::make(arena, name, capacity, 0)
    }

    /// As [`Self::new`]; a process that [joins](Self::join) it learns of tasks that others died
    /// with.
    ///
    /// # Errors
    /// If the arena is full.
    pub fn joinable(arena: &'static Arena, name: &str, capacity: Option<u64>) -> Result<Self> {
        Self::make(arena, name, capacity, arena.slots())
    }

    fn make(
        arena: &'static Arena,
        name: &str,
        capacity: Option<u64>,
        accounts: u32,
    ) -> Result<Self> {
        let size = Self::size_with_accounts(accounts);
        let body = arena.allocate(size, Arena::while_making())?;
        arena.memory().zero(body.offset(), size)?;
        let control: &Control = arena.memory().cell(body.offset())?;
        control.capacity.store(capacity.unwrap_or(0), Ordering::Relaxed);
        control.tasks.keep_accounts(accounts);
        Self::over(arena.make::<AtomicU64>(Kind::Queue, name, Some(body), |_| Ok(()))?)
    }

    /// The queue that a handle names.
    ///
    /// # Errors
    /// If it is no more, or is no queue.
    pub fn open(handle: Handle) -> Result<Self> {
        Self::over(arena_of(handle)?.open(handle, Kind::Queue)?)
    }

    fn over(object: ObjectRef) -> Result<Self> {
        let (arena, body) = (object.arena(), object.body()?);
        let control: &Control = arena.memory().cell(body).map_err(Error::from)?;
        let accounts = control.tasks.accounts();
        if accounts > arena.slots() || arena.size_at(body)? < Self::size_with_accounts(accounts) {
            return Err(Error::Corrupt("a queue has less memory than it says"));
        }
        Ok(Self { control, accounts, object })
    }

    /// The value that names the queue in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.object.handle()
    }

    /// How many messages are in the queue at this instant.
    #[inline]
    #[must_use]
    pub fn len(&self) -> u64 {
        loop {
            let got = self.control.get.count();
            let put = self.control.put.count();
            // Both were true at once if nothing was got in between.
            if got == self.control.get.count() {
                return put.saturating_sub(got);
            }
        }
    }

    /// Whether the queue holds no message at this instant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the queue holds as many messages as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.capacity().is_some_and(|capacity| self.len() >= capacity)
    }

    /// The most messages that the queue holds.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        Some(self.control.capacity.load(Ordering::Relaxed)).filter(|&capacity| capacity != 0)
    }

    /// How many messages were put so far.
    #[must_use]
    pub fn put_so_far(&self) -> u64 {
        self.control.put.count()
    }

    /// How many messages were got so far.
    #[must_use]
    pub fn got(&self) -> u64 {
        self.control.get.count()
    }

    /// Puts a message; returns its number, counted from 0. It is in the queue when this returns,
    /// come what may to this process.
    ///
    /// # Errors
    /// [`QueueError::Wait`] if the queue stayed full; [`QueueError::Arena`] without memory.
    /// Nothing was put then.
    #[inline]
    pub fn put(&self, kind: u8, message: &[u8], waiting: Wait) -> Result<u64, QueueError> {
        self.put_parts(kind, &[message], waiting)
    }

    /// As [`Self::put`], for a message whose parts lie in different places.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_parts(&self, kind: u8, message: &[&[u8]], waiting: Wait) -> Result<u64, QueueError> {
        self.put_unless(kind, message, waiting, &mut || Ok(()))
    }

    /// As [`Self::put_parts`]; calls `copied` when a long message has been copied and is about to
    /// be put, for copying may take long. Nothing is locked meanwhile, so it may run any code. If
    /// it returns an error the message is not put.
    ///
    /// # Errors
    /// As [`Self::put`], and that of `copied`.
    pub fn put_unless(
        &self,
        kind: u8,
        message: &[&[u8]],
        waiting: Wait,
        copied: &mut dyn FnMut() -> Result<(), WaitError>,
    ) -> Result<u64, QueueError> {
        if self.capacity().is_none() && chunks::length(message) <= INLINE_MAX {
            // There is nothing to wait for but the end.
            let mut end = self.lock_put(patient(waiting))?;
            end.write(kind, message)?;
            let number = end.commit();
            self.leave_put(end);
            return Ok(number);
        }
        self.passing_room_on(|point| {
            // Before a long message is copied.
            self.wait_for_room(point, waiting)?;
            let mut block = self.prepare(message, patient(waiting))?;
            let arena = self.object.arena();
            let owner = arena.owner();
            let go_on = if block.is_some() { copied() } else { Ok(()) };
            if go_on.is_ok() && arena.owner() != owner {
                // It forked, and this is the copy: the block is the original's.
                block = self.prepare(message, patient(waiting))?;
            }
            let put = match go_on {
                Ok(()) => self.put_prepared(kind, message, block, point, waiting),
                Err(stopped) => Err(stopped.into()),
            };
            if put.is_err()
                && let Some(block) = block
            {
                arena.free(block)?;
            }
            put
        })
    }

    /// Puts several messages in a row, with one lock and one wake; on a bounded queue as room comes
    /// about. Returns how many were put, which is all of them unless the wait ended first.
    ///
    /// # Errors
    /// As [`Self::put`], if not a single one was put.
    pub fn put_many<'m>(
        &self,
        messages: impl IntoIterator<Item = (u8, &'m [u8])>,
        waiting: Wait,
    ) -> Result<usize, QueueError> {
        self.put_from(&mut messages.into_iter().peekable(), waiting)
    }

    /// As [`Self::put_many`]; those that were not put are left in `messages`.
    ///
    /// # Errors
    /// As [`Self::put_many`].
    pub fn put_from<'m>(
        &self,
        messages: &mut Peekable<impl Iterator<Item = (u8, &'m [u8])>>,
        waiting: Wait,
    ) -> Result<usize, QueueError> {
        let mut put = 0;
        while messages.peek().is_some() {
            match self.put_run(messages, waiting) {
                Ok(run) => put += run,
                Err(_) if put > 0 => return Ok(put),
                Err(error) => return Err(error),
            }
        }
        Ok(put)
    }

    fn put_run<'m>(
        &self,
        messages: &mut Peekable<impl Iterator<Item = (u8, &'m [u8])>>,
        waiting: Wait,
    ) -> Result<usize, QueueError> {
        let run = self.passing_room_on(|point| self.put_short_ones(messages, point, waiting))?;
        if run > 0 {
            return Ok(run);
        }
        // A long message goes by itself.
        if let Some(&(kind, message)) = messages.peek()
            && message.len() > INLINE_MAX
        {
            self.put(kind, message, waiting)?;
            messages.next();
            return Ok(1);
        }
        Ok(0)
    }

    /// Puts the messages up to the next long one, as there is room.
    fn put_short_ones<'m>(
        &self,
        messages: &mut Peekable<impl Iterator<Item = (u8, &'m [u8])>>,
        point: &EventCount,
        waiting: Wait,
    ) -> Result<usize, QueueError> {
        /// So that other producers get their turn.
        const RUN: u64 = 256;
        self.wait_for_room(point, waiting)?;
        let mut end = self.lock_put(patient(waiting))?;
        let room = self.room().min(RUN);
        let mut run = 0;
        while run < room
            && let Some((kind, message)) = messages.peek()
            && message.len() <= INLINE_MAX
        {
            if let Err(error) = end.write(*kind, &[message]) {
                if run == 0 {
                    return Err(error.into());
                }
                break;
            }
            messages.next();
            run += 1;
        }
        if run > 0 {
            end.commit();
            drop(end);
            self.control.not_empty.notify_one();
        }
        Ok(run as usize)
    }

    fn prepare(&self, message: &[&[u8]], waiting: Wait) -> Result<Option<Block>> {
        let len = chunks::length(message);
        if len <= INLINE_MAX {
            return Ok(None);
        }
        let arena = self.object.arena();
        let block = arena.allocate(len as u64, waiting)?;
        if let Err(error) = chunks::write_parts(arena, block.offset(), message) {
            arena.free(block)?;
            return Err(error);
        }
        failpoint!("queue.put.block.filled");
        Ok(Some(block))
    }

    fn put_prepared(
        &self,
        kind: u8,
        message: &[&[u8]],
        block: Option<Block>,
        point: &EventCount,
        waiting: Wait,
    ) -> Result<u64, QueueError> {
        loop {
            let mut end = self.lock_put(patient(waiting))?;
            if self.room() == 0 {
                drop(end);
                self.wait_for_room(point, waiting)?;
                continue;
            }
            let number = match block {
                None => {
                    end.write(kind, message)?;
                    end.commit()
                }
                Some(block) => end.write_block(kind, block, chunks::length(message))?,
            };
            self.leave_put(end);
            return Ok(number);
        }
    }

    /// Leaves the end after a message was put, and tells a consumer.
    #[inline]
    fn leave_put(&self, end: PutEnd<'_>) {
        drop(end);
        failpoint!("queue.put.unlocked");
        self.control.not_empty.notify_one();
    }

    fn room(&self) -> u64 {
        self.capacity().map_or(u64::MAX, |capacity| capacity.saturating_sub(self.len()))
    }

    /// Does what may wait for room. If there is room afterwards, the next producer is woken: one
    /// wake may stand for room for several, and the woken producer may have failed to use it.
    #[inline]
    fn passing_room_on<R>(&self, put: impl FnOnce(&EventCount) -> R) -> R {
        self.control.not_full.pass_on(|_| self.capacity().is_some() && self.room() > 0, put)
    }

    fn wait_for_room(&self, point: &EventCount, waiting: Wait) -> Result<(), WaitError> {
        if self.room() > 0 {
            return Ok(());
        }
        let on = BlockedOn { object: self.object.index(), operation: Operation::Put };
        block(self.object.arena(), on, waiting, point, |_| (self.room() > 0).then_some(()))
    }

    fn wait_for_message(&self, point: &EventCount, waiting: Wait) -> Result<(), WaitError> {
        let on = BlockedOn { object: self.object.index(), operation: Operation::Get };
        block(self.object.arena(), on, waiting, point, |check| {
            if check == Check::Tick {
                // What a burst has left is returned to the machine also where no process uses the
                // heap.
                self.object.arena().look_after_heap();
            }
            (!self.is_empty()).then_some(())
        })
    }

    /// Gets the oldest message into `into`, and returns its kind and number. Of several consumers
    /// each message goes to one.
    ///
    /// # Errors
    /// [`QueueError::Wait`] if the queue stayed empty; [`QueueError::NoMemory`] if there is no
    /// room for it; [`QueueError::Arena`] if the queue is damaged.
    pub fn get(
        &self,
        into: &mut dyn MessageBuffer,
        waiting: Wait,
    ) -> Result<(u8, u64), QueueError> {
        self.get_waiting(into, None, waiting)
    }

    /// As [`Self::get`], but writes the message's number + 1 into `claim` before it is taken: if
    /// this process dies with it, others can read there which one it had.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_claiming(
        &self,
        into: &mut dyn MessageBuffer,
        claim: &AtomicU64,
        waiting: Wait,
    ) -> Result<(u8, u64), QueueError> {
        self.get_waiting(into, Some(claim), waiting)
    }

    fn get_waiting(
        &self,
        into: &mut dyn MessageBuffer,
        claim: Option<&AtomicU64>,
        waiting: Wait,
    ) -> Result<(u8, u64), QueueError> {
        match self.take_next(into, claim, patient(waiting))? {
            Some(got) => Ok(got),
            None => self.take_waiting(into, claim, waiting),
        }
    }

    /// Waits for a message and takes it. One that leaves with an error may have been woken for a
    /// message that it did not take, so it wakes the next consumer if there are any.
    #[cold]
    fn take_waiting(
        &self,
        into: &mut dyn MessageBuffer,
        claim: Option<&AtomicU64>,
        waiting: Wait,
    ) -> Result<(u8, u64), QueueError> {
        self.control.not_empty.pass_on(
            |got: &Result<_, _>| got.is_err() && !self.is_empty(),
            |point| {
                loop {
                    self.wait_for_message(point, waiting)?;
                    if let Some(got) = self.take_next(into, claim, patient(waiting))? {
                        return Ok(got);
                    }
                }
            },
        )
    }

    /// Gets the oldest message if there is one, and no other consumer is in the way for long.
    ///
    /// # Errors
    /// As [`Self::get`], but not [`QueueError::Wait`].
    pub fn try_get(
        &self,
        into: &mut dyn MessageBuffer,
        claim: Option<&AtomicU64>,
    ) -> Result<Option<(u8, u64)>, QueueError> {
        self.if_any(into, claim, Wait::until(Some(Monotonic::now().after(PATIENCE))))
    }

    /// As [`Self::try_get`], but returns nothing as well if another consumer is in the way at all.
    ///
    /// # Errors
    /// As [`Self::try_get`].
    pub fn get_at_once(
        &self,
        into: &mut dyn MessageBuffer,
        claim: Option<&AtomicU64>,
    ) -> Result<Option<(u8, u64)>, QueueError> {
        self.if_any(into, claim, Wait::TRY)
    }

    fn if_any(
        &self,
        into: &mut dyn MessageBuffer,
        claim: Option<&AtomicU64>,
        waiting: Wait,
    ) -> Result<Option<(u8, u64)>, QueueError> {
        match self.take_next(into, claim, waiting) {
            Err(QueueError::Wait(_)) => Ok(None),
            other => other,
        }
    }

    /// Takes the oldest message, if there is one, and wakes the waiters for what that leaves;
    /// returns its kind and number.
    fn take_next(
        &self,
        into: &mut dyn MessageBuffer,
        claim: Option<&AtomicU64>,
        waiting: Wait,
    ) -> Result<Option<(u8, u64)>, QueueError> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut end = self.lock_get(waiting)?;
        if end.available() == 0 {
            return Ok(None);
        }
        let Taken { kind, number, block } = end.take(into, claim)?;
        let left = end.available();
        drop(end);
        failpoint!("queue.get.unlocked");
        if left > 0 {
            // One wake may stand for several messages.
            self.control.not_empty.notify_one();
        }
        if self.control.capacity.load(Ordering::Relaxed) != 0 {
            self.control.not_full.notify_one();
        }
        if let Some((block, len)) = block {
            let arena = self.object.arena();
            let bytes = arena.memory().bytes(block.offset(), len);
            let copied = bytes.map(|bytes| into.fill(bytes));
            failpoint!("queue.get.block.copied");
            arena.free(block)?;
            copied.map_err(Error::from)?;
        }
        Ok(Some((kind, number)))
    }

    /// Gets up to `max` messages at once, waiting only for the first; calls `each` with kind and
    /// bytes, in order. Returns how many there were. An error that comes after the first shows
    /// itself again at the next call.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_many(
        &self,
        max: usize,
        mut each: impl FnMut(u8, &[u8]),
        waiting: Wait,
    ) -> Result<usize, QueueError> {
        let mut message = Vec::new();
        let mut got = 0;
        while got < max {
            message.clear();
            let kind = if got == 0 {
                self.get(&mut message, waiting)?.0
            } else {
                match self.try_get(&mut message, None) {
                    Ok(Some((kind, _))) => kind,
                    Ok(None) | Err(_) => break,
                }
            };
            each(kind, &message);
            got += 1;
        }
        Ok(got)
    }

    /// Walks all messages and checks that the queue is whole; returns how many there are.
    ///
    /// # Errors
    /// [`Error::Corrupt`], with what is wrong.
    pub fn check(&self) -> Result<u64> {
        let whole = |locked: QueueError| match locked {
            QueueError::Arena(error) => error,
            QueueError::Wait(_) | QueueError::NoMemory { .. } => {
                unreachable!("a wait without end, and nothing is got")
            }
        };
        let _put = self.lock_put(Wait::FOREVER).map_err(whole)?;
        let get = self.lock_get(Wait::FOREVER).map_err(whole)?;
        get.check(self.len())
    }

    fn owner(&self) -> BlockOwner {
        BlockOwner::Object(self.object.index())
    }
}
