//! A process forks while its other threads are in the middle of everything; the child can go on.

#![cfg(not(model))]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use procession_shm::memory::SharedBlock;
use procession_shm::queue::Queue;
use procession_shm::sync::{Event, Lock, Semaphore};
use procession_shm::wait::Wait;
use support::{Random, alone, arena, child};

const FOREVER: Wait = Wait::FOREVER;

#[derive(Clone)]
struct Shared {
    lock: Lock,
    permits: Semaphore,
    queue: Queue,
    event: Event,
}

fn use_all(shared: &Shared, random: &mut Random) {
    for _ in 0..3 {
        let _ = shared.lock.acquire(FOREVER).unwrap();
        shared.lock.release().unwrap();
        shared.permits.acquire(FOREVER).unwrap();
        shared.permits.release().unwrap();
        let message = vec![7; [10, 3000, 5000, 100_000][random.below(4) as usize]];
        shared.queue.put(1, &message, FOREVER).unwrap();
        let mut got = Vec::new();
        shared.queue.get(&mut got, FOREVER).unwrap();
        assert!(got.iter().all(|&byte| byte == 7));
        let lock = Lock::open(shared.lock.handle()).unwrap();
        let made = Event::new(arena(), "made").unwrap();
        let opened = Event::open(made.handle()).unwrap();
        drop(made);
        opened.set();
        shared.event.set();
        let block = SharedBlock::new(arena(), "made", 50_000).unwrap();
        drop((lock, opened, block));
    }
}

#[test]
fn a_child_forked_amid_other_threads_work_can_use_everything() {
    let _alone = alone("a_child_forked_amid_other_threads_work_can_use_everything");
    let shared = Shared {
        lock: Lock::new(arena(), "lock").unwrap(),
        permits: Semaphore::recovering(arena(), "permits", 3).unwrap(),
        queue: Queue::new(arena(), "queue", None).unwrap(),
        event: Event::new(arena(), "event").unwrap(),
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 1..4 {
            let (shared, stop) = (&shared, &stop);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !stop.load(Ordering::Relaxed) {
                    use_all(shared, &mut random);
                }
            });
        }
        let mut children = Vec::new();
        for seed in 1..300 {
            children.push(child(|| {
                use_all(&shared, &mut Random(seed));
            }));
            if children.len() == 4 {
                children.drain(..).for_each(support::Child::succeeds);
            }
        }
        children.drain(..).for_each(support::Child::succeeds);
        stop.store(true, Ordering::Relaxed);
    });
    support::only_me();
    assert_eq!(shared.queue.check().unwrap(), 0);
    drop(shared);
    support::nothing_left();
}

#[test]
fn what_a_child_believes_to_hold_it_holds() {
    let _alone = alone("what_a_child_believes_to_hold_it_holds");
    // What a thread has open at this moment; 0 while it opens and closes.
    let open: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for index in &open {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let lock = Lock::new(arena(), "now and then").unwrap();
                    index.store(u64::from(lock.handle().index) + 1, Ordering::SeqCst);
                    for _ in 0..100 {
                        std::hint::spin_loop();
                    }
                    index.store(0, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..400 {
            child(|| {
                let me = arena().me().index;
                let held: Vec<u32> = arena()
                    .objects()
                    .iter()
                    .filter(|object| object.holders.contains(&me))
                    .map(|object| object.handle.index)
                    .collect();
                for index in &open {
                    let index = index.load(Ordering::SeqCst);
                    assert!(index == 0 || held.contains(&(index as u32 - 1)));
                }
            })
            .succeeds();
        }
        stop.store(true, Ordering::Relaxed);
    });
    support::nothing_left();
}
