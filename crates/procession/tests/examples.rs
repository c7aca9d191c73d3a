//! The example programs do what they say, and leave no process behind. Cargo builds them with the
//! tests, unless it is told to build only this one (`--test examples`).

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use procession_os::stat::{self, RunState};

/// Runs an example in a process group of its own; returns what it printed.
fn output_of(example: &str) -> String {
    // Beside this test's own program are those that cargo built with it.
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples").join(example);
    let mut child = Command::new(program)
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("cargo builds the examples where it isn't told --test");
    let (group, begun) = (child.id(), Instant::now());
    let members = || {
        let runs = |state| !matches!(state, RunState::Zombie | RunState::Dead);
        stat::all().filter(|(_, stat)| stat.group == group && runs(stat.state)).count()
    };
    // The output is short, so it fits the pipe.
    while members() > 0 {
        if begun.elapsed() > Duration::from_secs(100) {
            let left: Vec<_> = stat::all().filter(|(_, stat)| stat.group == group).collect();
            left.iter().for_each(|(pid, _)| drop(procession_os::process::kill(*pid, 9)));
            panic!("{example} hangs, or leaves processes behind: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    text
}

fn prints(example: &str, lines: &[&str]) {
    assert_eq!(output_of(example).lines().collect::<Vec<_>>(), lines);
}

#[test]
fn exit_status() {
    prints(
        "exit_status",
        &[
            "returned 3628800",
            "left with status 3",
            "panicked in exit_status.rs: 7 is too much",
            "sleeper was ended by signal 15",
            "join says: true",
        ],
    );
}

#[test]
fn orphans_and_zombies() {
    prints(
        "orphans_and_zombies",
        &[
            "ended, and not joined: zombie",
            "it was not joined, and it is gone",
            "parent: dead",
            "its child: blocked, and the table names its parent: true",
            "told to end, it ends",
            "parent: dead",
            "its daemon went with it",
        ],
    );
}

#[test]
fn daemon() {
    let text = output_of("daemon");
    let lines: Vec<_> = text.lines().collect();
    // The times are not checked.
    assert_eq!(lines[..2], ["the daemon works: true", "its parent died: true"]);
    assert!(lines[2].starts_with("the daemon ended within a second: "));
}

#[test]
fn process_tree() {
    prints(
        "process_tree",
        &[
            "1 blocked: wait Event \"never\"",
            "  1.1 blocked: wait Event \"never\"",
            "    1.1.1 blocked: wait Event \"never\"",
            "    1.1.2 blocked: wait Event \"never\"",
            "  1.2 blocked: wait Event \"never\"",
            "    1.2.1 blocked: wait Event \"never\"",
            "    1.2.2 blocked: wait Event \"never\"",
            "7 processes are ended",
            "the root was killed: true",
            "none is left",
        ],
    );
}

#[test]
fn condition() {
    prints("condition", &["1000 items went through 4 places, their sum is 499500"]);
}

#[test]
fn barrier() {
    prints(
        "barrier",
        &[
            "after 200 steps the warmth is 30.000",
            "it flows one way: true",
            "a waiter was killed: true",
            "the other was let through: false",
            "the barrier is broken: true",
        ],
    );
}

#[test]
fn tokio() {
    let factorials = ["1! = 1", "2! = 2", "3! = 6", "4! = 24", "5! = 120"];
    let mut lines = vec!["the child's name is its place: true"];
    lines.extend(factorials);
    lines.extend(["5 results came", "the runtime went on: true"]);
    prints("tokio", &lines);
}

#[test]
fn producer_consumer() {
    assert!(!output_of("producer_consumer").is_empty());
}
