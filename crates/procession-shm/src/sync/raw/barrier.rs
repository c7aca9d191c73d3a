//! How a given number of parties wait for each other.
//!
//! # Invariant
//! No party waits for another to *leave*: how a round ended is known to each party of it, however
//! late it looks, and the next round has begun already. And none waits for the dead: when a process
//! that takes part in the present round is over, the barrier breaks.
//!
//! # Protocol
//! Rounds are numbered. One word says which is the present one, its phase (filling, acting, broken)
//! and how the one before ended. It is changed only under an [`OwnerLock`], and each change is one
//! store. The lock is held for some stores, and never while a party sleeps or acts.
//!
//! Each party has a *cell*: two words, its owner and the round. How many parties have arrived is
//! not a count, which a death could falsify, but the number of cells taken at the present round.
//! - To arrive: with the lock, write the round into a free cell and then the owner; from then on
//!   the party counts. The last to arrive needs no cell, unless there is an action: then it takes
//!   one, makes the phase acting, releases the lock, acts, and ends the round.
//! - To end a round: write into the cells still taken at the one *before* how that had ended, then
//!   store the word: next number, phase, how this one ended. Then wake all.
//! - To wait: sleep until the number has changed. If it is the next, the word says how the round
//!   ended; if it is a later one, the party's cell does: it was written before the word changed
//!   twice. Then free the cell, which takes no lock, as no other writes to it but to note the end.
//!
//! There are more cells than parties, for those that are slow to leave. Should all be taken, an
//! arrival takes that of a dead process, or waits for one.
//!
//! Deaths are looked for by each waiter, at each tick, and by the last to arrive. Cells of the dead
//! at earlier rounds are left until they are needed.

use std::num::NonZeroU32;

use procession_os::memory::Shared;

use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{
    BlockedOn, Check, EventCount, Owner, OwnerLock, Probe, Wait, WaitError, WaitPoint, WithDeaths,
    block,
};

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// All parties had come.
    Passed = 1,
    /// It was reset while some waited.
    Reset = 2,
    /// A wait timed out, the action failed, a process died, or it was aborted.
    Broken = 3,
}

impl Outcome {
    const fn from_bits(bits: u64) -> Option<Self> {
        match bits & 3 {
            1 => Some(Self::Passed),
            2 => Some(Self::Reset),
            3 => Some(Self::Broken),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Some parties are missing.
    Filling,
    /// All are there, and the leader acts before they go on.
    Acting,
    /// No party may arrive until the barrier is reset.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    round: u32,
    phase: Phase,
    before: Option<Outcome>,
    /// The cell of the party that acts.
    leader: u32,
}

const LEADER_BITS: u32 = 24;

impl State {
    const fn from_bits(bits: u64) -> Self {
        let phase = match bits >> 2 & 3 {
            0 => Phase::Filling,
            1 => Phase::Acting,
            _ => Phase::Broken,
        };
        let leader = (bits >> 8) as u32 & ((1 << LEADER_BITS) - 1);
        Self { round: (bits >> 32) as u32, phase, before: Outcome::from_bits(bits), leader }
    }

    fn bits(self) -> u64 {
        let before = self.before.map_or(0, |outcome| outcome as u64);
        let leader = u64::from(self.leader) << 8;
        u64::from(self.round) << 32 | leader | (self.phase as u64) << 2 | before
    }
}

/// Thirty-two bytes of shared memory; all zero is a barrier at which no party has arrived yet.
#[repr(C)]
#[derive(Debug, Default)]
pub struct BarrierWords {
    lock: OwnerLock,
    state: AtomicU64,
    sleepers: EventCount,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for BarrierWords {}

/// Sixteen bytes of shared memory; all zero is a free cell.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Cell {
    /// The owner's word; above it, where owners have no bits, how the round ended.
    owner: AtomicU64,
    /// The round, and the arrival's number at it.
    when: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: only atomics.
unsafe impl Shared for Cell {}

const OUTCOME_SHIFT: u32 = 62;

impl Cell {
    /// Its owner and number at a round whose end is not noted here.
    fn taken_at(&self, round: u32) -> Option<(u64, u32)> {
        let owner = self.owner.load(Ordering::SeqCst);
        let when = self.when.load(Ordering::SeqCst);
        let here = owner != 0 && owner >> OUTCOME_SHIFT == 0 && (when >> 32) as u32 == round;
        here.then_some((owner, when as u32))
    }

    fn is_free(&self) -> bool {
        self.owner.load(Ordering::SeqCst) == 0
    }
}

/// The cells of a barrier.
pub trait Cells {
    /// How many there are.
    fn count(&self) -> u32;
    /// One of them.
    fn at(&self, index: u32) -> Option<&Cell>;
}

/// A cell taken at a round, for its party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    round: u32,
    cell: u32,
    /// Which of the parties it is, from 0.
    pub index: u32,
}

/// What an arrival finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// Others are missing: wait.
    Early(Ticket),
    /// All are there, and this party is to act: then [`RawBarrier::lead`] or [`RawBarrier::fail`].
    Leader(Ticket),
    /// All are there, and may go on; with the arrival's number.
    Completes(u32),
    /// The round is broken.
    Broken,
}

enum Attempt {
    Done(Arrival),
    Acting(u32),
    Full,
}

/// The waiters of a round, which deaths wake as well. At each tick one makes sure of the next
/// party, so that all are looked after, and none looks at all of them.
struct Waiters<'a, L, P> {
    barrier: &'a RawBarrier<'a, L, P>,
    ticket: Ticket,
}

