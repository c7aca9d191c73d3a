//! Each of the synchronising objects, with its owner, a waiter or a notifier killed: at every fail
//! point of theirs, and with none, one and many waiting.

#![cfg(not(model))]

mod support;

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::pidfd::ExitStatus;
use procession_shm::failpoint;
use procession_shm::sync::{
    Arrival, Barrier, Condition, Event, Lock, Monitor, Outcome, RLock, Semaphore, Waited,
};
use procession_shm::wait::{Acquired, Operation, Wait, WaitError};
use support::{
    Child, SIGCONT, SIGKILL, SIGSTOP, Words, alone, arena, at, child, millis, nothing_left,
};

const FOREVER: Wait = Wait::FOREVER;
const ALL: u32 = u32::MAX;
const MANY: usize = 4;

fn soon() -> Wait {
    Wait::until(Some(Monotonic::now().after(Duration::from_millis(2))))
}

/// Waits until so many processes are blocked in an operation on an object.
fn until_blocked(count: usize, object: u32, operation: Operation) {
    let blocked = || {
        let processes = arena().processes();
        let on = processes.iter().filter_map(|info| info.blocked_on);
        on.filter(|on| on.object == object && on.operation == operation as u8).count()
    };
    while blocked() != count {
        millis(1);
    }
}

fn killed(child: Child) {
    child.kill();
    assert_eq!(child.join(), ExitStatus::Signaled(SIGKILL));
}

/// A child that does something and then sleeps until it is killed; it has done it on return.
fn child_that_stays(body: impl FnOnce()) -> Child {
    let done = Words::new(1);
    let child = child(|| {
        body();
        done.set(0, 1);
        millis(600_000);
    });
    while done.get(0) == 0 {
        millis(1);
    }
    child
}

/// Lock and RLock, as far as they are the same.
trait Owned: Monitor {
    fn new() -> Self;
    fn take(&self) -> Acquired;
    fn give(&self);
    fn index(&self) -> u32;
}

impl Owned for Lock {
    fn new() -> Self {
        Self::new(arena(), "lock").unwrap()
    }
    fn take(&self) -> Acquired {
        self.acquire(FOREVER).unwrap()
    }
    fn give(&self) {
        self.release().unwrap();
    }
    fn index(&self) -> u32 {
        self.handle().index
    }
}

impl Owned for RLock {
    fn new() -> Self {
        Self::new(arena(), "rlock").unwrap()
    }
    fn take(&self) -> Acquired {
        self.acquire(FOREVER).unwrap()
    }
    fn give(&self) {
        self.release().unwrap();
    }
    fn index(&self) -> u32 {
        self.handle().index
    }
}

fn an_owner_and_a_waiter_are_killed<L: Owned>() {
    for waiting in [0, 1, MANY] {
        at(&format!("the owner is killed with {waiting} waiting"));
        let lock = L::new();
        let told = Words::new(1);
        let owner = child_that_stays(|| {
            let _ = lock.take();
        });
        let acquire = || {
            if lock.take() != Acquired::Clean {
                told.at(0).fetch_add(1, Ordering::SeqCst);
            }
            lock.give();
        };
        let mut waiters: Vec<_> = (0..waiting + 1).map(|_| child(acquire)).collect();
        until_blocked(waiting + 1, lock.index(), Operation::Acquire);
        // A waiter goes first.
        killed(waiters.pop().unwrap());
        killed(owner);
        waiters.into_iter().for_each(Child::succeeds);
        if waiting == 0 {
            acquire();
        }
        assert_eq!(told.get(0), 1, "{waiting} waiting");
        assert_eq!(lock.take(), Acquired::Clean);
        lock.give();
        drop((lock, told));
        nothing_left();
    }
}

#[test]
fn a_lock_whose_owner_is_killed_is_handed_on() {
    let _alone = alone("a_lock_whose_owner_is_killed_is_handed_on");
    an_owner_and_a_waiter_are_killed::<Lock>();
}

