//! Small cases of the waiting and synchronising algorithms, in many interleavings, with death as a
//! step: `RUSTFLAGS="--cfg model" cargo test -p procession-shm --test model --release --target-dir
//! target/model`
//!
//! A process is a thread of the checker. A mortal one may die at each fail point that it comes to.
//! Without ticks a wake that is lost shows as a deadlock, so cases without a death run without
//! them.

#![cfg(model)]

mod barriers;
mod conditions;
mod locks;
mod slots;
mod waiting;

use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use procession_shm::failpoint::mortal;
use procession_shm::wait::model::TICKS;
use procession_shm::wait::{BlockedOn, Operation, Owner, Probe};
use shuttle::sync::atomic::{AtomicBool, Ordering};

const ON: BlockedOn = BlockedOn { object: 0, operation: Operation::Acquire };
const RUNS: usize = 20_000;

/// Runs a case under two ways of choosing the next thread; with ticks if it needs them.
fn explore(ticks: bool, case: impl Fn() + Copy + Send + Sync + 'static) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    TICKS.store(ticks, Relaxed);
    shuttle::check_random(case, RUNS);
    shuttle::check_pct(case, RUNS, 3);
}

/// Which of the processes, named by their slots, are dead.
#[derive(Default)]
struct Family {
    dead: [AtomicBool; 5],
}

impl Family {
    /// Runs the life of the process in a slot, which may end at any fail point: where, is the
    /// error.
    fn mortal<R>(&self, slot: u16, life: impl FnOnce() -> R) -> Result<R, &'static str> {
        let lived = mortal(life);
        if lived.is_err() {
            self.dead[usize::from(slot)].store(true, Ordering::SeqCst);
        }
        lived
    }
}

impl Probe for Family {
    fn is_dead(&self, owner: Owner) -> bool {
        self.dead[usize::from(owner.slot())].load(Ordering::SeqCst)
    }
    fn blocked(&self, _: BlockedOn) {}
    fn running(&self) {}
}

fn owner(slot: u16) -> Owner {
    Owner::new(slot, 1, 1)
}
