//! How a given number of parties wait for each other.
//!
//! # Invariant
//! Nobody waits for somebody to *leave*: how a meeting ended is known to each that took part in it,
//! however late it looks, and the next one has begun already. And nobody waits for the dead: when a
//! process that takes part in the present meeting is over, the meeting breaks.
//!
//! # Protocol
//! Meetings are numbered. One word says which is the present one, its phase (filling, acting,
//! broken) and how the one before ended. It is changed under an [`OwnerLock`] alone, and each
//! change is one store. The lock is held for some stores and never while anybody sleeps or acts.
//!
//! Each that takes part has a *place*: two words, who it is and at which meeting. How many are
//! there is not a count that a death could falsify but the number of places taken at the present
//! meeting.
//! - To arrive: with the lock, write the meeting into a free place and then oneself: there one is.
//!   Who completes the number needs no place, unless there is something to do before all may go on:
//!   then it takes one, makes the phase acting, releases the lock, acts, and ends the meeting.
//! - To end a meeting: write into the places still taken at the one *before* how that had ended,
//!   then store the word: next number, phase, how this one ended. Then wake all.
//! - To wait: sleep until the number has changed. If it is the next, the word says how the meeting
//!   ended; if it is a later one, one's place does: it was written before the word changed twice.
//!   Then make the place free, which takes no lock, as nobody else writes to it but to note the
//!   end.
//!
//! There are more places than parties for those who are slow to leave. Should all be taken, an
//! arrival takes that of a dead process, or waits for one.
//!
//! Deaths are looked for by whoever waits, at each tick, and by the last to arrive. Places of the
//! dead at earlier meetings are left until they are needed.

use std::num::NonZeroU32;

use procession_os::memory::Shared;

use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{
    BlockedOn, EventCount, Gate, Moment, Owner, OwnerLock, Probe, Stopped, Waiting, WithDeaths,
    block,
};

/// How a meeting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// All parties had come.
    Passed = 1,
    /// It was reset while some waited.
    Reset = 2,
    /// Somebody's patience was at its end, the action failed, a process died, or it was aborted.
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
    /// Some are missing.
    Filling,
    /// All are there, and one acts before they go on.
    Acting,
    /// Nobody may come until it is reset.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    meeting: u32,
    phase: Phase,
    before: Option<Outcome>,
    /// The place of the one who acts.
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
        Self { meeting: (bits >> 32) as u32, phase, before: Outcome::from_bits(bits), leader }
    }

    fn bits(self) -> u64 {
        let before = self.before.map_or(0, |outcome| outcome as u64);
        let leader = u64::from(self.leader) << 8;
        u64::from(self.meeting) << 32 | leader | (self.phase as u64) << 2 | before
    }
}

/// Thirty-two bytes of shared memory; all zero is a point at which nobody has met yet.
#[repr(C)]
#[derive(Debug, Default)]
pub struct MeetingPoint {
    lock: OwnerLock,
    state: AtomicU64,
    sleepers: EventCount,
}

#[allow(unsafe_code)]
// SAFETY: atomics alone.
unsafe impl Shared for MeetingPoint {}

/// Sixteen bytes of shared memory; all zero is a free place.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Place {
    /// The owner's word; above it, where owners have no bits, how the meeting ended.
    who: AtomicU64,
    /// The meeting, and the arrival's number at it.
    when: AtomicU64,
}

#[allow(unsafe_code)]
// SAFETY: atomics alone.
unsafe impl Shared for Place {}

const OUTCOME_SHIFT: u32 = 62;

impl Place {
    /// Who has it at a meeting whose end is not noted here.
    fn taken_at(&self, meeting: u32) -> Option<(u64, u32)> {
        let who = self.who.load(Ordering::SeqCst);
        let when = self.when.load(Ordering::SeqCst);
        let here = who != 0 && who >> OUTCOME_SHIFT == 0 && (when >> 32) as u32 == meeting;
        here.then_some((who, when as u32))
    }

    fn is_free(&self) -> bool {
        self.who.load(Ordering::SeqCst) == 0
    }
}

/// The places of a meeting point.
pub trait Places {
    /// How many there are.
    fn count(&self) -> u32;
    /// One of them.
    fn at(&self, index: u32) -> Option<&Place>;
}

