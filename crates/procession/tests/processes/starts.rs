//! How children start.

use std::process::Command;

use procession::{Builder, Event, Lock, Queue, SharedBlock, SpawnError, StartMethod};

use crate::driver::until;

fn builder(method: StartMethod) -> Builder {
    Builder::new().start_method(method)
}

pub(crate) fn a_result_comes_back(method: StartMethod) {
    let child = builder(method).spawn(|(a, b): (u64, u64)| a * b, (6, 7)).unwrap();
    assert_eq!(child.join().unwrap(), 42);
    let unit = builder(method).spawn(|()| (), ()).unwrap();
    unit.join().unwrap();
}

pub(crate) fn arguments_and_results_may_be_large(method: StartMethod) {
    let bytes: Vec<u8> = (0..10_000_000u32).map(|n| n as u8).collect();
    let child = builder(method).spawn(
        |mut bytes: Vec<u8>| {
            bytes.reverse();
            bytes
        },
        bytes.clone(),
    );
    let mut reversed = child.unwrap().join().unwrap();
    reversed.reverse();
    assert!(reversed == bytes);
}

pub(crate) fn a_child_may_have_children(method: StartMethod) {
    fn factorial((number, fork): (u64, bool)) -> u64 {
        if number == 0 {
            return 1;
        }
        let method = if fork { StartMethod::Fork } else { StartMethod::Spawn };
        number * builder(method).spawn(factorial, (number - 1, fork)).unwrap().join().unwrap()
    }
    assert_eq!(factorial((5, method == StartMethod::Fork)), 120);
}

pub(crate) fn a_process_with_threads_starts_its_children_anew(_: StartMethod) {
    static TOUCHED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    TOUCHED.store(true, order);
    std::thread::spawn(move || {
        let child = procession::spawn(|()| TOUCHED.load(std::sync::atomic::Ordering::Relaxed), ());
        assert!(!child.unwrap().join().unwrap(), "the child has the memory of a fork");
    })
    .join()
    .unwrap();
}

pub(crate) fn a_process_with_threads_is_not_forked(_: StartMethod) {
    std::thread::spawn(|| {
        let refused = builder(StartMethod::Fork).spawn(|()| (), ());
        assert!(matches!(refused, Err(SpawnError::Threads)), "{refused:?}");
    })
    .join()
    .unwrap();
}

pub(crate) fn objects_in_the_arguments_live_until_the_child_has_them(method: StartMethod) {
    fn use_them((queue, lock, ready, block): (Queue<u64>, Lock, Event, SharedBlock)) -> u64 {
        let _guard = lock.lock().unwrap();
        ready.set();
        queue.get().unwrap() + block.read_u64(0).unwrap()
    }
    let objects = procession::arena::family().unwrap().objects().len();
    for _ in 0..20 {
        let queue = Queue::new().unwrap();
        queue.put(40).unwrap();
        let block = SharedBlock::new(8).unwrap();
        block.write_u64(0, 2).unwrap();
        let arguments = (queue, Lock::new().unwrap(), Event::new().unwrap(), block);
        let child = builder(method).spawn(use_them, arguments).unwrap();
        assert_eq!(child.join().unwrap(), 42);
    }
    assert_eq!(procession::arena::family().unwrap().objects().len(), objects);
}

pub(crate) fn a_forged_order_is_refused(_: StartMethod) {
    let program = std::env::current_exe().unwrap();
    for forged in
        ["", "x", "0 procession:0000000000000001:1:1", "999 procession:0000000000000001:1:1"]
    {
        let output = Command::new(&program).env("PROCESSION_CHILD", forged).output().unwrap();
        assert_eq!(output.status.code(), Some(70), "{forged}: {output:?}");
    }
}

pub(crate) fn the_environment_of_a_child_does_not_tell_of_its_order(method: StartMethod) {
    let child = builder(method).spawn(|()| std::env::var("PROCESSION_CHILD").is_err(), ());
    assert!(child.unwrap().join().unwrap());
}

pub(crate) fn a_child_has_the_surroundings_that_are_chosen(method: StartMethod) {
    fn around(names: Vec<String>) -> (Vec<Option<String>>, usize, String) {
        let values = names.iter().map(|name| std::env::var(name).ok()).collect();
        let directory = std::env::current_dir().unwrap().display().to_string();
        (values, std::env::vars_os().count(), directory)
    }
    let names = || vec!["PATH".to_owned(), "COLOUR".to_owned()];
    let root = || builder(method).current_dir("/").env("COLOUR", "blue");
    let (values, _, directory) = root().spawn(around, names()).unwrap().join().unwrap();
    assert_eq!((values[0].clone(), &directory[..]), (std::env::var("PATH").ok(), "/"));
    assert_eq!(values[1].as_deref(), Some("blue"));
    let removed = root().env_remove("PATH").env_remove("COLOUR").spawn(around, names()).unwrap();
    assert_eq!(removed.join().unwrap().0, [None, None]);
    let cleared = root().env_clear().env("COLOUR", "red").spawn(around, names()).unwrap();
    let (values, count, _) = cleared.join().unwrap();
    assert_eq!((values, count), (vec![None, Some("red".to_owned())], 1));
    assert!(std::env::var("COLOUR").is_err(), "this process keeps its own");
}

pub(crate) fn surroundings_that_can_not_be_are_told(method: StartMethod) {
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
        let refused = builder(method).env(name, value).spawn(|()| (), ());
        assert!(matches!(refused, Err(SpawnError::Os { what: "the environment", .. })));
    }
    let lost = builder(method).current_dir("/does/not/exist").spawn(|()| (), ()).unwrap();
    let error = lost.join().unwrap_err();
    assert!(matches!(error, procession::JoinError::NotBegun { .. }), "{error:?}");
    assert!(error.to_string().contains("/does/not/exist: No such file"), "{error}");
}

pub(crate) fn a_child_has_its_name_in_the_process_table(method: StartMethod) {
    let go = Event::new().unwrap();
    let child = builder(method).name("waiter").spawn(|go: Event| go.wait(), go.clone()).unwrap();
    assert_eq!(child.name(), "waiter");
    let arena = procession::arena::family().unwrap();
    let pid = child.pid();
    until(|| arena.processes().iter().any(|row| row.pid == pid && row.name == "waiter"));
    go.set();
    child.join().unwrap();
}
