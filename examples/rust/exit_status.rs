//! How a child ends, and what its parent learns of it: the status that programs with `fork` and
//! `wait` pass around by hand.
//!
//! `cargo run --example exit_status`

use std::error::Error;
use std::time::Duration;

use procession::process::ExitStatus;
use procession::{Builder, JoinError, spawn};

fn main() -> Result<(), Box<dyn Error>> {
    procession::init();

    // It returns: the value comes back.
    let child = spawn(|n: u64| (1..=n).product::<u64>(), 10)?;
    println!("returned {}", child.join()?);

    // It leaves by itself.
    let child = spawn(|status: i32| -> () { std::process::exit(status) }, 3)?;
    match child.join() {
        Err(JoinError::Exited { code, .. }) => println!("left with status {code}"),
        other => println!("unexpected: {other:?}"),
    }

    // It panics: the text and the location come back.
    let child = spawn(|n: u64| -> () { panic!("{n} is too much") }, 7)?;
    match child.join() {
        Err(JoinError::Panicked { message, location, .. }) => {
            let file = location.rsplit('/').next().and_then(|rest| rest.split(':').next());
            println!("panicked in {}: {message}", file.unwrap_or_default());
        }
        other => println!("unexpected: {other:?}"),
    }

    // It is ended by a signal. The status can be looked at before the child is joined.
    let child = Builder::new().name("sleeper").spawn(
        |()| {
            std::thread::sleep(Duration::from_secs(1000));
        },
        (),
    )?;
    assert_eq!(child.exit_status()?, None);
    child.terminate()?;
    while !child.is_finished() {
        std::thread::sleep(Duration::from_millis(1));
    }
    if let Some(ExitStatus::Signaled(signal)) = child.exit_status()? {
        println!("{} was ended by signal {signal}", child.name());
    }
    println!("join says: {}", child.join().is_err());
    Ok(())
}
