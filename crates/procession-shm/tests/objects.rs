//! Which processes hold an object, and for how long it lives.

#![allow(unsafe_code)]
#![cfg(not(model))]

mod support;

use procession_os::process;
use procession_shm::arena::{self, Arena, Error, Handle, Kind, Slot};
use procession_shm::memory::SharedBlock;
use procession_shm::sync::{Event, Lock};
use procession_shm::wait::Owner;
use rustix::process::{Resource, Rlimit, setrlimit};
use support::{Words, alone, arena, child, millis, nothing_left};

#[test]
fn an_object_is_known_by_name_kind_and_maker() {
    let _alone = alone("an_object_is_known_by_name_kind_and_maker");
    let lock = Lock::new(arena(), "the one with a name longer than its place").unwrap();
    let event = Event::new(arena(), "").unwrap();
    let objects = arena().objects();
    let info = objects.iter().find(|object| object.handle == lock.handle()).unwrap();
    assert_eq!(info.kind, Kind::Lock);
    assert_eq!(info.name, "the one with a name longer than ");
    assert_eq!(info.creator, process::id());
    assert_eq!(info.holders, [arena().me().index]);
    drop((lock, event));
    nothing_left();
}

#[test]
fn a_stale_or_strange_handle_is_refused() {
    let _alone = alone("a_stale_or_strange_handle_is_refused");
    let first = Lock::new(arena(), "first").unwrap();
    let handle = first.handle();
    drop(first);
    assert!(
        matches!(Lock::open(handle), Err(Error::Stale { handle: stale, .. }) if stale == handle)
    );
    let second = Lock::new(arena(), "second").unwrap();
    assert_eq!(second.handle().index, handle.index, "the row is used again");
    assert_ne!(second.handle().generation, handle.generation);
    assert!(matches!(Lock::open(handle), Err(Error::Stale { .. })));
    let wrong = Event::open(second.handle());
    assert!(matches!(
        wrong,
        Err(Error::WrongKind { expected: Kind::Event, found: Kind::Lock, .. })
    ));
    let strange = Handle { family: handle.family ^ 1, ..handle };
    assert!(matches!(Lock::open(strange), Err(Error::ForeignFamily(_))));
    assert!(matches!(arena().open(strange, Kind::Lock), Err(Error::ForeignFamily(_))));
    let beyond = Handle { index: u32::MAX, ..handle };
    assert!(matches!(Lock::open(beyond), Err(Error::Stale { .. })));
    assert!(second.try_acquire(), "none of that touched it");
    drop(second);
    nothing_left();
}

#[test]
fn a_freed_object_is_known_by_name_until_another_has_its_row() {
    let _alone = alone("a_freed_object_is_known_by_name_until_another_has_its_row");
    let told = |handle, kind| match arena().open(handle, kind) {
        Err(Error::Stale { handle: of, kind, name }) => {
            assert_eq!(of, handle);
            (kind, name.map(String::from))
        }
        other => panic!("{other:?}"),
    };
    let books = Lock::new(arena(), "the books").unwrap();
    let handle = books.handle();
    drop(books);
    assert_eq!(told(handle, Kind::Lock), (Kind::Lock, Some("the books".to_owned())));
    assert_eq!(told(handle, Kind::Event), (Kind::Lock, Some("the books".to_owned())));
    let error = Lock::open(handle).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{handle} names a Lock \"the books\" that has")), "{error}");
    let earlier = Handle { generation: handle.generation.wrapping_sub(1), ..handle };
    assert_eq!(told(earlier, Kind::Event), (Kind::Event, None), "it may have been anything");

    let news = Event::new(arena(), "the news").unwrap();
    assert_eq!(news.handle().index, handle.index, "the row is used again");
    assert_eq!(told(handle, Kind::Lock), (Kind::Lock, None));
    assert_eq!(arena().name_of(handle), None);
    drop(news);
    assert_eq!(told(handle, Kind::Lock), (Kind::Lock, None));
    nothing_left();
}

