//! The event count, and the relay.

use procession_shm::wait::model::IMPATIENT;
use procession_shm::wait::{EventCount, OwnerLock, Relay, Wait, WaitError, block};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use shuttle::thread;

use crate::{Family, ON, explore, owner};

/// As long as it takes; a signal comes back to the caller.
const INTERRUPTIBLE: Wait = Wait { deadline: None, interruptible: true };

/// Takes one of `count`, as a semaphore's permits are taken.
fn acquire(
    relay: &Relay,
    count: &AtomicU32,
    family: &Family,
    waiting: Wait,
) -> Result<(), WaitError> {
    let down = |seen: u32| seen.checked_sub(1);
    let take = || count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, down).ok();
    relay.pass_on(
        |_| count.load(Ordering::SeqCst) > 0,
        |point| block(family, ON, waiting, point, |_| take().map(|_| ())),
    )
}

#[test]
fn no_wake_of_a_relay_is_lost() {
    explore(false, || {
        let shared = Arc::new((Relay::default(), AtomicU32::new(0), Family::default()));
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (relay, count, family) = &*shared;
                    acquire(relay, count, family, Wait::FOREVER).unwrap();
                })
            })
            .collect();
        let givers: Vec<_> = (1..3)
            .map(|count| {
                let shared = shared.clone();
                thread::spawn(move || {
                    for _ in 0..count {
                        shared.1.fetch_add(1, Ordering::SeqCst);
                        shared.0.notify_one();
                    }
                })
            })
            .collect();
        takers.into_iter().chain(givers).for_each(|thread| thread.join().unwrap());
        assert_eq!(shared.1.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn all_waiters_are_woken_at_once() {
    explore(false, || {
        let shared = Arc::new((EventCount::default(), AtomicBool::new(false), Family::default()));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (event, set, family) = &*shared;
                    block(family, ON, Wait::FOREVER, event, |_| {
                        set.load(Ordering::SeqCst).then_some(())
                    })
                    .unwrap();
                })
            })
            .collect();
        shared.1.store(true, Ordering::SeqCst);
        shared.0.notify_all();
        waiters.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_permit_is_not_lost_with_one_whose_time_is_up() {
    explore(false, || {
        let shared = Arc::new((Relay::default(), AtomicU32::new(0), Family::default()));
        let takers: Vec<_> = [false, false, true]
            .map(|impatient| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (relay, count, family) = &*shared;
                    IMPATIENT.with(|it| it.set(impatient));
                    let waiting = if impatient { INTERRUPTIBLE } else { Wait::FOREVER };
                    u32::from(acquire(relay, count, family, waiting).is_ok())
                })
            })
            .into();
        for _ in 0..3 {
            shared.1.fetch_add(1, Ordering::SeqCst);
            shared.0.notify_one();
        }
        let taken: u32 = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!(shared.1.load(Ordering::SeqCst), 3 - taken);
    });
}

/// A queue's bound, with the lock of its producers' end.
#[derive(Default)]
struct Bounded {
    room: AtomicU32,
    not_full: Relay,
    end: OwnerLock,
    family: Family,
}

impl Bounded {
    fn has_room(&self) -> bool {
        self.room.load(Ordering::SeqCst) > 0
    }

    /// As `Queue::put`: waits for room, then takes it with the end locked. With `gives_up` the time
    /// may be up in between.
    fn put(&self, slot: u16, waiting: Wait, gives_up: bool) -> Result<(), WaitError> {
        self.not_full.pass_on(
            |_| self.has_room(),
            |point| {
                loop {
                    let room = || self.has_room().then_some(());
                    block(&self.family, ON, waiting, point, |_| room())?;
                    if gives_up && thread_rng().gen_ratio(1, 2) {
                        return Err(WaitError::TimedOut);
                    }
                    let _ = self.end.lock(owner(slot), &self.family, ON, Wait::FOREVER)?;
                    let put = self.has_room();
                    if put {
                        self.room.fetch_sub(1, Ordering::SeqCst);
                    }
                    self.end.unlock().unwrap();
                    if put {
                        return Ok(());
                    }
                }
            },
        )
    }

    fn get(&self) {
        self.room.fetch_add(1, Ordering::SeqCst);
        self.not_full.notify_one();
    }
}

#[test]
fn room_for_two_wakes_both_waiters() {
    explore(false, || {
        let queue = Arc::new(Bounded::default());
        let producers = [1, 2].map(|slot| {
            let queue = queue.clone();
            thread::spawn(move || queue.put(slot, Wait::FOREVER, false).unwrap())
        });
        queue.get();
        queue.get();
        for producer in producers {
            producer.join().unwrap();
        }
        assert!(!queue.has_room());
    });
}

#[test]
fn room_is_not_lost_with_one_whose_time_is_up() {
    explore(false, || {
        let queue = Arc::new(Bounded::default());
        let hasty = {
            let queue = queue.clone();
            thread::spawn(move || {
                IMPATIENT.with(|it| it.set(true));
                queue.put(1, INTERRUPTIBLE, true).is_ok()
            })
        };
        let patient = {
            let queue = queue.clone();
            thread::spawn(move || queue.put(2, Wait::FOREVER, false).unwrap())
        };
        queue.get();
        // Room for the second if the first has used its own.
        if hasty.join().unwrap() {
            queue.get();
        }
        patient.join().unwrap();
        assert!(!queue.has_room());
    });
}
