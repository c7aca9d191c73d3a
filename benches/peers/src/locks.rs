//! Taking and releasing a lock, alone and against another.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;
use procession::{Event, Lock, SharedBlock, spawn};

const ALONE: u64 = 10_000_000;
const AGAINST: u64 = 1_000_000;

pub fn uncontended() -> (f64, f64) {
    let lock = Lock::new().unwrap();
    let begun = Instant::now();
    for _ in 0..ALONE {
        drop(black_box(&lock).lock().unwrap());
    }
    (ALONE as f64, begun.elapsed().as_secs_f64())
}

pub fn uncontended_parking_lot() -> (f64, f64) {
    let lock = Mutex::new(());
    let begun = Instant::now();
    for _ in 0..ALONE {
        drop(black_box(&lock).lock());
    }
    (ALONE as f64, begun.elapsed().as_secs_f64())
}

/// Two processes raise one number.
pub fn contended() -> (f64, f64) {
    fn raise((lock, total, go): (Lock, SharedBlock, Event)) {
        go.wait();
        for _ in 0..AGAINST {
            let _guard = lock.lock().unwrap();
            total.write_u64(0, total.read_u64(0).unwrap() + 1).unwrap();
        }
    }
    let shared = (Lock::new().unwrap(), SharedBlock::new(8).unwrap(), Event::new().unwrap());
    let child = spawn(raise, shared.clone()).unwrap();
    let begun = Instant::now();
    shared.2.set();
    raise(shared.clone());
    child.join().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(shared.1.read_u64(0).unwrap(), 2 * AGAINST);
    (2.0 * AGAINST as f64, seconds)
}

/// Two threads raise one number.
pub fn contended_parking_lot() -> (f64, f64) {
    let total = Mutex::new(0u64);
    let raise = || {
        for _ in 0..AGAINST {
            *total.lock() += 1;
        }
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(raise);
        raise();
    });
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(total.into_inner(), 2 * AGAINST);
    (2.0 * AGAINST as f64, seconds)
}
