//! Work in phases: each process smooths its part of a bar, and none begins a step before all have
//! finished the one before. Then a process is killed, and the others are told instead of waiting
//! for ever.
//!
//! `cargo run --example barrier`

use std::error::Error;
use std::time::Duration;

use procession::{Array, Barrier, spawn};

const WORKERS: usize = 3;
const CELLS: usize = 30;
const STEPS: usize = 200;

/// Two bars: one is read, the other written, in turns.
type Bars = [Array<f64>; 2];

fn smooth((me, bars, barrier): (usize, Bars, Barrier)) {
    let part = CELLS / WORKERS * me..CELLS / WORKERS * (me + 1);
    for step in 0..STEPS {
        let old = bars[step % 2].lock().expect("no process dies here").to_vec();
        let mean = |at: usize| {
            let (left, right) = (at.saturating_sub(1), (at + 1).min(CELLS - 1));
            (old[left] + old[at] + old[right]) / 3.0
        };
        let new: Vec<f64> = part.clone().map(mean).collect();
        bars[(step + 1) % 2]
            .lock()
            .expect("no process dies here")
            .copy_from_slice(part.start, &new);
        barrier.wait().expect("no process dies here");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    procession::init();
    let mut hot = [0.0; CELLS];
    hot[0] = CELLS as f64;
    let bars: Bars = [Array::from_slice(&hot)?, Array::zeroed(CELLS)?];
    let barrier = Barrier::new(WORKERS as u32)?;
    let workers = (0..WORKERS)
        .map(|me| spawn(smooth, (me, bars.clone(), barrier.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    for worker in workers {
        worker.join()?;
    }
    let warmth = bars[STEPS % 2].lock().map_or_else(|_| Vec::new(), |bar| bar.to_vec());
    println!("after {STEPS} steps the warmth is {:.3}", warmth.iter().sum::<f64>());
    println!("it flows one way: {}", warmth.windows(2).all(|pair| pair[0] >= pair[1]));

    let wait = |barrier: Barrier| barrier.wait().is_ok();
    let doomed = spawn(wait, barrier.clone())?;
    let other = spawn(wait, barrier.clone())?;
    while barrier.waiting() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    doomed.kill()?;
    println!("a waiter was killed: {}", doomed.join().is_err());
    println!("the other was let through: {}", other.join()?);
    println!("the barrier is broken: {}", barrier.is_broken());
    Ok(())
}
