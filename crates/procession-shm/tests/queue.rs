//! What a queue promises while no process dies.

#![cfg(not(model))]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_shm::arena::{Error, Kind};
use procession_shm::queue::{INLINE_MAX, Queue, QueueError};
use procession_shm::sync::Lock;
use procession_shm::wait::{Wait, WaitError};
use rustix::process::{Resource, Rlimit, setrlimit};
use support::{Words, alone, arena, child, micros, nothing_left};

const FOREVER: Wait = Wait::FOREVER;

fn soon() -> Wait {
    Wait::until(Some(Monotonic::now().after(Duration::from_millis(2))))
}

fn timed_out<T>(outcome: Result<T, QueueError>) -> bool {
    matches!(outcome, Err(QueueError::Wait(WaitError::TimedOut)))
}

#[test]
fn messages_of_every_size_come_out_as_they_went_in() {
    let _alone = alone("messages_of_every_size_come_out_as_they_went_in");
    let queue = Queue::new(arena(), "queue", None).unwrap();
    let sizes = [0, 1, 7, 8, 4095, INLINE_MAX, INLINE_MAX + 1, 8192, 8193, 65536, 8 << 20];
    for (n, &size) in sizes.iter().enumerate() {
        let message: Vec<u8> = (0..size).map(|at| (at * 7 + n) as u8).collect();
        assert_eq!(queue.put(n as u8, &message, FOREVER).unwrap(), n as u64);
        assert_eq!(queue.len(), n as u64 + 1);
        assert_eq!(queue.check().unwrap(), n as u64 + 1);
    }
    let mut got = b"kept".to_vec();
    for (n, &size) in sizes.iter().enumerate() {
        got.truncate(4);
        assert_eq!(queue.get(&mut got, FOREVER).unwrap(), (n as u8, n as u64));
        assert_eq!(&got[..4], b"kept", "a message is appended");
        assert!(got[4..].iter().enumerate().all(|(at, &byte)| byte == (at * 7 + n) as u8));
        assert_eq!(got.len(), size + 4);
    }
    assert!(queue.is_empty() && queue.got() == sizes.len() as u64);
    drop(queue);
    nothing_left();
}

#[test]
fn a_full_queue_and_an_empty_one_keep_to_the_deadline() {
    let _alone = alone("a_full_queue_and_an_empty_one_keep_to_the_deadline");
    let queue = Queue::new(arena(), "queue", Some(3)).unwrap();
    assert!(timed_out(queue.get(&mut Vec::new(), soon())));
    assert_eq!(queue.try_get(&mut Vec::new(), None).unwrap(), None);
    for n in 0..3 {
        assert!(!queue.is_full());
        queue.put(0, &[n], soon()).unwrap();
    }
    assert!(queue.is_full());
    assert!(timed_out(queue.put(0, b"too many", soon())));
    assert!(timed_out(queue.put(0, &[0; 100_000], soon())), "its block is given back");
    assert!(timed_out(queue.put_many([(0, &b"too many"[..])], soon())));
    assert_eq!(queue.len(), 3);
    let mut got = Vec::new();
    queue.get(&mut got, FOREVER).unwrap();
    assert_eq!(queue.put_many([(0, &[3][..]), (0, &[4])], soon()).unwrap(), 1, "as many as fit");
    assert_eq!(queue.get_many(9, |_, bytes| got.extend(bytes), FOREVER).unwrap(), 3);
    assert_eq!(got, [0, 1, 2, 3]);
    drop(queue);
    nothing_left();
}

#[test]
fn many_at_once_keep_their_order_with_those_before_and_behind() {
    let _alone = alone("many_at_once_keep_their_order_with_those_before_and_behind");
    let queue = Queue::new(arena(), "queue", None).unwrap();
    let messages: Vec<Vec<u8>> =
        (0..1000usize).map(|n| vec![n as u8; [10, 4096, 9000, 0, 500][n % 5]]).collect();
    queue.put(1, b"before", FOREVER).unwrap();
    let many = messages.iter().map(|message| (2, message.as_slice()));
    assert_eq!(queue.put_many(many, FOREVER).unwrap(), 1000);
    queue.put(3, b"behind", FOREVER).unwrap();
    assert_eq!(queue.put_many([], FOREVER).unwrap(), 0);
    assert_eq!(queue.check().unwrap(), 1002);
    let mut got = Vec::new();
    while queue.get_many(100, |kind, bytes| got.push((kind, bytes.to_vec())), soon()).is_ok() {}
    assert_eq!((got[0].0, got[1001].0), (1, 3));
    assert!(got[1..1001].iter().zip(&messages).all(|(got, put)| got.1 == *put));
    drop(queue);
    nothing_left();
}

