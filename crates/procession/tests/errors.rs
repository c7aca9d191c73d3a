//! What errors and `Debug` texts say, and that errors can go anywhere.

use std::error::Error as StdError;

use procession::arena::{self, Error};
use procession::process::{JoinTimeoutError, SpawnErrorKind, TryJoinError};
use procession::queue::{GetError, PutError, PutManyError, TaskDoneError, TasksLostError};
use procession::sync::{BrokenBarrierError, OwnerDied, OwnerDiedError, ReleaseError};
use procession::{
    Array, Barrier, ByteQueue, Condition, DecodeError, EncodeError, Event, JoinError,
    JoinableQueue, Lock, Queue, RLock, Semaphore, SharedBlock, SpawnError, Value,
};

#[test]
fn every_error_is_one_that_can_be_boxed_sent_and_kept() {
    fn is_error<E: StdError + Send + Sync + 'static>() {}
    /// A result's type without `Debug`: the errors are errors nonetheless.
    struct Opaque;
    is_error::<Error>();
    is_error::<arena::ParseHandleError>();
    is_error::<OwnerDiedError>();
    is_error::<ReleaseError>();
    is_error::<BrokenBarrierError>();
    is_error::<PutError>();
    is_error::<PutManyError>();
    is_error::<GetError>();
    is_error::<TasksLostError>();
    is_error::<TaskDoneError>();
    is_error::<EncodeError>();
    is_error::<DecodeError>();
    is_error::<SpawnError>();
    is_error::<SpawnErrorKind>();
    is_error::<JoinError>();
    is_error::<TryJoinError<Opaque>>();
    is_error::<JoinTimeoutError<Opaque>>();
}

