//! What another process wrote is input: with garbage anywhere in the arena, every operation works
//! or returns an error. None crashes, none hangs.

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
use procession_shm::arena::{self, Arena, Forked, Handle};
use procession_shm::memory::SharedBlock;
use procession_shm::queue::Queue;
use procession_shm::sync::{Arrival, Barrier, Condition, Event, Lock, RLock, Semaphore};
use procession_shm::wait::{Owner, Wait};
use support::{Random, report_panics_of_children, say};

/// How many arenas are damaged, each in its own way. `FUZZ_FROM=300` goes on with others.
const SEEDS: u64 = 300;

/// How long a child may take for all that it does to an arena: a loop that does not end takes
/// longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a child is, for its parent to read if it hangs: in a memory of its own, as the arena is
/// damaged.
struct Progress(SharedMemory);

impl Progress {
    fn new() -> Self {
        Self(SharedMemory::create("progress", 4096).unwrap())
    }

    fn at(&self, step: &str) {
        let mut bytes = [0; 64];
        bytes[..step.len()].copy_from_slice(step.as_bytes());
        self.0.write(0, &bytes).unwrap();
    }

    fn read(&self) -> String {
        let mut bytes = [0; 64];
        self.0.read(0, &mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }
}

fn soon() -> Wait {
    Wait::until(Some(Monotonic::now().after(Duration::from_micros(100))))
}

/// Where the rows of processes and objects end, in an arena of the size that is damaged here.
const TABLES: u64 = 4096 + 64 * 256 + 1024 * 128;

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

/// Opens whatever may be in the rows of the object table, also what could not be made or was not
/// there.
fn open_any(arena: &Arena, bytes: &mut Vec<u8>) {
    for index in 0..40 {
        for generation in 1..4 {
            let handle = Handle { family: arena.family(), index, generation };
            let _ = Lock::open(handle);
            let _ = Queue::open(handle).map(|queue| queue.get(bytes, soon()));
            let _ = SharedBlock::open(handle).map(|block| block.read(0, &mut [0; 50]));
            let _ = Semaphore::open(handle).map(|semaphore| semaphore.value());
            let _ = Barrier::open(handle).map(|barrier| barrier.waiting());
        }
    }
}

/// Forks a child that leaves at once: it has to find its row in the process table.
fn fork_another() {
    // SAFETY: this process has one thread, and its child leaves at once.
    let Ok(forked) = (unsafe { arena::fork() }) else { return };
    let pid = match forked {
        Forked::Child => process::exit_now(0),
        Forked::Parent(pid, _) => pid,
    };
    let pidfd = PidFd::open(pid).unwrap();
    while !pidfd.ended_by(None).unwrap() {}
    pidfd.reap().unwrap();
}

fn damage_and_use(seed: u64, progress: &Progress) {
    let mut random = Random(seed * 0x9e37_79b9 + 1);
    let arena = Arena::with_capacity(16 << 20).unwrap();
    let queue = Queue::new(arena, "queue", seed.is_multiple_of(3).then_some(100)).unwrap();
    for n in 0..60usize {
        queue.put(1, &vec![1; n * 150 % 9000], Wait::FOREVER).unwrap();
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
            // So have the tables of processes and objects.
            let tables = used.partition_point(|&word| word < TABLES);
            let word = match random.below(4) {
                0 => random.below(80) * 8,
                1 => used[random.below(tables as u64) as usize],
                _ => used[random.below(used.len() as u64) as usize],
            };
            let mut bytes = [0; 8];
            other.read(word, &mut bytes).unwrap();
            let mut new = garbage(random, u64::from_le_bytes(bytes));
            // A lock that says a living process has it can't be told from one that is held.
            let me = arena.me();
            if Owner::from_bits(new).is_some_and(|owner| {
                (owner.slot(), owner.generation()) == (me.index, me.generation)
            }) {
                new = 0;
            }
            other.write(word, &new.to_le_bytes()).unwrap();
        }
    };
    let mut bytes = Vec::new();
    for round in 0..10usize {
        progress.at("damaging");
        damage(&mut random);
        progress.at("queue");
        let _ = queue.put(1, &vec![2; round * 377 % 9000], soon());
        let _ = queue.put_many([(1, &b"one"[..]), (2, &[3; 5000])], soon());
        bytes.clear();
        let _ = queue.get(&mut bytes, soon());
        let _ = queue.get_many(5, |_, _| (), soon());
        let _ = (queue.len(), queue.is_full(), queue.check());
        progress.at("locks");
        let _ = lock.acquire(soon());
        let _ = lock.release();
        let _ = rlock.acquire(soon());
        let _ = (rlock.release(), rlock.depth());
        if rlock.acquire(soon()).is_ok() {
            let _ = condition.wait(&rlock, soon()).map(drop);
            let _ = (condition.notify(&rlock, 2), condition.waiting(), rlock.release());
        }
        progress.at("barrier");
        match barrier.arrive(round % 2 == 0, soon()) {
            Ok(Arrival::Early(ticket)) => {
                let _ = barrier.wait(ticket, soon());
                barrier.leave(ticket);
            }
            Ok(Arrival::Leader(ticket)) => {
                let _ = barrier.lead(ticket);
                barrier.leave(ticket);
            }
            _ => barrier.reset(),
        }
        let _ = (barrier.waiting(), barrier.is_broken());
        progress.at("event and semaphores");
        let _ = event.wait(soon());
        event.set();
        event.clear();
        for semaphore in [&permits, &plain] {
            let _ = semaphore.acquire(soon());
            let _ = (semaphore.release(), semaphore.value());
        }
        progress.at("making");
        let made = SharedBlock::new(arena, "made", 1 << (6 + round % 14));
        let _ = Queue::new(arena, "made", None).map(|made| made.put(0, b"message", soon()));
        progress.at("opening");
        open_any(arena, &mut bytes);
        drop(made);
        progress.at("looking");
        let _ = (
            arena.processes(),
            arena.tree(),
            arena.check(),
            arena.heap_use(),
            arena.blocks_in_use(),
        );
        let _ = arena.objects();
        progress.at("burying");
        arena.bury_dead();
        arena.look_after_heap();
        if round % 4 == 3 {
            progress.at("forking");
            fork_another();
        }
    }
    progress.at("closing");
    drop((queue, lock, rlock, event, permits, plain, blocks, condition, barrier));
    let _ = (arena.check(), arena.bury_dead());
}