#[test]
fn an_rlock_whose_owner_is_killed_is_handed_on() {
    let _alone = alone("an_rlock_whose_owner_is_killed_is_handed_on");
    an_owner_and_a_waiter_are_killed::<RLock>();
}

/// A lock, and a holder that acquires it again at once until it is told to stop.
struct Greedy {
    lock: Lock,
    words: Words,
}

impl Greedy {
    const TURNS: usize = 0;
    const STOP: usize = 1;
    const TOLD: usize = 2;

    fn new() -> Self {
        Self { lock: Lock::new(arena(), "lock").unwrap(), words: Words::new(3) }
    }

    fn take(&self) {
        if self.lock.take() != Acquired::Clean {
            self.words.at(Self::TOLD).fetch_add(1, Ordering::SeqCst);
        }
    }

    fn holder(&self, before: impl FnOnce()) -> Child {
        // Before it runs: it may be over after its first turn.
        let seen = self.turns();
        let holder = child(|| {
            before();
            while self.words.get(Self::STOP) == 0 {
                self.take();
                self.words.at(Self::TURNS).fetch_add(1, Ordering::SeqCst);
                millis(3);
                self.lock.give();
            }
        });
        self.until(seen + 1);
        holder
    }

    fn turns(&self) -> u64 {
        self.words.get(Self::TURNS)
    }

    fn until(&self, turns: u64) {
        while self.turns() < turns {
            millis(1);
        }
    }

    fn until_turns(&self, more: u64) {
        self.until(self.turns() + more);
    }

    fn waiter(&self, before: impl FnOnce()) -> Child {
        child(|| {
            before();
            self.take();
            self.lock.give();
        })
    }

    /// All go on: the holder has turns, and others between them.
    fn ends(self, holder: Child, told: u64) {
        self.until_turns(5);
        for _ in 0..5 {
            self.waiter(|| ()).succeeds();
        }
        self.words.set(Self::STOP, 1);
        holder.succeeds();
        assert_eq!(self.words.get(Self::TOLD), told);
        assert!(self.lock.try_acquire());
        self.lock.give();
        drop(self);
        nothing_left();
    }
}

#[test]
fn a_lock_is_kept_for_no_waiter_that_is_killed() {
    let _alone = alone("a_lock_is_kept_for_no_waiter_that_is_killed");
    // Woken by a release, at the end of the sleep after it, and when the lock was kept for it.
    for (nth, waiting) in (1..5).flat_map(|nth| [(nth, 0), (nth, 1), (nth, MANY)]) {
        at(&format!("killed at the end of sleep {nth}, {waiting} others waiting"));
        let greedy = Greedy::new();
        let holder = greedy.holder(|| ());
        let mortal = greedy.waiter(|| failpoint::arm("lock.woken", nth));
        let others: Vec<_> = (0..waiting).map(|_| greedy.waiter(|| ())).collect();
        others.into_iter().for_each(Child::succeeds);
        let end = mortal.join();
        // It may have had the lock before it slept so often.
        let may_live = nth > 1 && end == ExitStatus::Exited(0);
        assert!(may_live || end == ExitStatus::Signaled(SIGKILL), "{end:?}");
        greedy.ends(holder, 0);
    }
}

#[test]
fn a_lock_is_kept_for_no_waiter_that_is_stopped() {
    let _alone = alone("a_lock_is_kept_for_no_waiter_that_is_stopped");
    for waiting in [1, MANY] {
        at(&format!("{waiting} are stopped"));
        let greedy = Greedy::new();
        let held = greedy.lock.take();
        assert_eq!(held, Acquired::Clean);
        let waiters: Vec<_> = (0..waiting).map(|_| greedy.waiter(|| ())).collect();
        until_blocked(waiting, greedy.lock.index(), Operation::Acquire);
        waiters.iter().for_each(|waiter| waiter.signal(SIGSTOP));
        greedy.lock.give();
        let holder = greedy.holder(|| ());
        greedy.until_turns(20);
        waiters.iter().for_each(|waiter| waiter.signal(SIGCONT));
        waiters.into_iter().for_each(Child::succeeds);
        greedy.ends(holder, 0);
    }
}

