//! [`block`]: spin, publish, sleep, look again.

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::futex;
#[cfg(not(model))]
use procession_os::load;

use super::owner::Owner;
use crate::atomics::{AtomicU32, Ordering, spin_loop};

/// When a wait ends at the latest; `None` is never.
pub type Deadline = Option<Monotonic>;

/// What a process does when it blocks; the number is what stands in the process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// `Lock::acquire`.
    Acquire = 1,
    /// `Semaphore::acquire`.
    Semaphore = 2,
    /// `Event::wait`.
    Event = 3,
    /// `Queue::put` on a full queue.
    Put = 4,
    /// `Queue::get` on an empty queue.
    Get = 5,
    /// The allocator's lock.
    Allocate = 6,
    /// The lock of one end of a queue.
    QueueEnd = 7,
    /// Another process to end.
    Join = 8,
    /// `Condition::wait`.
    Condition = 9,
    /// `Barrier::wait`.
    Barrier = 10,
    /// `Queue::join`: all its tasks to be done.
    TasksDone = 11,
}

impl Operation {
    const ALL: [Self; 11] = [
        Self::Acquire,
        Self::Semaphore,
        Self::Event,
        Self::Put,
        Self::Get,
        Self::Allocate,
        Self::QueueEnd,
        Self::Join,
        Self::Condition,
        Self::Barrier,
        Self::TasksDone,
    ];

    /// The operation with the number that stands in the process table.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| *operation as u8 == number)
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Acquire | Self::Semaphore => "acquire",
            Self::Event | Self::Condition | Self::Barrier => "wait",
            Self::Put => "put",
            Self::Get => "get",
            Self::Allocate => "allocate",
            Self::QueueEnd => "reach the end of",
            Self::Join | Self::TasksDone => "join",
        })
    }
}

/// The object that is waited for, and what for: one word in the process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockedOn {
    /// The object's index in the object table.
    pub object: u32,
    /// What is being done with it.
    pub operation: Operation,
}

impl BlockedOn {
    /// The allocator's lock, which is the arena's own and no object's.
    pub const ALLOCATOR: Self = Self { object: 0, operation: Operation::Allocate };
}

/// What waiting needs to know of the family.
pub trait Probe {
    /// Whether the process of this owner is over.
    fn is_dead(&self, owner: Owner) -> bool;
    /// Time has passed: once at each tick of a wait, which the death of this owner's process would
    /// end.
    fn tick(&self, _waits_for: Option<Owner>) {}
    /// The word that changes when a process of the family has died, and its value now; `None` if
    /// that is not told. The caller is about to sleep; when the word has changed it looks again
    /// with [`Check::Tick`].
    fn deaths(&self) -> Option<(&AtomicU32, u32)> {
        None
    }
    /// Makes the caller, which is about to sleep for long, a watcher over the lives of others if
    /// there are too few watchers, and adds the words that it is to be woken by as well. Returns
    /// how soon it is to look again where there is something that no word tells.
    fn keep_watch<'a>(&'a self, _words: &mut Words<'a>) -> Option<Duration> {
        None
    }
    /// The caller sleeps no more: others have to watch.
    fn end_watch(&self) {}
    /// This process is about to sleep.
    fn blocked(&self, on: BlockedOn);
    /// This process runs again.
    fn running(&self);
    /// This process runs again, and will in a moment go on waiting for the same, unless a signal
    /// has it do something else.
    fn paused(&self) {
        self.running();
    }
}

