//! Zombies have ended, but their parent has not asked for their status. Orphans run on after their
//! parent has ended. Both are made here, shown, and dealt with.
//!
//! `cargo run --example orphans_and_zombies`

use std::error::Error;
use std::time::Duration;

use procession::process::ProcessState;
use procession::{Builder, Event, Queue, arena, spawn};

fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Starts a child that waits for `go`, says its number, and dies.
fn start_and_die((daemon, numbers, go): (bool, Queue<u32>, Event)) {
    let ready = Event::new().expect("room for an event");
    let work = |(ready, go): (Event, Event)| {
        ready.set();
        go.wait();
    };
    let builder = Builder::new().name("grandchild").daemon(daemon);
    let child = builder.spawn(work, (ready.clone(), go)).expect("a child");
    ready.wait();
    numbers.put(child.pid()).expect("room for a number");
    std::process::abort();
}

/// What the process table says of a process.
fn look(pid: u32) -> Result<Option<(u32, ProcessState)>, Box<dyn Error>> {
    let tree = arena::family()?.tree();
    let member = tree.into_iter().find(|member| member.pid == pid);
    Ok(member.map(|member| (member.parent, member.state)))
}

fn lives(pid: u32) -> Result<bool, Box<dyn Error>> {
    let over = |state| matches!(state, ProcessState::Zombie | ProcessState::Ended);
    Ok(look(pid)?.is_some_and(|(_, state)| !over(state)))
}

fn main() -> Result<(), Box<dyn Error>> {
    procession::init();

    // A zombie: its parent has not asked for its status yet. Joining does.
    let child = spawn(|()| (), ())?;
    while !child.is_finished() {
        pause();
    }
    println!("ended, and not joined: {}", child.state());
    child.join()?;

    // This one is not joined: it goes when the next child starts.
    let forgotten = spawn(|()| (), ())?;
    let pid = forgotten.pid();
    drop(forgotten);
    while lives(pid)? {
        pause();
    }
    spawn(|()| (), ())?.join()?;
    println!("it was not joined, and it is {}", look(pid)?.map_or("gone", |_| "there"));

    // An orphan: its parent died, and it goes on. The process table still knows that parent.
    let (numbers, go) = (Queue::new()?, Event::new()?);
    let parent = spawn(start_and_die, (false, numbers.clone(), go.clone()))?;
    let parent_pid = parent.pid();
    println!("parent: {}", if parent.join().is_err() { "dead" } else { "alive" });
    let orphan = numbers.get()?;
    // It is about to wait, if it does not yet.
    while !look(orphan)?.is_some_and(|(_, state)| matches!(state, ProcessState::Blocked(Some(_)))) {
        pause();
    }
    if let Some((started_by, state)) = look(orphan)? {
        println!(
            "its child: {}, and the table names its parent: {}",
            state.name(),
            started_by == parent_pid
        );
    }
    go.set();
    while lives(orphan)? {
        pause();
    }
    println!("told to end, it ends");

    // No orphan: a daemon goes with its parent.
    let never = Event::new()?;
    let parent = spawn(start_and_die, (true, numbers.clone(), never))?;
    println!("parent: {}", if parent.join().is_err() { "dead" } else { "alive" });
    let daemon = numbers.get()?;
    while lives(daemon)? {
        pause();
    }
    println!("its daemon went with it");
    Ok(())
}