#[test]
fn all_go_on_when_a_holder_is_killed_that_has_kept_the_lock() {
    let _alone = alone("all_go_on_when_a_holder_is_killed_that_has_kept_the_lock");
    let points = ["lock.released", "lock.waking"];
    // The first release with a waiter finds that none has asked; from the second on it is kept.
    for (name, nth, waiting) in points
        .iter()
        .flat_map(|name| (1..4).flat_map(move |nth| [1, MANY].map(|waiting| (name, nth, waiting))))
    {
        at(&format!("{name}, time {nth}, {waiting} waiting"));
        let greedy = Greedy::new();
        let mortal = greedy.holder(|| failpoint::arm(name, nth));
        while !mortal.has_ended() {
            let waiters: Vec<_> = (0..waiting).map(|_| greedy.waiter(|| ())).collect();
            waiters.into_iter().for_each(Child::succeeds);
        }
        assert_eq!(mortal.join(), ExitStatus::Signaled(SIGKILL));
        let holder = greedy.holder(|| ());
        greedy.ends(holder, 0);
    }
}

#[test]
fn permits_of_the_killed_go_to_the_waiters() {
    let _alone = alone("permits_of_the_killed_go_to_the_waiters");
    for waiting in [0, 1, MANY] {
        at(&format!("the holder is killed with {waiting} waiting"));
        let permits = Semaphore::recovering(arena(), "permits", 1).unwrap();
        let holder = child_that_stays(|| permits.acquire(FOREVER).unwrap());
        let use_one = || {
            permits.acquire(FOREVER).unwrap();
            permits.release().unwrap();
        };
        let mut waiters: Vec<_> = (0..waiting + 1).map(|_| child(use_one)).collect();
        until_blocked(waiting + 1, permits.handle().index, Operation::Semaphore);
        killed(waiters.pop().unwrap());
        killed(holder);
        waiters.into_iter().for_each(Child::succeeds);
        assert!(permits.try_acquire() && !permits.try_acquire());
        drop(permits);
        nothing_left();
    }
}

#[test]
fn an_event_whose_setter_is_killed_before_waking_lets_all_go_on() {
    let _alone = alone("an_event_whose_setter_is_killed_before_waking_lets_all_go_on");
    for waiting in [0, 1, MANY] {
        at(&format!("the setter is killed with {waiting} waiting"));
        let event = Event::new(arena(), "event").unwrap();
        let wait = || event.wait(FOREVER).unwrap();
        let mut waiters: Vec<_> = (0..waiting + 1).map(|_| child(wait)).collect();
        until_blocked(waiting + 1, event.handle().index, Operation::Event);
        killed(waiters.pop().unwrap());
        let setter = child(|| {
            failpoint::arm("event.set", 1);
            event.set();
        });
        assert_eq!(setter.join(), ExitStatus::Signaled(SIGKILL));
        waiters.into_iter().for_each(Child::succeeds);
        wait();
        drop(event);
        nothing_left();
    }
}

/// A condition with its lock, and what the processes count.
struct Room<L> {
    lock: L,
    condition: Condition,
    counts: Words,
}

impl<L: Owned> Room<L> {
    const TOLD: usize = 0;
    const NOTIFIED: usize = 1;

    fn new() -> Self {
        let condition = Condition::new(arena(), "condition").unwrap();
        Self { lock: L::new(), condition, counts: Words::new(2) }
    }

    fn count(&self, what: usize) {
        self.counts.at(what).fetch_add(1, Ordering::SeqCst);
    }

    /// Acquires the lock for a waiter that has been told of no death yet.
    fn acquire(&self) -> bool {
        let told = self.lock.take() != Acquired::Clean;
        if told {
            self.count(Self::TOLD);
        }
        told
    }