/// Words that a sleeper is to be woken by beside its own, each with the value that it has now.
#[derive(Debug)]
pub struct Words<'a> {
    len: usize,
    all: [Option<(&'a AtomicU32, u32)>; futex::MAX_WORDS - 1],
}

impl<'a> Words<'a> {
    fn new() -> Self {
        Self { len: 0, all: [None; futex::MAX_WORDS - 1] }
    }

    /// Adds a word; there is no room for more than 127.
    pub fn add(&mut self, word: (&'a AtomicU32, u32)) {
        if let Some(place) = self.all.get_mut(self.len) {
            *place = Some(word);
            self.len += 1;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a AtomicU32, u32)> {
        self.all[..self.len].iter().copied().flatten()
    }

    fn have_changed(&self) -> bool {
        self.iter().any(|(word, seen)| word.load(Ordering::SeqCst) != seen)
    }
}

/// A point at which threads sleep: a futex word, and how wakers are told that there are sleepers.
pub trait WaitPoint {
    /// How long a woken waiter that lost the race sleeps before it tries again, if no wake comes
    /// before; `None` for a sleep as before the first wake.
    const NAP: Option<Duration> = None;

    /// The longest time between two ticks.
    const LONGEST_TICK: Duration = LAST_TICK;

    /// Whether the death of a process may end the wait: a sleeper is woken by that as well.
    const ENDED_BY_DEATHS: bool = false;

    /// The word to sleep on.
    fn word(&self) -> &AtomicU32;
    /// Announces that the caller is about to sleep, and returns the word's present value. A thread
    /// that changes the condition after this will change the word too.
    fn announce(&self) -> u32;
    /// A sleeper came back.
    fn awake(&self);
    /// A process whose death would end the wait, if one is known: each tick makes sure of it.
    fn waits_for(&self) -> Option<Owner> {
        None
    }
    /// The caller's sleep has ended; it looks again, and may go back to sleep.
    fn slept(&self) {}
    /// Whether the caller has waited for so long that it has its turn next. It is awake at this
    /// moment, so it spins before it sleeps again: otherwise all wait until it has been woken.
    fn is_next(&self) -> bool {
        false
    }
    /// For how long at the most what is waited for is kept for others, though no thread has it: a
    /// sleeper looks again after that time, since no wake need come.
    fn kept_for_others(&self) -> Option<Duration> {
        None
    }
}

/// When an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Another thread may have changed something.
    Look,
    /// Time has passed: look also for what a dead process can't say.
    Tick,
}

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("the deadline passed")]
    TimedOut,
    /// A signal handler ran, or the caller asked to come back at each tick.
    #[error("interrupted by a signal")]
    Interrupted,
}

/// How to wait.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// When to give up.
    pub deadline: Deadline,
    /// Whether a signal or a tick comes back to the caller as [`WaitError::Interrupted`].
    pub interruptible: bool,
}

impl Wait {
    /// As long as it takes.
    pub const FOREVER: Self = Self { deadline: None, interruptible: false };

    /// Not at all, beyond a moment of spinning.
    pub const TRY: Self = Self { deadline: Some(Monotonic::from_nanos(0)), interruptible: false };

    /// Until a deadline.
    #[must_use]
    pub const fn until(deadline: Deadline) -> Self {
        Self { deadline, interruptible: false }
    }
}

/// The first and the longest time between two ticks.
const FIRST_TICK: Duration = Duration::from_millis(5);
/// A sleeper is woken by the process that changes what it waits for, and by deaths that may end its
/// wait. So a tick makes up only for a wake that was lost by a death between two instructions;
/// 1,500 idle waiters that tick six times a second take half a processor.
const LAST_TICK: Duration = Duration::from_millis(1280);
/// The longest where the death of any of several processes may end the wait.
pub(super) const LAST_TICK_WITH_DEATHS: Duration = Duration::from_millis(160);

/// How often the condition is checked before anything else is done.
const SHORT_LOOKS: u32 = if cfg!(model) { 0 } else { 16 };

/// Bounds of the adaptive spin, in nanoseconds. A futex wake costs some 25 to 50 µs on a virtual
/// machine, so a spin that succeeds within that time has paid.
const SPIN_MIN: u32 = 1_000;
const SPIN_MAX: u32 = 50_000;
/// A wait that was over within this time, sleep and wake included, would have been won by spinning.
const WORTH_SPINNING: u64 = 150_000;

/// The present length of the spin, one for each operation: waits of a kind resemble each other.
static SPIN: [std::sync::atomic::AtomicU32; Operation::ALL.len() + 1] =
    [const { std::sync::atomic::AtomicU32::new(SPIN_MAX) }; Operation::ALL.len() + 1];

