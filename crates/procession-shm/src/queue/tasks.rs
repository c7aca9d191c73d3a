//! Messages as tasks: somebody waits until all that were put have been done.
//!
//! # Invariant
//! A message is a task that is open from the store that puts it until the store that raises `done`,
//! so what is open follows from two counts: `put_count` and `done`. Nothing is counted twice and
//! nothing is left half counted, whoever dies where.
//!
//! # Tasks that a process died with
//! Each process has an *account* in the queue's body: how many tasks it took and has not called done.
//! Only what the living have there counts. Of the tasks that were taken and are not done, those that
//! no living process has an account of are *lost*: who waits finds them at a tick, raises `done` by as
//! many with one exchange, and is told.
//!
//! A consumer writes its account before `got_count` is raised, and after `done` was. So whatever it is
//! killed or looked at between, the living have at least what is theirs: a task is never taken for lost
//! while somebody may still do it. A process that calls done what another took makes the other's
//! account too large, and its death shows what was really lost. One that has no place in the process
//! table, whose death can't be seen, ends all looking for lost tasks (`blind`).

use super::{Control, Queue};
use crate::arena::Slot;
use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{BlockedOn, EventCount, Moment, Operation, Stopped, Waiting, WithDeaths, block};

/// What a queue knows of its tasks.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Tasks {
    done: AtomicU64,
    all_done: EventCount,
    /// How many accounts are in the body behind the queue's own; 0 if it keeps none. Never changes.
    accounts: AtomicU64,
    /// 1 once somebody took a message who can't have an account.
    blind: AtomicU64,
}

impl Tasks {
    pub(super) fn keep_accounts(&self, accounts: u32) {
        self.accounts.store(accounts.into(), Ordering::Relaxed);
    }

    pub(super) fn accounts(&self) -> u32 {
        u32::try_from(self.accounts.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }
}

/// An account: tasks taken and not done, and the generation of the slot whose account it is.
#[derive(Clone, Copy)]
struct Account {
    generation: u32,
    held: u32,
}

impl Account {
    fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.held)
    }

    fn from_word(word: u64) -> Self {
        Self { generation: (word >> 32) as u32, held: word as u32 }
    }

    /// How many tasks the process of a slot has by this account.
    fn of(self, slot: Slot) -> u32 {
        if self.generation == slot.generation { self.held } else { 0 }
    }
}

/// A task was called done that nobody had put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task_done() called too many times: all messages of the queue are done")]
pub struct DoneTooOften;

/// Why not all tasks are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The wait ended first.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// Processes died with so many tasks that they had got and not called done. Nobody will do these,
    /// and nobody else is told; they count as done from now on.
    #[error("processes died with {0} of the tasks, which nobody will do now")]
    Lost(u64),
}

impl Queue {
    /// How many bytes a body with accounts has.
    pub(super) fn size_with_accounts(slots: u32) -> u64 {
        size_of::<Control>() as u64 + u64::from(slots) * 8
    }

    fn account(&self, slot: u16) -> Option<&'static AtomicU64> {
        if u32::from(slot) >= self.accounts {
            return None;
        }
        let behind = self.object.body().ok()? + Self::size_with_accounts(slot.into());
        self.object.arena().word(behind).ok()
    }

    fn change_account(&self, change: impl Fn(u32) -> u32) {
        let me = self.object.arena().me();
        let Some(account) = self.account(me.index) else {
            return self.control.tasks.blind.store(1, Ordering::SeqCst);
        };
        let order = Ordering::SeqCst;
        let changed = account.fetch_update(order, order, |word| {
            let held = change(Account::from_word(word).of(me));
            Some(Account { generation: me.generation, held }.word())
        });
        debug_assert!(changed.is_ok());
    }

    /// Says that this process is about to take a message.
    #[inline]
    pub(super) fn will_take(&self) {
        if self.accounts != 0 {
            self.change_account(|held| held.saturating_add(1));
            failpoint!("queue.get.accounted");
        }
    }

    /// How many messages were put, and not yet said to be [done](Self::task_done), at this instant.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        loop {
            let done = self.done();
            let put = self.control.put.count();
            // Both were true at once if nothing was done in between.
            if done == self.done() {
                return put.saturating_sub(done);
            }
        }
    }

    fn done(&self) -> u64 {
        self.control.tasks.done.load(Ordering::SeqCst)
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
        if self.accounts != 0 {
            self.change_account(|held| held.saturating_sub(1));
            failpoint!("queue.task_done.accounted");
        }
        if self.unfinished() == 0 {
            self.control.tasks.all_done.notify_all();
        }
        Ok(())
    }

    /// Waits until all messages that were put are [done](Self::task_done).
    ///
    /// # Errors
    /// [`JoinError::Lost`] if processes died with some, which is told once; [`JoinError::Stopped`].
    pub fn join(&self, waiting: Waiting) -> Result<(), JoinError> {
        if self.unfinished() == 0 {
            return Ok(());
        }
        let on = BlockedOn { object: self.object.index(), operation: Operation::TasksDone };
        let all_done = &self.control.tasks.all_done;
        let lost = block(self.object.arena(), on, waiting, &WithDeaths(all_done), |moment| {
            if self.unfinished() == 0 {
                return Some(0);
            }
            if moment == Moment::Tick { self.forgive_lost() } else { None }
        })?;
        if lost > 0 { Err(JoinError::Lost(lost)) } else { Ok(()) }
    }

    /// Counts as done what was lost; gives how many that were, if any and if it was this caller that
    /// did so.
    fn forgive_lost(&self) -> Option<u64> {
        if self.accounts == 0 {
            return None;
        }
        let arena = self.object.arena();
        let done = self.done();
        // In this order: what is taken from now on is in an account before it is in this count.
        let got = self.got();
        let taken = got.checked_sub(done).filter(|&taken| taken > 0)?;
        // Who can't have an account has said so before it raised that count.
        if self.control.tasks.blind.load(Ordering::SeqCst) != 0 {
            return None;
        }
        let mut held = 0;
        for slot in 0..self.accounts as u16 {
            let account = Account::from_word(self.account(slot)?.load(Ordering::SeqCst));
            if account.held > 0 && !arena.is_over(slot, account.generation) {
                held += u64::from(account.held);
            }
        }
        let lost = taken.checked_sub(held).filter(|&lost| lost > 0)?;
        // If a task was done meanwhile, its account may have been read without it: look again later.
        let order = Ordering::SeqCst;
        let forgiven =
            self.control.tasks.done.compare_exchange(done, done + lost, order, Ordering::Relaxed);
        forgiven.ok()?;
        failpoint!("queue.join.forgiven");
        self.control.tasks.all_done.notify_all();
        Some(lost)
    }
}