#[test]
fn a_buried_process_is_known_by_name_until_another_has_its_row() {
    let _alone = alone("a_buried_process_is_known_by_name_until_another_has_its_row");
    let words = Words::new(2);
    let clerk = |name: &'static str| {
        let clerk = child(|| {
            arena().set_name(name);
            words.set(0, arena().owner().word());
            words.set(1, process::id().into());
        });
        clerk.succeeds();
    };
    let last = || (Owner::from_bits(words.get(0)).unwrap(), words.get(1) as u32);
    let known = |owner| arena().process_of(owner).map(|process| (process.pid, process.name));

    child(|| clerk("the first clerk")).succeeds();
    let (first, pid) = last();
    assert_eq!(known(first), Some((pid, "the first clerk".to_owned())), "another buried it");
    let next = Owner::new(first.slot(), first.generation() + 1, first.thread());
    assert_eq!(known(next), None, "there was none");

    child(|| clerk("the second clerk")).succeeds();
    let (second, other_pid) = last();
    assert_eq!(second.slot(), first.slot(), "the row is used again");
    assert_eq!(known(second), Some((other_pid, "the second clerk".to_owned())));
    assert_eq!(known(first), None);

    clerk("a child");
    let (own, pid) = last();
    clerk("another child");
    assert_eq!(last().0.slot(), own.slot(), "the row is used again");
    assert_eq!(known(own), Some((pid, "a child".to_owned())), "this process buried it");
    drop(words);
    nothing_left();
}

#[test]
fn a_process_that_takes_a_row_by_itself_has_no_name_of_another() {
    let _alone = alone("a_process_that_takes_a_row_by_itself_has_no_name_of_another");
    let small = Arena::with_capacity(16 << 20).unwrap();
    child(|| {
        small.set_name("one");
        child(|| small.set_name("two")).succeeds();
    })
    .succeeds();
    assert_eq!(small.bury_dead(), 2);
    let fd = small.descriptor().unwrap().try_clone_to_owned().unwrap();
    child(|| {
        // A second time, beside the row that was reserved at the fork.
        let me = arena::inherit(fd).unwrap().me();
        assert_eq!(me, Slot { index: 2, generation: 2 });
        let processes = small.processes();
        assert_eq!(processes.iter().find(|process| process.slot == me).unwrap().name, "");
    })
    .succeeds();
    nothing_left();
}

#[test]
fn an_object_lives_until_its_last_holder_lets_go() {
    let _alone = alone("an_object_lives_until_its_last_holder_lets_go");
    let words = Words::new(2);
    let block = SharedBlock::new(arena(), "kept", 100_000).unwrap();
    block.write(0, b"kept").unwrap();
    let handle = block.handle();
    let mut mine = Some(block);
    let keeper = child(|| {
        while words.get(0) == 0 {
            millis(1);
        }
        let mut bytes = [0; 4];
        mine.as_ref().unwrap().read(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"kept");
        drop(mine.take());
        words.set(1, 1);
        while words.get(0) == 1 {
            millis(1);
        }
    });
    drop(mine.take());
    assert!(arena().objects().iter().any(|object| object.handle == handle), "the child has it");
    words.set(0, 1);
    while words.get(1) == 0 {
        millis(1);
    }
    assert!(!arena().objects().iter().any(|object| object.handle == handle));
    words.set(0, 2);
    keeper.succeeds();
    drop(words);
    nothing_left();
}

