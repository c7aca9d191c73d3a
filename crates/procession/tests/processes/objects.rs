//! Queues, locks, semaphores and events between processes that come and go.

use std::process::{Command, ExitCode};

use procession::arena;
use procession::queue::{BYTES, PutError};
use procession::sync::LockError;
use procession::{
    Builder, ByteQueue, Event, JoinError, Lock, Queue, Semaphore, SharedBlock, StartMethod,
};
use procession_os::process;

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
        let LockError::OwnerDied(guard) = lock.lock().unwrap_err();
        assert!(lock.is_locked());
        drop(guard);
        drop(lock.lock().unwrap());
        assert!(child.join().is_err());
    }
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
    assert!(matches!(lock.lock(), Err(LockError::OwnerDied(_))), "it is killed with the lock");
    assert!(!child.wait().unwrap().success());
}
