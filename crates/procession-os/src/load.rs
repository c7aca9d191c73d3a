//! How busy the machine is: what decides whether spinning can pay.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::clock::Monotonic;

/// How long a reading of the run queue is used before it is read again, in nanoseconds.
const FRESH: u64 = 1_000_000;

static READ_AT: AtomicU64 = AtomicU64::new(0);
static CROWDED: AtomicBool = AtomicBool::new(false);

/// The number of processors that this process may run on.
#[must_use]
pub fn cores() -> usize {
    // Not a `OnceLock`: a child forked while another thread fills it would wait for ever.
    static CORES: AtomicUsize = AtomicUsize::new(0);
    match CORES.load(Ordering::Relaxed) {
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            CORES.store(cores, Ordering::Relaxed);
            cores
        }
        cores => cores,
    }
}

/// Whether more threads want to run than there are processors, as of the last millisecond.
///
/// From the fourth field of `/proc/loadavg` (`proc(5)`); where that can't be read, a machine with
/// more than one processor counts as free.
#[must_use]
pub fn crowded() -> bool {
    if cores() == 1 {
        return true;
    }
    let now = Monotonic::now().as_nanos();
    if now.wrapping_sub(READ_AT.load(Ordering::Relaxed)) > FRESH {
        READ_AT.store(now, Ordering::Relaxed);
        CROWDED.store(runnable().is_some_and(|n| n > cores()), Ordering::Relaxed);
    }
    CROWDED.load(Ordering::Relaxed)
}

fn runnable() -> Option<usize> {
    let file = rustix::fs::open("/proc/loadavg", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let mut text = [0; 64];
    let read = rustix::io::read(file.ok()?, &mut text).ok()?;
    let text = std::str::from_utf8(&text[..read]).ok()?;
    text.split(' ').nth(3)?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_run_queue_can_be_read() {
        assert!(super::runnable().is_some_and(|n| n >= 1));
    }
}
