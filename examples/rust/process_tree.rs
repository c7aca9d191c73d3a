//! A tree of processes: each starts two more, down to some depth. The tree is shown, with what each
//! process waits for, and ended as a whole.
//!
//! `cargo run --example process_tree`

use std::error::Error;
use std::time::Duration;

use procession::{Builder, Event, Semaphore, arena};

const DEPTH: u32 = 2;

/// Starts two children, as long as there is depth left, then waits for what never comes.
fn grow((name, depth, there, never): (String, u32, Semaphore, Event)) {
    let children: Vec<_> = (1..=if depth > 0 { 2 } else { 0 })
        .map(|n| {
            let name = format!("{name}.{n}");
            let arguments = (name.clone(), depth - 1, there.clone(), never.clone());
            Builder::new().name(name).spawn(grow, arguments).expect("a child")
        })
        .collect();
    there.release().expect("a permit more");
    never.wait();
    drop(children);
}

fn main() -> Result<(), Box<dyn Error>> {
    procession::init();
    let (there, never) = (Semaphore::new(0)?, Event::named("never")?);
    let arguments = ("1".to_owned(), DEPTH, there.clone(), never);
    let root = Builder::new().name("1").spawn(grow, arguments)?;
    let count = (1 << (DEPTH + 1)) - 1;
    for _ in 0..count {
        there.acquire().forget();
    }

    let family = arena::family()?;
    let asleep = || family.tree().iter().filter(|member| member.state.name() == "blocked").count();
    while asleep() < count {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut tree = family.tree();
    // Children stand in the order of their slots, which come free in any order.
    tree.sort_by(|one, other| one.name.cmp(&other.name));
    for member in tree.iter().filter(|member| member.depth > 0) {
        let state = member.state.to_string();
        let state = state.split(", for").next().unwrap_or_default();
        println!("{:indent$}{} {state}", "", member.name, indent = 2 * (member.depth - 1));
    }

    println!("{} processes are ended", root.kill_tree()?);
    println!("the root was killed: {}", root.join().is_err());
    let left = || {
        family
            .tree()
            .iter()
            .filter(|member| matches!(member.state.name(), "blocked" | "ready"))
            .count()
    };
    while left() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("none is left");
    Ok(())
}
