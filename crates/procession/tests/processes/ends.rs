//! How children end, and what is left of them.

use std::os::fd::AsFd;
use std::time::Duration;

use procession::process::JoinTimeoutError;
use procession::{Builder, Event, JoinError, Queue, StartMethod};
use procession_os::process;

use crate::driver::{processes, until};

fn builder(method: StartMethod) -> Builder {
    Builder::new().start_method(method)
}

fn sleep_for_ever(ready: Event) {
    ready.set();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

pub(crate) fn a_killed_child_is_told_by_its_signal(method: StartMethod) {
    for (signal, end) in [(9, "kill"), (15, "terminate")] {
        let ready = Event::new().unwrap();
        let child = builder(method).spawn(sleep_for_ever, ready.clone()).unwrap();
        ready.wait();
        assert!(!child.is_finished());
        let pid = child.pid();
        if end == "kill" { child.kill() } else { child.terminate() }.unwrap();
        let error = child.join().unwrap_err();
        assert!(
            matches!(error, JoinError::Signaled { pid: p, signal: s } if p == pid && s == signal),
            "{error:?}"
        );
    }
    // At once: it may not even have begun.
    for _ in 0..20 {
        let ready = Event::new().unwrap();
        let child = builder(method).spawn(sleep_for_ever, ready).unwrap();
        child.kill().unwrap();
        assert!(matches!(child.join(), Err(JoinError::Signaled { signal: 9, .. })));
    }
}

pub(crate) fn a_panic_comes_back_with_its_text(method: StartMethod) {
    let child = builder(method).spawn(|n: u64| -> u64 { panic!("no {n} today") }, 7).unwrap();
    let error = child.join().unwrap_err();
    assert!(matches!(&error, JoinError::Panicked { message, .. } if message == "no 7 today"));
}

pub(crate) fn a_child_that_leaves_is_told_by_its_status(method: StartMethod) {
    for status in [0, 3, 255] {
        let child =
            builder(method).spawn(|status: i32| -> () { std::process::exit(status) }, status);
        let error = child.unwrap().join().unwrap_err();
        assert!(matches!(error, JoinError::Exited { code, .. } if code == status), "{error:?}");
    }
}

pub(crate) fn a_join_that_times_out_gives_the_handle_back(method: StartMethod) {
    let go = Event::new().unwrap();
    let child = builder(method).spawn(|go: Event| go.wait(), go.clone()).unwrap();
    let Err(JoinTimeoutError::TimedOut(child)) = child.join_timeout(Duration::from_millis(20))
    else {
        panic!("it waits for the event")
    };
    go.set();
    assert!(child.join_timeout(Duration::from_secs(1000)).is_ok());
}

type Pids = Queue<u32>;

/// Starts a child, tells its number, and is killed.
fn start_and_die((fork, daemon, pids, ready): (bool, bool, Pids, Event)) {
    let method = if fork { StartMethod::Fork } else { StartMethod::Spawn };
    let child = builder(method).daemon(daemon).spawn(sleep_for_ever, ready.clone()).unwrap();
    ready.wait();
    pids.put(child.pid()).unwrap();
    process::kill_self();
}

pub(crate) fn a_daemon_dies_with_its_killed_parent(method: StartMethod) {
    let (pids, ready) = (Queue::new().unwrap(), Event::new().unwrap());
    let arguments = (method == StartMethod::Fork, true, pids.clone(), ready);
    let parent = builder(method).spawn(start_and_die, arguments).unwrap();
    assert!(matches!(parent.join(), Err(JoinError::Signaled { signal: 9, .. })));
    let pid = pids.get().unwrap();
    until(|| !process::is_alive(pid, 0));
}

pub(crate) fn a_child_that_is_no_daemon_outlives_its_parent(method: StartMethod) {
    let (pids, ready) = (Queue::new().unwrap(), Event::new().unwrap());
    let arguments = (method == StartMethod::Fork, false, pids.clone(), ready);
    let parent = builder(method).spawn(start_and_die, arguments).unwrap();
    assert!(matches!(parent.join(), Err(JoinError::Signaled { signal: 9, .. })));
    let pid = pids.get().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(process::is_alive(pid, 0));
    process::kill(pid, 9).unwrap();
    until(|| !process::is_alive(pid, 0));
}

pub(crate) fn a_daemon_outlives_the_thread_that_started_it(_: StartMethod) {
    let ready = Event::new().unwrap();
    let event = ready.clone();
    let child = std::thread::spawn(move || {
        Builder::new().daemon(true).spawn(sleep_for_ever, event).unwrap()
    });
    let child = child.join().unwrap();
    ready.wait();
    std::thread::sleep(Duration::from_millis(20));
    assert!(!child.is_finished());
    child.kill().unwrap();
    assert!(child.join().is_err());
}

pub(crate) fn a_detached_child_leaves_no_zombie(method: StartMethod) {
    let go = Event::new().unwrap();
    let mut pids = Vec::new();
    for _ in 0..10 {
        let child = builder(method).spawn(|go: Event| go.wait(), go.clone()).unwrap();
        pids.push(child.pid());
    }
    go.set();
    until(|| pids.iter().all(|&pid| !process::is_alive(pid, 0)));
    builder(method).spawn(|()| (), ()).unwrap().join().unwrap();
    let mine = processes().filter(|child| child.parent == process::id()).count();
    assert_eq!(mine, 0);
    assert_eq!(procession::arena::family().unwrap().processes().len(), 1);
}

pub(crate) fn a_joined_child_leaves_nothing_in_the_arena(method: StartMethod) {
    let arena = procession::arena::family().unwrap();
    for _ in 0..10 {
        let kept = Queue::<u64>::new().unwrap();
        let child = builder(method).spawn(
            |kept: Queue<u64>| -> () {
                let own = Queue::<String>::new().unwrap();
                own.put("x".repeat(10_000)).unwrap();
                kept.put(1).unwrap();
                std::mem::forget((own, kept));
                process::kill_self();
            },
            kept.clone(),
        );
        assert!(matches!(child.unwrap().join(), Err(JoinError::Signaled { signal: 9, .. })));
        assert_eq!(kept.get().unwrap(), 1);
        drop(kept);
        assert_eq!(arena.processes().len(), 1);
        assert_eq!(arena.objects().len(), 0, "{:?}", arena.objects());
    }
}

pub(crate) fn the_descriptor_of_a_handle_is_readable_at_the_end(method: StartMethod) {
    let go = Event::new().unwrap();
    let child = builder(method).spawn(|go: Event| go.wait(), go.clone()).unwrap();
    let info = std::fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&child.as_fd())
    ));
    assert!(info.unwrap().to_string_lossy().contains("pidfd"));
    go.set();
    until(|| child.is_finished());
    child.join().unwrap();
}
