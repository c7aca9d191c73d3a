//! What locks, semaphores and events promise between processes.

#![cfg(not(model))]

mod support;

use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_shm::sync::{Event, Lock, NotOwnerError, RLock, ReleaseError, Semaphore};
use procession_shm::wait::{Acquired, NotLockedError, Operation, Wait, WaitError};
use support::{Words, alone, arena, child, millis, nothing_left};

const FOREVER: Wait = Wait::FOREVER;

fn soon() -> Wait {
    Wait::until(Some(Monotonic::now().after(Duration::from_millis(2))))
}

#[test]
fn a_lock_excludes_and_anyone_may_release_it() {
    let _alone = alone("a_lock_excludes_and_anyone_may_release_it");
    let lock = Lock::new(arena(), "lock").unwrap();
    assert_eq!(lock.release(), Err(NotLockedError));
    assert_eq!(lock.acquire(FOREVER), Ok(Acquired::Clean));
    assert!(lock.is_mine());
    child(|| {
        assert!(!lock.try_acquire() && !lock.is_mine());
        assert_eq!(lock.try_acquire_or_inherit(), None, "its owner lives");
        assert_eq!(lock.acquire(soon()), Err(WaitError::TimedOut));
        lock.release().unwrap();
        assert!(lock.try_acquire());
        lock.release().unwrap();
    })
    .succeeds();
    assert_eq!(lock.owner(), None);

    let count = Words::new(1);
    let children: Vec<_> = (0..4)
        .map(|_| {
            child(|| {
                for _ in 0..2000 {
                    assert_eq!(lock.acquire(FOREVER), Ok(Acquired::Clean));
                    count.set(0, count.get(0) + 1);
                    lock.release().unwrap();
                }
            })
        })
        .collect();
    children.into_iter().for_each(support::Child::succeeds);
    assert_eq!(count.get(0), 8000);
    drop((lock, count));
    nothing_left();
}

/// A holder acquires the lock again at once, until the waiter has had its turns: each of them comes
/// within a bounded number of the holder's.
fn turns_beside_a_greedy_holder(acquire: impl Fn(), release: impl Fn(), hold: impl Fn()) {
    const TURNS: u64 = 20;
    const PASSED_BY: u64 = 50;
    let words = Words::new(2);
    let holder = child(|| {
        while words.get(1) < TURNS && words.get(0) < TURNS * PASSED_BY {
            acquire();
            words.set(0, words.get(0) + 1);
            hold();
            release();
        }
    });
    for _ in 0..TURNS {
        let seen = words.get(0);
        while words.get(0) == seen && !holder.has_ended() {
            millis(1);
        }
        acquire();
        assert!(words.get(0) < TURNS * PASSED_BY, "{} of {TURNS} turns", words.get(1));
        words.set(1, words.get(1) + 1);
        release();
    }
    holder.succeeds();
}

#[test]
fn a_holder_that_acquires_again_at_once_leaves_turns_to_a_waiter() {
    let _alone = alone("a_holder_that_acquires_again_at_once_leaves_turns_to_a_waiter");
    let busy = || {
        let end = Monotonic::now().after(Duration::from_millis(5));
        while Monotonic::now() < end {}
    };
    let lock = Lock::new(arena(), "lock").unwrap();
    let acquire = || assert_eq!(lock.acquire(FOREVER), Ok(Acquired::Clean));
    turns_beside_a_greedy_holder(acquire, || lock.release().unwrap(), || millis(5));
    turns_beside_a_greedy_holder(acquire, || lock.release().unwrap(), busy);
    let rlock = RLock::new(arena(), "rlock").unwrap();
    let acquire = || assert_eq!(rlock.acquire(FOREVER), Ok(Acquired::Clean));
    turns_beside_a_greedy_holder(acquire, || rlock.release().unwrap(), || millis(5));
    drop((lock, rlock));
    nothing_left();
}

#[test]
fn the_death_of_an_owner_is_told_to_one_waiter() {
    let _alone = alone("the_death_of_an_owner_is_told_to_one_waiter");
    let lock = Lock::new(arena(), "lock").unwrap();
    let words = Words::new(2);
    let owner = child(|| {
        let _ = lock.acquire(FOREVER).unwrap();
        words.set(0, 1);
        millis(600_000);
    });
    while words.get(0) == 0 {
        millis(1);
    }
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            child(|| {
                if let Acquired::OwnerDied(dead) = lock.acquire(FOREVER).unwrap() {
                    assert_eq!(u64::from(dead.thread()), u64::from(owner.pid));
                    words.at(1).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                lock.release().unwrap();
            })
        })
        .collect();
    let waits = |info: &procession_shm::arena::ProcessInfo| {
        info.blocked_on.is_some_and(|on| {
            on.object == lock.handle().index && on.operation == Operation::Acquire as u8
        })
    };
    while arena().processes().iter().filter(|info| waits(info)).count() < 4 {
        millis(1);
    }
    owner.kill();
    waiters.into_iter().for_each(support::Child::succeeds);
    assert_eq!(words.get(1), 1);
    owner.join();
    drop((lock, words));
    nothing_left();
}

