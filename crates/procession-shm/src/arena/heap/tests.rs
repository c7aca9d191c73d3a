#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::pidfd::{ExitStatus, PidFd};
use procession_os::process::exit_now;

use super::super::tests::{SMALL, allocate, alone, killed_at};
use super::super::{Arena, Error, Forked, UNIT, fork};
use super::caches::{BATCH, KEPT};
use super::state::CLASSES;
use super::*;
use crate::atomics::Ordering;
use crate::memory::SharedBlock;
use crate::queue::{Queue, QueueError};
use crate::wait::{Wait, WaitError};

fn soon() -> Wait {
    Wait::until(Some(Monotonic::now().after(Duration::from_millis(20))))
}

/// Has the next generation of this process be a number, as after as many allocations.
fn count_to(arena: &Arena, generation: u64) {
    let before = generation - 1;
    // The range that this process takes next is the one after it.
    arena.heap().generation.store(before - before % 1024 - 1024, Ordering::Relaxed);
    while arena.fresh_generation(arena.me().index).unwrap() != before {}
}

/// A child that lives until it is told to go on.
struct Child {
    pidfd: PidFd,
    told: UnixStream,
}

impl Child {
    /// Runs the first body, then waits until it is told to run the second.
    fn fork(before: impl FnOnce(), after: impl FnOnce()) -> Self {
        let (here, there) = UnixStream::pair().unwrap();
        // SAFETY: the child only uses the arena, and leaves without running the harness's code.
        let pid = match unsafe { fork() }.unwrap() {
            Forked::Child => {
                drop(here);
                let lived = catch_unwind(AssertUnwindSafe(|| {
                    before();
                    (&there).write_all(&[1]).unwrap();
                    let _ = (&there).read_exact(&mut [0]);
                    after();
                }));
                exit_now(if lived.is_ok() { 0 } else { 101 });
            }
            Forked::Parent(pid, _) => pid,
        };
        drop(there);
        let child = Self { pidfd: PidFd::open(pid).unwrap(), told: here };
        (&child.told).read_exact(&mut [0]).unwrap();
        child
    }

    fn ends(self) {
        (&self.told).write_all(&[1]).unwrap();
        while !self.pidfd.ended_by(None).unwrap_or(false) {}
        assert_eq!(self.pidfd.reap().unwrap(), Some(ExitStatus::Exited(0)));
    }

    fn kill(self) {
        self.pidfd.signal(9).unwrap();
        while !self.pidfd.ended_by(None).unwrap_or(false) {}
        assert_eq!(self.pidfd.reap().unwrap(), Some(ExitStatus::Signaled(9)));
    }
}

/// Nothing is in use, nothing is kept, and all the lists are right.
fn is_empty(arena: &Arena) {
    arena.check().unwrap();
    assert_eq!(arena.blocks_in_use().unwrap(), 0);
    assert_eq!(arena.row(arena.me().index).unwrap().unsettled.load(Ordering::Relaxed), 0);
    arena.reclaim(false).unwrap();
    arena.check().unwrap();
    // An empty slab of each class may stay.
    assert!(arena.heap_use().0 <= CLASSES as u64 * UNIT);
}

#[test]
fn what_was_written_down_of_a_block_never_means_a_later_one() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let object = BlockOwner::Object(7);
    for size in [100, 8000, UNIT] {
        let note = allocate(arena, size).unwrap();
        arena.give(note, object).unwrap();
        assert!(arena.free_word(note, object).unwrap());
        // As many allocations later as go into the word itself.
        let later = loop {
            count_to(arena, note.generation() + (1 << 16));
            let block = allocate(arena, size).unwrap();
            if block.offset() == note.offset() {
                break block;
            }
            arena.give(block, BlockOwner::Object(8)).unwrap();
        };
        assert_eq!(later.generation(), note.generation() + (1 << 16));
        arena.give(later, object).unwrap();
        assert!(!arena.free_word(note, object).unwrap(), "a later block was freed, of {size}");
        assert!(arena.take(note, object).is_err());
        assert_eq!(arena.block_at(later.offset()).unwrap(), later);
        assert!(arena.free_word(later, object).unwrap());
        assert!(!arena.free_word(later, object).unwrap(), "it is freed once");
    }
    arena.free_blocks_of(8).unwrap();
    is_empty(arena);
}

