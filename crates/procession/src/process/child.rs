//! The child's side.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicBool, Ordering};

use procession_os::process;
use procession_shm::arena::inherit;
use procession_shm::memory::SharedBlock;
use procession_shm::queue::Queue;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::order::{self, Order, VARIABLE};
use super::program::{Build, Place};
use super::report::Report;
use super::surroundings::enter_directory;
use crate::arena::{self, Handle};
use crate::codec;

/// The status of a child whose function panicked, as that of a Rust program whose main does.
const PANICKED: i32 = 101;
/// The status of a child that could not begin, or not send its result (`EX_SOFTWARE`, `sysexits.h`).
pub(super) const FAILED: i32 = 70;

static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// Whether [`init`] was called in this process, or in the one that it is a copy of.
pub(super) fn is_initialized() -> bool {
    INITIALIZED.load(Ordering::Relaxed)
}

/// Makes this program able to run the functions that it [spawns](crate::spawn): the first thing in
/// `main`.
///
/// In a child that was started anew this does not return: it runs the child's function, and leaves
/// when that has returned. In every other process it returns at once.
///
/// ```
/// fn main() {
///     procession::init();
///     let child = procession::spawn(|name: String| format!("hello {name}"), "child".to_owned());
///     assert_eq!(child.unwrap().join().unwrap(), "hello child");
/// }
/// ```
pub fn init() {
    INITIALIZED.store(true, Ordering::Relaxed);
    if let Some(value) = std::env::var_os(VARIABLE) {
        let ended = take_over(&value);
        if let Err(why) = &ended {
            eprintln!("procession: process {} could not begin: {why}", process::id());
        }
        std::process::exit(ended.unwrap_or(FAILED));
    }
    procession_shm::arena::name_process("main");
}

fn take_over(value: &OsStr) -> Result<i32, String> {
    if !process::is_single_threaded() {
        return Err("procession::init() is called first in main, before any thread".to_owned());
    }
    // SAFETY: there is no other thread that could read the environment meanwhile.
    unsafe { std::env::remove_var(VARIABLE) };
    let (number, handle) =
        order::parse(value).ok_or_else(|| format!("{VARIABLE} is {}", value.display()))?;
    let text = |error: arena::Error| error.to_string();
    let fd = procession_os::spawn::inherited(number).map_err(|error| error.to_string())?;
    let arena = inherit(fd).map_err(text)?;
    let block = SharedBlock::open(handle).map_err(text)?;
    let (order, arguments) = Order::read(&block)?;
    drop(block);
    arena.set_name(&order.name);
    // It may be an orphan by now, and its parent in the kernel another.
    arena.set_parent(order.parent);
    if order.bound {
        process::die_with_parent(order.parent, order.by_main_thread)
            .map_err(|error| format!("binding its life to its parent's: {error}"))?;
    }
    let outbox = Queue::open(Handle::from_bytes(order.outbox)).map_err(text)?;
    let ready = enter_directory(order.directory.as_ref()).and_then(|()| entry_of(&order));
    match ready {
        Ok(entry) => Ok(entry(Call { function: order.function, arguments, outbox })),
        Err(why) => {
            Report::NotBegun(why.clone()).send(&outbox).map_err(text)?;
            Err(why)
        }
    }
}

fn entry_of(order: &Order) -> Result<fn(Call) -> i32, String> {
    let build = Build::of_this_program().map_err(|error| error.to_string())?;
    if build != order.build {
        return Err(format!("it runs {build:?}, its parent {:?}", order.build));
    }
    // SAFETY: the parent, which runs the same build, made the place of a function of this type.
    let entry = unsafe { order.entry.function() };
    entry.ok_or_else(|| "the order names what is not code of the program".to_owned())
}

/// A function to be called in a process that was started anew.
pub(super) struct Call {
    function: Place,
    arguments: Vec<u8>,
    outbox: Queue,
}

/// Runs the function; gives the process's exit status.
pub(super) fn called_anew<A, R>(call: Call) -> i32
where
    A: DeserializeOwned,
    R: Serialize,
{
    // SAFETY: the order has the places of `called_anew::<A, R>` and of a function of these types.
    match unsafe { call.function.function::<A, R>() } {
        Some(function) => run(function, &call.arguments, &call.outbox),
        None => FAILED,
    }
}

/// Runs the function with the arguments, reports, and gives the process's exit status.
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
                    let place = PLACE.with(RefCell::take);
                    (Report::Panicked(place, text_of(&*panic)), PANICKED)
                }
            }
        }
    };
    // What the function printed is out before anybody can know that it has ended.
    let _ = std::io::stdout().flush();
    match report.send(outbox) {
        Ok(()) => status,
        Err(error) => {
            // A result that is too large for what memory is left: why fits perhaps.
            let _ = Report::Unsent(error.to_string()).send(outbox);
            FAILED
        }
    }
}

thread_local! {
    /// Where this thread panicked last.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Has each panic of this process note where it was, beside what is done about it anyway.
fn note_places_of_panics() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        // Nothing is noted of a panic in a destructor of thread-local values.
        let _ = PLACE.try_with(|noted| noted.replace(place));
        usual(panic);
    }));
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a value that is no text".to_owned())
}