    /// Waits once, and returns with the lock held.
    fn wait(&self, waiting: Wait) -> Waited {
        let waited = self.condition.wait(&self.lock, waiting).unwrap();
        assert!(self.lock.is_mine());
        if waited.acquired != Acquired::Clean {
            self.count(Self::TOLD);
        }
        if waited.notified {
            self.count(Self::NOTIFIED);
        }
        waited
    }

    fn come_and_wait(&self) {
        self.acquire();
        let _ = self.wait(FOREVER);
        self.lock.give();
    }

    fn notify(&self, max: u32) {
        self.condition.notify(&self.lock, max).unwrap();
    }

    fn waiters(&self, count: usize, wait: impl Fn(&Self)) -> Vec<Child> {
        let children = (0..count).map(|_| child(|| wait(self))).collect();
        self.until_waiting(count);
        children
    }

    fn until_waiting(&self, count: usize) {
        until_blocked(count, self.condition.handle().index, Operation::Condition);
    }
}

fn the_owner_is_killed_while_others_wait<L: Owned>() {
    for waiting in [0, 1, MANY] {
        at(&format!("the lock's owner is killed with {waiting} waiting for the condition"));
        let room = Room::<L>::new();
        let waiters = room.waiters(waiting, |room| {
            room.acquire();
            let waited = room.wait(FOREVER);
            // The one that is told sees to the others.
            if waited.acquired != Acquired::Clean {
                room.notify(ALL);
            }
            room.lock.give();
        });
        killed(child_that_stays(|| assert!(!room.acquire())));
        waiters.into_iter().for_each(Child::succeeds);
        room.acquire();
        room.lock.give();
        assert_eq!(room.counts.get(Room::<L>::TOLD), 1);
        assert_eq!(room.condition.waiting(), 0);
        drop(room);
        nothing_left();
    }
}

#[test]
fn one_waiter_is_told_that_the_owner_of_the_lock_was_killed() {
    let _alone = alone("one_waiter_is_told_that_the_owner_of_the_lock_was_killed");
    the_owner_is_killed_while_others_wait::<Lock>();
    the_owner_is_killed_while_others_wait::<RLock>();
}

#[test]
fn a_killed_waiter_costs_no_other_a_notification() {
    let _alone = alone("a_killed_waiter_costs_no_other_a_notification");
    for victim in 0..3 {
        at(&format!("waiter {victim} is killed"));
        let room = Room::<RLock>::new();
        let mut waiters = room.waiters(3, Room::come_and_wait);
        killed(waiters.remove(victim));
        for left in [1, 0] {
            room.acquire();
            room.notify(1);
            room.lock.give();
            room.until_waiting(left);
        }
        waiters.into_iter().for_each(Child::succeeds);
        assert_eq!(room.counts.get(Room::<RLock>::NOTIFIED), 2);
        drop(room);
        nothing_left();
    }
}

#[test]
fn a_notification_is_passed_on_wherever_a_waiter_is_killed() {
    let _alone = alone("a_notification_is_passed_on_wherever_a_waiter_is_killed");
    let points = failpoint::ALL.iter().filter(|name| {
        let notifies = ["condition.notified", "condition.waking"].contains(name);
        name.starts_with("condition.") && !notifies
    });
    for name in points.chain(&["lock.acquired", "lock.releasing", "lock.released"]) {
        at(name);
        let room = Room::<Lock>::new();
        let pass_on = |room: &Room<Lock>| {
            room.acquire();
            let waited = room.wait(FOREVER);
            assert!(waited.notified || waited.acquired != Acquired::Clean);
            room.notify(1);
            room.lock.give();
        };
        let survivors = room.waiters(2, pass_on);
        let mortal = child(|| {
            failpoint::arm(name, 1);
            room.acquire();
            if *name == "condition.given_up" {
                let _ = room.wait(soon());
                room.lock.give();
            } else {
                let _ = room.wait(FOREVER);
                room.lock.give();
            }
        });
        if !["condition.relocked", "condition.taken"].contains(name) {
            while !mortal.has_ended() {
                millis(1);
            }
        } else {
            room.until_waiting(3);
        }
        let told = room.acquire();
        room.notify(if told { ALL } else { 1 });
        room.lock.give();
        // The mortal one is the last to have come; it is notified when the others pass it on.
        survivors.into_iter().for_each(Child::succeeds);
        assert_eq!(mortal.join(), ExitStatus::Signaled(SIGKILL), "{name}");
        assert!(room.counts.get(Room::<Lock>::TOLD) <= 1);
        drop(room);
        nothing_left();
    }
}

