//! Queues, locks, semaphores and events between processes that come and go.

use std::error::Error;
use std::process::{Command, ExitCode};
use std::time::Duration;

use procession::arena;
use procession::queue::{BYTES, PutError};
use procession::sync::OwnerDiedError;
use procession::{
    Array, Builder, ByteQueue, Condition, Event, JoinError, Lock, Queue, RLock, Semaphore,
    SharedBlock, StartMethod, Value,
};
use procession_os::process;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::driver::until;

fn builder(method: StartMethod) -> Builder {
    Builder::new().start_method(method)
}

pub(crate) fn a_queue_goes_through_a_queue(method: StartMethod) {
    fn answer(requests: Queue<(u64, Queue<u64>)>) {
        for _ in 0..100 {
            let (number, replies) = requests.get().unwrap();
            replies.put(number * 2).unwrap();
        }
    }
    let requests = Queue::new().unwrap();
    let child = builder(method).spawn(answer, requests.clone()).unwrap();
    for number in 0..100 {
        let replies = Queue::new().unwrap();
        requests.put((number, replies.clone())).unwrap();
        assert_eq!(replies.get().unwrap(), number * 2);
    }
    child.join().unwrap();
}

pub(crate) fn many_producers_and_consumers_lose_nothing(method: StartMethod) {
    const EACH: u64 = 20_000;
    fn produce((queue, producer): (Queue<Option<(u64, u64)>>, u64)) {
        for number in 0..EACH {
            queue.put(Some((producer, number))).unwrap();
        }
    }
    fn consume(queue: Queue<Option<(u64, u64)>>) -> (u64, u64) {
        let mut last = [None; 3];
        let (mut count, mut sum) = (0, 0);
        while let Some((producer, number)) = queue.get().unwrap() {
            let last = &mut last[producer as usize];
            assert!(last.is_none_or(|last| last < number), "the order of a producer is kept");
            *last = Some(number);
            count += 1;
            sum += number;
        }
        (count, sum)
    }
    let queue = Queue::new().unwrap();
    let consumers: Vec<_> =
        (0..3).map(|_| builder(method).spawn(consume, queue.clone()).unwrap()).collect();
    let producers: Vec<_> =
        (0..3).map(|n| builder(method).spawn(produce, (queue.clone(), n)).unwrap()).collect();
    for producer in producers {
        producer.join().unwrap();
    }
    for _ in &consumers {
        queue.put(None).unwrap();
    }
    let totals = consumers.into_iter().map(|consumer| consumer.join().unwrap());
    let total = totals.fold((0, 0), |(count, sum), (c, s)| (count + c, sum + s));
    assert_eq!(total, (3 * EACH, 3 * EACH * (EACH - 1) / 2));
}

pub(crate) fn what_a_killed_producer_put_is_delivered(method: StartMethod) {
    let queue = Queue::<String>::new().unwrap();
    let child = builder(method).spawn(
        |queue: Queue<String>| -> () {
            for size in [1, 5000, 100, 2_000_000] {
                queue.put("x".repeat(size)).unwrap();
            }
            process::kill_self();
        },
        queue.clone(),
    );
    assert!(matches!(child.unwrap().join(), Err(JoinError::Signaled { signal: 9, .. })));
    let sizes: Vec<_> = queue.try_iter().map(|text| text.unwrap().len()).collect();
    assert_eq!(sizes, [1, 5000, 100, 2_000_000]);
}

pub(crate) fn a_bounded_queue_holds_its_producer_back(method: StartMethod) {
    let queue = Queue::<u64>::bounded(4).unwrap();
    let child = builder(method).spawn(
        |queue: Queue<u64>| {
            let put = queue.put_many(0..1000u64).unwrap();
            assert!(queue.len() <= 4);
            put
        },
        queue.clone(),
    );
    until(|| queue.is_full());
    assert!(matches!(queue.try_put(0), Err(PutError::Full)));
    assert!((0..1000).all(|number| queue.get().unwrap() == number));
    assert_eq!(child.unwrap().join().unwrap(), 1000);
}

pub(crate) fn a_dead_owner_hands_the_lock_on(method: StartMethod) {
    let lock = Lock::new().unwrap();
    for _ in 0..5 {
        let child = builder(method).spawn(
            |lock: Lock| -> () {
                std::mem::forget(lock.lock().unwrap());
                process::kill_self();
            },
            lock.clone(),
        );
        let child = child.unwrap();
        until(|| lock.is_locked());
        let guard = lock.lock().unwrap_err().into_guard();
        assert!(lock.is_locked());
        drop(guard);
        drop(lock.lock().unwrap());
        assert!(child.join().is_err());
    }
}

