//! How children end, and what is left of them.

use std::os::fd::AsFd;
use std::time::Duration;

use procession::process::{ExitStatus, JoinTimeoutError, ProcessState, TryJoinError};
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
        assert_eq!(error.pid(), pid);
        assert!(matches!(error, JoinError::Signaled { signal: s, .. } if s == signal), "{error:?}");
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
    let JoinError::Panicked { message, location, .. } = &error else { panic!("{error:?}") };
    assert_eq!(message, "no 7 today");
    let [file, line, column] = location.rsplitn(3, ':').collect::<Vec<_>>()[..] else {
        panic!("{location}")
    };
    assert!(column.ends_with("ends.rs"), "{location}");
    assert!(line.parse::<u32>().is_ok() && file.parse::<u32>().is_ok(), "{location}");
    assert!(error.to_string().contains(&format!("panicked at {location}: no 7 today")), "{error}");
}

pub(crate) fn a_child_is_not_joined_before_its_end(method: StartMethod) {
    let go = Event::new().unwrap();
    let child = builder(method)
        .spawn(
            |go: Event| {
                go.wait();
                7
            },
            go.clone(),
        )
        .unwrap();
    let Err(TryJoinError::Running(child)) = child.try_join() else { panic!("it waits") };
    assert_eq!(child.exit_status().unwrap(), None);
    go.set();
    until(|| child.is_finished());
    assert_eq!(child.exit_status().unwrap(), Some(ExitStatus::Exited(0)));
    assert_eq!(child.exit_status().unwrap(), Some(ExitStatus::Exited(0)), "it stays to be joined");
    assert_eq!(child.try_join().unwrap(), 7);
}

pub(crate) fn the_state_of_a_child_is_seen(method: StartMethod) {
    let lock = procession::Lock::named("accounts").unwrap();
    let guard = lock.lock().unwrap();
    let child =
        builder(method).spawn(|lock: procession::Lock| drop(lock.lock()), lock.clone()).unwrap();
    until(|| matches!(child.state(), ProcessState::Blocked(Some(_))));
    let ProcessState::Blocked(Some(blocked)) = child.state() else { panic!("it waits") };
    assert_eq!(blocked.object.unwrap().2, "accounts");
    assert_eq!(blocked.on.unwrap().pid, process::id());
    process::kill(child.pid(), 19).unwrap();
    until(|| child.state() == ProcessState::Stopped);
    process::kill(child.pid(), 18).unwrap();
    drop(guard);
    until(|| child.is_finished());
    assert_eq!(child.state(), ProcessState::Zombie);
    child.join().unwrap();
}

pub(crate) fn how_a_child_ended_is_told_with_its_name_and_what_to_do(method: StartMethod) {
    fn leave(how: i32) -> u64 {
        match how {
            0 => std::process::exit(3),
            1 => panic!("no"),
            2 => std::process::abort(),
            _ => process::kill_self(),
        }
    }
    for (how, texts) in [
        (0, ["left with status 3 before its function returned", "return from the function"]),
        (1, ["panicked at ", ": no"]),
        (2, ["was ended by signal 6 (SIGABRT)", "stderr"]),
        (3, ["was ended by signal 9 (SIGKILL)", "the kernel had too little memory"]),
    ] {
        let child = builder(method).name("clerk").spawn(leave, how).unwrap();
        let begin = format!("child \"clerk\" (process {}) ", child.pid());
        let error = child.join().unwrap_err();
        assert_eq!(error.name(), "clerk");
        let text = error.to_string();
        assert!(text.starts_with(&begin), "{text}");
        assert!(texts.iter().all(|part| text.contains(part)), "{text}");
        assert_eq!(format!("{error:?}"), format!("JoinError({text})"), "as unwrap shows it");
    }
    let go = Event::new().unwrap();
    let child = builder(method).name("clerk").spawn(|go: Event| go.wait(), go.clone()).unwrap();
    let text = format!("child \"clerk\" (process {}) still runs", child.pid());
    let error = child.try_join().unwrap_err();
    assert_eq!(error.to_string(), text);
    let TryJoinError::Running(child) = error else { panic!("{error:?}") };
    let error = child.join_timeout(Duration::from_millis(2)).unwrap_err();
    assert_eq!(error.to_string(), text);
    let JoinTimeoutError::TimedOut(child) = error else { panic!("{error:?}") };
    go.set();
    child.join().unwrap();
}

