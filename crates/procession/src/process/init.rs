//! How a *respawned* child, which is this program started a second time, reaches its function.
//!
//! The parent leaves a payload ([`super::payload`]) and names it in the environment. In a program,
//! [`init`], the first call in `main`, reads it. A test can't do that: its `main` is the harness's,
//! which runs other tests, or none, and has threads by then. So the children of tests are taken
//! over *before* `main`, by a function in `.init_array` that the linker puts into every program
//! with this crate. In all other processes that function does nothing.
//!
//! # Why before `main`
//! The alternative is that the harness runs the same test in the child (`--exact NAME`), and the
//! test takes over. Why not:
//!
//! - other harnesses have other arguments, and a generated test has another name;
//! - the harness prints to the child's output;
//! - the child would have two threads, so that it could not fork.
//!
//! The price is that the standard library promises less before `main`: its handler for stack
//! overflows is not installed yet, and C++ statics that are linked into the program may not be
//! constructed.
//!
//! A respawned child that uses this crate without having been taken over is *stray*: it repeats the
//! parent's program. It ends at that use, and tells its parent why.

#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use procession_os::parent_death::die_with_parent;
use procession_os::process;
use procession_shm::arena::inherit;
use procession_shm::memory::SharedBlock;
use procession_shm::queue::Queue;

use super::child::{Call, FAILED};
use super::child_env::enter_directory;
use super::payload::{self, Payload, VARIABLE};
use super::program::Build;
use super::report::Report;
use super::start_method::{from_number, set_start_method};
use crate::arena::{self, Handle};

/// Where a respawned child is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// By [`init`].
    Main = 1,
    /// Before `main`: it is a test's.
    BeforeMain = 2,
}

impl Entrance {
    /// The word for it in the payload's variable.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::BeforeMain => "before-main",
        }
    }
}

/// Where the children of this process are taken over: an [`Entrance`], or 0 if they are not.
static ENTRANCE: AtomicU8 = AtomicU8::new(0);

/// Where the children of this process are taken over; `None` if [`init`] was not called.
pub(super) fn entrance() -> Option<Entrance> {
    let number = ENTRANCE.load(Ordering::Relaxed);
    [Entrance::Main, Entrance::BeforeMain].into_iter().find(|entrance| *entrance as u8 == number)
}

/// Makes this program able to run the functions that it [spawns](crate::spawn); it must be the
/// first call in `main`. [`#[procession::main]`](macro@crate::main) writes it there. In a test it
/// can't be first, and [`#[procession::test]`](macro@crate::test) is for that.
///
/// In a child for which the program was started a second time, this does not return: it runs the
/// child's function, and exits when that has returned. In every other process it returns at once.
///
/// # Panics
/// If the first call is not on the process's first thread, or if there are other threads: a child
/// would repeat the program up to here, and then could not be taken over.
///
/// ```
/// fn main() {
///     procession::init();
///     let child = procession::spawn(|name: String| format!("hello {name}"), "child".to_owned());
///     assert_eq!(child.unwrap().join().unwrap(), "hello child");
/// }
/// ```
#[track_caller]
pub fn init() {
    if !TAKEN_OVER.load(Ordering::Relaxed)
        && let Some(value) = std::env::var_os(VARIABLE)
    {
        leave_after(take_over(&value, Entrance::Main));
    }
    if entrance().is_none() {
        if let Some(why) = misplaced() {
            panic!("procession::init() was called too late: {why}; {FIRST}");
        }
        ENTRANCE.store(Entrance::Main as u8, Ordering::Relaxed);
        procession_shm::arena::name_process("main");
    }
}

const FIRST: &str = "it must be first in main, where it takes over in a child: call it there, or \
                     write #[procession::main] above main (and above #[tokio::main]); in a test \
                     write #[procession::test] for #[test]";

/// Why a child can't be taken over here, if it can't.
fn misplaced() -> Option<String> {
    if process::is_main_thread() && process::is_single_threaded() {
        return None;
    }
    let thread = std::thread::current();
    let name = thread.name().map_or("this".to_owned(), |name| format!("{name:?}"));
    Some(format!("there are other threads than {name}"))
}

/// Makes the children of a test be taken over before `main`. `#[procession::test]` puts this call
/// first in the test.
///
/// # Panics
/// If the linker left out the code that takes over before `main`.
#[doc(hidden)]
pub fn enter_test() {
    assert!(
        RAN_BEFORE_MAIN.load(Ordering::Relaxed),
        "#[procession::test] needs a function to be called before main (.init_array), which the \
         linker left out of this program: use harness = false, and procession::init() first in main"
    );
    let (none, before) = (0, Entrance::BeforeMain as u8);
    let relaxed = Ordering::Relaxed;
    if ENTRANCE.compare_exchange(none, before, relaxed, relaxed).is_ok() {
        procession_shm::arena::name_process("tests");
    }
}

