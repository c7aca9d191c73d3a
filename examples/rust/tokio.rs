//! Processes from an asynchronous program: children are joined, and a queue is read, by threads
//! that may block, while the tasks of the runtime go on.
//!
//! `cargo run --example tokio`

use std::error::Error;
use std::time::Duration;

use procession::{Queue, spawn};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// In a process of its own, without the runtime.
fn factorials(results: Queue<(u64, u64)>) -> u64 {
    for n in 1..=5 {
        results.put((n, (1..=n).product())).expect("room for a result");
    }
    5
}

// Above #[tokio::main]: a child is taken over before the runtime starts threads.
#[procession::main]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ticking = tokio::spawn(async {
        loop {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let results = Queue::new()?;
    let child = spawn(factorials, results.clone())?;
    println!(
        "the child's name is its place: {}",
        child.name().starts_with("examples/rust/tokio.rs:")
    );
    for _ in 0..5 {
        let results = results.clone();
        let (n, factorial) = spawn_blocking(move || results.get()).await??;
        println!("{n}! = {factorial}");
    }
    println!("{} results came", spawn_blocking(move || child.join()).await??);
    println!("the runtime went on: {}", !ticking.is_finished());
    ticking.abort();
    Ok(())
}