#[test]
fn each_message_goes_to_one_of_many_consumers_and_each_producers_in_order() {
    let _alone = alone("each_message_goes_to_one_of_many_consumers");
    const EACH: u64 = 500;
    for capacity in [None, Some(1), Some(10)] {
        let queue = Queue::new(arena(), "queue", capacity).unwrap();
        let seen = Words::new(3 * EACH + 1);
        let mut children = Vec::new();
        for producer in 0..3u64 {
            children.push(child(|| {
                for n in 0..EACH {
                    let mut message = (producer * EACH + n).to_le_bytes().to_vec();
                    message.resize([8, 5000, 100][n as usize % 3], 1);
                    queue.put(producer as u8, &message, FOREVER).unwrap();
                }
            }));
        }
        for _ in 0..2 {
            children.push(child(|| {
                let mut last = [None; 3];
                let mut got = Vec::new();
                loop {
                    got.clear();
                    let (kind, number) = queue.get(&mut got, FOREVER).unwrap();
                    if kind == 9 {
                        return;
                    }
                    let n = u64::from_le_bytes(got[..8].try_into().unwrap());
                    assert!(last[usize::from(kind)] < Some(n), "out of order");
                    last[usize::from(kind)] = Some(n);
                    assert_eq!(seen.at(n as usize).swap(number + 1, Ordering::SeqCst), 0);
                }
            }));
        }
        let consumers = children.split_off(3);
        children.into_iter().for_each(support::Child::succeeds);
        for _ in &consumers {
            queue.put(9, b"", FOREVER).unwrap();
        }
        consumers.into_iter().for_each(support::Child::succeeds);
        let numbers: Vec<u64> = (0..3 * EACH as usize).map(|n| seen.get(n)).collect();
        assert!(numbers.iter().all(|&number| number != 0));
        let in_order = |of: &[u64]| of.windows(2).all(|two| two[0] < two[1]);
        assert!(numbers.chunks(EACH as usize).all(in_order));
        drop((queue, seen));
        nothing_left();
    }
}

#[test]
fn the_length_is_exact_at_every_instant() {
    let _alone = alone("the_length_is_exact_at_every_instant");
    let queue = Queue::new(arena(), "queue", None).unwrap();
    for _ in 0..5 {
        queue.put(0, b"always", FOREVER).unwrap();
    }
    let stop = Words::new(1);
    // Puts and gets in turn: six at the most, five at the least.
    let busy = child(|| {
        while stop.get(0) == 0 {
            queue.put(0, b"now and then", FOREVER).unwrap();
            queue.get(&mut Vec::new(), FOREVER).unwrap();
        }
    });
    for _ in 0..20_000 {
        assert!((5..=6).contains(&queue.len()));
    }
    stop.set(0, 1);
    busy.succeeds();
    assert_eq!(queue.len(), 5);
    drop((queue, stop));
    nothing_left();
}

#[test]
fn a_queue_goes_through_a_queue() {
    let _alone = alone("a_queue_goes_through_a_queue");
    let outer = Queue::new(arena(), "outer", None).unwrap();
    let giver = child(|| {
        let inner = Queue::new(arena(), "inner", None).unwrap();
        inner.put(0, b"inside", FOREVER).unwrap();
        outer.put(0, &inner.handle().to_bytes(), FOREVER).unwrap();
        while !inner.is_empty() {
            support::millis(1);
        }
    });
    let mut bytes = Vec::new();
    outer.get(&mut bytes, FOREVER).unwrap();
    let inner = Queue::open(procession_shm::arena::Handle::from_bytes(
        bytes.as_slice().try_into().unwrap(),
    ))
    .unwrap();
    bytes.clear();
    inner.get(&mut bytes, FOREVER).unwrap();
    assert_eq!(bytes, b"inside");
    giver.succeeds();
    let refused = Lock::open(inner.handle());
    assert!(matches!(refused, Err(Error::WrongKind { expected: Kind::Lock, .. })));
    drop((inner, outer));
    nothing_left();
}

