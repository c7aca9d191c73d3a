//! Messages as tasks: a joiner waits until all that were put are done.
//!
//! # Invariant
//! A message is a task that is open from the store that puts it until the store that raises `done`,
//! so what is open follows from two counts: `put_count` and `done`. No death at any point leaves a
//! task counted twice or half counted.
//!
//! # Tasks that a process died with
//! Each process has an *account* in the queue's body: how many tasks it took and has not called
//! done. Of the tasks that were taken and are not done, those that no living process has an account
//! of are *lost*: a joiner finds them at a tick, raises `done` by as many with one exchange, and is
//! told.
//!
//! A consumer writes its account before `got_count` is raised, and after `done` was. So whatever it
//! is killed or looked at between, the living have at least what is theirs: a task is never counted
//! as lost while a living process may still do it.
//!
//! # Tasks called done by another process than took them
//! Then accounts can't tell what is lost. Let A take two tasks and pass one of them to B in some
//! other way, and let C take one. B calls one done: A has 2, C has 1, two tasks are open. If C is
//! killed now, its task is lost. If B had called C's task done instead, the same numbers stand in
//! the same places, and nothing is lost. The caller does not say which task it means, and a message
//! has no trace of the process that passed it on. So the accounts are exact as long as each process
//! calls done what it took itself, and beyond that they err on the side of telling:
//!
//! - A call of `task_done` by a process whose account is empty is a *stray*. It is noted (`doubts`)
//!   before it counts. So is a task that is taken by a process that can't have an account.
//! - While there are doubts nothing is counted as lost. Instead every joiner is told that tasks
//!   *may* be lost, if a process that took one is dead: one whose account is there, or whose
//!   account gave way to that of the next process in its slot (`deaths`). Its account need not hold
//!   anything: a process that called done what others took may still have had its own.
//! - Tasks counted as lost (`forgiven`) may yet be called done by the process that they were passed
//!   to. Such a call is a stray, and counts for another task if one is open. So as many strays as
//!   were counted as lost are noted (`overdone`), and the joiner that then finds all tasks done is
//!   told that some may be not.
//! - When all tasks are done, no account matters: a joiner that sees it *settles*: with the
//!   consumers' end locked, so that no process takes a task meanwhile, it empties all accounts, and
//!   from then on they are exact again.
//!
//! A process that calls done what another took while it has as many of its own is no stray, and
//! can't be told from one that does its own.

use super::{Control, Queue};
use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{BlockedOn, Check, EventCount, Operation, Wait, WaitError, WithDeaths, block};

/// What a queue knows of its tasks.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Tasks {
    done: AtomicU64,
    all_done: EventCount,
    /// How many accounts are in the body behind the queue's own; 0 if it keeps none. Never changes.
    accounts: AtomicU64,
    /// How much has happened since the accounts were last settled that they can't show.
    doubts: AtomicU64,
    /// How often since then the account of a dead process gave way to that of another.
    deaths: AtomicU64,
    /// How many tasks were counted as lost for which there was no stray since.
    forgiven: AtomicU64,
    /// How many of those for which there was one no joiner was told of.
    overdone: AtomicU64,
}

impl Tasks {
    pub(super) fn keep_accounts(&self, accounts: u32) {
        self.accounts.store(accounts.into(), Ordering::Relaxed);
    }

    pub(super) fn accounts(&self) -> u32 {
        u32::try_from(self.accounts.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::SeqCst);
    }
}

/// Lowers a count, not below zero.
fn lower(count: &AtomicU64, by: u64) {
    let order = Ordering::SeqCst;
    let _ = count.fetch_update(order, order, |now| Some(now.saturating_sub(by)));
}

/// An account: the generation of the slot whose account it is (32 bits), for how many tasks a
/// thread of the process is calling `task_done` (8), and how many it took and has not called done
/// (24).
#[derive(Clone, Copy)]
struct Account {
    generation: u32,
    ending: u32,
    held: u32,
}

const MAX_HELD: u32 = (1 << 24) - 1;
const MAX_ENDING: u32 = (1 << 8) - 1;

impl Account {
    fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.ending) << 24 | u64::from(self.held)
    }

    fn from_word(word: u64) -> Self {
        let low = word as u32;
        Self { generation: (word >> 32) as u32, ending: low >> 24, held: low & MAX_HELD }
    }

    /// Whether no process has it.
    fn is_unused(self) -> bool {
        self.generation == 0
    }
}

/// A task was called done that had not been put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task_done() called too many times: all messages of the queue are done")]
pub struct TaskDoneError;