#[test]
fn a_consumers_death_frees_no_message_that_came_65536_blocks_later() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let queue = Queue::new(arena, "queue", None).unwrap();
    queue.put(1, &[1; 5000], Wait::FOREVER).unwrap();
    queue.put(1, &[2; 20_000], Wait::FOREVER).unwrap();
    let [note] = messages_in_slabs(arena)[..] else { panic!("one message is in a slab") };
    killed_at("queue.get.block.owned", || {
        let _ = queue.get(&mut Vec::new(), Wait::FOREVER);
    });
    arena.bury_dead();
    let mut put = 0;
    while !messages_in_slabs(arena).iter().any(|block| block.offset() == note.offset()) {
        count_to(arena, note.generation() + (1 << 16));
        queue.put(1, &[3; 5000], Wait::FOREVER).unwrap();
        put += 1;
    }
    let later = arena.block_at(note.offset()).unwrap();
    assert_eq!(later.generation(), note.generation() + (1 << 16));
    for want in [2].into_iter().chain(std::iter::repeat_n(3, put)) {
        let mut bytes = Vec::new();
        queue.get(&mut bytes, Wait::FOREVER).unwrap();
        assert!(bytes.iter().all(|&byte| byte == want));
    }
    assert_eq!(queue.check().unwrap(), 0);
    drop(queue);
    is_empty(arena);
}

/// The blocks of objects that are in slabs of the largest class.
fn messages_in_slabs(arena: &Arena) -> Vec<Block> {
    let guard = arena.lock_heap(Wait::FOREVER).unwrap();
    let in_use = |word: block::Word| matches!(word.owner(), Some(BlockOwner::Object(_)));
    let found = arena.blocks_that(&in_use).unwrap().as_slice().to_vec();
    drop(guard);
    let blocks = found.into_iter().filter(|&offset| arena.size_at(offset).unwrap() == 8192);
    blocks.map(|offset| arena.block_at(offset).unwrap()).collect()
}

#[test]
fn small_blocks_come_and_go_while_another_process_has_the_heap() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let used: Vec<Block> = (0..BATCH).map(|_| allocate(arena, 8000).unwrap()).collect();
    for block in used {
        arena.free(block).unwrap();
    }
    let guard = arena.lock_heap(Wait::FOREVER).unwrap();
    for round in 0..100 {
        let blocks: Vec<Block> =
            (0..BATCH).map(|_| arena.allocate(8000, Wait::TRY).unwrap()).collect();
        for (at, block) in blocks.iter().enumerate() {
            arena.word(block.offset()).unwrap().store(round * 100 + at as u64, Ordering::Relaxed);
        }
        for (at, block) in blocks.into_iter().enumerate() {
            let found = arena.word(block.offset()).unwrap().load(Ordering::Relaxed);
            assert_eq!(found, round * 100 + at as u64, "two blocks overlap");
            arena.free(block).unwrap();
        }
    }
    drop(guard);
    is_empty(arena);
}

#[test]
fn a_wait_for_the_heap_ends_as_its_caller_says_and_nothing_is_lost() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let queue = Queue::new(arena, "queue", None).unwrap();
    let blocks: Vec<Block> = (0..3).map(|_| allocate(arena, 3 * UNIT).unwrap()).collect();
    let small: Vec<Block> = (0..2 * KEPT).map(|_| allocate(arena, 4000).unwrap()).collect();
    arena.reclaim(false).unwrap();
    let other = SharedBlock::new(arena, "other", 100_000).unwrap();
    let others = Queue::new(arena, "others", None).unwrap();
    others.put(0, b"message", Wait::FOREVER).unwrap();
    arena.reclaim(false).unwrap();

    let guard = arena.lock_heap(Wait::FOREVER).unwrap();
    let interruptible = Wait { interruptible: true, ..Wait::FOREVER };
    for size in [8000, 300_000] {
        let late = arena.allocate(size, soon());
        assert!(matches!(late, Err(Error::Wait(WaitError::TimedOut))), "{late:?}");
        let signalled = arena.allocate(size, interruptible);
        assert!(matches!(signalled, Err(Error::Wait(WaitError::Interrupted))), "{signalled:?}");
    }
    for length in [100, 5000, 100_000] {
        let late = queue.put(0, &vec![1; length], soon());
        assert!(matches!(late, Err(QueueError::Wait(WaitError::TimedOut))), "{late:?}");
    }
    assert!(queue.is_empty());
    // What can be put off does not wait.
    let in_use = blocks.len() + small.len();
    for block in blocks.into_iter().chain(small) {
        arena.free(block).unwrap();
    }
    drop((other, others));
    drop(guard);

    assert!(
        in_use > 0 && arena.row(arena.me().index).unwrap().unsettled.load(Ordering::Relaxed) > 0
    );
    arena.look_after_heap();
    queue.put(0, &[1; 5000], Wait::FOREVER).unwrap();
    queue.get(&mut Vec::new(), Wait::FOREVER).unwrap();
    assert_eq!(queue.check().unwrap(), 0);
    drop(queue);
    assert_eq!(arena.objects(), []);
    is_empty(arena);
    assert_eq!(arena.row(0).unwrap().unsettled.load(Ordering::Relaxed), 0);
}