#[test]
fn an_object_that_goes_from_hand_to_hand_is_never_stale() {
    let _alone = alone("an_object_that_goes_from_hand_to_hand_is_never_stale");
    const TURNS: u64 = 4_000;
    let words = Words::new(3);
    let lock = Lock::new(arena(), "passed on").unwrap();
    let handle = lock.handle();
    let mut mine = Some(lock);
    let wait = |word: usize, value: u64| {
        while words.get(word) != value {
            std::thread::yield_now();
        }
    };
    // Each of two opens it before the other closes it, so there is no instant at which no process
    // has it.
    let one = child(|| {
        let mut held = mine.take();
        for turn in (0..TURNS).step_by(2) {
            wait(0, turn + 1);
            drop(held.take());
            held = Some(Lock::open(handle).unwrap());
            words.set(0, turn + 2);
        }
        wait(2, 1);
    });
    let other = child(|| {
        drop(mine.take());
        for turn in (0..TURNS).step_by(2) {
            wait(0, turn);
            let held = Lock::open(handle).unwrap();
            words.set(0, turn + 1);
            wait(0, turn + 2);
            drop(held);
        }
    });
    // Looks for holders each time that it closes it.
    let third = child(|| {
        drop(mine.take());
        while words.get(1) == 0 {
            drop(Lock::open(handle).unwrap());
        }
        words.set(2, 1);
    });
    drop(mine.take());
    other.succeeds();
    words.set(1, 1);
    third.succeeds();
    one.succeeds();
    drop(words);
    nothing_left();
}

#[test]
fn a_killed_holders_references_are_given_back() {
    let _alone = alone("a_killed_holders_references_are_given_back");
    let words = Words::new(4);
    let holder = child(|| {
        let lock = Lock::new(arena(), "the child's").unwrap();
        let copy = Lock::open(lock.handle()).unwrap();
        let block = SharedBlock::new(arena(), "the child's", 1 << 20).unwrap();
        words.set(1, u64::from(lock.handle().index));
        words.set(2, u64::from(lock.handle().generation));
        words.set(0, 1);
        millis(600_000);
        drop((lock, copy, block));
    });
    while words.get(0) == 0 {
        millis(1);
    }
    let (index, generation) = (words.get(1) as u32, words.get(2) as u32);
    let handle = Handle { family: arena().family(), index, generation };
    let opened = Lock::open(handle).unwrap();
    holder.kill();
    holder.join();
    assert_eq!(arena().objects().len(), 2, "the words, and what was opened here");
    assert!(opened.try_acquire());
    drop(opened);
    assert!(matches!(Lock::open(handle), Err(Error::Stale { .. })));
    drop(words);
    nothing_left();
}

#[test]
fn where_address_space_is_short_the_arena_is_small() {
    let _alone = alone("where_address_space_is_short_the_arena_is_small");
    child(|| {
        let limit = Some(4 << 30);
        setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
        let small = Arena::create().unwrap();
        assert!((16 << 20..4 << 30).contains(&small.capacity()));
        drop(Lock::new(small, "lock").unwrap());
        small.check().unwrap();
    })
    .succeeds();
    nothing_left();
}

#[test]
fn a_process_is_known_by_name_parent_and_task() {
    let _alone = alone("a_process_is_known_by_name_parent_and_task");
    let words = Words::new(1);
    arena().set_name("root");
    let named = child(|| {
        arena().set_name("child");
        arena().task().unwrap().store(42, std::sync::atomic::Ordering::SeqCst);
        words.set(0, 1);
        millis(600_000);
    });
    while words.get(0) == 0 {
        millis(1);
    }
    let processes = arena().processes();
    let info = processes.iter().find(|info| info.pid == named.pid).unwrap();
    assert_eq!((info.name.as_str(), info.parent), ("child", process::id()));
    assert_eq!((info.alive, info.task, info.blocked_on), (true, Some(41), None));
    assert_eq!(arena::attach(named.pid).unwrap().family(), arena().family());
    named.kill();
    let slot = info.slot;
    while arena().processes().iter().any(|info| info.slot == slot && info.alive) {
        millis(1);
    }
    assert_eq!(arena().task_of(slot), Some(41), "the dead's task can be read until it is buried");
    named.join();
    assert_eq!(arena().task_of(slot), None);
    drop(words);
    nothing_left();
}
