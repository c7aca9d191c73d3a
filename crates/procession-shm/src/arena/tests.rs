#![allow(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use procession_os::pidfd::{ExitStatus, PidFd};
use procession_os::process::{self, exit_now};

use super::*;
use crate::atomics::AtomicU64;
use crate::failpoint;
use crate::memory::SharedBlock;
use crate::sync::Lock;
use crate::wait::Wait;

pub(super) const SMALL: u64 = 64 << 20;

/// One at a time: a child takes part in every arena of the process that forks it.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub(super) fn allocate(arena: &Arena, size: u64) -> Result<Block> {
    arena.allocate(size, Wait::FOREVER)
}

/// Runs `body` in a child that must be killed at a fail point, and does not bury it.
pub(super) fn killed_at(name: &str, body: impl FnOnce()) {
    // SAFETY: the child only uses the arena, and leaves without running the harness's code.
    let pid = match unsafe { fork() }.unwrap() {
        Forked::Child => {
            failpoint::arm(name, 1);
            body();
            exit_now(1);
        }
        Forked::Parent(pid, _) => pid,
    };
    let pidfd = PidFd::open(pid).unwrap();
    while !pidfd.ended_by(None).unwrap_or(false) {}
    assert_eq!(pidfd.reap().unwrap(), Some(ExitStatus::Signaled(9)), "not killed at {name}");
}

#[test]
fn blocks_of_any_size_come_and_go_and_the_heap_stays_whole() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let mut random = Random(0x5eed_0002);
    let mut blocks: Vec<(Block, u64)> = Vec::new();
    for round in 0..4_000u64 {
        if blocks.len() > 60 || random.below(5) < 2 && !blocks.is_empty() {
            let (block, mark) = blocks.swap_remove(random.below(blocks.len() as u64) as usize);
            let found = arena.word(block.offset()).unwrap().load(Ordering::Relaxed);
            assert_eq!(found, mark, "two blocks overlap");
            arena.free(block).unwrap();
        } else {
            let size = 1 + random.below([64, 1_000, 9_000, 100_000, 700_000][round as usize % 5]);
            let block = allocate(arena, size).unwrap();
            assert!(arena.size_at(block.offset()).unwrap() >= size);
            let last = block.offset() + size.saturating_sub(8) / 8 * 8;
            arena.word(last).unwrap().store(round, Ordering::Relaxed);
            arena.word(block.offset()).unwrap().store(round, Ordering::Relaxed);
            blocks.push((block, round));
        }
        if round % 16 == 0 {
            arena.check().unwrap();
            assert_eq!(arena.blocks_in_use().unwrap(), blocks.len() as u64);
        }
    }
    for (block, _) in blocks {
        arena.free(block).unwrap();
    }
    arena.check().unwrap();
    assert_eq!(arena.blocks_in_use().unwrap(), 0);
    arena.reclaim(false).unwrap();
    assert!(arena.heap_use().0 <= 8 * UNIT, "at most one empty slab for each class is kept");
    assert_eq!(arena.row(arena.me().index).unwrap().unsettled.load(Ordering::Relaxed), 0);
}

#[test]
fn freed_neighbours_become_one() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let [one, two, three] = [2, 3, 4].map(|units| allocate(arena, units * UNIT).unwrap());
    let fence = allocate(arena, UNIT).unwrap();
    for block in [one, three, two] {
        arena.free(block).unwrap();
        arena.check().unwrap();
    }
    let whole = allocate(arena, 9 * UNIT).unwrap();
    assert_eq!(whole.offset(), one.offset());
    arena.free(whole).unwrap();
    arena.free(fence).unwrap();
    arena.check().unwrap();
}

#[test]
fn beyond_the_bound_memory_goes_back_to_the_machine() {
    let _alone = alone();
    let arena = Arena::with_capacity(2 << 30).unwrap();
    let blocks: Vec<Block> = (0..6).map(|_| allocate(arena, 64 << 20).unwrap()).collect();
    assert!(arena.resident().unwrap() >= 6 * (64 << 20));
    for block in blocks {
        arena.free(block).unwrap();
        arena.check().unwrap();
    }
    let (used, warm) = arena.heap_use();
    assert_eq!((used, warm), (0, WARM_MAX));
    let tables = 1 << 20;
    assert!((WARM_MAX..WARM_MAX + tables).contains(&arena.resident().unwrap()));
    let cold = allocate(arena, 300 << 20).unwrap();
    assert!(arena.resident().unwrap() >= 300 << 20, "what is handed out has memory");
    arena.free(cold).unwrap();
}