#[test]
fn all_go_on_wherever_the_notifier_is_killed() {
    let _alone = alone("all_go_on_wherever_the_notifier_is_killed");
    let points = ["condition.notified", "condition.waking", "lock.releasing", "lock.released"];
    for (name, nth, waiting) in points.iter().flat_map(|name| {
        let nths = if name.starts_with("lock") { 1..2 } else { 1..4 };
        nths.flat_map(move |nth| [1, MANY].map(|waiting| (name, nth, waiting)))
    }) {
        if nth > waiting as u32 {
            continue;
        }
        at(&format!("{name}, time {nth}, {waiting} waiting"));
        let room = Room::<RLock>::new();
        let waiters = room.waiters(waiting, |room| {
            room.acquire();
            let waited = room.wait(FOREVER);
            if waited.acquired != Acquired::Clean {
                room.notify(ALL);
            }
            room.lock.give();
        });
        let notifier = child(|| {
            room.acquire();
            failpoint::arm(name, nth);
            for _ in 0..waiting {
                room.notify(1);
            }
            room.lock.give();
        });
        waiters.into_iter().for_each(Child::succeeds);
        let end = notifier.join();
        // Whether the lock has flags on its release depends on which waited for it.
        let may_live = *name == "lock.released" && end == ExitStatus::Exited(0);
        assert!(may_live || end == ExitStatus::Signaled(SIGKILL), "{name}: {end:?}");
        assert!(room.counts.get(Room::<RLock>::TOLD) <= 1);
        assert_eq!(room.condition.waiting(), 0);
        drop(room);
        nothing_left();
    }
}

/// Takes part in a round of the barrier, from arriving to leaving.
fn meet(barrier: &Barrier, has_action: bool, waiting: Wait) -> Result<u32, Outcome> {
    let (ticket, outcome) = match barrier.arrive(has_action, FOREVER).unwrap() {
        Arrival::Completes(index) => return Ok(index),
        Arrival::Broken => return Err(Outcome::Broken),
        Arrival::Leader(ticket) => (ticket, barrier.lead(ticket)),
        Arrival::Early(ticket) => match barrier.wait(ticket, waiting) {
            Ok(outcome) => (ticket, outcome),
            Err(WaitError::TimedOut) => (ticket, Outcome::Broken),
            Err(WaitError::Interrupted) => panic!("interrupted"),
        },
    };
    barrier.leave(ticket);
    if outcome == Outcome::Passed { Ok(ticket.index) } else { Err(outcome) }
}

fn barrier(parties: u32) -> Barrier {
    Barrier::new(arena(), "barrier", NonZeroU32::new(parties).unwrap()).unwrap()
}

fn until_at(barrier: &Barrier, count: usize) {
    until_blocked(count, barrier.handle().index, Operation::Barrier);
}

