//! A condition variable beside a lock of the caller's.
//!
//! # Invariant
//! A notification stays until a waiter takes it *that holds the lock*. A waiter that is killed
//! before has taken none. One that is killed after has died with the lock, and the next to acquire
//! it is told. So no death loses a notification without a process being told, and no process waits
//! for another's answer.
//!
//! # Protocol
//! One word: how many notifications are open (`permits`), how many wait (`waiters`), and how often
//! there was a notification (`epoch`). All changes are made by the holder of the lock; each is one
//! store.
//! - To wait: `waiters + 1`, remember the epoch, release the lock, sleep until the epoch has
//!   changed *and* there is a permit. Acquire the lock and look once more: with a permit there,
//!   `permits - 1, waiters - 1` in one store, and that is the notification. Without one, another
//!   waiter was faster: release and sleep again.
//! - To notify `n`: `permits = min(permits + n, waiters), epoch + 1` in one store; change the
//!   sequence; wake `n`.
//! - To give up (a deadline, a signal whose handler raises): acquire the lock; a permit that is
//!   there after a deadline is taken; else `waiters - 1`, and a permit that may have been meant for
//!   this waiter wakes another.
//!
//! The epoch keeps a notification for those that waited when it was made: a later waiter sees the
//! same epoch, until there is another, which brings permits of its own. Each notification either
//! adds as many permits as it was asked for or fills up to one for each waiter, so there is always
//! one for a waiter that is entitled to it.
//!
//! The permit is taken under the lock, and not by the woken waiter on its way to the lock, because
//! of a death in between: of a notification that is lost with a process which didn't have the lock,
//! no process would be told. The price is that a waiter whose tick finds the permit before the
//! woken waiter has taken it acquires the lock for nothing.
//!
//! A waiter that is killed leaves `waiters` one too high, and perhaps a permit. Then a later
//! notification may let one more go on than it was asked to, which callers must be ready for with
//! any condition variable; it never lets fewer go on, because no more than `waiters` is ever
//! subtracted from what was asked. At 65535 leftovers the count stands still, with the same effect.
//!
//! A wake can be lost (the notifier is killed between its store and the wake, or the woken waiter
//! before it runs): the next tick of each sleeper finds the permit. For that reason there is no
//! mark of a wake under way, as an [`EventCount`](crate::wait::EventCount) has it, that would hold
//! back further wakes. The tick also looks whether the lock's owner is dead, since there may be no
//! other process to find out: exactly one is told, as with a lock.

use procession_os::memory::Shared;

use super::NotOwnerError;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{
    Acquired, BlockedOn, Check, Owner, Probe, Wait, WaitError, WaitPoint, block, wake,
};

/// The lock that a condition goes with.
pub trait Monitor {
    /// Releases it, however often the calling thread acquired it; says how often that was.
    ///
    /// # Errors
    /// [`NotOwnerError`] if it isn't the calling thread's.
    fn leave(&self) -> Result<u64, NotOwnerError>;

    /// Acquires it as often as [`Self::leave`] said.
    ///
    /// # Errors
    /// [`WaitError`].
    fn enter(&self, depth: u64, waiting: Wait) -> Result<Acquired, WaitError>;

    /// Whether the calling thread holds it.
    fn is_mine(&self) -> bool;

    /// The thread that holds it.
    fn holder(&self) -> Option<Owner>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    permits: u16,
    waiters: u16,
    epoch: u32,
}

impl Word {
    const fn from_bits(bits: u64) -> Self {
        Self { permits: (bits >> 48) as u16, waiters: (bits >> 32) as u16, epoch: bits as u32 }
    }

    const fn bits(self) -> u64 {
        (self.permits as u64) << 48 | (self.waiters as u64) << 32 | self.epoch as u64
    }
}

/// Sixteen bytes of shared memory; all zero is a condition without waiters.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawCondition {
    word: AtomicU64,
    sequence: AtomicU32,
    unused: AtomicU32,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for RawCondition {}

impl WaitPoint for RawCondition {
    fn word(&self) -> &AtomicU32 {
        &self.sequence
    }

    fn announce(&self) -> u32 {
        // The waiter has stood in `waiters` since before the lock was released.
        self.sequence.load(Ordering::SeqCst)
    }

    fn awake(&self) {}
}

impl RawCondition {
    fn load(&self) -> Word {
        Word::from_bits(self.word.load(Ordering::SeqCst))
    }

    /// Changes the word in one step, unless `change` returns nothing; returns what it was. A loop
    /// only for the sake of callers that don't hold the lock they say they do.
    fn change(&self, change: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        let order = Ordering::SeqCst;
        let changed = self
            .word
            .fetch_update(order, order, |bits| change(Word::from_bits(bits)).map(Word::bits));
        changed.ok().map(Word::from_bits)
    }

