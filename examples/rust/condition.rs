//! A buffer of few places between a fast producer and slow consumers, by hand: an array, a lock,
//! and two conditions. (A bounded [`procession::Queue`] does the same, and survives the death of
//! any of the processes.)
//!
//! `cargo run --example condition`

use std::error::Error;

use procession::{Array, Condition, Lock, Value, spawn};
use serde::{Deserialize, Serialize};

const PLACES: usize = 4;
const ITEMS: u64 = 1000;
/// No more will come.
const END: u64 = u64::MAX;

#[derive(Clone, Serialize, Deserialize)]
struct Buffer {
    lock: Lock,
    not_full: Condition,
    not_empty: Condition,
    items: Array<u64>,
    /// How many were put, and how many taken.
    counts: Value<[u64; 2]>,
}

impl Buffer {
    fn new() -> procession::arena::Result<Self> {
        Ok(Self {
            lock: Lock::new()?,
            not_full: Condition::new()?,
            not_empty: Condition::new()?,
            items: Array::zeroed(PLACES)?,
            counts: Value::new([0, 0])?,
        })
    }

    fn counts(&self) -> [u64; 2] {
        self.counts.load().expect("no process dies here")
    }

    fn put(&self, item: u64) {
        let guard = self.lock.lock().expect("no process dies here");
        let full = || self.counts()[0] - self.counts()[1] == PLACES as u64;
        let guard = self.not_full.wait_while(guard, full).expect("no process dies here");
        let [put, taken] = self.counts();
        self.items.lock().expect("no process dies here").store(put as usize % PLACES, item);
        self.counts.store([put + 1, taken]).expect("no process dies here");
        self.not_empty.notify_one(&guard);
    }

    fn take(&self) -> u64 {
        let guard = self.lock.lock().expect("no process dies here");
        let empty = || self.counts()[0] == self.counts()[1];
        let guard = self.not_empty.wait_while(guard, empty).expect("no process dies here");
        let [put, taken] = self.counts();
        let item = self.items.lock().expect("no process dies here").load(taken as usize % PLACES);
        self.counts.store([put, taken + 1]).expect("no process dies here");
        self.not_full.notify_one(&guard);
        item
    }
}

fn consume(buffer: Buffer) -> (u64, u64) {
    let (mut count, mut sum) = (0, 0);
    loop {
        match buffer.take() {
            END => return (count, sum),
            item => (count, sum) = (count + 1, sum + item),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    procession::init();
    let buffer = Buffer::new()?;
    let consumers = [spawn(consume, buffer.clone())?, spawn(consume, buffer.clone())?];
    for item in (0..ITEMS).chain([END, END]) {
        buffer.put(item);
    }
    let (mut count, mut sum) = (0, 0);
    for consumer in consumers {
        let (items, of_them) = consumer.join()?;
        (count, sum) = (count + items, sum + of_them);
    }
    println!("{count} items went through {PLACES} places, their sum is {sum}");
    assert_eq!((count, sum), (ITEMS, ITEMS * (ITEMS - 1) / 2));
    Ok(())
}
