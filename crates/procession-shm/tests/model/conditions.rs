//! The condition variable, beside a lock and a lock that its thread may acquire again.

use procession_os::clock::Monotonic;
use procession_shm::sync::raw::{Monitor, NotOwnerError, RawCondition, RawRLock, Waited};
use procession_shm::wait::{Acquired, Owner, Probe, Wait, WaitError};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::thread;

use crate::{Family, ON, explore, owner};

const ALL: u32 = u32::MAX;
const AT_ONCE: Wait = Wait::until(Some(Monotonic::from_nanos(0)));
const INTERRUPTIBLE: Wait = Wait { deadline: None, interruptible: true };

#[derive(Default)]
struct Shared {
    family: Family,
    lock: RawRLock,
    notices: RawCondition,
    /// Which slots have come to wait, a bit for each; changed with the lock held.
    came: AtomicU32,
    returned: AtomicU32,
}

/// The lock as a process sees it.
struct Mine<'a> {
    shared: &'a Shared,
    me: Owner,
}

impl Monitor for Mine<'_> {
    fn leave(&self) -> Result<u64, NotOwnerError> {
        self.shared.lock.unlock_all(self.me)
    }

    fn enter(&self, depth: u64, waiting: Wait) -> Result<Acquired, WaitError> {
        self.shared.lock.lock_to(depth, self.me, &self.shared.family, ON, waiting)
    }

    fn is_mine(&self) -> bool {
        self.shared.lock.owner() == Some(self.me)
    }

    fn holder(&self) -> Option<Owner> {
        self.shared.lock.owner()
    }
}

impl Shared {
    fn as_seen_by(&self, slot: u16) -> Mine<'_> {
        Mine { shared: self, me: owner(slot) }
    }

    fn wait_in(&self, slot: u16, waiting: Wait) -> Waited {
        let mine = self.as_seen_by(slot);
        self.notices.wait(&mine, &self.family, ON, waiting).unwrap()
    }

    /// Acquires the lock, as deep as `depth`, and waits; the caller holds the lock then.
    fn wait(&self, slot: u16, depth: u64, waiting: Wait) -> Waited {
        for _ in 0..depth {
            let _ = self.lock.lock(owner(slot), &self.family, ON, Wait::FOREVER).unwrap();
        }
        self.came.fetch_or(1 << slot, Ordering::SeqCst);
        let waited = self.wait_in(slot, waiting);
        assert_eq!(self.lock.depth(owner(slot)), depth, "the lock came back as it was");
        waited
    }

    fn unlock(&self, slot: u16) {
        self.lock.unlock_all(owner(slot)).unwrap();
    }

    /// Returns with the lock held, when as many have come to wait.
    fn lock_when(&self, slot: u16, came: impl Fn() -> bool) {
        loop {
            let _ = self.lock.lock(owner(slot), &self.family, ON, Wait::FOREVER).unwrap();
            if came() {
                return;
            }
            self.unlock(slot);
            thread::yield_now();
        }
    }

    fn has_come(&self, slot: u16) -> bool {
        self.came.load(Ordering::SeqCst) & 1 << slot != 0
    }

    fn lock_when_came(&self, slot: u16, slots: impl Iterator<Item = u16> + Clone) {
        self.lock_when(slot, || slots.clone().all(|slot| self.has_come(slot)));
    }

    fn nothing_is_left(&self) {
        assert_eq!((self.notices.waiting(), self.notices.open()), (0, 0));
    }
}

fn spawn(
    shared: &Arc<Shared>,
    body: impl FnOnce(&Shared) + Send + 'static,
) -> thread::JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