/// Makes a child die with the lock; returns its number.
fn kill_with<L>(method: StartMethod, lock: L, take: fn(L)) -> u32
where
    L: Serialize + DeserializeOwned + 'static,
{
    let child = builder(method).name("clerk").spawn(take, lock).unwrap();
    let pid = child.pid();
    assert!(child.join().is_err());
    pid
}

fn kill<L>(method: StartMethod, lock: &L, take: fn(L))
where
    L: Clone + Serialize + DeserializeOwned + 'static,
{
    kill_with(method, lock.clone(), take);
}

pub(crate) fn a_lock_is_free_as_soon_as_its_error_goes_up(method: StartMethod) {
    type Failure = Box<dyn Error>;
    type Way<'w> = (&'w str, &'w dyn Fn() -> Result<(), Failure>);
    fn check(ways: &[Way<'_>], kill: impl Fn()) {
        let mut kept = Vec::new();
        for (way, take) in ways {
            kill();
            let error = take().expect_err(way);
            assert!(error.is::<OwnerDiedError>(), "{way}: {error}");
            // The error is kept, the lock is free, and the next holder is told nothing.
            kept.push(error);
            take().unwrap_or_else(|error| panic!("{way}: {error}"));
        }
        assert!(kept.iter().all(|error| error.to_string().contains("died while it held")));
    }
    fn done<T>(_: T) -> Result<(), Failure> {
        Ok(())
    }
    let (lock, rlock) = (Lock::new().unwrap(), RLock::new().unwrap());
    let (value, array) = (Value::new(7u64).unwrap(), Array::<u8>::zeroed(3).unwrap());
    let changed = Condition::new().unwrap();
    let soon = Duration::from_secs(1000);
    check(
        &[
            ("lock", &|| done(lock.lock()?)),
            ("try_lock", &|| done(lock.try_lock()?.ok_or("held")?)),
            ("lock_timeout", &|| done(lock.lock_timeout(soon)?.ok_or("held")?)),
        ],
        || kill(method, &lock, |lock| die_with(lock.lock().unwrap())),
    );
    check(
        &[
            ("rlock", &|| done(rlock.lock()?)),
            ("try_lock", &|| done(rlock.try_lock()?.ok_or("held")?)),
            ("lock_timeout", &|| done(rlock.lock_timeout(soon)?.ok_or("held")?)),
        ],
        || kill(method, &rlock, |lock| die_with(lock.lock().unwrap())),
    );
    check(
        &[
            ("load", &|| done(value.load()?)),
            ("store", &|| done(value.store(1)?)),
            ("update", &|| done(value.update(|n| n + 1)?)),
            ("lock", &|| done(value.lock()?)),
        ],
        || kill(method, &value, |value| die_with(value.lock().unwrap())),
    );
    check(&[("array", &|| done(array.lock()?))], || {
        kill(method, &array, |array| die_with(array.lock().unwrap()));
    });
    // As told to a waiter at a condition, with another kind of box, and with an error by its type.
    let wait = |(lock, changed, here): (Lock, Condition, Event)| -> String {
        let wait = || -> Result<(), Box<dyn Error + Send + Sync>> {
            let guard = lock.lock()?;
            here.set();
            drop(changed.wait(guard)?);
            Ok(())
        };
        let error = wait().unwrap_err();
        drop(lock.lock().map_err(OwnerDiedError::from).unwrap());
        error.to_string()
    };
    let here = Event::new().unwrap();
    let waiter = builder(method).spawn(wait, (lock.clone(), changed, here.clone())).unwrap();
    here.wait();
    kill(method, &lock, |lock| die_with(lock.lock().unwrap()));
    assert!(waiter.join().unwrap().contains("died while it held Lock"));
}

fn die_with<G>(guard: G) {
    std::mem::forget(guard);
    process::kill_self();
}

pub(crate) fn a_dead_owner_is_told_by_number_and_name(method: StartMethod) {
    let lock = Lock::named("accounts").unwrap();
    let pid = kill_with(method, lock.clone(), |lock| die_with(lock.lock().unwrap()));
    let died = lock.lock().unwrap_err();
    let error = died.error().clone();
    assert_eq!((error.kind(), error.name()), (arena::Kind::Lock, "accounts"));
    assert_eq!((error.pid(), error.process_name()), (Some(pid), Some("clerk")));
    let text = text_of(pid);
    assert!(died.to_string().starts_with(&text), "{died}");
    assert!(format!("{died:?}").starts_with(&format!("OwnerDied({text}")), "{died:?}");
    drop(died);
    // As seen by a process that did not start the dead one, while that is not buried.
    let child = builder(method)
        .name("clerk")
        .spawn(|lock: Lock| die_with(lock.lock().unwrap()), lock.clone())
        .unwrap();
    let pid = child.pid();
    until(|| child.is_finished());
    let told = |lock: Lock| lock.lock().map_err(OwnerDiedError::from).unwrap_err().to_string();
    let told = builder(method).spawn(told, lock.clone()).unwrap().join().unwrap();
    assert!(told.starts_with(&text_of(pid)), "{told}");
    assert!(child.join().is_err());
}

pub(crate) fn a_dead_owner_is_named_when_another_process_has_buried_it(method: StartMethod) {
    let employ = |lock: Lock| {
        let clerk =
            Builder::new().name("clerk").spawn(|lock: Lock| die_with(lock.lock().unwrap()), lock);
        let clerk = clerk.unwrap();
        let pid = clerk.pid();
        assert!(clerk.join().is_err());
        pid
    };
    let lock = Lock::named("accounts").unwrap();
    let pid = builder(method).spawn(employ, lock.clone()).unwrap().join().unwrap();
    let table = arena::family().unwrap();
    assert!(table.processes().iter().all(|process| process.pid != pid), "it is buried");
    let error = lock.lock().map_err(OwnerDiedError::from).unwrap_err();
    assert_eq!((error.pid(), error.process_name()), (Some(pid), Some("clerk")));
    assert!(error.to_string().starts_with(&text_of(pid)), "{error}");
}

fn text_of(pid: u32) -> String {
    format!("process {pid} (\"clerk\") died while it held Lock \"accounts\"")
}

pub(crate) fn a_lock_lets_one_in_at_a_time(method: StartMethod) {
    fn count((lock, total): (Lock, SharedBlock)) {
        for _ in 0..10_000 {
            let _guard = lock.lock().unwrap();
            total.write_u64(0, total.read_u64(0).unwrap() + 1).unwrap();
        }
    }
    let shared = (Lock::new().unwrap(), SharedBlock::new(8).unwrap());
    let children: Vec<_> =
        (0..4).map(|_| builder(method).spawn(count, shared.clone()).unwrap()).collect();
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(shared.1.read_u64(0).unwrap(), 40_000);
}

pub(crate) fn permits_of_the_dead_come_back_where_asked_for(method: StartMethod) {
    let seats = Semaphore::recovering(2).unwrap();
    let child = builder(method).spawn(
        |seats: Semaphore| -> () {
            seats.acquire().forget();
            seats.acquire().forget();
            process::kill_self();
        },
        seats.clone(),
    );
    assert!(child.unwrap().join().is_err());
    let (one, two) = (seats.acquire(), seats.acquire());
    assert!(seats.try_acquire().is_none());
    drop((one, two));
}

pub(crate) fn an_event_wakes_all_who_wait(method: StartMethod) {
    let (here, go) = (Semaphore::new(0).unwrap(), Event::new().unwrap());
    let wait = |(here, go): (Semaphore, Event)| {
        here.release().unwrap();
        go.wait();
    };
    let children: Vec<_> =
        (0..4).map(|_| builder(method).spawn(wait, (here.clone(), go.clone())).unwrap()).collect();
    for _ in &children {
        here.acquire().forget();
    }
    go.set();
    for child in children {
        child.join().unwrap();
    }
}

/// A program that is no child of the family's: `stranger PID MESSAGES REPLIES LOCK`.
pub(crate) fn stranger() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [stranger, pid, messages, replies, lock] = &arguments[..] else { return None };
    if stranger != "stranger" {
        return None;
    }
    arena::attach(pid.parse().unwrap()).unwrap();
    let messages = ByteQueue::open(messages.parse().unwrap()).unwrap();
    let replies = ByteQueue::open(replies.parse().unwrap()).unwrap();
    let lock = Lock::open(lock.parse().unwrap()).unwrap();
    let message = messages.get().unwrap();
    replies.put(message.kind, &message.bytes.to_ascii_uppercase()).unwrap();
    std::mem::forget(lock.lock().unwrap());
    process::kill_self();
}

pub(crate) fn a_stranger_takes_part_by_handles(_: StartMethod) {
    let (messages, replies) = (ByteQueue::new().unwrap(), ByteQueue::new().unwrap());
    let lock = Lock::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["stranger", &process::id().to_string()])
        .args([messages.handle(), replies.handle(), lock.handle()].map(|name| name.to_string()))
        .spawn()
        .unwrap();
    messages.put(BYTES, b"hello").unwrap();
    let reply = replies.get().unwrap();
    assert_eq!((reply.kind, &reply.bytes[..]), (BYTES, &b"HELLO"[..]));
    until(|| lock.is_locked());
    assert!(lock.lock().is_err(), "it is killed with the lock");
    assert!(!child.wait().unwrap().success());
}
