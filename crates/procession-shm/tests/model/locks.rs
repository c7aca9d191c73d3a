//! Lock, RLock and Event.

use std::sync::atomic::Ordering::Relaxed;

use procession_shm::sync::raw::{NotOwnerError, RawEvent, RawRLock};
use procession_shm::wait::{Acquired, OwnerLock, Wait};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use shuttle::thread;

use crate::{Family, ON, explore, owner};

#[derive(Default)]
struct Locked {
    family: Family,
    lock: OwnerLock,
    inside: AtomicBool,
    told: AtomicU32,
}

impl Locked {
    fn lock(&self, slot: u16) {
        let acquired = self.lock.lock(owner(slot), &self.family, ON, Wait::FOREVER).unwrap();
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
fn a_lock_excludes_and_wakes_all_waiters() {
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

/// In each of these cases one or two processes may die, with one or two others.
const OTHERS: [u16; 2] = [1, 2];

#[test]
fn the_death_of_an_owner_is_told_exactly_once() {
    for others in OTHERS {
        explore(true, move || an_owner_dies(others));
    }
}

fn an_owner_dies(others: u16) {
    let locked = Arc::new(Locked::default());
    let mortal = locked.clone();
    let mortal = thread::spawn(move || {
        mortal.lock(1);
        mortal.family.dead[1].store(true, Ordering::SeqCst);
    });
    let others: Vec<_> = (2..2 + others)
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
    // The last to come, if the others were before.
    locked.lock(0);
    locked.unlock();
    assert_eq!(locked.told.load(Ordering::SeqCst), 1);
}

#[test]
fn a_death_with_a_lock_hangs_no_waiter_and_is_told_once() {
    for mortals in OTHERS {
        explore(true, move || mortals_lock(mortals));
    }
}

fn mortals_lock(mortals: u16) {
    let locked = Arc::new(Locked::default());
    let mortals: Vec<_> = (1..=mortals)
        .map(|slot| {
            let locked = locked.clone();
            thread::spawn(move || {
                let life = || {
                    locked.lock(slot);
                    locked.unlock();
                };
                u32::from(locked.family.mortal(slot, life).is_err_and(dies_with_it))
            })
        })
        .collect();
    locked.lock(3);
    locked.unlock();
    let with_it: u32 = mortals.into_iter().map(|mortal| mortal.join().unwrap()).sum();
    locked.lock(4);
    locked.unlock();
    locked.lock(4);
    assert_eq!(locked.told.load(Ordering::SeqCst), with_it);
}

#[test]
fn a_lock_that_is_kept_is_had_by_a_waiter_first() {
    static KEPT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    explore(false, || {
        let locked = Arc::new(Locked::default());
        let turns = Arc::new(AtomicU32::new(0));
        let waiters: Vec<_> = (1..3)
            .map(|slot| {
                let (locked, turns) = (locked.clone(), turns.clone());
                thread::spawn(move || {
                    locked.lock(slot);
                    turns.fetch_add(1, Ordering::SeqCst);
                    locked.unlock();
                })
            })
            .collect();
        locked.lock(3);
        for _ in 0..4 {
            thread::yield_now();
            let before = turns.load(Ordering::SeqCst);
            locked.unlock();
            let kept = locked.lock.is_kept();
            locked.lock(3);
            let passed = turns.load(Ordering::SeqCst) == before;
            assert!(!(kept && passed), "the holder has the lock again, which was kept for others");
            KEPT.fetch_add(kept.into(), Relaxed);
        }
        locked.unlock();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
    assert_ne!(KEPT.load(Relaxed), 0);
}

#[test]
fn a_lock_is_not_kept_for_the_dead() {
    for mortals in OTHERS {
        explore(true, move || mortals_are_greedy(mortals));
    }
}

/// As [`mortals_lock`], with processes that acquire it again at once.
fn mortals_are_greedy(mortals: u16) {
    let locked = Arc::new(Locked::default());
    let threads: Vec<_> = (1..=mortals)
        .map(|slot| {
            let locked = locked.clone();
            thread::spawn(move || {
                let life = || {
                    for _ in 0..3 {
                        locked.lock(slot);
                        thread::yield_now();
                        locked.unlock();
                    }
                };
                u32::from(locked.family.mortal(slot, life).is_err_and(dies_with_it))
            })
        })
        .collect();
    for _ in 0..2 {
        locked.lock(3);
        thread::yield_now();
        locked.unlock();
    }
    let with_it: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    locked.lock(4);
    assert_eq!(locked.told.load(Ordering::SeqCst), with_it);
}

fn dies_with_it(point: &str) -> bool {
    matches!(point, "lock.acquired" | "lock.releasing")
}

#[derive(Default)]
struct Reentered {
    family: Family,
    lock: RawRLock,
    inside: AtomicU32,
}

impl Reentered {
    fn lock(&self, slot: u16) -> Acquired {
        self.lock.lock(owner(slot), &self.family, ON, Wait::FOREVER).unwrap()
    }

    fn use_twice(&self, slot: u16) {
        let me = owner(slot);
        if self.lock(slot) == Acquired::Clean {
            assert_eq!(self.inside.load(Ordering::SeqCst), 0, "two were inside the lock");
        }
        self.inside.store(1, Ordering::SeqCst);
        assert_eq!(self.lock.depth(me), 1, "a dead owner's depth is not handed on");
        assert_eq!(self.lock(slot), Acquired::Clean);
        assert_eq!(self.lock.depth(me), 2);
        self.lock.unlock(me).unwrap();
        assert_eq!(self.lock.depth(me), 1);
        assert_eq!(self.lock.unlock(owner(4)), Err(NotOwnerError));
        self.inside.store(0, Ordering::SeqCst);
        self.lock.unlock(me).unwrap();
    }
}

#[test]
fn an_rlock_excludes_and_counts() {
    explore(false, || {
        let reentered = Arc::new(Reentered::default());
        let threads: Vec<_> = (1..4)
            .map(|slot| {
                let reentered = reentered.clone();
                thread::spawn(move || reentered.use_twice(slot))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn an_rlock_is_handed_on_wherever_its_owner_dies() {
    for mortals in OTHERS {
        explore(true, move || mortals_reenter(mortals));
    }
}

fn mortals_reenter(mortals: u16) {
    let reentered = Arc::new(Reentered::default());
    let threads: Vec<_> = (1..=mortals + 1)
        .map(|slot| {
            let reentered = reentered.clone();
            thread::spawn(move || {
                if slot <= mortals {
                    let life = || reentered.use_twice(slot);
                    let _ = reentered.family.mortal(slot, life);
                } else {
                    reentered.use_twice(slot);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let _ = reentered.lock(0);
    reentered.lock.unlock(owner(0)).unwrap();
    assert_eq!(reentered.lock(0), Acquired::Clean);
}

#[test]
fn an_event_that_is_set_and_cleared_lets_all_go_on() {
    explore(false, || {
        let shared = Arc::new((RawEvent::default(), Family::default()));
        let waits = AtomicU32::new(0);
        let shared = Arc::new((shared, waits));
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (flag, family) = &*shared.0;
                    flag.wait(family, ON, Wait::FOREVER).unwrap();
                    shared.1.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        let (flag, _) = &*shared.0;
        flag.set();
        flag.clear();
        assert!(!flag.is_set());
        // For the waiters that came after it was cleared.
        flag.set();
        waiters.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(shared.1.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn an_event_whose_setter_died_lets_all_go_on() {
    for waiting in OTHERS {
        explore(true, move || a_mortal_sets(waiting));
    }
}

fn a_mortal_sets(waiting: u16) {
    let shared = Arc::new((RawEvent::default(), Family::default()));
    // Of two waiters one may die as well.
    let threads: Vec<_> = (0..=waiting)
        .map(|slot| {
            let shared = shared.clone();
            thread::spawn(move || {
                let (flag, family) = &*shared;
                match slot {
                    0 => drop(family.mortal(slot, || flag.set())),
                    1 if waiting > 1 => {
                        let wait = || flag.wait(family, ON, Wait::FOREVER);
                        let _ = family.mortal(slot, wait);
                    }
                    _ => flag.wait(family, ON, Wait::FOREVER).unwrap(),
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(shared.0.is_set());
}