#[test]
fn a_barrier_breaks_for_the_rest_when_one_of_them_is_killed() {
    let _alone = alone("a_barrier_breaks_for_the_rest_when_one_of_them_is_killed");
    for waiting in [0, 1, MANY] {
        at(&format!("{waiting} waiting"));
        let barrier = barrier(waiting as u32 + 2);
        let broken = || assert_eq!(meet(&barrier, false, FOREVER), Err(Outcome::Broken));
        let others: Vec<_> = (0..waiting).map(|_| child(broken)).collect();
        let mortal = child(|| assert!(meet(&barrier, false, FOREVER).is_ok()));
        until_at(&barrier, waiting + 1);
        killed(mortal);
        if waiting == 0 {
            // The last to come finds that no other is left.
            broken();
        }
        others.into_iter().for_each(Child::succeeds);
        assert!(barrier.is_broken());
        barrier.reset();
        assert_eq!((barrier.is_broken(), barrier.waiting()), (false, 0));
        let again: Vec<_> = (0..waiting + 2)
            .map(|_| child(|| assert!(meet(&barrier, false, FOREVER).is_ok())))
            .collect();
        again.into_iter().for_each(Child::succeeds);
        drop(barrier);
        nothing_left();
    }
}

#[test]
fn no_party_waits_for_one_that_is_killed_at_a_barrier() {
    let _alone = alone("no_party_waits_for_one_that_is_killed_at_a_barrier");
    let points = failpoint::ALL.iter().filter(|name| name.starts_with("barrier."));
    let points = points.chain(&["lock.acquired", "lock.releasing", "lock.released"]);
    for (name, has_action) in points.flat_map(|name| [(name, false), (name, true)]) {
        if *name == "barrier.acting" && !has_action {
            continue;
        }
        at(&format!("{name}, with an action: {has_action}"));
        let barrier = barrier(3);
        let ends = Words::new(3);
        let take_part = |as_end: u64| {
            ends.at(usize::from(meet(&barrier, has_action, FOREVER).is_err()))
                .fetch_add(as_end, Ordering::SeqCst);
        };
        let last = ["barrier.noted", "barrier.ended", "barrier.acting"].contains(name);
        let mortal = || {
            child(|| {
                failpoint::arm(name, 1);
                take_part(0);
            })
        };
        let (mortal, survivors) = if last {
            let survivors = [child(|| take_part(1)), child(|| take_part(1))];
            until_at(&barrier, 2);
            (mortal(), survivors)
        } else {
            let mortal = mortal();
            if !["barrier.leaving", "barrier.left"].contains(name) {
                while !mortal.has_ended() {
                    millis(1);
                }
            } else {
                until_at(&barrier, 1);
            }
            (mortal, [child(|| take_part(1)), child(|| take_part(1))])
        };
        // Killed before it had come, it is not there, and the others go on waiting.
        let before = matches!(*name, "lock.acquired" | "barrier.arriving")
            || *name == "barrier.noted" && !has_action;
        if before {
            while !mortal.has_ended() {
                millis(1);
            }
            until_at(&barrier, 2);
            assert!(meet(&barrier, has_action, FOREVER).is_ok(), "{name}: another takes its place");
        }
        survivors.into_iter().for_each(Child::succeeds);
        assert_eq!(mortal.join(), ExitStatus::Signaled(SIGKILL), "{name}");
        let passes =
            before || matches!(*name, "barrier.ended" | "barrier.leaving" | "barrier.left");
        assert_eq!(ends.get(usize::from(!passes)), 2, "{name}: passed {}", ends.get(0));
        assert_eq!(barrier.is_broken(), !passes, "{name}");
        barrier.reset();
        assert_eq!(barrier.waiting(), 0);
        drop((barrier, ends));
        nothing_left();
    }
}

#[test]
fn those_killed_on_their_way_out_leave_room_for_others() {
    let _alone = alone("those_killed_on_their_way_out_leave_room_for_others");
    let barrier = barrier(2);
    for round in 0..40 {
        at(&format!("round {round}"));
        let leaver = child(|| {
            failpoint::arm("barrier.leaving", 1);
            let _ = meet(&barrier, false, FOREVER);
        });
        until_at(&barrier, 1);
        assert_eq!(meet(&barrier, false, FOREVER), Ok(1));
        assert_eq!(leaver.join(), ExitStatus::Signaled(SIGKILL));
    }
    drop(barrier);
    nothing_left();
}