#[test]
fn a_burial_that_can_not_reach_the_heap_is_made_later() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let uses_some = || {
        for size in [100, 8000, 200_000] {
            arena.free(allocate(arena, size).unwrap()).unwrap();
            let _ = allocate(arena, size).unwrap();
        }
    };
    Child::fork(uses_some, || ()).kill();
    let dead = arena.processes().into_iter().find(|one| !one.alive).unwrap();
    let guard = arena.lock_heap(Wait::FOREVER).unwrap();
    assert!(!arena.bury(dead.slot));
    assert_eq!(arena.bury_dead(), 0);
    drop(guard);
    assert_eq!(arena.bury_dead(), 1);
    assert_eq!(arena.processes().len(), 1);
    is_empty(arena);
}

#[test]
fn what_processes_keep_is_there_when_memory_is_short() {
    let _alone = alone();
    let arena = Arena::with_capacity(16 << 20).unwrap();
    // It keeps a block of many slabs, and two that had to be put off.
    let keeps = || {
        let blocks: Vec<Block> = (0..200).map(|_| allocate(arena, 8000).unwrap()).collect();
        for block in blocks.into_iter().step_by(15) {
            arena.free(block).unwrap();
        }
        for block in [UNIT, 100_000].map(|size| allocate(arena, size).unwrap()) {
            let guard = arena.lock_heap(Wait::FOREVER).unwrap();
            arena.free(block).unwrap();
            drop(guard);
        }
    };
    let child = Child::fork(keeps, || {
        for size in [8000, 100, UNIT] {
            arena.free(allocate(arena, size).unwrap()).unwrap();
        }
    });
    let mut blocks = Vec::new();
    while let Ok(block) = allocate(arena, UNIT) {
        blocks.push(block);
    }
    let (used, _) = arena.heap_use();
    assert_eq!(used, u64::from(arena.layout.units) * UNIT, "all of it was found");
    let mut small = 0;
    while let Ok(block) = allocate(arena, 8000) {
        blocks.push(block);
        small += 1;
    }
    assert!(small >= 14, "what the child keeps is not used: {small}");
    arena.check().unwrap();
    for block in blocks {
        arena.free(block).unwrap();
    }
    child.ends();
    arena.bury_dead();
    is_empty(arena);
}

#[test]
fn a_child_has_no_part_in_what_its_parent_keeps() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let blocks: Vec<Block> = (0..KEPT).map(|_| allocate(arena, 8000).unwrap()).collect();
    for block in blocks {
        arena.free(block).unwrap();
    }
    let guard = arena.lock_heap(Wait::FOREVER).unwrap();
    let is_kept = |word: block::Word| word.cached_by() == Some(arena.me().index);
    let kept = arena.blocks_that(&is_kept).unwrap().as_slice().to_vec();
    drop(guard);
    assert!(kept.len() >= BATCH);
    let child = Child::fork(
        || {
            let own: Vec<Block> = (0..KEPT).map(|_| allocate(arena, 8000).unwrap()).collect();
            assert!(own.iter().all(|block| !kept.contains(&block.offset())));
        },
        || (),
    );
    let guard = arena.lock_heap(Wait::FOREVER).unwrap();
    for _ in 0..kept.len() {
        let block = arena.allocate(8000, Wait::TRY).unwrap();
        assert!(kept.contains(&block.offset()));
        arena.give(block, BlockOwner::Object(3)).unwrap();
    }
    drop(guard);
    child.ends();
    arena.bury_dead();
    arena.free_blocks_of(3).unwrap();
    is_empty(arena);
}

#[test]
fn blocks_that_go_from_one_process_to_another_take_the_lock_by_batches() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let queue = Queue::new(arena, "queue", None).unwrap();
    let one_to_the_other = |rounds: usize| {
        for _ in 0..rounds {
            queue.put(0, &[7; 6000], Wait::FOREVER).unwrap();
        }
    };
    one_to_the_other(1000);
    let child = Child::fork(
        || {
            for _ in 0..1000 {
                let mut bytes = Vec::new();
                queue.get(&mut bytes, Wait::FOREVER).unwrap();
                assert_eq!(bytes, [7; 6000]);
            }
        },
        || (),
    );
    // All but what it keeps is there for others again.
    assert_eq!(queue.len(), 0);
    assert!(arena.heap_use().0 <= (KEPT + 2 * CLASSES) as u64 * UNIT, "{:?}", arena.heap_use());
    child.ends();
    arena.bury_dead();
    drop(queue);
    is_empty(arena);
}

