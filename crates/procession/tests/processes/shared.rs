//! Values under locks, conditions and barriers between processes that come and go.

use std::time::Duration;

use procession::sync::BrokenBarrierError;
use procession::{Array, Barrier, Builder, Condition, Event, Lock, RLock, StartMethod, Value};
use procession_os::process;

use crate::driver::until;

fn builder(method: StartMethod) -> Builder {
    Builder::new().start_method(method)
}

pub(crate) fn a_value_counts_without_losing(method: StartMethod) {
    let shared = (Value::new(0u64).unwrap(), Array::<u32>::zeroed(3).unwrap());
    let count = |(total, each): (Value<u64>, Array<u32>)| {
        for round in 0..3000 {
            total.update(|n| n + 1).unwrap();
            each.lock().unwrap().update(round % 3, |n| n + 1);
        }
    };
    let children: Vec<_> =
        (0..3).map(|_| builder(method).spawn(count, shared.clone()).unwrap()).collect();
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(shared.0.load().unwrap(), 9000);
    assert_eq!(shared.1.lock().unwrap().to_vec(), [3000; 3]);
}

pub(crate) fn a_dead_owner_of_a_value_is_told_once(method: StartMethod) {
    let (value, array) = (Value::new(7u64).unwrap(), Array::from_slice(&[1u8, 2]).unwrap());
    let rlock = RLock::new().unwrap();
    let child = builder(method).spawn(
        |(value, array, rlock): (Value<u64>, Array<u8>, RLock)| -> () {
            let mut guard = value.lock().unwrap();
            guard.store(8);
            let _others = (array.lock().unwrap(), rlock.lock().unwrap(), rlock.lock().unwrap());
            process::kill_self();
        },
        (value.clone(), array.clone(), rlock.clone()),
    );
    assert!(child.unwrap().join().is_err());
    let guard = value.lock().unwrap_err().into_guard();
    assert_eq!(guard.load(), 8);
    drop(guard);
    assert_eq!(value.load().unwrap(), 8, "the next is told nothing");
    drop(array.lock().unwrap_err().into_guard());
    drop(array.lock().unwrap());
    let guard = rlock.try_lock().expect_err("it is told").into_guard();
    assert_eq!(rlock.depth(), 1, "how often the dead one had it is forgotten");
    drop(guard);
    drop(rlock.lock().unwrap());
}

pub(crate) fn a_condition_hands_turns_round(method: StartMethod) {
    const TURNS: u64 = 100;
    type Game = (Lock, Condition, Value<u64>, u64);
    fn play((lock, changed, turn, me): Game) {
        for _ in 0..TURNS {
            let guard = lock.lock().unwrap();
            let guard = changed.wait_while(guard, || turn.load().unwrap() % 3 != me).unwrap();
            turn.update(|turn| turn + 1).unwrap();
            changed.notify_all(&guard);
        }
    }
    let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
    let turn = Value::new(0u64).unwrap();
    let players: Vec<_> = (0..3)
        .map(|me| (lock.clone(), changed.clone(), turn.clone(), me))
        .map(|game| builder(method).spawn(play, game).unwrap())
        .collect();
    for player in players {
        player.join().unwrap();
    }
    assert_eq!(turn.load().unwrap(), 3 * TURNS);
    let guard = lock.lock().unwrap();
    let (guard, notified) = changed.wait_timeout(guard, Duration::from_millis(2)).unwrap();
    assert!(!notified && lock.is_locked());
    drop(guard);
}

pub(crate) fn a_killed_waiter_of_a_condition_takes_no_notification_along(method: StartMethod) {
    type Shared = (Lock, Condition, Value<u64>, Value<u64>);
    fn wait((lock, changed, here, go): Shared) {
        let guard = lock.lock().unwrap();
        here.update(|here| here + 1).unwrap();
        drop(changed.wait_while(guard, || go.load().unwrap() == 0).unwrap());
    }
    let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
    let (here, go) = (Value::new(0u64).unwrap(), Value::new(0u64).unwrap());
    let shared: Shared = (lock.clone(), changed.clone(), here.clone(), go.clone());
    let [doomed, waiter] = [0, 1].map(|_| builder(method).spawn(wait, shared.clone()).unwrap());
    until(|| here.load().unwrap() == 2 && !lock.is_locked());
    doomed.kill().unwrap();
    assert!(doomed.join().is_err());
    go.store(1).unwrap();
    changed.notify_one(&lock.lock().unwrap());
    waiter.join().unwrap();
}

pub(crate) fn a_lock_whose_owner_dies_tells_who_waits_at_its_condition(method: StartMethod) {
    type Shared = (Lock, Condition, Event);
    let shared: Shared = (Lock::new().unwrap(), Condition::new().unwrap(), Event::new().unwrap());
    let waiter = builder(method).spawn(
        |(lock, changed, ready): Shared| {
            let guard = lock.lock().unwrap();
            ready.set();
            changed.wait(guard).is_err()
        },
        shared.clone(),
    );
    shared.2.wait();
    let owner = builder(method).spawn(
        |(lock, ..): Shared| -> () {
            std::mem::forget(lock.lock().unwrap());
            process::kill_self();
        },
        shared.clone(),
    );
    assert!(owner.unwrap().join().is_err());
    assert!(waiter.unwrap().join().unwrap(), "it is told");
}

pub(crate) fn a_barrier_lets_all_through_or_none(method: StartMethod) {
    fn run((barrier, acted): (Barrier, Value<u64>)) -> u32 {
        let mut led = 0;
        for round in 1..=50 {
            let met = barrier.wait_with(|| drop(acted.update(|n| n + 1))).unwrap();
            led += u32::from(met.is_leader());
            assert!(acted.load().unwrap() >= round, "the action comes first");
        }
        led
    }
    let (barrier, acted) = (Barrier::new(3).unwrap(), Value::new(0u64).unwrap());
    let runners: Vec<_> = (0..3)
        .map(|_| builder(method).spawn(run, (barrier.clone(), acted.clone())).unwrap())
        .collect();
    let led: u32 = runners.into_iter().map(|runner| runner.join().unwrap()).sum();
    assert_eq!((led, acted.load().unwrap()), (50, 50));
}

pub(crate) fn a_barrier_breaks_when_somebody_who_waits_dies(method: StartMethod) {
    let barrier = Barrier::new(3).unwrap();
    let wait = |barrier: Barrier| barrier.wait().map(|met| met.index()).is_ok();
    let [doomed, other] = [0, 1].map(|_| builder(method).spawn(wait, barrier.clone()).unwrap());
    until(|| barrier.waiting() == 2);
    doomed.kill().unwrap();
    assert!(doomed.join().is_err());
    assert!(!other.join().unwrap());
    assert_eq!(barrier.wait(), Err(BrokenBarrierError::Broken));
    barrier.reset();
    assert!(!barrier.is_broken());
    let short = Duration::from_millis(2);
    assert_eq!(barrier.wait_timeout(short), Err(BrokenBarrierError::Broken));
}

pub(crate) fn an_action_that_panics_breaks_the_barrier(method: StartMethod) {
    let barrier = Barrier::new(2).unwrap();
    let act = |barrier: Barrier| barrier.wait_with(|| panic!("no")).is_err();
    let children = [0, 1].map(|_| builder(method).spawn(act, barrier.clone()).unwrap());
    let ends = children.map(|child| child.join());
    assert_eq!(ends.iter().filter(|end| matches!(end, Ok(true))).count(), 1, "{ends:?}");
    assert_eq!(ends.iter().filter(|end| end.is_err()).count(), 1, "{ends:?}");
    assert!(barrier.is_broken());
}
