//! The barrier.

use std::num::NonZeroU32;

use procession_shm::sync::raw::{Arrival, BarrierWords, Cell, Cells, Outcome, RawBarrier, Ticket};
use procession_shm::wait::{Owner, Wait, WaitError};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::thread;

use crate::{Family, ON, explore, owner};

#[derive(Default)]
struct Body([Cell; 6]);

impl Cells for Body {
    fn count(&self) -> u32 {
        self.0.len() as u32
    }

    fn at(&self, index: u32) -> Option<&Cell> {
        self.0.get(index as usize)
    }
}

#[derive(Default)]
struct Shared {
    family: Family,
    words: BarrierWords,
    body: Body,
    arrived: AtomicU32,
    acted: AtomicU32,
    passed: AtomicU32,
}

impl Shared {
    fn barrier(&self, parties: u32, me: Owner) -> RawBarrier<'_, Body, Family> {
        RawBarrier {
            words: &self.words,
            cells: &self.body,
            parties: NonZeroU32::new(parties).unwrap(),
            probe: &self.family,
            on: ON,
            me,
        }
    }

    /// Comes to the barrier and goes on from it; returns the number of the arrival.
    fn wait(
        &self,
        parties: u32,
        slot: u16,
        has_action: bool,
        waiting: Wait,
    ) -> Result<u32, Outcome> {
        let barrier = self.barrier(parties, owner(slot));
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let wait = |ticket: Ticket| loop {
            match barrier.wait(ticket, waiting) {
                Ok(outcome) => return outcome,
                Err(WaitError::TimedOut) => return Outcome::Broken,
                Err(WaitError::Interrupted) => {}
            }
        };
        let (ticket, outcome) = match barrier.arrive(has_action, Wait::FOREVER).unwrap() {
            Arrival::Completes(index) => return Ok(index),
            Arrival::Broken => return Err(Outcome::Broken),
            Arrival::Early(ticket) => (ticket, wait(ticket)),
            Arrival::Leader(ticket) => {
                self.acted.fetch_add(1, Ordering::SeqCst);
                (ticket, barrier.lead(ticket))
            }
        };
        barrier.leave(ticket);
        if outcome == Outcome::Passed { Ok(ticket.index) } else { Err(outcome) }
    }
}

fn spawn<R: Send + 'static>(
    shared: &Arc<Shared>,
    body: impl FnOnce(&Shared) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

