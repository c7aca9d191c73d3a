//! Deaths wake the waiters that they concern, also deaths of processes that came after these fell
//! asleep: the processes here look by themselves no more than once an hour.

#![cfg(not(model))]

mod support;

use std::num::NonZeroU32;

use procession_os::pidfd::ExitStatus;
use procession_shm::failpoint;
use procession_shm::sync::{Arrival, Barrier, Condition, Lock, Outcome, Semaphore};
use procession_shm::wait::{Acquired, Operation, Wait};
use support::{Child, SIGKILL, Words, alone, arena, at, child, millis, nothing_left};

const FOREVER: Wait = Wait::FOREVER;

fn patient(body: impl FnOnce()) -> Child {
    child(|| {
        failpoint::make_ticks_rare();
        body();
    })
}

/// Waits until so many processes sleep in an operation on an object, and have done so for longer
/// than they look by themselves.
fn until_asleep(count: usize, object: u32, operation: Operation) {
    let asleep = || {
        let processes = arena().processes();
        let on = processes.iter().filter_map(|info| info.blocked_on);
        on.filter(|on| on.object == object && on.operation == operation as u8).count()
    };
    while asleep() != count {
        millis(1);
    }
    millis(50);
}

fn killed(child: Child) {
    child.kill();
    assert_eq!(child.join(), ExitStatus::Signaled(SIGKILL));
}

/// A process that has acquired the lock, and stays.
fn holder(lock: &Lock) -> Child {
    let has = Words::new(1);
    let holder = patient(|| {
        let acquired = lock.acquire(FOREVER).unwrap();
        has.set(0, 1 + u64::from(acquired != Acquired::Clean));
        millis(600_000);
    });
    while has.get(0) == 0 {
        millis(1);
    }
    holder
}

fn is_told(lock: &Lock) {
    assert!(matches!(lock.acquire(FOREVER).unwrap(), Acquired::OwnerDied(_)));
    lock.release().unwrap();
}

#[test]
fn a_waiter_is_woken_by_the_death_of_an_owner_that_came_after_it_slept() {
    let _alone = alone("a_waiter_is_woken_by_the_death_of_an_owner_that_came_after_it_slept");
    let lock = Lock::new(arena(), "lock").unwrap();
    let acquired = lock.acquire(FOREVER).unwrap();
    assert_eq!(acquired, Acquired::Clean);
    let has = Words::new(1);
    let second = patient(|| {
        let _ = lock.acquire(FOREVER).unwrap();
        has.set(0, 1);
        millis(600_000);
    });
    until_asleep(1, lock.handle().index, Operation::Acquire);
    let third = patient(|| is_told(&lock));
    until_asleep(2, lock.handle().index, Operation::Acquire);
    lock.release().unwrap();
    while has.get(0) == 0 {
        millis(1);
    }
    millis(50);
    killed(second);
    third.succeeds();
    drop((lock, has));
    nothing_left();
}

#[test]
fn a_waiter_for_a_condition_is_woken_by_the_death_of_a_later_owner_of_the_lock() {
    let test = "a_waiter_for_a_condition_is_woken_by_the_death_of_a_later_owner_of_the_lock";
    let _alone = alone(test);
    let lock = Lock::new(arena(), "lock").unwrap();
    let condition = Condition::new(arena(), "condition").unwrap();
    let waiter = patient(|| {
        assert_eq!(lock.acquire(FOREVER).unwrap(), Acquired::Clean);
        let waited = condition.wait(&lock, FOREVER).unwrap();
        assert!(matches!(waited.acquired, Acquired::OwnerDied(_)));
        lock.release().unwrap();
    });
    until_asleep(1, condition.handle().index, Operation::Condition);
    killed(holder(&lock));
    waiter.succeeds();
    drop((lock, condition));
    nothing_left();
}

#[test]
fn parties_are_woken_by_the_death_of_one_that_came_after_they_slept() {
    let _alone = alone("parties_are_woken_by_the_death_of_one_that_came_after_they_slept");
    for before in [1, 3] {
        at(&format!("{before} came before"));
        let parties = NonZeroU32::new(before + 2).unwrap();
        let barrier = Barrier::new(arena(), "barrier", parties).unwrap();
        let meet = || {
            let Arrival::Early(ticket) = barrier.arrive(false, FOREVER).unwrap() else {
                panic!("no one is missing");
            };
            assert_eq!(barrier.wait(ticket, FOREVER).unwrap(), Outcome::Broken);
            barrier.leave(ticket);
        };
        let others: Vec<_> = (0..before).map(|_| patient(meet)).collect();
        until_asleep(before as usize, barrier.handle().index, Operation::Barrier);
        let mortal = patient(meet);
        until_asleep(before as usize + 1, barrier.handle().index, Operation::Barrier);
        killed(mortal);
        others.into_iter().for_each(Child::succeeds);
        drop(barrier);
        nothing_left();
    }
}