#[test]
fn a_queue_that_fills_the_arena_says_so_and_loses_nothing() {
    let _alone = alone("a_queue_that_fills_the_arena_says_so_and_loses_nothing");
    let queue = Queue::new(arena(), "queue", None).unwrap();
    let message = vec![5; 1 << 20];
    let mut put = 0;
    let full = loop {
        match queue.put(0, &message, FOREVER) {
            Ok(_) => put += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(full, QueueError::Arena(Error::OutOfMemory { asked, .. }) if asked == 1 << 20)
    );
    let mut small = 0;
    while queue.put(0, &[6; 4000], FOREVER).is_ok() {
        small += 1;
    }
    assert_eq!(queue.check().unwrap(), put + small);
    let mut got = Vec::new();
    for n in 0..put + small {
        got.clear();
        queue.get(&mut got, FOREVER).unwrap();
        assert_eq!(got.len(), if n < put { 1 << 20 } else { 4000 });
    }
    queue.put(0, &message, FOREVER).unwrap();
    drop(queue);
    nothing_left();
}

#[test]
fn a_long_message_that_is_refused_once_it_is_copied_is_not_put() {
    let _alone = alone("a_long_message_that_is_refused_once_it_is_copied_is_not_put");
    for capacity in [None, Some(1)] {
        let queue = Queue::new(arena(), "queue", capacity).unwrap();
        let long = vec![7; 100_000];
        let mut asked = 0;
        let mut put = |refuse: bool| {
            queue.put_unless(1, &[&long], FOREVER, &mut || {
                asked += 1;
                // Nothing is locked.
                assert_eq!(queue.check().unwrap(), 0);
                if refuse { Err(WaitError::Interrupted) } else { Ok(()) }
            })
        };
        assert!(matches!(put(true), Err(QueueError::Wait(WaitError::Interrupted))));
        assert_eq!(queue.put_so_far(), 0);
        assert_eq!(put(false).unwrap(), 0);
        assert_eq!((asked, queue.len()), (2, 1));
        let mut got = Vec::new();
        queue.get(&mut got, FOREVER).unwrap();
        assert_eq!(got, long);
    }
    nothing_left();
}

/// Leaves this process so many bytes of address space more than it has.
fn limit_address_space(more: u64) {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let current = Some(pages * 4096 + more);
    setrlimit(Resource::As, Rlimit { current, maximum: None }).unwrap();
}

#[test]
fn a_message_that_a_process_has_no_memory_for_stays_in_the_queue() {
    let _alone = alone("a_message_that_a_process_has_no_memory_for_stays_in_the_queue");
    let queue = Queue::joinable(arena(), "queue", Some(9)).unwrap();
    let long = vec![7; 100 << 20];
    queue.put(1, &long, FOREVER).unwrap();
    queue.put_parts(2, &[b"sh", b"", b"ort"], FOREVER).unwrap();
    let claim = Words::new(1);
    child(|| {
        limit_address_space(50 << 20);
        let mut got = b"kept".to_vec();
        let no_memory = |got: Result<_, QueueError>| {
            let is_it = |error: &_| {
                matches!(error, QueueError::NoMemory { number: 0, len } if *len == 100 << 20)
            };
            assert!(got.as_ref().is_err_and(is_it), "{got:?}");
        };
        no_memory(queue.get(&mut got, FOREVER));
        no_memory(queue.get_claiming(&mut got, claim.at(0), FOREVER));
        no_memory(queue.try_get(&mut got, None).map(Option::unwrap));
        no_memory(queue.get_many(2, |_, _| panic!("there is no first"), FOREVER).map(|_| (0, 0)));
        assert_eq!((got.as_slice(), claim.get(0)), (&b"kept"[..], 0));
        assert_eq!((queue.len(), queue.unfinished()), (2, 2));
    })
    .succeeds();
    assert_eq!(queue.check().unwrap(), 2);
    let mut got = Vec::new();
    assert_eq!(queue.get(&mut got, FOREVER).unwrap(), (1, 0));
    assert!(got == long);
    got.clear();
    assert_eq!(queue.get(&mut got, FOREVER).unwrap(), (2, 1));
    assert_eq!(got, b"short");
    drop((queue, claim));
    nothing_left();
}

#[test]
fn a_consumer_without_memory_leaves_the_message_to_one_that_has_some() {
    let _alone = alone("a_consumer_without_memory_leaves_the_message_to_one_that_has_some");
    let queue = Queue::new(arena(), "queue", None).unwrap();
    let refused = Words::new(1);
    let poor = child(|| {
        limit_address_space(50 << 20);
        let got = queue.get(&mut Vec::new(), FOREVER);
        assert!(matches!(got, Err(QueueError::NoMemory { .. })), "{got:?}");
        refused.set(0, 1);
    });
    while !arena().processes().iter().any(|info| info.pid == poor.pid && info.blocked_on.is_some())
    {
        micros(200);
    }
    queue.put(0, &vec![0; 100 << 20], FOREVER).unwrap();
    poor.succeeds();
    let rich = child(|| {
        let mut got = Vec::new();
        queue.get(&mut got, FOREVER).unwrap();
        assert_eq!(got.len(), 100 << 20);
    });
    rich.succeeds();
    assert_eq!(refused.get(0), 1);
    drop((queue, refused));
    nothing_left();
}