/// Waits until `attempt` returns a value.
///
/// `attempt` is called from here only: while spinning, after each announcement, and after each
/// sleep. It must not block.
///
/// # Errors
/// [`WaitError`] at the deadline, or at a signal where [`Wait::interruptible`].
pub fn block<T>(
    probe: &impl Probe,
    on: BlockedOn,
    waiting: Wait,
    point: &impl WaitPoint,
    mut attempt: impl FnMut(Check) -> Option<T>,
) -> Result<T, WaitError> {
    // What is held is usually held for less than it takes to read the clock and the load.
    if let Some(value) = look_shortly(&mut attempt) {
        return Ok(value);
    }
    let begun = Monotonic::now();
    let spin = &SPIN[on.operation as usize];
    if let Some(value) = spin_for(spin.load(Ordering::Relaxed), begun, waiting, &mut attempt) {
        return Ok(value);
    }
    if waiting.deadline.is_some_and(|deadline| deadline <= Monotonic::now()) {
        return attempt(Check::Tick).ok_or(WaitError::TimedOut);
    }

    probe.blocked(on);
    let mut watches = false;
    let outcome = sleep(probe, waiting, point, &mut watches, &mut attempt);
    if watches {
        probe.end_watch();
    }
    match outcome {
        Err(WaitError::Interrupted) => probe.paused(),
        _ => probe.running(),
    }

    let took = Monotonic::now().since(begun).as_nanos() as u64;
    let present = spin.load(Ordering::Relaxed);
    let next = if took < WORTH_SPINNING { SPIN_MAX } else { present - present / 4 };
    spin.store(next.clamp(SPIN_MIN, SPIN_MAX), Ordering::Relaxed);
    outcome
}

fn look_shortly<T>(attempt: &mut impl FnMut(Check) -> Option<T>) -> Option<T> {
    for _ in 0..SHORT_LOOKS {
        if let Some(value) = attempt(Check::Look) {
            return Some(value);
        }
        pause();
    }
    None
}

fn pause() {
    for _ in 0..8 {
        spin_loop();
    }
}

/// Under the model checker spinning is one look: more would only be the same interleavings again.
#[cfg(model)]
fn spin_for<T>(
    _budget: u32,
    _begun: Monotonic,
    _waiting: Wait,
    attempt: &mut impl FnMut(Check) -> Option<T>,
) -> Option<T> {
    attempt(Check::Look)
}

#[cfg(not(model))]
fn spin_for<T>(
    budget: u32,
    begun: Monotonic,
    waiting: Wait,
    attempt: &mut impl FnMut(Check) -> Option<T>,
) -> Option<T> {
    let mut rounds = 0u32;
    let limit = if load::crowded() { SPIN_MIN } else { budget };
    loop {
        if let Some(value) = attempt(Check::Look) {
            return Some(value);
        }
        pause();
        rounds += 1;
        if rounds.is_multiple_of(8) {
            let now = Monotonic::now();
            if now.since(begun).as_nanos() > u128::from(limit)
                || waiting.deadline.is_some_and(|deadline| deadline <= now)
            {
                return None;
            }
        }
    }
}