static RAN_BEFORE_MAIN: AtomicBool = AtomicBool::new(false);

#[used]
// SAFETY: the section has pointers to functions of the C convention, which are called before
// `main`.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    RAN_BEFORE_MAIN.store(true, Ordering::Relaxed);
    if let Some(value) = std::env::var_os(VARIABLE)
        && payload::parse(&value).is_some_and(|(.., entrance)| entrance == Entrance::BeforeMain)
    {
        leave_after(take_over(&value, Entrance::BeforeMain));
    }
}

/// Whether this process has been taken over, or was found not to be a child to take over.
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Ends this process if it was to be taken over and has come here instead.
pub(crate) fn refuse_stray_child() {
    if TAKEN_OVER.load(Ordering::Relaxed) {
        return;
    }
    let Some(value) = std::env::var_os(VARIABLE) else {
        TAKEN_OVER.store(true, Ordering::Relaxed);
        return;
    };
    let why = format!("it uses procession before it came to procession::init(): {FIRST}");
    let told = Received::by(&value).and_then(|received| received.refuse(why.clone()));
    leave_after(told.and(Err(why)));
}

fn leave_after(ended: Result<i32, String>) -> ! {
    if let Err(why) = &ended {
        eprintln!("procession: process {} could not begin: {why}", process::id());
    }
    std::process::exit(ended.unwrap_or(FAILED));
}

/// A payload that has been read, and the way to answer it.
struct Received {
    payload: Payload,
    arguments: Vec<u8>,
    outbox: Queue,
}

impl Received {
    /// Reads the payload that the variable's value names.
    fn by(value: &OsStr) -> Result<Self, String> {
        TAKEN_OVER.store(true, Ordering::Relaxed);
        let (number, handle, _) =
            payload::parse(value).ok_or_else(|| format!("{VARIABLE} is {}", value.display()))?;
        let text = |error: arena::Error| error.to_string();
        let fd = procession_os::spawn::inherited(number).map_err(|error| error.to_string())?;
        let arena = inherit(fd).map_err(text)?;
        let block = SharedBlock::open(handle).map_err(text)?;
        let (payload, arguments) = Payload::read(&block)?;
        arena.set_name(&payload.name);
        // It may be an orphan by now, and have another parent in the kernel.
        arena.set_parent(payload.parent);
        let outbox = Queue::open(Handle::from_bytes(payload.outbox)).map_err(text)?;
        Ok(Self { payload, arguments, outbox })
    }

    /// Tells the parent why the function will not be called.
    fn refuse(&self, why: String) -> Result<(), String> {
        Report::NotBegun(why).send(&self.outbox).map_err(|error| error.to_string())
    }

    /// Makes this process what the payload says, and finds the function.
    fn prepare(&self) -> Result<fn(Call) -> i32, String> {
        if let Some(why) = misplaced() {
            return Err(format!("procession::init() was called too late: {why}; {FIRST}"));
        }
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { std::env::remove_var(VARIABLE) };
        if self.payload.bound {
            die_with_parent(self.payload.parent, self.payload.by_main_thread)
                .map_err(|error| format!("binding its life to its parent's: {error}"))?;
        }
        set_start_method(from_number(self.payload.start_method));
        enter_directory(self.payload.directory.as_ref())?;
        entry_of(&self.payload)
    }
}

/// Does what the payload says; returns the process's exit status.
fn take_over(value: &OsStr, entrance: Entrance) -> Result<i32, String> {
    ENTRANCE.store(entrance as u8, Ordering::Relaxed);
    let received = Received::by(value)?;
    match received.prepare() {
        Ok(entry) => {
            let Received { payload, arguments, outbox } = received;
            Ok(entry(Call { function: payload.function, arguments, outbox }))
        }
        Err(why) => {
            received.refuse(why.clone())?;
            Err(why)
        }
    }
}

fn entry_of(payload: &Payload) -> Result<fn(Call) -> i32, String> {
    let build = Build::of_this_program().map_err(|error| error.to_string())?;
    if build != payload.build {
        return Err(format!("it runs {build:?}, its parent {:?}", payload.build));
    }
    // SAFETY: the parent, which runs the same build, made the offset of a function of this type.
    let entry = unsafe { payload.entry.function() };
    entry.ok_or_else(|| "the payload names what is not code of the program".to_owned())
}