/// Runs `work` in a child, which is killed if that takes too long; returns how the child ended.
fn in_child(work: impl FnOnce(), where_it_is: impl FnOnce() -> String) -> Option<ExitStatus> {
    // SAFETY: the child leaves without running the harness's code, and takes none of its locks.
    let (pid, slot) = match unsafe { arena::fork() }.unwrap() {
        Forked::Child => {
            let run = catch_unwind(AssertUnwindSafe(work));
            process::exit_now(if run.is_ok() { 0 } else { 101 });
        }
        Forked::Parent(pid, slot) => (pid, slot),
    };
    let pidfd = PidFd::open(pid).unwrap();
    let patience = Monotonic::now().after(PATIENCE);
    if !pidfd.ended_by(Some(patience)).unwrap() {
        say(&format!("the child hangs at {}\n", where_it_is()));
        pidfd.signal(support::SIGKILL).unwrap();
    }
    pidfd.ended_by(None).unwrap();
    let status = pidfd.reap().unwrap();
    slot.map(|slot| arena::family().unwrap().bury(slot));
    status
}

#[test]
fn garbage_in_shared_memory_is_an_error_at_worst() {
    // Each child has its own watchdog.
    report_panics_of_children();
    let from = std::env::var("FUZZ_FROM").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let progress = Progress::new();
    for seed in from..from + SEEDS {
        let status = in_child(|| damage_and_use(seed, &progress), || progress.read());
        assert_eq!(status, Some(ExitStatus::Exited(0)), "seed {seed}");
    }
}

/// Where things are in a row of the process table.
mod row {
    pub(super) const SIZE: u64 = 256;
    pub(super) const STATE: u64 = 0;
    pub(super) const UNSETTLED: u64 = 120;
    pub(super) const NAMESPACE: u64 = 152;
}

/// Writes a table full of processes that died one after the other, each while it buried the next.
fn bury_a_chain() {
    const BURYING: u64 = 3;
    const SLOTS_USED: u64 = 32;
    let arena = Arena::with_capacity(2 << 30).unwrap();
    let memory = SharedMemory::from_fd(arena.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let word = |at| {
        let mut bytes = [0; 8];
        memory.read(at, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let me = u64::from(arena.me().index);
    let at = |slot, field| 4096 + slot * row::SIZE + field;
    let namespace = word(at(me, row::NAMESPACE));
    let last = 2047;
    let used = word(SLOTS_USED) & !u64::from(u32::MAX) | (last + 1);
    memory.write(SLOTS_USED, &used.to_le_bytes()).unwrap();
    for slot in me + 1..=last {
        // The burier of the first does not exist.
        let by = if slot == me + 1 { last + 1 } else { slot - 1 };
        for (field, value) in [
            (row::NAMESPACE, namespace),
            (row::UNSETTLED, 1),
            (row::STATE, 1 << 32 | by << 8 | BURYING),
        ] {
            memory.write(at(slot, field), &value.to_le_bytes()).unwrap();
        }
    }
    assert_eq!(arena.processes().len() as u64, last - me + 1);
    // Too short for a step down for each of them.
    let buried = std::thread::Builder::new().stack_size(64 << 10).spawn(|| arena.bury_dead());
    assert!(buried.unwrap().join().unwrap() > 0);
    assert_eq!(arena.processes().len(), 1, "only this process is left");
    arena.check().unwrap();
}

#[test]
fn buriers_that_died_in_a_chain_are_buried_on_a_short_stack() {
    report_panics_of_children();
    let status = in_child(bury_a_chain, || "the burial of a chain".to_owned());
    assert_eq!(status, Some(ExitStatus::Exited(0)));
}
