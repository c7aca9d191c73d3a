//! What another process wrote is input: with garbage anywhere in the arena, every operation works or
//! gives an error. None crashes, none hangs.

#![allow(unsafe_code)]
#![cfg(not(model))]

mod support;

use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::memory::SharedMemory;
use procession_os::pidfd::{ExitStatus, PidFd};
use procession_os::process;
use procession_shm::arena::{self, Arena, Forked};
use procession_shm::memory::SharedBlock;
use procession_shm::queue::Queue;
use procession_shm::sync::{Arrival, Barrier, Condition, Event, Lock, RLock, Semaphore};
use procession_shm::wait::{Owner, Waiting};
use support::{Random, alone, at, say};

const SEEDS: u64 = 300;

fn soon() -> Waiting {
    Waiting::until(Some(Monotonic::now().after(Duration::from_micros(100))))
}

/// The words of the arena that hold something.
fn words_in_use(memory: &SharedMemory) -> Vec<u64> {
    let mut used = Vec::new();
    let nothing = vec![0; 4096];
    let mut page = nothing.clone();
    // The first half is enough: tables and the lower heap.
    for start in (0..memory.size() / 2).step_by(4096) {
        memory.read(start, &mut page).unwrap();
        if page == nothing {
            continue;
        }
        let words = page.chunks_exact(8).enumerate();
        used.extend(words.filter(|(_, word)| *word != [0; 8]).map(|(n, _)| start + n as u64 * 8));
    }
    used
}

fn garbage(random: &mut Random, before: u64) -> u64 {
    match random.below(7) {
        0 => 0,
        1 => u64::MAX,
        2 => before ^ 1 << random.below(64),
        3 => before.wrapping_add(1),
        4 => before.wrapping_sub(8),
        5 => random.below(1 << 24),
        _ => random.next(),
    }
}

fn damage_and_use(seed: u64) {
    let mut random = Random(seed * 0x9e37_79b9 + 1);
    let arena = Arena::with_capacity(16 << 20).unwrap();
    let queue = Queue::new(arena, "queue", seed.is_multiple_of(3).then_some(100)).unwrap();
    for n in 0..60usize {
        queue.put(1, &vec![1; n * 150 % 9000], Waiting::FOREVER).unwrap();
    }
    let lock = Lock::new(arena, "lock").unwrap();
    let rlock = RLock::new(arena, "rlock").unwrap();
    let event = Event::new(arena, "event").unwrap();
    let condition = Condition::new(arena, "condition").unwrap();
    let barrier = Barrier::new(arena, "barrier", NonZeroU32::new(2).unwrap()).unwrap();
    let permits = Semaphore::recovering(arena, "permits", 4).unwrap();
    let plain = Semaphore::new(arena, "plain", 1, None).unwrap();
    let blocks: Vec<_> = [100, 9_000, 200_000, 70_000]
        .iter()
        .map(|&size| SharedBlock::new(arena, "block", size).unwrap())
        .collect();
    drop(blocks.first().cloned());

    let fd = arena.as_fd().try_clone_to_owned().unwrap();
    let other = SharedMemory::from_fd(fd).unwrap();
    let used = words_in_use(&other);
    let damage = |random: &mut Random| {
        for _ in 0..1 + random.below(4) {
            // The header with the allocator's state is small, so it has a share of its own.
            let word = match random.below(4) {
                0 => random.below(80) * 8,
                _ => used[random.below(used.len() as u64) as usize],
            };
            let mut bytes = [0; 8];
            other.read(word, &mut bytes).unwrap();
            let mut new = garbage(random, u64::from_le_bytes(bytes));
            // A lock that says a living process has it can't be told from one that is held.
            let me = arena.me();
            if Owner::from_bits(new)
                .is_some_and(|who| (who.slot(), who.generation()) == (me.index, me.generation))
            {
                new = 0;
            }
            other.write(word, &new.to_le_bytes()).unwrap();
        }
    };
    let mut bytes = Vec::new();
    for round in 0..10usize {
        damage(&mut random);
        let _ = queue.put(1, &vec![2; round * 377 % 9000], soon());
        let _ = queue.put_many([(1, &b"one"[..]), (2, &[3; 5000])], soon());
        bytes.clear();
        let _ = queue.get(&mut bytes, soon());
        let _ = queue.get_many(5, |_, _| (), soon());
        let _ = (queue.len(), queue.is_full(), queue.check());
        let _ = lock.acquire(soon());
        let _ = lock.release();
        let _ = rlock.acquire(soon());
        let _ = (rlock.release(), rlock.depth());
        if rlock.acquire(soon()).is_ok() {
            let _ = condition.wait(&rlock, soon()).map(drop);
            let _ = (condition.notify(&rlock, 2), condition.waiting(), rlock.release());
        }
        match barrier.arrive(round % 2 == 0, soon()) {
            Ok(Arrival::Early(seat)) => {
                let _ = barrier.wait(seat, soon());
                barrier.leave(seat);
            }
            Ok(Arrival::Leads(seat)) => {
                let _ = barrier.lead(seat);
                barrier.leave(seat);
            }
            _ => barrier.reset(),
        }
        let _ = (barrier.waiting(), barrier.is_broken());
        let _ = event.wait(soon());
        event.set();
        event.clear();
        for semaphore in [&permits, &plain] {
            let _ = semaphore.acquire(soon());
            let _ = (semaphore.release(), semaphore.value());
        }
        let made = SharedBlock::new(arena, "made", 1 << (6 + round % 14));
        let _ = Queue::new(arena, "made", None).map(|made| made.put(0, b"message", soon()));
        for object in arena.objects() {
            let _ = Lock::open(object.handle);
            let _ = Queue::open(object.handle).map(|queue| queue.get(&mut bytes, soon()));
            let _ = SharedBlock::open(object.handle).map(|block| block.read(0, &mut [0; 50]));
            let _ = Semaphore::open(object.handle).map(|semaphore| semaphore.value());
            let _ = Barrier::open(object.handle).map(|barrier| barrier.waiting());
        }
        drop(made);
        let _ = (
            arena.processes(),
            arena.tree(),
            arena.check(),
            arena.heap_use(),
            arena.blocks_in_use(),
        );
        arena.bury_dead();
    }
    drop((queue, lock, rlock, event, permits, plain, blocks, condition, barrier));
    let _ = (arena.check(), arena.bury_dead());
}

#[test]
fn garbage_in_shared_memory_is_an_error_at_worst() {
    let _alone = alone("garbage_in_shared_memory_is_an_error_at_worst");
    for seed in 0..SEEDS {
        at(&format!("seed {seed}"));
        // SAFETY: the child leaves without running the harness's code, and takes none of its locks.
        let (pid, slot) = match unsafe { arena::fork() }.unwrap() {
            Forked::Child => {
                let run = catch_unwind(AssertUnwindSafe(|| damage_and_use(seed)));
                process::exit_now(if run.is_ok() { 0 } else { 101 });
            }
            Forked::Parent(pid, slot) => (pid, slot),
        };
        let pidfd = PidFd::open(pid).unwrap();
        let patience = Monotonic::now().after(Duration::from_secs(30));
        if !pidfd.ended_by(Some(patience)).unwrap() {
            say(&format!("seed {seed} hangs\n"));
            pidfd.signal(support::SIGKILL).unwrap();
        }
        pidfd.ended_by(None).unwrap();
        assert_eq!(pidfd.reap().unwrap(), Some(ExitStatus::Exited(0)), "seed {seed}");
        slot.map(|slot| arena::family().unwrap().bury(slot));
    }
}