#[test]
fn an_rlock_belongs_to_a_thread() {
    let _alone = alone("an_rlock_belongs_to_a_thread");
    let lock = RLock::new(arena(), "rlock").unwrap();
    assert_eq!(lock.release(), Err(NotOwnerError));
    for depth in 1..=3 {
        assert_eq!(lock.acquire(FOREVER), Ok(Acquired::Clean));
        assert_eq!(lock.depth(), depth);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(lock.try_acquire().is_none() && !lock.is_mine());
            assert_eq!(lock.release(), Err(NotOwnerError));
        });
    });
    child(|| {
        assert_eq!(lock.depth(), 0, "a fork of the owner is not the owner");
        assert_eq!(lock.release(), Err(NotOwnerError));
        assert_eq!(lock.acquire(soon()), Err(WaitError::TimedOut));
    })
    .succeeds();
    for _ in 0..3 {
        lock.release().unwrap();
    }
    assert_eq!(lock.release(), Err(NotOwnerError));
    let owner = child(|| {
        let _ = (lock.acquire(FOREVER).unwrap(), lock.acquire(FOREVER).unwrap());
    });
    let pid = owner.pid;
    owner.succeeds();
    match lock.acquire(FOREVER) {
        Ok(Acquired::OwnerDied(dead)) => assert_eq!(dead.thread(), pid),
        other => panic!("{other:?}"),
    }
    assert_eq!(lock.depth(), 1, "what a dead owner had is not handed on");
    lock.release().unwrap();
    assert_eq!(lock.try_acquire(), Some(Acquired::Clean));
    lock.release().unwrap();
    drop(lock);
    nothing_left();
}

#[test]
fn a_semaphore_counts_between_processes() {
    let _alone = alone("a_semaphore_counts_between_processes");
    let plain = Semaphore::new(arena(), "plain", 2, None).unwrap();
    assert!(plain.try_acquire() && plain.try_acquire() && !plain.try_acquire());
    assert_eq!(plain.acquire(soon()), Err(WaitError::TimedOut));
    let releaser = child(|| plain.release().unwrap());
    plain.acquire(FOREVER).unwrap();
    releaser.succeeds();
    child(|| plain.release().unwrap()).succeeds();
    child(|| plain.acquire(FOREVER).unwrap()).succeeds();
    assert_eq!(plain.value(), 0, "the dead's permit is gone");

    let bounded = Semaphore::new(arena(), "bounded", 1, Some(1)).unwrap();
    assert_eq!(bounded.release(), Err(ReleaseError::TooOften(1)));
    bounded.acquire(FOREVER).unwrap();
    bounded.release().unwrap();
    drop((plain, bounded));
    nothing_left();
}

#[test]
fn permits_of_the_dead_come_back_where_asked_for() {
    let _alone = alone("permits_of_the_dead_come_back_where_asked_for");
    let permits = Semaphore::recovering(arena(), "permits", 3).unwrap();
    assert_eq!(permits.release(), Err(ReleaseError::TooOften(3)));
    let ready = Words::new(1);
    let holder = child(|| {
        (0..3).for_each(|_| permits.acquire(FOREVER).unwrap());
        ready.set(0, 1);
        millis(600_000);
    });
    while ready.get(0) == 0 {
        millis(1);
    }
    assert!(!permits.try_acquire());
    let waiters: Vec<_> = (0..3).map(|_| child(|| permits.acquire(FOREVER).unwrap())).collect();
    holder.kill();
    holder.join();
    waiters.into_iter().for_each(support::Child::succeeds);
    assert!((0..3).all(|_| permits.try_acquire()) && !permits.try_acquire());
    // Another process may release, too.
    child(|| permits.release().unwrap()).succeeds();
    assert_eq!(permits.value(), 1);
    drop((permits, ready));
    nothing_left();
}

#[test]
fn an_event_lets_all_go_on_even_if_it_is_cleared_at_once() {
    let _alone = alone("an_event_lets_all_go_on_even_if_it_is_cleared_at_once");
    let event = Event::new(arena(), "event").unwrap();
    assert_eq!(event.wait(soon()), Err(WaitError::TimedOut));
    let waiters: Vec<_> = (0..5).map(|_| child(|| event.wait(FOREVER).unwrap())).collect();
    let waits = || arena().processes().iter().filter(|info| info.blocked_on.is_some()).count();
    while waits() < 5 {
        millis(1);
    }
    waiters[4].kill();
    event.set();
    event.clear();
    let mut waiters = waiters;
    waiters.pop().unwrap().join();
    waiters.into_iter().for_each(support::Child::succeeds);
    assert!(!event.is_set());
    event.set();
    assert!(event.is_set());
    event.wait(FOREVER).unwrap();
    drop(event);
    nothing_left();
}