#[test]
fn running_out_is_an_error_that_passes() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    const MIB: u64 = 1 << 20;
    let mut blocks = Vec::new();
    let error = loop {
        match allocate(arena, MIB) {
            Ok(block) => blocks.push(block),
            Err(error) => break error,
        }
    };
    let held = blocks.len() as u64 * MIB;
    match error {
        Error::OutOfMemory { asked, used, capacity } => {
            assert_eq!((asked, used, capacity), (MIB, held, SMALL));
        }
        other => panic!("{other}"),
    }
    assert!(held > SMALL * 9 / 10);
    for size in [SMALL, u64::from(u32::MAX) * UNIT, u64::MAX] {
        assert!(matches!(allocate(arena, size), Err(Error::OutOfMemory { .. })), "{size}");
    }
    arena.check().unwrap();
    // Every second one: much is free, but in pieces.
    for at in (0..blocks.len()).rev().step_by(2) {
        arena.free(blocks.swap_remove(at)).unwrap();
    }
    assert!(matches!(allocate(arena, 2 * MIB), Err(Error::OutOfMemory { .. })));
    arena.free(allocate(arena, MIB).unwrap()).unwrap();
    for block in blocks {
        arena.free(block).unwrap();
    }
    let whole = allocate(arena, held).unwrap();
    arena.check().unwrap();
    arena.free(whole).unwrap();
    arena.check().unwrap();
    assert_eq!(arena.blocks_in_use().unwrap(), 0);
}

#[test]
fn a_full_heap_takes_small_blocks_again_once_something_is_free() {
    let _alone = alone();
    let arena = Arena::with_capacity(16 << 20).unwrap();
    let mut blocks = Vec::new();
    while let Ok(block) = allocate(arena, 8192) {
        blocks.push(block);
    }
    assert!(allocate(arena, 100).is_err());
    for block in blocks.drain(..100) {
        arena.free(block).unwrap();
    }
    arena.free(allocate(arena, 100).unwrap()).unwrap();
    for block in blocks {
        arena.free(block).unwrap();
    }
    arena.check().unwrap();
}

#[test]
fn memory_that_a_process_died_reserving_is_not_promised() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    killed_at("heap.extent.unreserved", || {
        let _ = allocate(arena, 8 << 20);
    });
    arena.bury_dead();
    arena.check().unwrap();
    assert_eq!(arena.heap_use(), (0, 0));
    arena.free(allocate(arena, 8 << 20).unwrap()).unwrap();
    assert!(arena.resident().unwrap() >= 8 << 20);
}

/// A block whose last holder, a child, was killed at a point on the way to freeing it.
fn half_freed(arena: &'static Arena, size: u64, point: &str) -> Handle {
    let block = SharedBlock::new(arena, "kept", size).unwrap();
    let handle = block.handle();
    let mut mine = Some(block);
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    // SAFETY: as in `killed_at`.
    let pid = match unsafe { fork() }.unwrap() {
        Forked::Child => {
            failpoint::arm(point, 1);
            std::io::Read::read_exact(&mut &there, &mut [0]).unwrap();
            drop(mine.take());
            exit_now(1);
        }
        Forked::Parent(pid, _) => pid,
    };
    drop(mine.take());
    std::io::Write::write_all(&mut &here, &[1]).unwrap();
    let pidfd = PidFd::open(pid).unwrap();
    while !pidfd.ended_by(None).unwrap_or(false) {}
    assert_eq!(pidfd.reap().unwrap(), Some(ExitStatus::Signaled(9)));
    handle
}

#[test]
fn an_object_that_was_opened_while_its_freer_died_lives_on() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let handle = half_freed(arena, 100, "object.freeing");
    // As a process that opens it just before the child marks it as being freed.
    arena.set_held(arena.me().index, handle.index).unwrap();
    arena.bury_dead();
    assert_eq!(arena.objects().len(), 1);
    SharedBlock::open(handle).unwrap().read(0, &mut [0; 100]).unwrap();
    assert_eq!(arena.objects(), []);
    assert_eq!(arena.blocks_in_use().unwrap(), 0);
}