fn all_pass(has_action: bool) {
    const ROUNDS: u32 = 2;
    let shared = Arc::new(Shared::default());
    let threads: Vec<_> = (1..4)
        .map(|slot| {
            spawn(&shared, move |shared| {
                for round in 1..=ROUNDS {
                    let index = shared.wait(3, slot, has_action, Wait::FOREVER).unwrap();
                    assert!(shared.arrived.load(Ordering::SeqCst) >= 3 * round);
                    let acted = shared.acted.load(Ordering::SeqCst);
                    assert!(!has_action || acted >= round, "a party went on before the action");
                    shared.passed.fetch_add(1 << (8 * index), Ordering::SeqCst);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // Each number came once in each round.
    assert_eq!(shared.passed.load(Ordering::SeqCst), ROUNDS * 0x01_0101);
    assert_eq!(shared.acted.load(Ordering::SeqCst), if has_action { ROUNDS } else { 0 });
    assert_eq!(shared.barrier(3, owner(0)).waiting(), 0);
}

#[test]
fn all_go_on_when_all_have_come() {
    explore(false, || all_pass(false));
}

#[test]
fn all_go_on_when_one_has_acted() {
    explore(false, || all_pass(true));
}

#[test]
fn a_reset_is_told_to_the_waiters_and_to_no_other_party() {
    explore(false, || {
        let shared = Arc::new(Shared::default());
        let threads: Vec<_> = (1..3)
            .map(|slot| {
                spawn(&shared, move |shared| {
                    let mut resets = 0;
                    while let Err(outcome) = shared.wait(2, slot, false, Wait::FOREVER) {
                        assert_eq!(outcome, Outcome::Reset);
                        resets += 1;
                    }
                    resets
                })
            })
            .collect();
        shared.barrier(2, owner(3)).reset();
        let resets: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(resets <= 1, "with two there it would have passed");
        assert!(!shared.barrier(2, owner(0)).is_broken());
    });
}

#[test]
fn an_abort_ends_all_waits_until_there_is_a_reset() {
    explore(false, || {
        let shared = Arc::new(Shared::default());
        let threads: Vec<_> = (1..3)
            .map(|slot| {
                spawn(&shared, move |shared| {
                    let end = shared.wait(3, slot, false, Wait::FOREVER);
                    assert_eq!(end, Err(Outcome::Broken));
                })
            })
            .collect();
        let barrier = shared.barrier(3, owner(0));
        barrier.abort();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(barrier.is_broken());
        barrier.reset();
        assert!(!barrier.is_broken());
        assert_eq!(barrier.waiting(), 0);
    });
}

#[test]
fn how_a_round_ended_is_known_to_a_party_that_looks_late() {
    explore(false, || {
        let shared = Arc::new(Shared::default());
        let barrier = shared.barrier(2, owner(0));
        let Arrival::Early(ticket) = barrier.arrive(false, Wait::FOREVER).unwrap() else {
            panic!("a single party is early");
        };
        assert_eq!(barrier.waiting(), 1);
        let others: Vec<_> = (1..3)
            .map(|slot| {
                spawn(&shared, move |shared| {
                    if slot == 1 {
                        shared.wait(2, slot, false, Wait::FOREVER).unwrap();
                    }
                    while shared.passed.load(Ordering::SeqCst) == 0 && slot == 2 {
                        thread::yield_now();
                    }
                    shared.passed.store(1, Ordering::SeqCst);
                    shared.wait(2, slot, true, Wait::FOREVER).unwrap();
                    shared.barrier(2, owner(slot)).abort();
                })
            })
            .collect();
        assert_eq!(barrier.wait(ticket, Wait::FOREVER), Ok(Outcome::Passed));
        barrier.leave(ticket);
        others.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(barrier.is_broken());
    });
}

#[test]
fn a_party_that_gives_up_breaks_it_for_all() {
    explore(false, || {
        let shared = Arc::new(Shared::default());
        let threads: Vec<_> = (1..3)
            .map(|slot| {
                let now = Wait::until(Some(procession_os::clock::Monotonic::from_nanos(0)));
                let waiting = if slot == 1 { now } else { Wait::FOREVER };
                spawn(&shared, move |shared| shared.wait(2, slot, true, waiting).is_ok())
            })
            .collect();
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ends[0], ends[1], "it passed for only one");
        assert_eq!(shared.barrier(2, owner(0)).is_broken(), !ends[0]);
    });
}

fn one_dies(survivors: u16, has_action: bool) {
    let parties = u32::from(survivors) + 1;
    let shared = Arc::new(Shared::default());
    let mortal = spawn(&shared, move |shared| {
        let life = || shared.wait(parties, 3, has_action, Wait::FOREVER).is_ok();
        shared.family.mortal(3, life)
    });
    let others: Vec<_> = (1..=survivors)
        .map(|slot| {
            spawn(&shared, move |shared| {
                let end = shared.wait(parties, slot, has_action, Wait::FOREVER);
                // Where death left the words, the next round must be as good as any.
                end.map(drop)
            })
        })
        .collect();
    let lived = mortal.join().unwrap();
    let barrier = shared.barrier(parties, owner(0));
    let before = ["lock.woken", "lock.acquired", "barrier.arriving", "barrier.noted"];
    if lived.is_err_and(|point| before.contains(&point)) && shared.acted.load(Ordering::SeqCst) == 0
    {
        // It never came: the others would wait for ever.
        barrier.abort();
    }
    let ends: Vec<_> = others.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(ends.iter().all(|end| *end == ends[0]), "it ended differently for two");
    if lived == Ok(true) {
        assert_eq!(ends[0], Ok(()));
    }
    assert_eq!(barrier.is_broken(), ends[0].is_err());
    barrier.reset();
    assert!(!barrier.is_broken());
    assert_eq!(barrier.waiting(), 0);
    let again: Vec<_> = (1..=survivors)
        .map(|slot| {
            let parties = survivors.into();
            spawn(&shared, move |shared| shared.wait(parties, slot, has_action, Wait::FOREVER))
        })
        .collect();
    assert!(again.into_iter().all(|thread| thread.join().unwrap().is_ok()));
}

#[test]
fn no_party_waits_for_the_dead() {
    for survivors in [1, 2] {
        explore(true, move || one_dies(survivors, false));
    }
}

#[test]
fn no_party_waits_for_one_that_dies_while_acting() {
    for survivors in [1, 2] {
        explore(true, move || one_dies(survivors, true));
    }
}