#[test]
fn as_many_go_on_as_are_notified() {
    explore(false, || {
        let shared = Arc::new(Shared::default());
        let waiters: Vec<_> = (1..4)
            .map(|slot| {
                spawn(&shared, move |shared| {
                    let waited = shared.wait(slot, u64::from(slot), Wait::FOREVER);
                    assert!(waited.notified);
                    shared.returned.fetch_add(1, Ordering::SeqCst);
                    shared.unlock(slot);
                })
            })
            .collect();
        shared.lock_when_came(0, 1..4);
        shared.notices.notify(1);
        shared.unlock(0);
        shared.lock_when(0, || shared.returned.load(Ordering::SeqCst) == 1);
        assert_eq!((shared.notices.waiting(), shared.notices.open()), (2, 0));
        shared.notices.notify(2);
        // There are no more.
        shared.notices.notify(5);
        shared.unlock(0);
        waiters.into_iter().for_each(|thread| thread.join().unwrap());
        shared.nothing_is_left();
    });
}

#[test]
fn a_later_waiter_does_not_take_a_notification_from_an_earlier_one() {
    explore(false, || {
        let shared = Arc::new(Shared::default());
        let early = spawn(&shared, |shared| {
            assert!(shared.wait(1, 1, Wait::FOREVER).notified);
            shared.unlock(1);
        });
        shared.lock_when_came(0, 1..2);
        let late = spawn(&shared, |shared| {
            assert!(shared.wait(2, 1, Wait::FOREVER).notified);
            shared.unlock(2);
        });
        shared.notices.notify(1);
        shared.unlock(0);
        early.join().unwrap();
        shared.lock_when_came(0, 1..3);
        shared.notices.notify(ALL);
        shared.unlock(0);
        late.join().unwrap();
        shared.nothing_is_left();
    });
}

#[test]
fn consumers_that_wait_for_items_get_all_of_them() {
    explore(false, || {
        let shared = Arc::new(Shared::default());
        let items = Arc::new(AtomicU32::new(0));
        let consumers: Vec<_> = (1..3)
            .map(|slot| {
                let items = items.clone();
                spawn(&shared, move |shared| {
                    let lock = &shared.lock;
                    let _ = lock.lock(owner(slot), &shared.family, ON, Wait::FOREVER).unwrap();
                    while items.load(Ordering::SeqCst) == 0 {
                        assert!(shared.wait_in(slot, Wait::FOREVER).notified);
                    }
                    items.fetch_sub(1, Ordering::SeqCst);
                    shared.unlock(slot);
                })
            })
            .collect();
        let producers: Vec<_> = (3..5)
            .map(|slot| {
                let items = items.clone();
                spawn(&shared, move |shared| {
                    let lock = &shared.lock;
                    let _ = lock.lock(owner(slot), &shared.family, ON, Wait::FOREVER).unwrap();
                    items.fetch_add(1, Ordering::SeqCst);
                    shared.notices.notify(1);
                    shared.unlock(slot);
                })
            })
            .collect();
        consumers.into_iter().chain(producers).for_each(|thread| thread.join().unwrap());
        shared.nothing_is_left();
    });
}

/// One waiter gives up, or takes the notification and passes it on; the other must get it.
fn one_gives_up(waiting: Wait) {
    let shared = Arc::new(Shared::default());
    let patient = spawn(&shared, |shared| {
        assert!(shared.wait(1, 1, Wait::FOREVER).notified);
        shared.unlock(1);
    });
    let other = spawn(&shared, move |shared| {
        if shared.wait(2, 2, waiting).notified {
            shared.notices.notify(1);
        }
        shared.unlock(2);
    });
    shared.lock_when_came(0, 1..3);
    shared.notices.notify(1);
    shared.unlock(0);
    patient.join().unwrap();
    other.join().unwrap();
    shared.nothing_is_left();
}

#[test]
fn a_notification_is_not_lost_with_one_whose_time_is_up() {
    explore(false, || one_gives_up(AT_ONCE));
}

#[test]
fn a_notification_is_not_lost_with_an_interrupted_waiter() {
    explore(true, || one_gives_up(INTERRUPTIBLE));
}