#[test]
fn an_object_that_another_process_is_about_to_free_can_be_opened() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let opened = SharedBlock::open(half_freed(arena, 100, "object.freeing")).unwrap();
    arena.bury_dead();
    opened.read(0, &mut [0; 100]).unwrap();
    assert_eq!(arena.objects().len(), 1);
    drop(opened);
    assert_eq!(arena.objects(), []);
    assert_eq!(arena.blocks_in_use().unwrap(), 0);
}

#[test]
fn a_block_whose_freer_died_is_freed_once() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    for point in ["heap.free.begun", "heap.free.punched", "heap.free.freed", "heap.free.joined"] {
        // A free neighbour on the left, too small to be taken for the block itself.
        arena.free(allocate(arena, 2 * UNIT).unwrap()).unwrap();
        let handle = half_freed(arena, 4 * UNIT, point);
        arena.bury_dead();
        arena.check().unwrap();
        assert!(!arena.object_lives(handle.index), "{point}");
        assert_eq!((arena.heap_use().0, arena.blocks_in_use().unwrap()), (0, 0), "{point}");
    }
}

#[test]
fn a_burial_is_finished_though_the_buriers_slot_has_another_process() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let lock = Lock::new(arena, "held").unwrap();
    for point in ["process.burying", "process.buried"] {
        // A grandchild dies, its parent dies burying it, and is buried by another process.
        killed_at(point, || {
            // SAFETY: as in `killed_at`.
            match unsafe { fork() }.unwrap() {
                Forked::Child => exit_now(0),
                Forked::Parent(pid, _) => {
                    let pidfd = PidFd::open(pid).unwrap();
                    while !pidfd.ended_by(None).unwrap_or(false) {}
                    arena.bury_dead();
                }
            }
        });
        let me = arena.me();
        let burier = arena.processes().into_iter().find(|one| one.pid != 0 && !one.alive).unwrap();
        assert!(burier.slot != me && arena.bury(burier.slot), "{point}");
        arena.bury_dead();
        assert_eq!(arena.processes().len(), 1, "{point}");
    }
    assert_eq!(arena.objects()[0].holders, [arena.me().index]);
    drop(lock);
    assert_eq!(arena.objects(), []);
}

#[test]
fn a_slot_tells_its_processes_apart() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    arena.set_name("the first");
    let first = arena.reserve(true, None).unwrap();
    assert_eq!(arena.processes()[1].name, "the first", "a child is called as its parent at first");
    assert_eq!(arena.bury_dead(), 0, "its maker lives");
    arena.unreserve(first);
    let second = arena.reserve(true, None).unwrap();
    assert_eq!(second.index, first.index);
    assert_ne!(second.generation, first.generation);
    assert!(!arena.bury(first), "that process is buried already");
    assert!(arena.is_over(first.index, first.generation));
    assert!(!arena.is_over(second.index, second.generation));
    // A child that was told about and is killed before its first step.
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    arena.started(second, child.id());
    assert_eq!(arena.bury_dead(), 0, "it runs");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(arena.bury_dead(), 1);
    assert_eq!(arena.processes().len(), 1);
}

#[test]
fn a_full_process_table_is_an_error_that_passes() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let mut slots = Vec::new();
    let error = loop {
        match arena.reserve(true, None) {
            Ok(slot) => slots.push(slot),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::TooManyProcesses(64)), "{error}");
    assert_eq!(slots.len(), 63);
    for slot in slots {
        arena.unreserve(slot);
    }
    arena.unreserve(arena.reserve(true, None).unwrap());
    assert_eq!(arena.processes().len(), 1);
}

/// A child that was forked by the program itself, which no process follows.
fn plain_child(body: impl FnOnce()) -> PidFd {
    // SAFETY: as in `killed_at`.
    match unsafe { process::fork() }.unwrap() {
        process::Fork::Child => {
            body();
            exit_now(0);
        }
        process::Fork::Parent(pid) => PidFd::open(pid).unwrap(),
    }
}

fn reaped(child: &PidFd) -> ExitStatus {
    while !child.ended_by(None).unwrap_or(false) {}
    child.reap().unwrap().unwrap()
}

