//! How long a waiter waits for a lock that another acquires again and again: procession between
//! processes, parking_lot between threads. `benches/fairness.py` measures the same in Python.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use procession::{Lock, SharedBlock, spawn};
use serde::{Deserialize, Serialize};

const SECONDS: u64 = 3;
const WAITERS: [usize; 2] = [1, 4];
/// How long the holder keeps the lock, in microseconds, and whether it is busy or asleep meanwhile.
const HOLDS: [(u64, bool); 7] = [
    (0, true),
    (500, true),
    (500, false),
    (5_000, true),
    (5_000, false),
    (20_000, true),
    (20_000, false),
];

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Hold {
    micros: u64,
    busy: bool,
}

/// A lock, and numbers that all see.
trait Shared {
    fn locked(&self, body: impl FnOnce());
    fn get(&self, index: usize) -> u64;
    fn set(&self, index: usize, value: u64);
}

const STOP: usize = 0;
const HOLDER: usize = 1;
/// A waiter has three numbers: turns, the holder's turns during one wait at the most, and the
/// longest wait in nanoseconds.
const fn of_waiter(waiter: usize) -> usize {
    2 + 3 * waiter
}

fn hold_greedily(shared: &impl Shared, hold: Hold) {
    let span = Duration::from_micros(hold.micros);
    while shared.get(STOP) == 0 {
        shared.locked(|| {
            shared.set(HOLDER, shared.get(HOLDER) + 1);
            let begun = Instant::now();
            while hold.busy && begun.elapsed() < span {}
            if !hold.busy {
                thread::sleep(span);
            }
        });
    }
}

fn take_turns(shared: &impl Shared, waiter: usize) {
    let numbers = of_waiter(waiter);
    while shared.get(STOP) == 0 {
        let (begun, before) = (Instant::now(), shared.get(HOLDER));
        shared.locked(|| ());
        let waited = begun.elapsed().as_nanos() as u64;
        shared.set(numbers, shared.get(numbers) + 1);
        shared.set(numbers + 1, shared.get(numbers + 1).max(shared.get(HOLDER) - before));
        shared.set(numbers + 2, shared.get(numbers + 2).max(waited));
        thread::sleep(Duration::from_millis(2));
    }
}

/// Lets the holder begin, then the waiters come, then all stop; returns the holder's turns
/// meanwhile.
fn run(shared: &impl Shared, come: impl FnOnce()) -> u64 {
    while shared.get(HOLDER) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let before = shared.get(HOLDER);
    come();
    thread::sleep(Duration::from_secs(SECONDS));
    let turns = shared.get(HOLDER) - before;
    shared.set(STOP, 1);
    turns
}

#[derive(Clone, Serialize, Deserialize)]
struct Processes {
    lock: Lock,
    numbers: SharedBlock,
}

impl Shared for Processes {
    fn locked(&self, body: impl FnOnce()) {
        let _guard = self.lock.lock().unwrap();
        body();
    }
    fn get(&self, index: usize) -> u64 {
        self.numbers.read_u64(8 * index as u64).unwrap()
    }
    fn set(&self, index: usize, value: u64) {
        self.numbers.write_u64(8 * index as u64, value).unwrap();
    }
}

fn by_procession(hold: Hold, waiters: usize) -> (u64, Processes) {
    fn hold_one((shared, hold): (Processes, Hold)) {
        hold_greedily(&shared, hold);
    }
    fn wait_one((shared, waiter): (Processes, usize)) {
        take_turns(&shared, waiter);
    }
    let numbers = SharedBlock::new(8 * of_waiter(waiters) as u64).unwrap();
    let shared = Processes { lock: Lock::new().unwrap(), numbers };
    let mut children = vec![spawn(hold_one, (shared.clone(), hold)).unwrap()];
    let turns = run(&shared, || {
        children.extend((0..waiters).map(|n| spawn(wait_one, (shared.clone(), n)).unwrap()));
    });
    children.into_iter().for_each(|child| child.join().unwrap());
    (turns, shared)
}

struct Threads {
    lock: Mutex<()>,
    numbers: Vec<AtomicU64>,
}

impl Shared for Threads {
    fn locked(&self, body: impl FnOnce()) {
        let _guard = self.lock.lock();
        body();
    }
    fn get(&self, index: usize) -> u64 {
        self.numbers[index].load(Relaxed)
    }
    fn set(&self, index: usize, value: u64) {
        self.numbers[index].store(value, Relaxed);
    }
}

fn by_parking_lot(hold: Hold, waiters: usize) -> (u64, Threads) {
    let numbers = (0..of_waiter(waiters)).map(|_| AtomicU64::new(0)).collect();
    let shared = Threads { lock: Mutex::new(()), numbers };
    let turns = thread::scope(|scope| {
        let shared = &shared;
        scope.spawn(move || hold_greedily(shared, hold));
        run(shared, || {
            for waiter in 0..waiters {
                scope.spawn(move || take_turns(shared, waiter));
            }
        })
    });
    (turns, shared)
}

fn row(what: &str, hold: Hold, waiters: usize, (holder, shared): (u64, impl Shared)) {
    let numbers = |offset| (0..waiters).map(move |waiter| of_waiter(waiter) + offset);
    let turns: u64 = numbers(0).map(|index| shared.get(index)).sum();
    let max = |offset| numbers(offset).map(|index| shared.get(index)).max().unwrap_or(0);
    let kind = match hold {
        Hold { micros: 0, .. } => "",
        Hold { busy: true, .. } => ", busy",
        Hold { busy: false, .. } => ", asleep",
    };
    let each = turns as f64 / waiters as f64;
    println!(
        "| {} ms{kind} | {waiters} | {what} | {holder} | {each:.0} | {:.1} | {} | {:.1} |",
        hold.micros as f64 / 1e3,
        holder as f64 / each,
        max(1),
        max(2) as f64 / 1e6,
    );
}

/// Prints a Markdown table.
pub fn print() {
    println!(
        "| hold | waiters | lock | holder's turns | a waiter's turns | ratio \
         | passed by, at most | longest wait, ms |\n\
         | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    for (hold, waiters) in HOLDS.iter().flat_map(|hold| WAITERS.map(|waiters| (hold, waiters))) {
        let hold = Hold { micros: hold.0, busy: hold.1 };
        row("procession", hold, waiters, by_procession(hold, waiters));
        row("parking_lot, threads", hold, waiters, by_parking_lot(hold, waiters));
    }
}