/// A place taken at a meeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    meeting: u32,
    place: u32,
    /// Which of the parties it is, from 0.
    pub index: u32,
}

/// What an arrival finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// Others are missing: wait.
    Early(Seat),
    /// All are there, and this one is to act: then [`Meeting::lead`] or [`Meeting::fail`].
    Leads(Seat),
    /// All are there, and may go on; with the arrival's number.
    Completes(u32),
    /// The meeting is broken.
    Broken,
}

enum Attempt {
    Done(Arrival),
    Acting(u32),
    Full,
}

/// The sleepers of a meeting, who are also woken by deaths. At each tick one makes sure of the next
/// that takes part, so all are looked after, and nobody looks at all.
struct Circle<'a, L, P> {
    meeting: &'a Meeting<'a, L, P>,
    seat: Seat,
}

impl<L: Places, P: Probe> Gate for Circle<'_, L, P> {
    const ENDED_BY_DEATHS: bool = true;

    fn word(&self) -> &AtomicU32 {
        self.meeting.point.sleepers.word()
    }

    fn announce(&self) -> u32 {
        self.meeting.point.sleepers.announce()
    }

    fn awake(&self) {
        self.meeting.point.sleepers.awake();
    }

    fn waits_for(&self) -> Option<Owner> {
        let count = self.meeting.places.count();
        let here = |index: u32| {
            let (who, _) = self.meeting.places.at(index)?.taken_at(self.seat.meeting)?;
            Owner::from_bits(who).filter(|owner| *owner != self.meeting.me)
        };
        (self.seat.place + 1..count).chain(0..self.seat.place.min(count)).find_map(here)
    }
}

/// A meeting point as one of the parties sees it.
#[derive(Debug)]
pub struct Meeting<'a, L, P> {
    /// The words that all share.
    pub point: &'a MeetingPoint,
    /// The places at it.
    pub places: &'a L,
    /// How many must come.
    pub parties: NonZeroU32,
    /// What is known of the family.
    pub probe: &'a P,
    /// What is waited for.
    pub on: BlockedOn,
    /// The calling thread.
    pub me: Owner,
}