#[test]
fn what_a_child_beyond_the_table_has_open_is_never_another_object() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let queue = crate::queue::Queue::new(arena, "the child's", None).unwrap();
    queue.put(0, b"before", crate::wait::Wait::FOREVER).unwrap();
    let slots: Vec<_> = std::iter::from_fn(|| arena.reserve(true, None).ok()).collect();
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let child = plain_child(|| {
        assert!(!arena.is_member());
        std::io::Read::read_exact(&mut &there, &mut [0]).unwrap();
        // It may look, and change nothing that its death would have to undo.
        assert_eq!(queue.len(), 1);
        let error = queue.put(0, b"lost", crate::wait::Wait::FOREVER).unwrap_err();
        assert!(error.to_string().contains("64 live processes"), "{error}");
        assert!(Lock::new(arena, "").is_err());
    });
    let handle = queue.handle();
    drop(queue);
    assert_eq!(arena.objects().len(), 1, "freed under a child that has it open");
    assert_ne!(Lock::new(arena, "another").unwrap().handle().index, handle.index);
    std::io::Write::write_all(&mut &here, &[1]).unwrap();
    assert_eq!(reaped(&child), ExitStatus::Exited(0));
    for slot in slots {
        arena.unreserve(slot);
    }
    assert_eq!(reaped(&plain_child(|| assert!(arena.is_member()))), ExitStatus::Exited(0));
}

#[test]
fn a_reservation_is_void_only_if_no_process_is_left_to_claim_it() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    // A process that has the arena and is not in its table: it could be a child before its first
    // step.
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let stranger = plain_child(|| {
        arena.bury(arena.me());
        let _ = std::io::Read::read_exact(&mut &there, &mut [0]);
    });
    let slot = arena.reserve(true, None).unwrap();
    let is_there = || arena.processes().iter().any(|process| process.slot == slot);
    arena.bury_abandoned();
    assert!(is_there(), "its maker may yet fork");
    arena.fork_is_over(slot);
    while arena.processes().iter().any(|process| process.pid == stranger.pid()) {
        std::thread::yield_now();
    }
    arena.bury_abandoned();
    std::thread::sleep(std::time::Duration::from_millis(1200));
    arena.bury_abandoned();
    assert!(is_there(), "a process may yet claim it");
    std::io::Write::write_all(&mut &here, &[1]).unwrap();
    reaped(&stranger);
    while is_there() {
        arena.bury_abandoned();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_reservation_is_withdrawn_by_its_maker_and_a_living_row_by_no_process() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let child = plain_child(|| {
        let _ = std::io::Read::read_exact(&mut &there, &mut [0]);
    });
    let row = loop {
        let rows = arena.processes();
        if let Some(row) = rows.iter().find(|row| row.pid == child.pid()) {
            break row.slot;
        }
        std::thread::yield_now();
    };
    while !arena.processes().iter().any(|process| process.slot == row && process.alive) {}
    arena.unreserve(row);
    assert!(arena.processes().iter().any(|process| process.slot == row && process.alive));
    assert!(!arena.is_over(row.index, row.generation));
    std::io::Write::write_all(&mut &here, &[1]).unwrap();
    reaped(&child);
    assert!(arena.is_over(row.index, row.generation));
    arena.bury_abandoned();
    assert_eq!(arena.processes().len(), 1);
}

#[test]
fn ended_children_are_swept_as_others_are_forked() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let block = SharedBlock::new(arena, "held", 1 << 20).unwrap();
    for _ in 0..20 {
        reaped(&plain_child(|| ()));
    }
    // These hold the block, and no process follows them.
    drop(block);
    for _ in 0..4 {
        reaped(&plain_child(|| ()));
    }
    assert_eq!(arena.objects(), []);
    assert_eq!(arena.blocks_in_use().unwrap(), 0);
}

#[test]
fn a_full_object_table_is_an_error_that_passes() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let mut locks = Vec::new();
    let error = loop {
        match Lock::new(arena, "") {
            Ok(lock) => locks.push(lock),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::TooManyObjects(1024)), "{error}");
    assert_eq!(locks.len(), 1024);
    assert!(SharedBlock::new(arena, "", 100).is_err());
    assert_eq!(arena.blocks_in_use().unwrap(), 0, "what was made for it is given back");
    locks.clear();
    drop(Lock::new(arena, "").unwrap());
    assert_eq!(arena.objects(), []);
}