impl<L: Cells, P: Probe> WaitPoint for Waiters<'_, L, P> {
    const ENDED_BY_DEATHS: bool = true;

    fn word(&self) -> &AtomicU32 {
        self.barrier.words.sleepers.word()
    }

    fn announce(&self) -> u32 {
        self.barrier.words.sleepers.announce()
    }

    fn awake(&self) {
        self.barrier.words.sleepers.awake();
    }

    fn waits_for(&self) -> Option<Owner> {
        let count = self.barrier.cells.count();
        let here = |index: u32| {
            let (owner, _) = self.barrier.cells.at(index)?.taken_at(self.ticket.round)?;
            Owner::from_bits(owner).filter(|owner| *owner != self.barrier.me)
        };
        (self.ticket.cell + 1..count).chain(0..self.ticket.cell.min(count)).find_map(here)
    }
}

/// A barrier as one of the parties sees it.
#[derive(Debug)]
pub struct RawBarrier<'a, L, P> {
    /// The words that all share.
    pub words: &'a BarrierWords,
    /// The cells of it.
    pub cells: &'a L,
    /// How many must come.
    pub parties: NonZeroU32,
    /// What is known of the family.
    pub probe: &'a P,
    /// What is waited for.
    pub on: BlockedOn,
    /// The calling thread.
    pub me: Owner,
}