impl<L: Places, P: Probe> Meeting<'_, L, P> {
    fn state(&self) -> State {
        State::from_bits(self.point.state.load(Ordering::SeqCst))
    }

    fn places(&self) -> impl Iterator<Item = (u32, &Place)> {
        (0..self.places.count()).filter_map(|index| Some((index, self.places.at(index)?)))
    }

    /// Makes a change with the lock held. One whose holder died is as good as any: each of the
    /// states that can be left is whole.
    fn locked<R>(&self, change: impl FnOnce(State) -> R) -> R {
        let waiting = Waiting::FOREVER;
        while self.point.lock.lock(self.me, self.probe, self.on, waiting).is_err() {}
        let result = change(self.state());
        // An error would say that somebody wrote to the lock who should not have.
        let _ = self.point.lock.unlock_mine(self.me);
        result
    }

    /// Whether a process that takes part in a meeting is over, or the one that is to act has gone.
    fn is_left(&self, state: State) -> bool {
        let mut alive = self.me;
        let dead = self.places().any(|(_, place)| {
            place.taken_at(state.meeting).and_then(|(who, _)| Owner::from_bits(who)).is_some_and(
                |who| {
                    let same = (who.slot(), who.generation()) == (alive.slot(), alive.generation());
                    let dead = !same && self.probe.is_dead(who);
                    if !dead {
                        alive = who;
                    }
                    dead
                },
            )
        });
        let leads = || self.places.at(state.leader).and_then(|place| place.taken_at(state.meeting));
        dead || state.phase == Phase::Acting && leads().is_none()
    }

    /// Ends the present meeting. The caller holds the lock.
    fn end(&self, state: State, outcome: Outcome, phase: Phase) {
        if let Some(before) = state.before {
            for (_, place) in self.places() {
                if let Some((who, _)) = place.taken_at(state.meeting.wrapping_sub(1)) {
                    let noted = who | (before as u64) << OUTCOME_SHIFT;
                    let order = Ordering::SeqCst;
                    // It fails if the place has been left meanwhile.
                    let _ = place.who.compare_exchange(who, noted, order, order);
                }
            }
        }
        failpoint!("barrier.noted");
        let meeting = state.meeting.wrapping_add(1);
        let next = State { meeting, phase, before: Some(outcome), leader: 0 };
        self.point.state.store(next.bits(), Ordering::SeqCst);
        failpoint!("barrier.ended");
        self.point.sleepers.notify_all();
    }

    /// How a seat's meeting ended, if it has.
    fn outcome(&self, seat: Seat) -> Option<Outcome> {
        let state = self.state();
        if state.meeting == seat.meeting {
            return None;
        }
        let noted = || {
            let who = self.places.at(seat.place)?.who.load(Ordering::SeqCst);
            Outcome::from_bits(who >> OUTCOME_SHIFT)
        };
        let next = state.meeting == seat.meeting.wrapping_add(1);
        // Nothing noted, nothing stored: only memory that somebody has damaged says so.
        Some(if next { state.before } else { noted() }.unwrap_or(Outcome::Broken))
    }

    fn take_place(&self, state: State, index: u32, free: u32) -> Option<Seat> {
        let place = self.places.at(free)?;
        // First, so that a dead one who had it is never seen at this meeting.
        place.who.store(0, Ordering::SeqCst);
        place.when.store(u64::from(state.meeting) << 32 | u64::from(index), Ordering::SeqCst);
        failpoint!("barrier.arriving");
        place.who.store(self.me.word(), Ordering::SeqCst);
        failpoint!("barrier.arrived");
        Some(Seat { meeting: state.meeting, place: free, index })
    }

    fn free_place(&self, state: State) -> Option<u32> {
        let free = self.places().find(|(_, place)| place.is_free());
        let of_the_dead = || {
            self.places().find(|(_, place)| {
                place.taken_at(state.meeting).is_none()
                    && Owner::from_bits(place.who.load(Ordering::SeqCst))
                        .is_none_or(|who| self.probe.is_dead(who))
            })
        };
        free.or_else(of_the_dead).map(|(index, _)| index)
    }

    fn attempt(&self, acts: bool, state: State) -> Attempt {
        match state.phase {
            Phase::Broken => return Attempt::Done(Arrival::Broken),
            Phase::Acting if self.is_left(state) => {
                self.end(state, Outcome::Broken, Phase::Broken);
                return Attempt::Done(Arrival::Broken);
            }
            Phase::Acting => return Attempt::Acting(state.meeting),
            Phase::Filling => {}
        }
        let mut here: Vec<u32> = self
            .places()
            .filter_map(|(_, place)| place.taken_at(state.meeting))
            .map(|(_, index)| index)
            .collect();
        // The first number that is free: somebody may have left again by an exception, so it need
        // not be the count.
        here.sort_unstable();
        let gap = here.iter().zip(0..).find(|(taken, number)| *taken != number);
        let index = gap.map_or(here.len() as u32, |(_, number)| number);
        let last = here.len() as u64 + 1 >= u64::from(self.parties.get());
        if last && self.is_left(state) {
            self.end(state, Outcome::Broken, Phase::Broken);
            return Attempt::Done(Arrival::Broken);
        }
        if last && !acts {
            self.end(state, Outcome::Passed, Phase::Filling);
            return Attempt::Done(Arrival::Completes(index));
        }
        let free = self.free_place(state);
        let Some(seat) = free.and_then(|free| self.take_place(state, index, free)) else {
            return Attempt::Full;
        };
        if last {
            let acting = State { phase: Phase::Acting, leader: seat.place, ..state };
            self.point.state.store(acting.bits(), Ordering::SeqCst);
            failpoint!("barrier.acting");
            return Attempt::Done(Arrival::Leads(seat));
        }
        Attempt::Done(Arrival::Early(seat))
    }

    /// Takes part in the present meeting. `acts` says whether the last to come has something to do
    /// before all go on.
    ///
    /// # Errors
    /// [`Stopped`], while others who are more than the parties act or leave.
    pub fn arrive(&self, acts: bool, waiting: Waiting) -> Result<Arrival, Stopped> {
        loop {
            match self.locked(|state| self.attempt(acts, state)) {
                Attempt::Done(arrival) => return Ok(arrival),
                Attempt::Acting(meeting) => self.sleep(waiting, |moment| {
                    let state = self.state();
                    let left = moment == Moment::Tick && self.is_left(state);
                    (state.meeting != meeting || left).then_some(())
                })?,
                Attempt::Full => self.sleep(waiting, |moment| {
                    let state = self.state();
                    let freed = moment == Moment::Tick && self.free_place(state).is_some();
                    (freed || state.phase == Phase::Broken).then_some(())
                })?,
            }
        }
    }

    fn sleep<T>(
        &self,
        waiting: Waiting,
        attempt: impl FnMut(Moment) -> Option<T>,
    ) -> Result<T, Stopped> {
        block(self.probe, self.on, waiting, &WithDeaths(&self.point.sleepers), attempt)
    }

    /// Waits for a meeting's end. At the deadline the meeting is broken, unless all have come.
    ///
    /// # Errors
    /// [`Stopped::TimedOut`], when the wait has broken the meeting, and [`Stopped::Interrupted`],
    /// when it may be continued.
    pub fn wait(&self, seat: Seat, mut waiting: Waiting) -> Result<Outcome, Stopped> {
        loop {
            let gate = Circle { meeting: self, seat };
            let slept = block(self.probe, self.on, waiting, &gate, |moment| {
                let state = self.state();
                let ended = state.meeting != seat.meeting;
                (ended || moment == Moment::Tick && self.is_left(state)).then_some(())
            });
            if let Some(outcome) = self.outcome(seat) {
                return Ok(outcome);
            }
            if slept == Err(Stopped::Interrupted) {
                return Err(Stopped::Interrupted);
            }
            let late = slept == Err(Stopped::TimedOut);
            let broke = self.locked(|state| {
                if state.meeting != seat.meeting {
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
                return Err(Stopped::TimedOut);
            }
            if late {
                // All are there: what is left to wait for is the action.
                waiting.deadline = None;
            }
        }
    }

    /// Ends a meeting that the caller has acted for: all go on. Says otherwise if it was broken or
    /// reset meanwhile.
    pub fn lead(&self, seat: Seat) -> Outcome {
        self.end_as_leader(seat, Outcome::Passed, Phase::Filling)
    }

    /// Breaks a meeting that the caller could not act for.
    pub fn fail(&self, seat: Seat) -> Outcome {
        self.end_as_leader(seat, Outcome::Broken, Phase::Broken)
    }

    fn end_as_leader(&self, seat: Seat, outcome: Outcome, phase: Phase) -> Outcome {
        // A fork of the process that took the seat is not who leads.
        let mine = |place: &Place| place.who.load(Ordering::SeqCst) == self.me.word();
        let ended = self.locked(|state| {
            let present =
                state.meeting == seat.meeting && self.places.at(seat.place).is_some_and(mine);
            if present {
                self.end(state, outcome, phase);
            }
            present
        });
        if ended { outcome } else { self.outcome(seat).unwrap_or(Outcome::Broken) }
    }

    /// Makes a seat free; must be done by all who were given one.
    pub fn leave(&self, seat: Seat) {
        failpoint!("barrier.leaving");
        let Some(place) = self.places.at(seat.place) else { return };
        let mut who = place.who.load(Ordering::SeqCst);
        // A fork of the process that took the seat is not who has it.
        while Owner::from_bits(who) == Some(self.me) {
            match place.who.compare_exchange(who, 0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => who = now,
            }
        }
        failpoint!("barrier.left");
    }

    /// Breaks the present meeting, and keeps it broken until it is reset.
    pub fn abort(&self) {
        self.locked(|state| {
            if state.phase != Phase::Broken {
                self.end(state, Outcome::Broken, Phase::Broken);
            }
        });
    }

    /// Makes the meeting as new; those who wait are told.
    pub fn reset(&self) {
        self.locked(|state| {
            let fresh = state.phase == Phase::Filling
                && self.places().all(|(_, place)| place.taken_at(state.meeting).is_none());
            if !fresh {
                self.end(state, Outcome::Reset, Phase::Filling);
            }
        });
    }

    /// How many wait for the others now.
    pub fn waiting(&self) -> u32 {
        let state = self.state();
        let here = self.places().filter(|(_, place)| place.taken_at(state.meeting).is_some());
        here.count() as u32
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.state().phase == Phase::Broken
    }
}