fn sleep<T, G: WaitPoint>(
    probe: &impl Probe,
    waiting: Wait,
    point: &G,
    has_watched: &mut bool,
    attempt: &mut impl FnMut(Check) -> Option<T>,
) -> Result<T, WaitError> {
    let mut tick = match resumed(point.word()) {
        Some(tick) => {
            point.slept();
            tick
        }
        None => FIRST_TICK,
    };
    let mut nap = None;
    let mut deaths = None;
    loop {
        let ticket = point.announce();
        let value = if point.is_next() {
            spin_for(SPIN_MAX, Monotonic::now(), waiting, attempt)
        } else {
            attempt(Check::Look)
        };
        if let Some(value) = value {
            point.awake();
            return Ok(value);
        }
        nap = nap.or_else(|| point.kept_for_others());
        let next_tick = Monotonic::now().after(nap.unwrap_or(tick));
        let until = waiting.deadline.map_or(next_tick, |deadline| deadline.min(next_tick));
        // A short wait does not pay for more than a look at its own word.
        let watches = G::ENDED_BY_DEATHS && nap.is_none() && tick > FIRST_TICK;
        if watches && deaths.is_none() {
            // What has died until now is looked for here, and what dies later is told.
            deaths = probe.deaths();
            if deaths.is_some()
                && let Some(value) = attempt(Check::Tick)
            {
                point.awake();
                return Ok(value);
            }
        }
        let mut words = Words::new();
        let mut soon = None;
        if watches && let Some(deaths) = deaths {
            *has_watched = true;
            words.add(deaths);
            let look = probe.keep_watch(&mut words);
            soon = look.map(|soon| Monotonic::now().after(soon)).filter(|soon| *soon < until);
        }
        // A nap ends by itself: under the model checker, which has no time, at once.
        let mut wakeup = if cfg!(model) && nap.is_some() {
            pause();
            futex::Wakeup::TimedOut
        } else {
            sleep_on(point.word(), ticket, &words, soon.unwrap_or(until))
        };
        let mut died = words.have_changed();
        if wakeup == futex::Wakeup::TimedOut && soon.is_some() {
            // No tick, only a look at what no word tells.
            died = true;
            wakeup = futex::Wakeup::Changed;
        }
        if died {
            deaths = None;
        }
        let napped = nap.take().is_some();
        let ticked = wakeup == futex::Wakeup::TimedOut && !napped;
        if ticked || wakeup == futex::Wakeup::Woken {
            point.slept();
        }
        if wakeup == futex::Wakeup::Woken && !napped && !died && G::NAP.is_some() {
            if let Some(value) = look_shortly(attempt) {
                point.awake();
                return Ok(value);
            }
            // The mark of the wake stays, so the faster threads go on without system calls.
            nap = G::NAP;
            continue;
        }
        point.awake();
        if ticked {
            tick = (tick * 2).min(G::LONGEST_TICK);
            #[cfg(all(feature = "failpoints", not(model)))]
            if crate::failpoint::ticks_are_rare() {
                tick = Duration::from_secs(3600);
            }
            probe.tick(point.waits_for());
        }
        let check = if ticked || died { Check::Tick } else { Check::Look };
        if let Some(value) = attempt(check) {
            return Ok(value);
        }
        if waiting.deadline.is_some_and(|deadline| deadline <= Monotonic::now()) {
            return attempt(Check::Tick).ok_or(WaitError::TimedOut);
        }
        if waiting.interruptible && (ticked || wakeup == futex::Wakeup::Interrupted) {
            INTERRUPTED.set((std::ptr::from_ref(point.word()).addr(), tick));
            return Err(WaitError::Interrupted);
        }
    }
}

thread_local! {
    /// Where this thread was interrupted last, and how long it would have slept next: usually it
    /// comes back at once, and a wait that has lasted for long need not begin with short sleeps
    /// again.
    static INTERRUPTED: std::cell::Cell<(usize, Duration)> =
        const { std::cell::Cell::new((0, FIRST_TICK)) };
}

/// How long the next sleep on this word is to be, if the caller slept on it until it was
/// interrupted.
fn resumed(word: &AtomicU32) -> Option<Duration> {
    let (at, tick) = INTERRUPTED.replace((0, FIRST_TICK));
    (at == std::ptr::from_ref(word).addr()).then_some(tick)
}

#[cfg(not(model))]
fn sleep_on(word: &AtomicU32, ticket: u32, others: &Words<'_>, until: Monotonic) -> futex::Wakeup {
    match others.len {
        0 => futex::wait(word, ticket, Some(until)),
        _ => futex::wait_any((word, ticket), others.iter(), Some(until)),
    }
}

#[cfg(not(model))]
pub(crate) fn wake(word: &AtomicU32, count: u32) -> usize {
    futex::wake(word, count)
}

#[cfg(model)]
use super::model::sleep_on;
#[cfg(model)]
pub(crate) use super::model::wake;