#[test]
fn a_guard_with_news_becomes_an_error_where_one_is_asked_for() {
    fn becomes_error<E>()
    where
        E: Into<OwnerDiedError> + Into<Box<dyn StdError>> + Into<Box<dyn StdError + Send + Sync>>,
    {
    }
    becomes_error::<OwnerDied<procession::sync::LockGuard<'_>>>();
    becomes_error::<OwnerDied<procession::sync::RLockGuard<'_>>>();
    becomes_error::<OwnerDied<procession::memory::ValueGuard<'_, u64>>>();
    becomes_error::<OwnerDied<procession::memory::ArrayGuard<'_, u64>>>();
    becomes_error::<OwnerDied<(procession::sync::LockGuard<'_>, bool)>>();
}

/// Uses `?` on each error, in a function as users write it.
#[test]
fn every_method_goes_with_a_question_mark() -> Result<(), Box<dyn StdError>> {
    let (lock, rlock, changed) = (Lock::new()?, RLock::new()?, Condition::new()?);
    let guard = lock.lock()?;
    let guard = changed.wait_while(guard, || false)?;
    let (guard, _) = changed.wait_timeout(guard, std::time::Duration::ZERO)?;
    drop(guard);
    drop((rlock.lock()?, rlock.try_lock()?.ok_or("held")?));
    let value = Value::new(1u64)?;
    value.store(value.load()? + 1)?;
    assert_eq!(value.update(|n| n + 1)?, 3);
    drop(Array::from_slice(&[1u8])?.lock()?);
    Semaphore::new(1)?.release()?;
    Barrier::new(1)?.wait()?;
    let queue = Queue::new()?;
    queue.put(1u64)?;
    queue.put_many([2u64])?;
    assert_eq!(queue.get()? + queue.try_get()?, 3);
    let tasks = JoinableQueue::new()?;
    tasks.put(1u64)?;
    tasks.get()?;
    tasks.task_done()?;
    tasks.join()?;
    Ok(())
}

#[test]
fn a_callers_mistake_is_not_called_damage() {
    let block = SharedBlock::new(16).unwrap();
    for (at, len) in [(16, 1), (9, 8), (u64::MAX, 8)] {
        let mut bytes = vec![0; len];
        for error in [block.read(at, &mut bytes).unwrap_err(), block.write(at, &bytes).unwrap_err()]
        {
            assert!(matches!(error, Error::OutOfRange { .. }), "{error:?}");
            let text = format!("bytes {at}..+{len} were asked for, of a block of 16 bytes");
            assert_eq!(error.to_string(), text);
        }
    }
    assert!(matches!(block.read_u64(9), Err(Error::OutOfRange { at: 9, len: 8, size: 16 })));
    assert!(matches!(block.write_u64(16, 1), Err(Error::OutOfRange { .. })));
    for error in [
        Barrier::new(1 << 20 | 1).unwrap_err(),
        Semaphore::recovering(8193).unwrap_err(),
        Semaphore::new(1 << 31).unwrap_err(),
        Semaphore::bounded(u32::MAX).unwrap_err(),
    ] {
        assert!(matches!(error, Error::TooMany { .. }), "{error:?}");
        assert!(error.to_string().contains("there can be at most"), "{error}");
    }
    assert_eq!(Semaphore::new((1 << 31) - 1).unwrap().value(), (1 << 31) - 1);
    for capacity in [0, 1 << 20, u64::MAX] {
        let error = arena::Arena::with_capacity(capacity).unwrap_err();
        assert!(matches!(error, Error::CapacityOutOfRange { .. }), "{error:?}");
    }
    let number = serde_json::to_string(&Value::new(1u32).unwrap()).unwrap();
    let error = serde_json::from_str::<Value<u64>>(&number).unwrap_err();
    assert!(!error.to_string().contains("damaged"), "{error}");
}

#[test]
fn a_handle_of_a_freed_object_is_told_with_its_name() {
    let lock = Lock::named("accounts").unwrap();
    let handle = lock.handle();
    drop(lock);
    // Tests beside this one make objects, which may take the row.
    let error = Lock::open(handle).unwrap_err();
    let text = error.to_string();
    let Error::Stale { kind: arena::Kind::Lock, name, .. } = error else { panic!("{text}") };
    let what = if name.is_some() { "Lock \"accounts\"" } else { "Lock" };
    assert!(text.starts_with(&format!("{handle} names a {what} that has been freed")), "{text}");
}

#[test]
#[should_panic(expected = "values 4..+1 of an array of 4")]
fn an_index_past_the_end_of_an_array_is_as_with_a_slice() {
    let array = Array::<u16>::zeroed(4).unwrap();
    let _ = array.lock().unwrap().load(4);
}

#[test]
fn a_seventeenth_arena_is_not_called_damage() {
    let arena = arena::family().unwrap();
    let more = (0..16).map(|_| arena::Arena::with_capacity(16 << 20));
    let refused = more.filter_map(Result::err).next().unwrap();
    assert!(matches!(refused, Error::TooMany { what: "arenas", max: 16, .. }), "{refused:?}");
    assert!(arena::family().is_ok_and(|family| family.family() == arena.family()));
}

#[test]
fn a_debug_text_is_one_line_with_the_name_and_never_waits() {
    let me = std::process::id();
    let lock = Lock::named("accounts").unwrap();
    assert_eq!(format!("{lock:?}"), r#"Lock { name: "accounts", held_by: <nobody> }"#);
    let guard = lock.lock().unwrap();
    assert_eq!(format!("{lock:?}"), format!(r#"Lock {{ name: "accounts", held_by: {me} }}"#));
    assert_eq!(format!("{guard:?}"), r#"LockGuard { name: "accounts" }"#);

    let rlock = RLock::named("tree").unwrap();
    let held = rlock.lock().unwrap();
    assert_eq!(format!("{rlock:?}"), format!(r#"RLock {{ name: "tree", held_by: {me} }}"#));
    assert_eq!(format!("{held:?}"), r#"RLockGuard { name: "tree" }"#);

    let value = Value::named("total", 7u64).unwrap();
    let free = r#"Value { name: "total", held_by: <nobody>, data: .. }"#;
    assert_eq!(format!("{value:?}"), free);
    let held = value.lock().unwrap();
    let text = format!(r#"Value {{ name: "total", held_by: {me}, data: .. }}"#);
    assert_eq!(format!("{value:?}"), text);
    assert_eq!(format!("{held:?}"), r#"ValueGuard { name: "total", data: 7 }"#);
    let array = Array::named("row", &[1u8, 2]).unwrap();
    let free = r#"Array { name: "row", held_by: <nobody>, len: 2, data: .. }"#;
    assert_eq!(format!("{array:?}"), free);
    let guard = format!("{:?}", array.lock().unwrap());
    assert_eq!(guard, r#"ArrayGuard { name: "row", data: [1, 2] }"#);

    let block = SharedBlock::named("page", 64).unwrap();
    assert_eq!(format!("{block:?}"), r#"SharedBlock { name: "page", size: 64 }"#);
    let event = Event::named("go").unwrap();
    assert_eq!(format!("{event:?}"), r#"Event { name: "go", set: false }"#);
    let condition = Condition::named("changed").unwrap();
    assert_eq!(format!("{condition:?}"), r#"Condition { name: "changed", waiting: 0 }"#);
    let seats = Semaphore::named("seats", 2).unwrap();
    let permit = seats.acquire();
    assert_eq!(format!("{seats:?}"), r#"Semaphore { name: "seats", value: 1 }"#);
    assert_eq!(format!("{permit:?}"), r#"Permit { name: "seats" }"#);
    let barrier = Barrier::named("start", 3).unwrap();
    let text = r#"Barrier { name: "start", parties: 3, waiting: 0, broken: false }"#;
    assert_eq!(format!("{barrier:?}"), text);

    let queue = Queue::<u64>::named("jobs", None).unwrap();
    queue.put(1).unwrap();
    assert_eq!(format!("{queue:?}"), r#"Queue { name: "jobs", len: 1 }"#);
    let bytes = ByteQueue::open(queue.handle()).unwrap();
    assert_eq!(format!("{bytes:?}"), r#"ByteQueue { name: "jobs", len: 1 }"#);
    let tasks = JoinableQueue::<u64>::named("tasks", None).unwrap();
    assert_eq!(format!("{tasks:?}"), r#"JoinableQueue { name: "tasks", len: 0, unfinished: 0 }"#);
}

#[test]
fn an_object_without_a_name_is_named_after_its_place() {
    let (line, lock) = (line!(), Lock::new().unwrap());
    let name = format!("tests/errors.rs:{line}");
    assert!(format!("{lock:?}").contains(&name), "{lock:?}");
}
