//! What others see of a process.

#![cfg(not(model))]

mod support;

use procession_os::clock::Monotonic;
use procession_os::pidfd::PidFd;
use procession_os::process;
use procession_shm::arena::Kind;
use procession_shm::process::{Blocked, Child as Followed, ExitStatus, ProcessState};
use procession_shm::queue::Queue;
use procession_shm::sync::{Event, Lock, RLock};
use procession_shm::wait::{Operation, Wait, WaitError};
use support::{Child, Words, alone, arena, child, millis, nothing_left, only_me};

const FOREVER: Wait = Wait::FOREVER;

fn state_of(child: &Child) -> ProcessState {
    arena().state_of(child.slot.unwrap())
}

fn until(child: &Child, so: impl Fn(&ProcessState) -> bool) -> ProcessState {
    loop {
        let state = state_of(child);
        if so(&state) {
            return state;
        }
        millis(1);
    }
}

fn until_blocked(child: &Child) -> Blocked {
    loop {
        if let ProcessState::Blocked(Some(blocked)) = state_of(child) {
            return blocked;
        }
        millis(1);
    }
}

#[test]
fn a_blocked_process_says_on_what_and_on_whom() {
    let _alone = alone("a_blocked_process_says_on_what_and_on_whom");
    let lock = Lock::new(arena(), "accounts").unwrap();
    let rlock = RLock::new(arena(), "ledger").unwrap();
    let (event, queue) =
        (Event::new(arena(), "go").unwrap(), Queue::new(arena(), "orders", None).unwrap());
    let holder = child(|| {
        arena().set_name("clerk");
        assert!(lock.try_acquire() && rlock.try_acquire().is_some());
        event.wait(FOREVER).unwrap();
    });
    let blocked = until_blocked(&holder);
    let object = (event.handle(), Kind::Event, "go".to_owned());
    assert_eq!(
        (blocked.operation, blocked.object, blocked.on),
        (Operation::Event, Some(object), None)
    );

    let before = Monotonic::now();
    let waiter = child(|| assert!(lock.acquire(FOREVER).is_ok()));
    let blocked = until_blocked(&waiter);
    assert_eq!(blocked.operation, Operation::Acquire);
    assert_eq!(blocked.object.clone().unwrap().1, Kind::Lock);
    let on = blocked.on.clone().unwrap();
    assert_eq!((on.pid, &on.name[..]), (holder.pid, "clerk"));
    assert!(blocked.since > before && blocked.since < Monotonic::now());
    let text = ProcessState::Blocked(Some(blocked)).to_string();
    let expected =
        format!("blocked: acquire Lock \"accounts\", held by {} (\"clerk\"), for 0.", holder.pid);
    assert!(text.starts_with(&expected), "{text}");

    let second = child(|| assert!(rlock.acquire(FOREVER).is_ok()));
    assert_eq!(until_blocked(&second).on.unwrap().pid, holder.pid);
    let third = child(|| drop(queue.get(&mut Vec::new(), FOREVER)));
    let blocked = until_blocked(&third);
    assert_eq!((blocked.operation, blocked.object.unwrap().1), (Operation::Get, Kind::Queue));

    queue.put(0, b"", FOREVER).unwrap();
    event.set();
    [holder, waiter, second, third].into_iter().for_each(Child::succeeds);
    drop((lock, rlock, event, queue));
    nothing_left();
}

#[test]
fn a_wait_that_is_interrupted_and_gone_on_with_is_one_wait() {
    let _alone = alone("a_wait_that_is_interrupted_and_gone_on_with_is_one_wait");
    let event = Event::new(arena(), "go").unwrap();
    let waiter = child(|| {
        let waiting = Wait { deadline: None, interruptible: true };
        while event.wait(waiting) == Err(WaitError::Interrupted) {}
    });
    let since = until_blocked(&waiter).since;
    // Longer than some ticks.
    millis(60);
    assert_eq!(until_blocked(&waiter).since, since);
    event.set();
    waiter.succeeds();
}

#[test]
fn a_process_that_works_is_running_or_ready() {
    let _alone = alone("a_process_that_works_is_running_or_ready");
    let stop = Words::new(1);
    let event = Event::new(arena(), "never").unwrap();
    let spin = || while stop.get(0) == 0 {};
    // More than there are processors, so that some have to wait for one.
    let spinners: Vec<_> = (0..=procession_os::load::cores())
        .map(|_| {
            child(|| {
                // What another thread waits for is not what the process does.
                std::thread::scope(|scope| {
                    scope.spawn(|| event.wait(FOREVER).unwrap());
                    spin();
                });
            })
        })
        .collect();
    let (mut running, mut ready) = (false, false);
    while !(running && ready) {
        for state in spinners.iter().map(state_of) {
            running |= state == ProcessState::Running;
            ready |= state == ProcessState::Ready;
        }
    }
    assert_eq!(arena().state_of(arena().me()), ProcessState::Running);
    stop.set(0, 1);
    event.set();
    spinners.into_iter().for_each(Child::succeeds);
}

