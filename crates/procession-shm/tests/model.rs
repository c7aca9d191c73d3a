//! Small cases of the words that waiting is built on, in many interleavings, with death as a step:
//! `RUSTFLAGS="--cfg model" cargo test -p procession-shm --test model --release --target-dir target/model`

#![cfg(model)]

use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use procession_shm::wait::model::TICKS;
use procession_shm::wait::{
    Acquired, BlockedOn, EventCount, Operation, Owner, OwnerLock, Probe, Waiting, block,
};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use shuttle::thread;

const ON: BlockedOn = BlockedOn { object: 0, operation: Operation::Acquire };
const RUNS: usize = 30_000;

/// Runs a case under two ways of choosing the next thread; with ticks if it needs them.
fn explore(ticks: bool, case: fn()) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    TICKS.store(ticks, Relaxed);
    shuttle::check_random(case, RUNS);
    shuttle::check_pct(case, RUNS, 3);
}

/// Which of the processes, named by their slots, are dead.
#[derive(Default)]
struct Family {
    dead: [AtomicBool; 4],
}

impl Probe for Family {
    fn is_dead(&self, owner: Owner) -> bool {
        self.dead[usize::from(owner.slot())].load(Ordering::SeqCst)
    }
    fn blocked(&self, _: BlockedOn) {}
    fn running(&self) {}
}

#[derive(Default)]
struct Locked {
    family: Family,
    lock: OwnerLock,
    inside: AtomicBool,
    told: AtomicU32,
}

impl Locked {
    fn lock(&self, slot: u16) {
        let me = Owner::new(slot, 1, 1);
        let acquired = self.lock.lock(me, &self.family, ON, Waiting::FOREVER).unwrap();
        let found = self.inside.swap(true, Ordering::SeqCst);
        match acquired {
            Acquired::Clean => assert!(!found, "two were inside the lock"),
            Acquired::OwnerDied(_) => {
                self.told.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn unlock(&self) {
        self.inside.store(false, Ordering::SeqCst);
        self.lock.unlock().unwrap();
    }
}

#[test]
fn a_lock_excludes_and_wakes_all_who_wait() {
    explore(false, || {
        let locked = Arc::new(Locked::default());
        let threads: Vec<_> = (1..4)
            .map(|slot| {
                let locked = locked.clone();
                thread::spawn(move || {
                    for _ in 0..2 {
                        locked.lock(slot);
                        thread::yield_now();
                        locked.unlock();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(locked.told.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn the_death_of_an_owner_is_told_exactly_once() {
    explore(true, || {
        let locked = Arc::new(Locked::default());
        let mortal = locked.clone();
        let mortal = thread::spawn(move || {
            mortal.lock(1);
            mortal.family.dead[1].store(true, Ordering::SeqCst);
        });
        let others: Vec<_> = (2..4)
            .map(|slot| {
                let locked = locked.clone();
                thread::spawn(move || {
                    locked.lock(slot);
                    thread::yield_now();
                    locked.unlock();
                })
            })
            .collect();
        mortal.join().unwrap();
        others.into_iter().for_each(|thread| thread.join().unwrap());
        // Whoever comes after, if the others were before.
        locked.lock(0);
        locked.unlock();
        assert_eq!(locked.told.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn no_wake_of_an_event_count_is_lost() {
    explore(false, || {
        let shared = Arc::new((EventCount::default(), AtomicU32::new(0), Family::default()));
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (event, count, family) = &*shared;
                    let take = || {
                        let down = |seen: u32| seen.checked_sub(1);
                        count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, down).ok()
                    };
                    block(family, ON, Waiting::FOREVER, event, |_| take()).unwrap();
                    if count.load(Ordering::SeqCst) > 0 {
                        event.notify_one();
                    }
                })
            })
            .collect();
        let givers: Vec<_> = (1..3)
            .map(|gives| {
                let shared = shared.clone();
                thread::spawn(move || {
                    for _ in 0..gives {
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
fn all_who_wait_are_woken_at_once() {
    explore(false, || {
        let shared = Arc::new((EventCount::default(), AtomicBool::new(false), Family::default()));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (event, set, family) = &*shared;
                    block(family, ON, Waiting::FOREVER, event, |_| {
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