/// Starts a child, which starts a child, and so on; each tells its number.
fn chain((fork, length, pids): (bool, u32, Pids)) {
    pids.put(process::id()).unwrap();
    if length > 0 {
        let method = if fork { StartMethod::Fork } else { StartMethod::Spawn };
        let child = builder(method).spawn(chain, (fork, length - 1, pids)).unwrap();
        let _ = child.join();
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

pub(crate) fn a_tree_ends_whole(method: StartMethod) {
    for signal in [9, 15] {
        let pids = Queue::new().unwrap();
        let arguments = (method == StartMethod::Fork, 3, pids.clone());
        let child = builder(method).spawn(chain, arguments).unwrap();
        let pids: Vec<u32> = (0..4).map(|_| pids.get().unwrap()).collect();
        if signal == 9 {
            assert_eq!(child.kill_tree().unwrap(), 4);
        } else {
            assert_eq!(child.terminate_tree().unwrap(), 4);
        }
        let error = child.join().unwrap_err();
        assert!(matches!(error, JoinError::Signaled { signal: s, .. } if s == signal), "{error:?}");
        until(|| !pids.iter().any(|&pid| process::is_alive(pid, 0)));
    }
}

pub(crate) fn a_child_may_be_bound_without_being_a_daemon(method: StartMethod) {
    fn start_bound_and_die((fork, pids, ready): (bool, Pids, Event)) {
        let method = if fork { StartMethod::Fork } else { StartMethod::Spawn };
        let bound = builder(method).die_with_parent(true).spawn(sleep_for_ever, ready.clone());
        ready.wait();
        pids.put(bound.unwrap().pid()).unwrap();
        process::kill_self();
    }
    let (pids, ready) = (Queue::new().unwrap(), Event::new().unwrap());
    let arguments = (method == StartMethod::Fork, pids.clone(), ready);
    let parent = builder(method).spawn(start_bound_and_die, arguments).unwrap();
    assert!(parent.join().is_err());
    let pid = pids.get().unwrap();
    until(|| !process::is_alive(pid, 0));
}

pub(crate) fn a_daemon_of_a_thread_dies_with_its_killed_process(_: StartMethod) {
    fn start_by_thread_and_die((lasting, pids, ready): (bool, Pids, Event)) {
        let tell = ready.clone();
        let thread = std::thread::spawn(move || {
            let child = Builder::new().daemon(true).spawn(sleep_for_ever, tell.clone()).unwrap();
            tell.wait();
            pids.put(child.pid()).unwrap();
            if lasting {
                std::thread::sleep(Duration::from_secs(1000));
            }
        });
        ready.wait();
        if !lasting {
            thread.join().unwrap();
        }
        std::thread::sleep(Duration::from_secs(1000));
    }
    for lasting in [false, true] {
        let (pids, ready) = (Queue::new().unwrap(), Event::new().unwrap());
        let arguments = (lasting, pids.clone(), ready);
        let parent = builder(StartMethod::Spawn).spawn(start_by_thread_and_die, arguments).unwrap();
        let pid = pids.get().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(process::is_alive(pid, 0));
        parent.kill().unwrap();
        assert!(parent.join().is_err());
        until(|| !process::is_alive(pid, 0));
    }
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

pub(crate) fn a_detached_child_leaves_no_zombie_while_another_is_joined(method: StartMethod) {
    let go = Event::new().unwrap();
    let forgotten = builder(method).spawn(|go: Event| go.wait(), go.clone()).unwrap();
    let pid = forgotten.pid();
    drop(forgotten);
    // The last start, which reaps the children that have ended before.
    let other = builder(method).spawn(
        |(go, pid): (Event, u32)| {
            go.set();
            until(|| !processes().any(|other| other.pid == pid));
        },
        (go, pid),
    );
    other.unwrap().join().unwrap();
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