/// Why not all tasks are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueJoinError {
    /// The wait ended first.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// Processes died with so many tasks that they had got and not called done. No process will do
    /// these, and no other joiner is told; they count as done from now on.
    #[error("processes died with {0} of the tasks, which no process will do now")]
    Lost(u64),
    /// A process that had got tasks died, and tasks were called done by other processes than had
    /// got them, so that it can't be known whether some, at the most so many, are lost. Nothing has
    /// changed; each joiner is told as long as tasks are open.
    #[error(
        "a process that had got tasks died: up to {0} tasks may be lost (tasks were called done \
         by other processes than had got them, so it can't be known; call task_done() for those \
         that are open and that no process will do)"
    )]
    PerhapsLost(u64),
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

    /// Changes this process's account, unless `change` returns nothing; says whether it did.
    fn change_account(&self, change: impl Fn(Account) -> Option<Account>) -> bool {
        let me = self.object.arena().me();
        let order = Ordering::SeqCst;
        self.account(me.index).is_some_and(|account| {
            let mine =
                |word| Some(Account::from_word(word)).filter(|it| it.generation == me.generation);
            account
                .fetch_update(order, order, |word| change(mine(word)?).map(Account::word))
                .is_ok()
        })
    }

    /// Says that this process is about to take a message. The consumers' end is locked.
    #[inline]
    pub(super) fn will_take(&self) {
        if self.accounts == 0 {
            return;
        }
        let one_more =
            |it: Account| (it.held < MAX_HELD).then_some(Account { held: it.held + 1, ..it });
        if !self.change_account(one_more) {
            self.take_first();
        }
        failpoint!("queue.get.accounted");
    }

    /// As [`Self::will_take`], for a process that has no account with room yet.
    #[cold]
    fn take_first(&self) {
        let tasks = &self.control.tasks;
        let me = self.object.arena().me();
        let Some(account) = self.account(me.index) else { return tasks.doubt() };
        let before = Account::from_word(account.load(Ordering::SeqCst));
        if before.generation == me.generation {
            return tasks.doubt();
        }
        if !before.is_unused() {
            // First, so that the dead process is known of at every moment.
            tasks.deaths.fetch_add(1, Ordering::SeqCst);
            failpoint!("tasks.succeeding");
        }
        // No other thread writes: the other processes of this slot are dead, the other threads of
        // this one wait for the consumers' end, and no joiner settles meanwhile.
        let first = Account { generation: me.generation, ending: 0, held: 1 };
        account.store(first.word(), Ordering::SeqCst);
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
    /// [`TaskDoneError`] if that was said of as many as were put.
    pub fn task_done(&self) -> Result<(), TaskDoneError> {
        let order = Ordering::SeqCst;
        // `put_count` only grows, so what was less than it stays so.
        let more = |done| (done < self.control.put.count()).then_some(done + 1);
        let is_mine = self.accounts != 0 && self.begin_done();
        if self.accounts != 0 && !is_mine {
            let open = more(self.done()).is_some();
            let was_lost = self.note_stray(open);
            if !open {
                return if was_lost { Ok(()) } else { Err(TaskDoneError) };
            }
        }
        let counted = self.control.tasks.done.fetch_update(order, order, more);
        failpoint!("queue.task_done.counted");
        if is_mine {
            self.end_done();
            failpoint!("queue.task_done.accounted");
        }
        counted.map_err(|_| TaskDoneError)?;
        if self.unfinished() == 0 {
            self.control.tasks.all_done.notify_all();
        }
        Ok(())
    }

    /// Notes in this process's account that one of its tasks is about to be done, if it has one for
    /// which no other thread does so.
    fn begin_done(&self) -> bool {
        self.change_account(|it| {
            let has_one = it.ending < it.held.min(MAX_ENDING);
            has_one.then_some(Account { ending: it.ending + 1, ..it })
        })
    }

    /// Ends what [`Self::begin_done`] began, also if the task did not count because a stray had
    /// counted for it: it is done, and held no more. An account that was settled meanwhile stays as
    /// it is.
    fn end_done(&self) {
        self.change_account(|it| {
            let (ending, held) = (it.ending.checked_sub(1)?, it.held.saturating_sub(1));
            Some(Account { ending, held, ..it })
        });
    }

    /// Notes a stray, before it counts for a task that is `open`; says whether it may be for one
    /// that was counted as lost.
    fn note_stray(&self, open: bool) -> bool {
        let tasks = &self.control.tasks;
        if open {
            tasks.doubt();
            failpoint!("tasks.doubted");
        }
        if tasks.forgiven.load(Ordering::SeqCst) == 0 {
            return false;
        }
        if open {
            tasks.overdone.fetch_add(1, Ordering::SeqCst);
            failpoint!("tasks.overdone");
        }
        let order = Ordering::SeqCst;
        let was_lost =
            tasks.forgiven.fetch_update(order, order, |left| left.checked_sub(1)).is_ok();
        if open && !was_lost {
            lower(&tasks.overdone, 1);
        }
        was_lost
    }

    /// Waits until all messages that were put are [done](Self::task_done).
    ///
    /// # Errors
    /// [`QueueJoinError::Lost`] if processes died with some, which is told once;
    /// [`QueueJoinError::PerhapsLost`] if that can't be known; [`QueueJoinError::Wait`].
    pub fn join(&self, waiting: Wait) -> Result<(), QueueJoinError> {
        if self.unfinished() > 0 {
            let on = BlockedOn { object: self.object.index(), operation: Operation::TasksDone };
            let all_done = &self.control.tasks.all_done;
            block(self.object.arena(), on, waiting, &WithDeaths(all_done), |check| {
                if self.unfinished() == 0 {
                    return Some(Ok(()));
                }
                if check == Check::Tick { self.find_lost().map(Err) } else { None }
            })??;
        }
        self.settle();
        match self.control.tasks.overdone.swap(0, Ordering::SeqCst) {
            0 => Ok(()),
            some => Err(QueueJoinError::PerhapsLost(some)),
        }
    }

    /// What is lost, or may be; what is lost counts as done from then on, if it was this caller
    /// that saw to it.
    fn find_lost(&self) -> Option<QueueJoinError> {
        let (arena, tasks) = (self.object.arena(), &self.control.tasks);
        let done = self.done();
        // In this order: what is taken from now on is in an account before it is in this count.
        let got = self.got();
        // And what was done before, or taken without an account, is doubted before it is in the
        // two.
        let doubted = tasks.doubts.load(Ordering::SeqCst) > 0;
        let mut died = tasks.deaths.load(Ordering::SeqCst) > 0;
        let mut held = 0;
        for slot in 0..self.accounts as u16 {
            let account = Account::from_word(self.account(slot)?.load(Ordering::SeqCst));
            // An empty account makes a difference only where there are doubts.
            if account.is_unused() || account.held == 0 && (!doubted || died) {
                continue;
            }
            if arena.is_over(slot, account.generation) {
                died = true;
            } else {
                held += u64::from(account.held);
            }
        }
        if doubted {
            let open = self.unfinished();
            return (died && open > 0).then_some(QueueJoinError::PerhapsLost(open));
        }
        let lost = got.checked_sub(done)?.checked_sub(held).filter(|&lost| lost > 0)?;
        // First, so that a process that calls one of these done finds it here.
        tasks.forgiven.fetch_add(lost, Ordering::SeqCst);
        failpoint!("tasks.forgiving");
        // If a task was done meanwhile, its account may have been read without it: look again
        // later.
        let order = Ordering::SeqCst;
        let counted = tasks.done.compare_exchange(done, done + lost, order, Ordering::Relaxed);
        if counted.is_err() {
            lower(&tasks.forgiven, lost);
            return None;
        }
        failpoint!("tasks.forgiven");
        tasks.all_done.notify_all();
        Some(QueueJoinError::Lost(lost))
    }

    /// Empties the accounts if they are in doubt and all tasks are done, unless another process is
    /// at the consumers' end.
    fn settle(&self) {
        let tasks = &self.control.tasks;
        let doubts = tasks.doubts.load(Ordering::SeqCst);
        if self.accounts == 0 || doubts == 0 {
            return;
        }
        let Ok(_locked) = self.lock_get(Wait::TRY) else { return };
        let deaths = tasks.deaths.load(Ordering::SeqCst);
        if self.unfinished() > 0 {
            return;
        }
        for slot in 0..self.accounts as u16 {
            let Some(account) = self.account(slot) else { return };
            let order = Ordering::SeqCst;
            let word = account.load(order);
            let Account { generation, ending, .. } = Account::from_word(word);
            // A thread that is about to take a task off its account must find that account.
            let in_use = ending > 0 && !self.object.arena().is_over(slot, generation);
            if in_use || account.compare_exchange(word, 0, order, order).is_err() {
                return;
            }
        }
        failpoint!("tasks.settling");
        // What came to be doubted since stays so.
        lower(&tasks.deaths, deaths);
        lower(&tasks.doubts, doubts);
    }
}
