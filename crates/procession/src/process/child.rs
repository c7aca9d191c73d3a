//! The child's side: it calls the function, and reports.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::RefCell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

use procession_shm::queue::Queue;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::program::FnOffset;
use super::report::Report;
use crate::arena;
use crate::codec;

/// The status of a child if its function panicked: that of a Rust program if its `main` panics.
const PANICKED: i32 = 101;
/// The status of a child that could not begin, or not send its result (`EX_SOFTWARE`,
/// `sysexits.h`).
pub(super) const FAILED: i32 = 70;

/// A function to be called in a process that was started a second time.
pub(super) struct Call {
    pub(super) function: FnOffset,
    pub(super) arguments: Vec<u8>,
    pub(super) outbox: Queue,
}

/// Runs the function; returns the process's exit status.
pub(super) fn respawned<A, R>(call: Call) -> i32
where
    A: DeserializeOwned,
    R: Serialize,
{
    // SAFETY: the payload has the offsets of `respawned::<A, R>` and of a function of these types.
    match unsafe { call.function.function::<A, R>() } {
        Some(function) => run(function, &call.arguments, &call.outbox),
        None => FAILED,
    }
}

/// Runs the function with the arguments, reports, and returns the process's exit status.
pub(super) fn run<A, R>(function: fn(A) -> R, arguments: &[u8], outbox: &Queue) -> i32
where
    A: DeserializeOwned,
    R: Serialize,
{
    let (report, status) = match codec::decode::<A>(arguments) {
        Err(error) => (Report::NotBegun(format!("its arguments: {error}")), FAILED),
        Ok(arguments) => {
            if let Ok(arena) = arena::family()
                && Report::Began(arena.me()).send(outbox).is_err()
            {
                return FAILED;
            }
            note_places_of_panics();
            let returned = catch_unwind(AssertUnwindSafe(|| {
                let mut bytes = Vec::new();
                codec::encode(&function(arguments), &mut bytes).map(|()| bytes)
            }));
            match returned {
                Ok(Ok(bytes)) => (Report::Returned(bytes), 0),
                Ok(Err(error)) => (Report::Unsent(error.to_string()), FAILED),
                Err(panic) => {
                    let location = PANIC_LOCATION.with(RefCell::take);
                    (Report::Panicked(location, text_of(&*panic)), PANICKED)
                }
            }
        }
    };
    // What the function printed is out before another process can know that it has ended.
    let _ = std::io::stdout().flush();
    match report.send(outbox) {
        Ok(()) => status,
        Err(error) => {
            // The result may be too large for the memory that is left; the reason may fit.
            let _ = Report::Unsent(error.to_string()).send(outbox);
            FAILED
        }
    }
}

thread_local! {
    /// The location of this thread's last panic.
    static PANIC_LOCATION: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Makes each panic of this process note its location, in addition to the hook that is installed.
fn note_places_of_panics() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        // A panic in a destructor of thread-local values is not noted.
        let _ = PANIC_LOCATION.try_with(|noted| noted.replace(location));
        usual(panic);
    }));
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a value that is no text".to_owned())
}
