//! The event count.

use procession_shm::wait::{EventCount, Waiting, block};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use shuttle::thread;

use crate::{Family, ON, explore};

#[test]
fn no_wake_of_an_event_count_is_lost() {
    explore(false, || {
        let shared = Arc::new((EventCount::default(), AtomicU32::new(0), Family::default()));
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (event, count, family) = &*shared;
                    let take = || {
                        let down = |seen: u32| seen.checked_sub(1);
                        count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, down).ok()
                    };
                    block(family, ON, Waiting::FOREVER, event, |_| take()).unwrap();
                    if count.load(Ordering::SeqCst) > 0 {
                        event.notify_one();
                    }
                })
            })
            .collect();
        let givers: Vec<_> = (1..3)
            .map(|gives| {
                let shared = shared.clone();
                thread::spawn(move || {
                    for _ in 0..gives {
                        shared.1.fetch_add(1, Ordering::SeqCst);
                        shared.0.notify_one();
                    }
                })
            })
            .collect();
        takers.into_iter().chain(givers).for_each(|thread| thread.join().unwrap());
        assert_eq!(shared.1.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn all_who_wait_are_woken_at_once() {
    explore(false, || {
        let shared = Arc::new((EventCount::default(), AtomicBool::new(false), Family::default()));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (event, set, family) = &*shared;
                    block(family, ON, Waiting::FOREVER, event, |_| {
                        set.load(Ordering::SeqCst).then_some(())
                    })
                    .unwrap();
                })
            })
            .collect();
        shared.1.store(true, Ordering::SeqCst);
        shared.0.notify_all();
        waiters.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