/// Runs `body` beside the test, and fails if it does not come back.
fn comes_back<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(body()));
    ended.recv_timeout(std::time::Duration::from_secs(60)).expect("it does not come back")
}

#[test]
fn an_object_that_can_not_be_made_leaves_its_row_as_it_was() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let taken = allocate(arena, 100).unwrap();
    let stranger = Block::recorded(taken.offset(), taken.generation() + 1);
    let damaged = || Error::Corrupt("on purpose");
    for generation in 1..20 {
        let body = allocate(arena, 100).unwrap();
        let failed = match generation % 3 {
            // Its block is another's.
            0 => arena.make::<AtomicU64>(Kind::Lock, "", Some(stranger), |_| Ok(())),
            1 => arena.make::<AtomicU64>(Kind::Block, "", Some(body), |_| Err(damaged())),
            _ => arena.make::<AtomicU64>(Kind::Queue, "", Some(body), |_| Err(damaged())),
        };
        assert!(matches!(failed, Err(Error::Corrupt(_))));
        if generation % 3 == 0 {
            arena.free(body).unwrap();
        }
        let handle = Handle { family: arena.family(), index: 0, generation };
        for kind in [Kind::Lock, Kind::Block, Kind::Queue] {
            let opened = comes_back(move || arena.open(handle, kind).map(|_| ()));
            assert!(matches!(opened, Err(Error::Stale { .. })), "{opened:?}");
        }
        assert_eq!(arena.objects(), []);
        assert_eq!(arena.blocks_in_use().unwrap(), 1);
    }
    arena.free(taken).unwrap();
    assert_eq!(arena.row(arena.me().index).unwrap().unsettled.load(Ordering::Relaxed), 0);
    let lock = Lock::new(arena, "").unwrap();
    assert_eq!(lock.handle().index, 0, "the row is used again");
}

#[test]
fn no_handle_of_a_row_comes_twice() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let first = Lock::new(arena, "").unwrap().handle();
    // As many objects later as a handle can tell apart.
    let state = arena.word(arena.layout.object(first.index).unwrap()).unwrap();
    state.store(u64::from(u32::MAX - 2) << 32, Ordering::Relaxed);
    let mut generations = Vec::new();
    for _ in 0..4 {
        let lock = Lock::new(arena, "").unwrap();
        generations.push((lock.handle().index, lock.handle().generation));
        assert!(Lock::open(first).is_err());
    }
    let next = first.index + 1;
    assert_eq!(generations, [(0, u32::MAX - 1), (0, u32::MAX), (next, 1), (next, 2)]);
}

#[test]
fn a_row_that_is_found_unwatched_is_watched_by_the_next_to_take_a_lock() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let lock = Lock::new(arena, "").unwrap();
    // As another process does which finds that the thread that watched has left past the C library.
    arena.release_watch();
    assert!(arena.is_unwatched());
    assert!(lock.try_acquire());
    assert!(!arena.is_unwatched());
}

#[test]
fn an_object_that_never_came_to_live_has_no_name_of_another() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    let books = Lock::new(arena, "the books").unwrap();
    let handle = books.handle();
    drop(books);
    killed_at("object.claimed", || drop(Lock::new(arena, "the news")));
    assert_eq!(arena.name_of(handle), None, "its row was taken");
    let never = Handle { generation: handle.generation + 1, ..handle };
    assert_eq!(arena.name_of(never), None);
    arena.bury_dead();
    assert!(!arena.object_lives(handle.index));
    assert_eq!((arena.name_of(handle), arena.name_of(never)), (None, None));
}

#[test]
fn a_slot_that_can_not_be_is_the_callers_mistake_and_no_damage() {
    let _alone = alone();
    let arena = Arena::with_capacity(SMALL).unwrap();
    for index in [arena.slots() as u16, u16::MAX] {
        let slot = Slot { index, generation: 1 };
        let refused = [
            arena.take_over(slot).unwrap_err(),
            inherit_as(arena.descriptor().unwrap().try_clone_to_owned().unwrap(), slot)
                .unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(error, Error::NoSuchSlot { last: 63, .. }), "{error}");
        }
    }
}