#[test]
fn a_permit_of_the_killed_wakes_a_waiter() {
    let _alone = alone("a_permit_of_the_killed_wakes_a_waiter");
    let permits = Semaphore::recovering(arena(), "permits", 1).unwrap();
    let first = Words::new(1);
    let waiter = |mark: u64| {
        let (permits, first) = (&permits, &first);
        patient(move || {
            permits.acquire(FOREVER).unwrap();
            first.set(0, mark);
            if mark == 1 {
                millis(600_000);
            }
            permits.release().unwrap();
        })
    };
    permits.acquire(FOREVER).unwrap();
    let mortal = waiter(1);
    until_asleep(1, permits.handle().index, Operation::Semaphore);
    let other = waiter(2);
    until_asleep(2, permits.handle().index, Operation::Semaphore);
    permits.release().unwrap();
    while first.get(0) != 1 {
        millis(1);
    }
    killed(mortal);
    other.succeeds();
    drop((permits, first));
    nothing_left();
}

#[test]
fn all_waiters_are_woken_that_one_death_concerns() {
    let _alone = alone("all_waiters_are_woken_that_one_death_concerns");
    let locks: Vec<_> = (0..5).map(|_| Lock::new(arena(), "lock").unwrap()).collect();
    let has = Words::new(1);
    let owner = patient(|| {
        for lock in &locks {
            assert_eq!(lock.acquire(FOREVER).unwrap(), Acquired::Clean);
        }
        has.set(0, 1);
        millis(600_000);
    });
    while has.get(0) == 0 {
        millis(1);
    }
    let waiters: Vec<_> = locks.iter().map(|lock| patient(|| is_told(lock))).collect();
    for lock in &locks {
        until_asleep(1, lock.handle().index, Operation::Acquire);
    }
    killed(owner);
    waiters.into_iter().for_each(Child::succeeds);
    drop((locks, has));
    nothing_left();
}

#[test]
fn a_death_is_told_also_when_those_that_watch_are_killed() {
    let _alone = alone("a_death_is_told_also_when_those_that_watch_are_killed");
    for victim in 0..4 {
        for point in [None, Some("watch.taken"), Some("watch.left"), Some("watch.announced")] {
            at(&format!("waiter {victim} is killed, {point:?}"));
            let lock = Lock::new(arena(), "lock").unwrap();
            let owner = holder(&lock);
            let mut waiters: Vec<_> = (0..4)
                .map(|number| {
                    let lock = &lock;
                    patient(move || {
                        if number == victim
                            && let Some(point) = point
                        {
                            failpoint::arm(point, 1);
                        }
                        // One is told; those after it find the lock free.
                        let _ = lock.acquire(FOREVER).unwrap();
                        lock.release().unwrap();
                    })
                })
                .collect();
            millis(60);
            let mortal = waiters.remove(victim);
            if point.is_none() {
                mortal.kill();
            }
            killed(owner);
            waiters.into_iter().for_each(Child::succeeds);
            let status = mortal.join();
            let was_killed = status == ExitStatus::Signaled(SIGKILL);
            assert!(was_killed || status == ExitStatus::Exited(0), "{status:?}");
            drop(lock);
            nothing_left();
        }
    }
}

#[test]
fn a_death_is_told_in_a_large_family() {
    let _alone = alone("a_death_is_told_in_a_large_family");
    // More than one thread can watch over.
    let idle: Vec<_> = (0..120).map(|_| patient(|| millis(600_000))).collect();
    let lock = Lock::new(arena(), "lock").unwrap();
    let acquired = lock.acquire(FOREVER).unwrap();
    assert_eq!(acquired, Acquired::Clean);
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            patient(|| {
                let _ = lock.acquire(FOREVER).unwrap();
                lock.release().unwrap();
            })
        })
        .collect();
    until_asleep(3, lock.handle().index, Operation::Acquire);
    let condition = Condition::new(arena(), "condition").unwrap();
    let other = Lock::new(arena(), "other").unwrap();
    let sleeper = patient(|| {
        assert_eq!(other.acquire(FOREVER).unwrap(), Acquired::Clean);
        let waited = condition.wait(&other, FOREVER).unwrap();
        assert!(matches!(waited.acquired, Acquired::OwnerDied(_)));
    });
    until_asleep(1, condition.handle().index, Operation::Condition);
    killed(holder(&other));
    sleeper.succeeds();
    lock.release().unwrap();
    waiters.into_iter().for_each(Child::succeeds);
    idle.into_iter().for_each(killed);
    drop((lock, condition, other));
    nothing_left();
}