    fn wake(&self, count: u32) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
        failpoint!("condition.waking");
        wake(&self.sequence, count.min(i32::MAX as u32));
    }

    /// How many wait and have not been notified. Those killed while they waited may be among them.
    pub fn waiting(&self) -> u32 {
        let word = self.load();
        u32::from(word.waiters.saturating_sub(word.permits))
    }

    /// How many notifications have not been taken yet.
    pub fn open(&self) -> u32 {
        u32::from(self.load().permits)
    }

    /// Lets `count` waiters go on. The caller holds the lock.
    pub fn notify(&self, count: u32) {
        let more = count.min(u32::from(u16::MAX)) as u16;
        let changed = self.change(|word| {
            (word.waiters > 0 && more > 0).then(|| Word {
                permits: word.permits.saturating_add(more).min(word.waiters),
                epoch: word.epoch.wrapping_add(1),
                ..word
            })
        });
        if changed.is_some() {
            failpoint!("condition.notified");
            self.wake(count);
        }
    }

    /// Makes the caller, which holds the lock, a waiter, and releases the lock.
    ///
    /// # Errors
    /// [`NotOwnerError`] if the caller does not hold it.
    pub fn begin<'a, M: Monitor, P: Probe>(
        &'a self,
        monitor: &'a M,
        probe: &'a P,
        on: BlockedOn,
    ) -> Result<Waiter<'a, M, P>, NotOwnerError> {
        if !monitor.is_mine() {
            return Err(NotOwnerError);
        }
        let before = self
            .change(|word| Some(Word { waiters: word.waiters.saturating_add(1), ..word }))
            .unwrap_or_else(|| self.load());
        failpoint!("condition.registered");
        let depth = monitor.leave()?;
        failpoint!("condition.released");
        Ok(Waiter { notices: self, monitor, probe, on, epoch: before.epoch, depth })
    }

    /// Waits for a notification; the caller holds the lock, and holds it again afterwards, whatever
    /// the end.
    ///
    /// # Errors
    /// [`NotOwnerError`] if the caller does not hold the lock.
    pub fn wait<M: Monitor, P: Probe>(
        &self,
        monitor: &M,
        probe: &P,
        on: BlockedOn,
        waiting: Wait,
    ) -> Result<Waited, NotOwnerError> {
        let waiter = self.begin(monitor, probe, on)?;
        loop {
            let slept = waiter.sleep(waiting);
            let acquired = loop {
                if let Ok(acquired) = waiter.relock(Wait::FOREVER) {
                    break acquired;
                }
            };
            if slept != Err(WaitError::Interrupted) && waiter.take() {
                return Ok(Waited { notified: true, stopped: None, acquired });
            }
            if slept.is_err() || acquired != Acquired::Clean {
                waiter.give_up();
                return Ok(Waited { notified: false, stopped: slept.err(), acquired });
            }
            monitor.leave()?;
        }
    }
}

/// The sleepers of a condition, which are also woken by the death of the process that holds its
/// lock.
struct Beside<'a, M> {
    notices: &'a RawCondition,
    monitor: &'a M,
}

impl<M: Monitor> WaitPoint for Beside<'_, M> {
    const ENDED_BY_DEATHS: bool = true;

    fn word(&self) -> &AtomicU32 {
        self.notices.word()
    }

    fn announce(&self) -> u32 {
        self.notices.announce()
    }

    fn awake(&self) {
        self.notices.awake();
    }

    fn waits_for(&self) -> Option<Owner> {
        self.monitor.holder()
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Waited {
    /// Whether it was by a notification.
    pub notified: bool,
    /// What ended it else, if not the lock's owner's death.
    pub stopped: Option<WaitError>,
    /// How the lock came back.
    pub acquired: Acquired,
}

/// A waiter, in steps: for a caller that must do something else between them.
#[derive(Debug)]
pub struct Waiter<'a, M, P> {
    notices: &'a RawCondition,
    monitor: &'a M,
    probe: &'a P,
    on: BlockedOn,
    epoch: u32,
    depth: u64,
}

impl<M: Monitor, P: Probe> Waiter<'_, M, P> {
    /// Whether the lock is held by a process that is over.
    fn is_orphaned(&self) -> bool {
        self.monitor.holder().is_some_and(|holder| self.probe.is_dead(holder))
    }

    fn is_entitled(&self, word: Word) -> bool {
        word.epoch != self.epoch && word.permits > 0
    }

    /// Sleeps, without the lock, until there is something to acquire it for.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn sleep(&self, waiting: Wait) -> Result<(), WaitError> {
        let point = Beside { notices: self.notices, monitor: self.monitor };
        block(self.probe, self.on, waiting, &point, |check| {
            let due =
                self.is_entitled(self.notices.load()) || check == Check::Tick && self.is_orphaned();
            due.then_some(())
        })
    }

    /// Acquires the lock as it was.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn relock(&self, waiting: Wait) -> Result<Acquired, WaitError> {
        let acquired = self.monitor.enter(self.depth, waiting)?;
        failpoint!("condition.relocked");
        Ok(acquired)
    }

    /// Releases the lock to sleep again.
    ///
    /// # Errors
    /// [`NotOwnerError`] if the caller does not hold it.
    pub fn unlock(&self) -> Result<(), NotOwnerError> {
        self.monitor.leave().map(drop)
    }

    /// Takes the notification, with the lock held; says whether there was one. Then the wait is
    /// over.
    #[must_use]
    pub fn take(&self) -> bool {
        let taken = self.notices.change(|word| {
            self.is_entitled(word).then(|| Word {
                permits: word.permits - 1,
                waiters: word.waiters.saturating_sub(1),
                ..word
            })
        });
        failpoint!("condition.taken");
        taken.is_some()
    }

    /// Ends the wait without a notification.
    pub fn give_up(&self) {
        let changed = self.notices.change(|word| {
            let waiters = word.waiters.saturating_sub(1);
            // Where there is one for each waiter, this waiter's falls away.
            Some(Word { waiters, permits: word.permits.min(waiters), ..word })
        });
        failpoint!("condition.given_up");
        // The wake that came with a permit may have been this waiter's.
        if changed.is_some_and(|word| word.permits > 0) {
            self.notices.wake(1);
        }
    }
}
