//! A daemon: a child that serves its parent in the background and never outlives it, however the
//! parent ends.
//!
//! `cargo run --example daemon`

use std::error::Error;
use std::time::{Duration, Instant};

use procession::process::ProcessState;
use procession::{Builder, Queue, Value, arena, spawn};

/// Counts until it is ended.
fn beat(beats: Value<u64>) {
    loop {
        beats.update(|beats| beats + 1).expect("no process dies with this lock");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts the daemon, checks that it works, and dies without a message.
fn serve((beats, numbers): (Value<u64>, Queue<u32>)) {
    let builder = Builder::new().name("heart").daemon(true);
    let heart = builder.spawn(beat, beats.clone()).expect("a child");
    while beats.load().expect("no process dies with this lock") < 10 {
        std::thread::sleep(Duration::from_millis(1));
    }
    numbers.put(heart.pid()).expect("room for a number");
    std::process::abort();
}

fn main() -> Result<(), Box<dyn Error>> {
    procession::init();
    let (beats, numbers) = (Value::new(0u64)?, Queue::new()?);
    let server = spawn(serve, (beats.clone(), numbers.clone()))?;
    let heart = numbers.get()?;
    println!("the daemon works: {}", beats.lock().map_or(0, |beats| beats.load()) >= 10);
    println!("its parent died: {}", server.join().is_err());
    let died = Instant::now();
    let lives = || -> Result<bool, Box<dyn Error>> {
        let tree = arena::family()?.tree();
        let heart = tree.iter().find(|member| member.pid == heart);
        Ok(heart.is_some_and(|heart| {
            !matches!(heart.state, ProcessState::Zombie | ProcessState::Ended)
        }))
    };
    while lives()? {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("the daemon ended within a second: {}", died.elapsed() < Duration::from_secs(1));
    Ok(())
}
