//! Ending a process with all that it started.

#![cfg(not(model))]

mod support;

use procession_os::pidfd::PidFd;
use procession_os::process;
use procession_os::stat::{RunState, Stat};
use procession_shm::arena::{self, Forked};
use procession_shm::process::{ProcessState, signal_tree};
use procession_shm::sync::Event;
use procession_shm::wait::Wait;
use rustix::process::setpgid;
use support::{SIGKILL, Words, alone, arena, child, micros, millis, only_me};

/// Forks a process of the test that no process waits for, and that does not die with its parent.
#[allow(unsafe_code)]
fn start(body: impl FnOnce()) -> u32 {
    // SAFETY: only children with one thread call this.
    match unsafe { arena::fork() }.unwrap() {
        Forked::Child => {
            body();
            process::exit_now(0)
        }
        Forked::Parent(pid, _) => pid,
    }
}

fn sleep_for_ever() {
    loop {
        millis(1_000_000);
    }
}

fn members_of(group: u32) -> Vec<u32> {
    procession_os::stat::all()
        .filter(|(_, stat)| !matches!(stat.state, RunState::Zombie | RunState::Dead))
        .filter(|(_, stat)| stat.group == group)
        .map(|(pid, _)| pid)
        .collect()
}

#[test]
fn those_that_are_forked_meanwhile_go_along() {
    let _alone = alone("those_that_are_forked_meanwhile_go_along");
    only_me();
    for round in 0..10 {
        let born = Words::new(1);
        let root = child(|| {
            setpgid(None, None).unwrap();
            for _ in 0..3 {
                start(|| {
                    // All of them have room in the arena's process table.
                    for _ in 0..16 {
                        start(sleep_for_ever);
                        born.at(0).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        micros(200);
                    }
                    sleep_for_ever();
                });
            }
            sleep_for_ever();
        });
        while born.get(0) < 4 * round {
            micros(100);
        }
        let group = root.pid;
        let signalled = signal_tree(&PidFd::open(group).unwrap(), SIGKILL).unwrap();
        assert!(signalled >= 4 * round as usize, "{signalled}");
        root.join();
        // They have it, and take some time to leave.
        members_of(group).into_iter().for_each(ends);
        assert_eq!(members_of(group), []);
        only_me();
    }
}

/// Waits for the end of a process that was killed.
fn ends(pid: u32) {
    for _ in 0..5000 {
        if Stat::of(pid).is_none_or(|stat| stat.state == RunState::Zombie) {
            return;
        }
        millis(1);
    }
    panic!("process {pid} got away");
}

#[test]
fn an_orphan_of_the_family_goes_along() {
    let _alone = alone("an_orphan_of_the_family_goes_along");
    only_me();
    let pids = Words::new(2);
    let root = child(|| {
        let middle = start(|| {
            pids.set(1, u64::from(start(sleep_for_ever)));
            sleep_for_ever();
        });
        pids.set(0, u64::from(middle));
        sleep_for_ever();
    });
    while pids.get(0) == 0 || pids.get(1) == 0 {
        millis(1);
    }
    let (middle, orphan) = (pids.get(0) as u32, pids.get(1) as u32);
    // Its parent is killed, and stays a zombie: it is not waited for.
    process::kill(middle, SIGKILL).unwrap();
    while Stat::of(orphan).unwrap().parent == middle {
        millis(1);
    }
    signal_tree(&PidFd::open(root.pid).unwrap(), 15).unwrap();
    root.join();
    while process::is_alive(orphan, 0) {
        millis(1);
    }
    only_me();
}

#[test]
fn children_that_a_server_forks_belong_to_the_process_that_asked_for_them() {
    let _alone = alone("children_that_a_server_forks_belong_to_the_process_that_asked_for_them");
    only_me();
    let there = Words::new(1);
    let client = child(sleep_for_ever);
    // Stands for a server: this process forks what belongs to the client.
    let served = child(|| {
        arena().set_parent(client.pid);
        there.set(0, 1);
        sleep_for_ever();
    });
    while there.get(0) == 0 {
        millis(1);
    }
    assert_eq!(signal_tree(&PidFd::open(client.pid).unwrap(), SIGKILL).unwrap(), 2);
    client.join();
    served.join();
}

#[test]
fn a_process_may_end_its_own_tree_itself_last() {
    let _alone = alone("a_process_may_end_its_own_tree_itself_last");
    only_me();
    let (pid, go) = (Words::new(1), Event::new(arena(), "go").unwrap());
    let root = child(|| {
        pid.set(0, u64::from(start(sleep_for_ever)));
        go.wait(Wait::FOREVER).unwrap();
        let _ = signal_tree(&PidFd::open(process::id()).unwrap(), SIGKILL);
    });
    while pid.get(0) == 0 {
        millis(1);
    }
    let slot = root.slot.unwrap();
    go.set();
    while arena().state_of(slot) != ProcessState::Zombie {
        millis(1);
    }
    root.join();
    while process::is_alive(pid.get(0) as u32, 0) {
        millis(1);
    }
    only_me();
}