#[test]
fn a_notification_is_not_lost_with_a_woken_waiter_that_does_not_take_it() {
    explore(false, || {
        let shared = Arc::new(Shared::default());
        let patient = spawn(&shared, |shared| {
            assert!(shared.wait(1, 1, Wait::FOREVER).notified);
            shared.unlock(1);
        });
        let other = spawn(&shared, |shared| {
            let lock = &shared.lock;
            let _ = lock.lock(owner(2), &shared.family, ON, Wait::FOREVER).unwrap();
            shared.came.fetch_or(1 << 2, Ordering::SeqCst);
            let mine = shared.as_seen_by(2);
            let waiter = shared.notices.begin(&mine, &shared.family, ON).unwrap();
            waiter.sleep(Wait::FOREVER).unwrap();
            let _ = waiter.relock(Wait::FOREVER).unwrap();
            waiter.give_up();
            shared.unlock(2);
        });
        shared.lock_when_came(0, 1..3);
        shared.notices.notify(1);
        shared.unlock(0);
        patient.join().unwrap();
        shared.lock_when(0, || true);
        shared.notices.notify(ALL);
        shared.unlock(0);
        other.join().unwrap();
        shared.nothing_is_left();
    });
}

#[test]
fn a_notification_is_not_lost_with_a_waiter_that_dies() {
    explore(true, one_dies_waiting);
}

/// Two processes: the one waits and may die, the other notifies and uses the condition after it.
#[test]
fn who_dies_waiting_leaves_a_condition_that_works() {
    explore(true, || {
        let shared = Arc::new(Shared::default());
        let mortal = spawn(&shared, move |shared| {
            let life = || {
                let _ = shared.wait(2, 1, Wait::FOREVER);
                shared.unlock(2);
            };
            let _ = shared.family.mortal(2, life);
        });
        shared.lock_when(0, || shared.has_come(2) || shared.family.is_dead(owner(2)));
        shared.notices.notify(ALL);
        shared.unlock(0);
        mortal.join().unwrap();
        shared.lock_when(0, || true);
        shared.notices.notify(ALL);
        shared.unlock(0);
    });
}

fn one_dies_waiting() {
    let shared = Arc::new(Shared::default());
    let survivor = spawn(&shared, |shared| {
        let waited = shared.wait(1, 1, Wait::FOREVER);
        assert!(waited.notified || waited.acquired != Acquired::Clean);
        shared.unlock(1);
    });
    let mortal = spawn(&shared, move |shared| {
        let life = || {
            assert!(shared.wait(2, 1, Wait::FOREVER).notified);
            shared.notices.notify(1);
            shared.unlock(2);
        };
        let _ = shared.family.mortal(2, life);
    });
    // One notification, when all wait that still can.
    let other = || shared.has_come(2) || shared.family.is_dead(owner(2));
    shared.lock_when(0, || shared.has_come(1) && other());
    shared.notices.notify(1);
    shared.unlock(0);
    // The survivor has it, or it is told that the other died with it.
    survivor.join().unwrap();
    shared.lock_when(0, || true);
    shared.notices.notify(ALL);
    shared.unlock(0);
    mortal.join().unwrap();
}

#[test]
fn a_waiter_goes_on_wherever_the_notifier_dies() {
    for waiting in [1, 2] {
        explore(true, move || the_notifier_dies(waiting));
    }
}

fn the_notifier_dies(waiting: u16) {
    let shared = Arc::new(Shared::default());
    let waiters: Vec<_> = (1..=waiting)
        .map(|slot| {
            spawn(&shared, move |shared| {
                let waited = shared.wait(slot, 1, Wait::FOREVER);
                if waited.acquired != Acquired::Clean {
                    // What a program does that is told so: see to the others.
                    shared.notices.notify(ALL);
                }
                shared.unlock(slot);
            })
        })
        .collect();
    shared.lock_when_came(0, 1..waiting + 1);
    shared.unlock(0);
    let _ = shared.family.mortal(3, || {
        let _ = shared.lock.lock(owner(3), &shared.family, ON, Wait::FOREVER).unwrap();
        shared.notices.notify(1);
        shared.notices.notify(1);
        shared.unlock(3);
    });
    waiters.into_iter().for_each(|thread| thread.join().unwrap());
}