#[test]
fn a_burst_of_large_messages_leaves_no_more_than_the_floor() {
    let _alone = alone();
    let arena = Arena::with_capacity(2 << 30).unwrap();
    let queue = Queue::new(arena, "queue", None).unwrap();
    let message = vec![1; 8 << 20];
    let mut bytes = Vec::new();
    for _ in 0..2 {
        for _ in 0..50 {
            queue.put(0, &message, Wait::FOREVER).unwrap();
        }
        for _ in 0..50 {
            bytes.clear();
            queue.get(&mut bytes, Wait::FOREVER).unwrap();
        }
        let tables = 1 << 20;
        assert!(arena.resident().unwrap() <= WARM_MAX + tables, "at once");
        // No process does more than wait.
        let patience = Monotonic::now().after(Duration::from_secs(60));
        while arena.resident().unwrap() > WARM_FLOOR + tables {
            assert!(Monotonic::now() < patience, "{} stay", arena.resident().unwrap());
            let late = queue.get(&mut bytes, soon());
            assert!(matches!(late, Err(QueueError::Wait(_))));
        }
        arena.check().unwrap();
        let (_, warm) = arena.heap_use();
        assert!(warm <= WARM_FLOOR && warm > WARM_FLOOR / 2, "{warm} are kept");
    }
    drop(queue);
    is_empty(arena);
}

#[test]
fn what_is_warm_in_pieces_is_given_back_too() {
    let _alone = alone();
    let arena = Arena::with_capacity(2 << 30).unwrap();
    let blocks: Vec<Block> = (0..1600).map(|_| allocate(arena, UNIT).unwrap()).collect();
    let small: Vec<Block> = (0..3500).map(|_| allocate(arena, 8000).unwrap()).collect();
    for block in blocks.iter().step_by(2).chain(&small) {
        arena.free(*block).unwrap();
    }
    let in_use = 800 * UNIT;
    let patience = Monotonic::now().after(Duration::from_secs(60));
    let bound = in_use + WARM_FLOOR + (2 << 20);
    while arena.resident().unwrap() > bound {
        assert!(Monotonic::now() < patience, "{} stay", arena.resident().unwrap());
        arena.look_after_heap();
    }
    arena.check().unwrap();
    for block in blocks.into_iter().skip(1).step_by(2) {
        arena.free(block).unwrap();
    }
    is_empty(arena);
}

#[test]
fn what_is_in_use_again_and_again_stays_warm() {
    let _alone = alone();
    let arena = Arena::with_capacity(2 << 30).unwrap();
    let enough = Monotonic::now().after(IDLE * 3);
    while Monotonic::now() < enough {
        arena.free(allocate(arena, 100 << 20).unwrap()).unwrap();
        arena.look_after_heap();
    }
    assert!(arena.heap_use().1 >= 100 << 20);
}

#[test]
fn a_process_that_returns_memory_to_the_machine_may_be_killed() {
    let _alone = alone();
    let arena = Arena::with_capacity(2 << 30).unwrap();
    killed_at("heap.trim.taken", || {
        arena.free(allocate(arena, 100 << 20).unwrap()).unwrap();
        loop {
            arena.look_after_heap();
        }
    });
    arena.bury_dead();
    arena.check().unwrap();
    is_empty(arena);
}

#[test]
fn free_pieces_that_follow_one_another_make_a_large_block() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let units = u64::from(arena.layout.units);
    let all: Vec<Block> = (0..units).map(|_| allocate(arena, UNIT).unwrap()).collect();
    assert!(allocate(arena, UNIT).is_err());
    // Warm and cold by turns.
    for block in &all {
        arena.free(*block).unwrap();
        if (block.offset() / UNIT).is_multiple_of(3) {
            arena.give_back(1).unwrap();
        }
    }
    for point in ["heap.run.unlinked", "heap.extent.split", "heap.extent.taken"] {
        killed_at(point, || {
            let _ = allocate(arena, (units - 2) * UNIT);
        });
        arena.bury_dead();
        arena.check().unwrap();
    }
    let whole = allocate(arena, units * UNIT).unwrap();
    assert!(arena.resident().unwrap() >= units * UNIT, "what is handed out has memory");
    arena.check().unwrap();
    arena.free(whole).unwrap();
    is_empty(arena);
}

#[test]
fn what_is_free_before_the_frontier_goes_with_what_is_behind_it() {
    let _alone = alone();
    for point in ["heap.run.unlinked", "heap.run.withdrawn", "heap.extent.taken"] {
        let arena = Arena::with_capacity(SMALL).unwrap();
        let units = u64::from(arena.layout.units);
        let first = allocate(arena, UNIT).unwrap();
        let last = allocate(arena, 10 * UNIT).unwrap();
        arena.free(last).unwrap();
        let large = (units - 1) * UNIT;
        killed_at(point, || {
            let _ = allocate(arena, large);
        });
        arena.bury_dead();
        arena.check().unwrap();
        let block = allocate(arena, large).unwrap();
        arena.check().unwrap();
        for block in [first, block] {
            arena.free(block).unwrap();
        }
        is_empty(arena);
    }
}
