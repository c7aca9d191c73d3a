//! How children start.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use procession::process::SpawnErrorKind;
use procession::{
    Builder, Event, JoinError, Lock, Queue, SharedBlock, StartMethod, set_start_method, spawn,
};

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

pub(crate) fn a_process_with_threads_respawns_its_children(_: StartMethod) {
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
        let refused = builder(StartMethod::Fork).name("copy").spawn(|()| (), ()).unwrap_err();
        assert!(matches!(refused.kind(), SpawnErrorKind::Threads), "{refused:?}");
        assert!(refused.to_string().contains("child \"copy\" was not started: this process has"));
        set_start_method(StartMethod::Fork);
        let refused = spawn(|()| (), ()).unwrap_err();
        assert!(matches!(refused.kind(), SpawnErrorKind::Threads), "{refused:?}");
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
    let handle = "procession:0000000000000001:1:1";
    let orders = ["", "x", "0", "0 HANDLE", "0 HANDLE main", "999 HANDLE main"];
    let for_tests = ["0 HANDLE before-main", "999 HANDLE before-main"];
    for forged in orders.into_iter().chain(for_tests) {
        let forged = forged.replace("HANDLE", handle);
        let output = Command::new(&program).env("PROCESSION_CHILD", &forged).output().unwrap();
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
        let refused = refused.unwrap_err();
        assert!(matches!(refused.kind(), SpawnErrorKind::Os { what: "the environment", .. }));
    }
    let lost = builder(method).current_dir("/does/not/exist").spawn(|()| (), ()).unwrap();
    let error = lost.join().unwrap_err();
    assert!(matches!(error, JoinError::NotBegun { .. }), "{error:?}");
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

pub(crate) fn a_child_without_a_name_is_named_after_its_spawn(method: StartMethod) {
    fn fail(go: Event) {
        go.wait();
        panic!("no");
    }
    fn location(line: u32) -> String {
        format!("crates/procession/tests/processes/starts.rs:{line}")
    }
    let go = Event::new().unwrap();
    let (line, child) = (line!(), builder(method).spawn(fail, go.clone()).unwrap());
    let name = location(line);
    assert_eq!(child.name(), name);
    let (arena, pid) = (procession::arena::family().unwrap(), child.pid());
    until(|| arena.processes().iter().any(|row| row.pid == pid && row.name == name));
    go.set();
    let error = child.join().unwrap_err();
    assert_eq!((error.pid(), error.name()), (pid, &name[..]));
    assert!(error.to_string().starts_with(&format!("child {name:?} (process {pid}) panicked at ")));

    set_start_method(method);
    let (line, child) = (line!(), spawn(|()| (), ()).unwrap());
    assert_eq!(child.name(), location(line));
    child.join().unwrap();
    let wrong = builder(method).env("", "");
    let (line, refused) = (line!(), wrong.spawn(|()| (), ()).unwrap_err());
    assert_eq!(refused.name(), location(line));
}

pub(crate) fn statics_are_the_parents_or_fresh_as_was_chosen(method: StartMethod) {
    static LEVEL: AtomicU32 = AtomicU32::new(1);
    static GREETING: OnceLock<String> = OnceLock::new();
    type Seen = (u32, Option<String>, Option<String>);
    fn see(deeper: bool) -> Seen {
        if deeper {
            return spawn(see, false).unwrap().join().unwrap();
        }
        let told = std::env::var("PROCESSES_TOLD").ok();
        (LEVEL.load(Ordering::Relaxed), GREETING.get().cloned(), told)
    }
    LEVEL.store(5, Ordering::Relaxed);
    GREETING.set("hello".to_owned()).unwrap();
    let told = Some("yes".to_owned());
    let expected: Seen = match method {
        StartMethod::Fork => (5, GREETING.get().cloned(), told),
        _ => (1, None, told),
    };
    let once = |builder: Builder| builder.env("PROCESSES_TOLD", "yes").spawn(see, false);
    assert_eq!(once(builder(method)).unwrap().join().unwrap(), expected);
    // By the program's choice, which a builder's overrides and which children take over.
    let other = match method {
        StartMethod::Fork => StartMethod::Spawn,
        _ => StartMethod::Fork,
    };
    set_start_method(other);
    assert_eq!(once(builder(method)).unwrap().join().unwrap(), expected);
    set_start_method(method);
    assert_eq!(once(Builder::new()).unwrap().join().unwrap(), expected);
    let deeper = builder(StartMethod::Spawn).env("PROCESSES_TOLD", "yes").spawn(see, true);
    let fresh: Seen = (1, None, Some("yes".to_owned()));
    assert_eq!(deeper.unwrap().join().unwrap(), fresh);
    set_start_method(None);
    assert_eq!(procession::start_method(), None);
}

pub(crate) fn a_child_that_never_comes_to_init_is_told(_: StartMethod) {
    for (way, reason) in [
        ("leave", "left with status 0 and never came to procession::init()"),
        ("use", "uses procession before it came to procession::init()"),
        ("late", "was called too late: there are other threads"),
    ] {
        let child = builder(StartMethod::Spawn).env("PROCESSES_ASTRAY", way).spawn(|()| (), ());
        let error = child.unwrap().join().unwrap_err();
        assert!(matches!(error, JoinError::NotBegun { .. }), "{way}: {error:?}");
        assert!(error.to_string().contains(reason), "{way}: {error}");
    }
}

/// What `main` does before all else in the children of the promise above.
pub(crate) fn go_astray() -> bool {
    match std::env::var("PROCESSES_ASTRAY").as_deref() {
        Ok("leave") => true,
        Ok("use") => {
            drop(Lock::new());
            unreachable!("what is not taken over ends when it uses what is shared");
        }
        Ok("late") => {
            let (_kept, wait) = std::sync::mpsc::channel::<()>();
            std::thread::spawn(move || wait.recv());
            procession::init();
            unreachable!("it can't be taken over with two threads");
        }
        _ => false,
    }
}