#[test]
fn the_end_of_a_process_is_seen_step_by_step() {
    let _alone = alone("the_end_of_a_process_is_seen_step_by_step");
    only_me();
    let sleeper = child(|| millis(1_000_000));
    // A time is nothing of the family's.
    until(&sleeper, |state| *state == ProcessState::Blocked(None));
    process::kill(sleeper.pid, 19).unwrap();
    until(&sleeper, |state| *state == ProcessState::Stopped);
    let slot = sleeper.slot.unwrap();
    let [without_slot, with_slot] =
        [None, Some(slot)].map(|slot| Followed::new(PidFd::open(sleeper.pid).unwrap(), slot));
    assert_eq!(without_slot.state(), ProcessState::Stopped);
    sleeper.kill();
    until(&sleeper, |state| *state == ProcessState::Zombie);
    assert_eq!(with_slot.state(), ProcessState::Zombie);
    sleeper.join();
    assert_eq!(arena().state_of(slot), ProcessState::Ended);
    assert_eq!(with_slot.state(), ProcessState::Ended);
}

/// A child that leaves with a status and says so before, followed; it has ended.
fn ended_with(code: u8) -> Followed {
    let child = child(|| {
        arena().leave_with(code);
        process::exit_now(code.into());
    });
    let followed = Followed::new(PidFd::open(child.pid).unwrap(), child.slot);
    assert!(followed.wait::<std::io::Error>(None, || Ok(())).unwrap());
    std::mem::forget(child);
    followed
}

#[test]
fn what_a_process_left_with_is_known_though_another_took_its_status() {
    let _alone = alone("what_a_process_left_with_is_known_though_another_took_its_status");
    only_me();
    let followed = ended_with(7);
    process::reap(followed.pid()).unwrap();
    assert_eq!(followed.take_status().unwrap(), Some(ExitStatus::Exited(7)));
    followed.bury();
    assert_eq!(arena().exit_code_of(followed.slot().unwrap()), None, "its row is another's");
    assert_eq!(followed.take_status().unwrap(), Some(ExitStatus::Exited(7)), "once more");
}

#[test]
fn a_status_is_taken_once_and_a_copy_of_the_parent_takes_none() {
    let _alone = alone("a_status_is_taken_once_and_a_copy_of_the_parent_takes_none");
    only_me();
    let followed = ended_with(3);
    child(|| {
        assert!(!followed.is_mine());
        assert_eq!(followed.take_status().unwrap(), None);
        followed.bury();
    })
    .succeeds();
    assert_eq!(followed.take_status().unwrap(), Some(ExitStatus::Exited(3)));
    assert!(process::reap(followed.pid()).is_err(), "it was taken");
    assert_eq!(followed.take_status().unwrap(), Some(ExitStatus::Exited(3)), "and is remembered");
    followed.bury();
}

#[test]
fn the_tree_has_every_process_under_its_parent() {
    let _alone = alone("the_tree_has_every_process_under_its_parent");
    only_me();
    let (ready, go) = (Words::new(1), Event::new(arena(), "go").unwrap());
    let wait = |name: &str| {
        arena().set_name(name);
        ready.at(0).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        go.wait(FOREVER).unwrap();
    };
    let parent = child(|| {
        let grandchild = child(|| wait("grandchild"));
        wait("parent");
        grandchild.succeeds();
    });
    let other = child(|| wait("other"));
    while ready.get(0) < 3 {
        millis(1);
    }
    let tree = arena().tree();
    let named = |name: &str| tree.iter().find(|member| member.name == name).unwrap();
    assert_eq!(tree.len(), 4);
    assert_eq!((tree[0].pid, tree[0].depth), (process::id(), 0));
    assert_eq!(tree[0].state, ProcessState::Running);
    assert_eq!((named("parent").pid, named("parent").parent), (parent.pid, process::id()));
    assert_eq!((named("other").pid, named("other").depth), (other.pid, 1));
    assert_eq!((named("grandchild").parent, named("grandchild").depth), (parent.pid, 2));
    let at = |name: &str| tree.iter().position(|member| member.name == name).unwrap();
    assert_eq!(at("grandchild"), at("parent") + 1, "a process stands before its children");
    go.set();
    parent.succeeds();
    other.succeeds();
}

#[test]
fn an_orphan_still_tells_which_process_started_it() {
    let _alone = alone("an_orphan_still_tells_which_process_started_it");
    let (pid, go) = (Words::new(1), Event::new(arena(), "go").unwrap());
    let parent = child(|| {
        // SAFETY: this is a child with one thread.
        #[allow(unsafe_code)]
        match unsafe { process::fork() }.unwrap() {
            process::Fork::Child => {
                pid.set(0, u64::from(process::id()));
                go.wait(FOREVER).unwrap();
                process::exit_now(0);
            }
            process::Fork::Parent(_) => process::kill_self(),
        }
    });
    let parent_pid = parent.pid;
    parent.join();
    while pid.get(0) == 0 {
        millis(1);
    }
    let orphan = pid.get(0) as u32;
    let tree = arena().tree();
    let member = tree.iter().find(|member| member.pid == orphan).unwrap();
    assert_eq!((member.parent, member.depth), (parent_pid, 0));
    go.set();
    only_me();
}