impl<L: Cells, P: Probe> RawBarrier<'_, L, P> {
    fn state(&self) -> State {
        State::from_bits(self.words.state.load(Ordering::SeqCst))
    }

    fn cells(&self) -> impl Iterator<Item = (u32, &Cell)> {
        (0..self.cells.count()).filter_map(|index| Some((index, self.cells.at(index)?)))
    }

    /// Makes a change with the lock held. One whose holder died is as good as any: each of the
    /// states that can be left is whole.
    fn locked<R>(&self, change: impl FnOnce(State) -> R) -> R {
        let waiting = Wait::FOREVER;
        while self.words.lock.lock(self.me, self.probe, self.on, waiting).is_err() {}
        let result = change(self.state());
        // An error would say that the lock's word was damaged.
        let _ = self.words.lock.unlock_mine(self.me);
        result
    }

    /// Whether a party's process is over, or the leader has gone.
    fn is_left(&self, state: State) -> bool {
        let mut alive = self.me;
        let dead = self.cells().any(|(_, cell)| {
            cell.taken_at(state.round).and_then(|(owner, _)| Owner::from_bits(owner)).is_some_and(
                |owner| {
                    let same =
                        (owner.slot(), owner.generation()) == (alive.slot(), alive.generation());
                    let dead = !same && self.probe.is_dead(owner);
                    if !dead {
                        alive = owner;
                    }
                    dead
                },
            )
        });
        let leads = || self.cells.at(state.leader).and_then(|cell| cell.taken_at(state.round));
        dead || state.phase == Phase::Acting && leads().is_none()
    }

    /// Ends the present round. The caller holds the lock.
    fn end(&self, state: State, outcome: Outcome, phase: Phase) {
        if let Some(before) = state.before {
            for (_, cell) in self.cells() {
                if let Some((owner, _)) = cell.taken_at(state.round.wrapping_sub(1)) {
                    let noted = owner | (before as u64) << OUTCOME_SHIFT;
                    let order = Ordering::SeqCst;
                    // It fails if the cell has been left meanwhile.
                    let _ = cell.owner.compare_exchange(owner, noted, order, order);
                }
            }
        }
        failpoint!("barrier.noted");
        let round = state.round.wrapping_add(1);
        let next = State { round, phase, before: Some(outcome), leader: 0 };
        self.words.state.store(next.bits(), Ordering::SeqCst);
        failpoint!("barrier.ended");
        self.words.sleepers.notify_all();
    }

    /// How a ticket's round ended, if it has.
    fn outcome(&self, ticket: Ticket) -> Option<Outcome> {
        let state = self.state();
        if state.round == ticket.round {
            return None;
        }
        let noted = || {
            let owner = self.cells.at(ticket.cell)?.owner.load(Ordering::SeqCst);
            Outcome::from_bits(owner >> OUTCOME_SHIFT)
        };
        let next = state.round == ticket.round.wrapping_add(1);
        // Nothing noted, nothing stored: only damaged memory says so.
        Some(if next { state.before } else { noted() }.unwrap_or(Outcome::Broken))
    }

    fn take_cell(&self, state: State, index: u32, free: u32) -> Option<Ticket> {
        let cell = self.cells.at(free)?;
        // First, so that a dead owner of the cell is never seen at this round.
        cell.owner.store(0, Ordering::SeqCst);
        cell.when.store(u64::from(state.round) << 32 | u64::from(index), Ordering::SeqCst);
        failpoint!("barrier.arriving");
        cell.owner.store(self.me.word(), Ordering::SeqCst);
        failpoint!("barrier.arrived");
        Some(Ticket { round: state.round, cell: free, index })
    }

    fn free_cell(&self, state: State) -> Option<u32> {
        let free = self.cells().find(|(_, cell)| cell.is_free());
        let of_the_dead = || {
            self.cells().find(|(_, cell)| {
                cell.taken_at(state.round).is_none()
                    && Owner::from_bits(cell.owner.load(Ordering::SeqCst))
                        .is_none_or(|owner| self.probe.is_dead(owner))
            })
        };
        free.or_else(of_the_dead).map(|(index, _)| index)
    }

    fn attempt(&self, has_action: bool, state: State) -> Attempt {
        match state.phase {
            Phase::Broken => return Attempt::Done(Arrival::Broken),
            Phase::Acting if self.is_left(state) => {
                self.end(state, Outcome::Broken, Phase::Broken);
                return Attempt::Done(Arrival::Broken);
            }
            Phase::Acting => return Attempt::Acting(state.round),
            Phase::Filling => {}
        }
        let mut here: Vec<u32> = self
            .cells()
            .filter_map(|(_, cell)| cell.taken_at(state.round))
            .map(|(_, index)| index)
            .collect();
        // The first free number: a party may have left again by an exception, so it need not be the
        // count.
        here.sort_unstable();
        let gap = here.iter().zip(0..).find(|(taken, number)| *taken != number);
        let index = gap.map_or(here.len() as u32, |(_, number)| number);
        let last = here.len() as u64 + 1 >= u64::from(self.parties.get());
        if last && self.is_left(state) {
            self.end(state, Outcome::Broken, Phase::Broken);
            return Attempt::Done(Arrival::Broken);
        }
        if last && !has_action {
            self.end(state, Outcome::Passed, Phase::Filling);
            return Attempt::Done(Arrival::Completes(index));
        }
        let free = self.free_cell(state);
        let Some(ticket) = free.and_then(|free| self.take_cell(state, index, free)) else {
            return Attempt::Full;
        };
        if last {
            let acting = State { phase: Phase::Acting, leader: ticket.cell, ..state };
            self.words.state.store(acting.bits(), Ordering::SeqCst);
            failpoint!("barrier.acting");
            return Attempt::Done(Arrival::Leader(ticket));
        }
        Attempt::Done(Arrival::Early(ticket))
    }

    /// Takes part in the present round. `has_action` says whether the last to arrive has something
    /// to do before all go on.
    ///
    /// # Errors
    /// [`WaitError`], while others, more than the parties, act or leave.
    pub fn arrive(&self, has_action: bool, waiting: Wait) -> Result<Arrival, WaitError> {
        loop {
            match self.locked(|state| self.attempt(has_action, state)) {
                Attempt::Done(arrival) => return Ok(arrival),
                Attempt::Acting(round) => self.sleep(waiting, |check| {
                    let state = self.state();
                    let left = check == Check::Tick && self.is_left(state);
                    (state.round != round || left).then_some(())
                })?,
                Attempt::Full => self.sleep(waiting, |check| {
                    let state = self.state();
                    let freed = check == Check::Tick && self.free_cell(state).is_some();
                    (freed || state.phase == Phase::Broken).then_some(())
                })?,
            }
        }
    }

    fn sleep<T>(
        &self,
        waiting: Wait,
        attempt: impl FnMut(Check) -> Option<T>,
    ) -> Result<T, WaitError> {
        block(self.probe, self.on, waiting, &WithDeaths(&self.words.sleepers), attempt)
    }

    /// Waits for a round's end. At the deadline the round is broken, unless all have come.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`], when the wait has broken the round, and [`WaitError::Interrupted`],
    /// when it may be continued.
    pub fn wait(&self, ticket: Ticket, mut waiting: Wait) -> Result<Outcome, WaitError> {
        loop {
            let point = Waiters { barrier: self, ticket };
            let slept = block(self.probe, self.on, waiting, &point, |check| {
                let state = self.state();
                let ended = state.round != ticket.round;
                (ended || check == Check::Tick && self.is_left(state)).then_some(())
            });
            if let Some(outcome) = self.outcome(ticket) {
                return Ok(outcome);
            }
            if slept == Err(WaitError::Interrupted) {
                return Err(WaitError::Interrupted);
            }
            let late = slept == Err(WaitError::TimedOut);
            let broke = self.locked(|state| {
                if state.round != ticket.round {
                    return false;
                }
                let left = self.is_left(state);
                let breaks = left || late && state.phase == Phase::Filling;
                if breaks {
                    self.end(state, Outcome::Broken, Phase::Broken);
                }
                breaks && !left
            });
            if broke {
                return Err(WaitError::TimedOut);
            }
            if late {
                // All are there: what is left to wait for is the action.
                waiting.deadline = None;
            }
        }
    }

    /// Ends a round that the caller has acted for: all go on. Says otherwise if it was broken or
    /// reset meanwhile.
    pub fn lead(&self, ticket: Ticket) -> Outcome {
        self.end_as_leader(ticket, Outcome::Passed, Phase::Filling)
    }

    /// Breaks a round that the caller could not act for.
    pub fn fail(&self, ticket: Ticket) -> Outcome {
        self.end_as_leader(ticket, Outcome::Broken, Phase::Broken)
    }

    fn end_as_leader(&self, ticket: Ticket, outcome: Outcome, phase: Phase) -> Outcome {
        // A fork of the process that took the ticket does not lead.
        let mine = |cell: &Cell| cell.owner.load(Ordering::SeqCst) == self.me.word();
        let ended = self.locked(|state| {
            let present =
                state.round == ticket.round && self.cells.at(ticket.cell).is_some_and(mine);
            if present {
                self.end(state, outcome, phase);
            }
            present
        });
        if ended { outcome } else { self.outcome(ticket).unwrap_or(Outcome::Broken) }
    }

    /// Gives a ticket back; each party that was given one must.
    pub fn leave(&self, ticket: Ticket) {
        failpoint!("barrier.leaving");
        let Some(cell) = self.cells.at(ticket.cell) else { return };
        let mut owner = cell.owner.load(Ordering::SeqCst);
        // A fork of the process that took the ticket does not have it.
        while Owner::from_bits(owner) == Some(self.me) {
            match cell.owner.compare_exchange(owner, 0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => owner = now,
            }
        }
        failpoint!("barrier.left");
    }

    /// Breaks the present round, and keeps it broken until it is reset.
    pub fn abort(&self) {
        self.locked(|state| {
            if state.phase != Phase::Broken {
                self.end(state, Outcome::Broken, Phase::Broken);
            }
        });
    }

    /// Makes the barrier as new; the waiters are told.
    pub fn reset(&self) {
        self.locked(|state| {
            let fresh = state.phase == Phase::Filling
                && self.cells().all(|(_, cell)| cell.taken_at(state.round).is_none());
            if !fresh {
                self.end(state, Outcome::Reset, Phase::Filling);
            }
        });
    }

    /// How many parties wait for the others now.
    pub fn waiting(&self) -> u32 {
        let state = self.state();
        let here = self.cells().filter(|(_, cell)| cell.taken_at(state.round).is_some());
        here.count() as u32
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.state().phase == Phase::Broken
    }
}
