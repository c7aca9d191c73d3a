//! The core's errors as Python exceptions.

use procession_shm::arena::{Error, Handle, Kind, Named, ParseHandleError, arena_of};
use procession_shm::wait::Owner;
use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::message::memory_error;

create_exception!(
    procession,
    OwnerDiedError,
    PyRuntimeError,
    "A process died while it held a lock, or with tasks of a queue that it had got.

Exactly one thread is told. If threads or processes wait for the lock, or for a condition with that
lock, it is the waiter that finds the death, a moment later; otherwise it is the next to acquire.
The others go on as if the lock had been released. So the receiver has to handle the error: what
the lock guards may be half changed.

`acquire` raises this with the lock free again, so that the receiver may acquire it as usual,
repair what it guards, and go on. Another waiter may be faster. If none may see what is half
changed, make the lock with ``on_owner_death=\"recover\"``: then `acquire` and ``with`` acquire it
with a `RuntimeWarning` instead of this error. `Condition.wait` raises this with the lock held, as
it always ends.

`JoinableQueue.join` raises this once for tasks that no process will do any more; they count as
done.

Attributes
----------
pid : int or None
    The number of the process that died; None if it is not known any more, as a later process has
    its place, or if it was several.
process : str or None
    Its name, at most 48 bytes of it; None if it has none, or as for the number.
thread : int or None
    The number that the kernel gave to the thread that held the lock.
kind : str or None
    What it held: ``\"Lock\"`` or ``\"RLock\"``.
name : str or None
    The name of that, \"\" if it has none.
handle : str or None
    The handle of that.

Examples
--------
>>> import os, procession
>>> lock = procession.Lock(name=\"accounts\")
>>> accounts = procession.RawArray(\"i\", [70, 30])
>>> def transfer(amount, survives=True):
...     with lock:
...         accounts[0] -= amount
...         if not survives:
...             os._exit(1)
...         accounts[1] += amount
>>> def repair():
...     with lock:
...         accounts[1] = 100 - accounts[0]
>>> clerk = procession.get_context(\"fork\").Process(target=transfer, args=(20, False))
>>> clerk.start(); clerk.join()
>>> try:
...     transfer(10)
... except procession.OwnerDiedError as death:
...     print(death.kind, death.name)
...     repair()
...     transfer(10)
Lock accounts
>>> list(accounts)
[40, 60]"
);
create_exception!(
    procession,
    StaleHandleError,
    PyValueError,
    "A handle names an object that has been freed, since no process had it open any more.

A message in a queue or a pipe has only the handle of an object: keep the object in a variable
until its receiver has got it.

Attributes
----------
kind : str
    What the object was, ``\"Lock\"``, ``\"Queue\"``…; what was looked for, if that is not known any
    more.
name : str or None
    Its name, \"\" if it had none; None if it is not known any more, as a later object has its
    place.
handle : str
    The handle."
);
create_exception!(
    procession,
    ArenaError,
    PyRuntimeError,
    "Shared memory can not do what was asked."
);

/// Adds the attributes to the exceptions: an attribute that is not known is None.
pub(crate) fn add_attributes(py: Python<'_>) -> PyResult<()> {
    let owner_died = py.get_type::<OwnerDiedError>();
    for attribute in ["pid", "process", "thread", "kind", "name", "handle"] {
        owner_died.setattr(attribute, py.None())?;
    }
    let stale_handle = py.get_type::<StaleHandleError>();
    for attribute in ["kind", "name", "handle"] {
        stale_handle.setattr(attribute, py.None())?;
    }
    Ok(())
}

/// An arena error as an exception.
pub(crate) fn arena_error(error: Error) -> PyErr {
    if let Error::OutOfMemory { .. } | Error::MachineFull { .. } = error {
        return memory_error(format_args!("{error}"));
    }
    let text = error.to_string();
    match error {
        Error::Stale { handle, kind, name } => stale_handle(handle, kind, name.as_deref()),
        Error::WrongKind { .. }
        | Error::TooMany { .. }
        | Error::OutOfRange { .. }
        | Error::NoSuchSlot { .. } => PyValueError::new_err(text),
        Error::Os { source, .. } => match source.raw_os_error() {
            Some(number) => PyOSError::new_err((number, text)),
            None => PyOSError::new_err(text),
        },
        _ => ArenaError::new_err(text),
    }
}

/// The error of a handle to an object that is no more.
fn stale_handle(handle: Handle, kind: Kind, name: Option<&str>) -> PyErr {
    Python::attach(|py| {
        let what = Named(kind, name);
        let error = StaleHandleError::new_err(format!(
            "{handle} names a {what} that has been freed, since no process had it open any more: \
             keep it in a variable until its receiver has got it"
        ));
        let told = error.value(py);
        let set = || {
            told.setattr("kind", kind.to_string())?;
            told.setattr("name", name)?;
            told.setattr("handle", handle.to_string())
        };
        set().err().unwrap_or(error)
    })
}

/// What is known of the death of a lock's owner.
pub(crate) struct Death {
    thread: u32,
    pid: Option<u32>,
    process: Option<String>,
    handle: Handle,
    /// The lock's kind and name.
    lock: Option<(Kind, String)>,
}

impl Death {
    /// Looks up what an owner's word and a handle are about.
    pub(crate) fn of(owner: Owner, handle: Handle) -> PyResult<Self> {
        let arena = arena_of(handle).map_err(arena_error)?;
        let died = arena.process_of(owner);
        let (pid, process) = died.map(|died| (died.pid, died.name)).unzip();
        Ok(Self {
            thread: owner.thread(),
            pid,
            process: process.filter(|name| !name.is_empty()),
            handle,
            lock: arena.name_of(handle),
        })
    }

    /// What has happened, as a sentence without the full stop.
    pub(crate) fn text(&self) -> String {
        let who = match (self.pid, &self.process) {
            (Some(pid), Some(name)) => format!("process {pid} ({name:?})"),
            (Some(pid), None) => format!("process {pid}"),
            (None, _) => format!("the process of thread {}", self.thread),
        };
        let what = match &self.lock {
            Some((kind, name)) if !name.is_empty() => {
                format!("{} ({})", Named(*kind, Some(name)), self.handle)
            }
            Some((kind, _)) => format!("{kind} {}", self.handle),
            None => self.handle.to_string(),
        };
        format!("{who} died while it held {what}, and what that guards may be half changed")
    }

    /// The exception, which says what to do as well.
    pub(crate) fn error(self, py: Python<'_>, then: &str) -> PyErr {
        let error = OwnerDiedError::new_err(format!("{}. {then}", self.text()));
        let told = error.value(py);
        let (kind, name) = self.lock.map(|(kind, name)| (kind.to_string(), name)).unzip();
        let set = || {
            told.setattr("pid", self.pid)?;
            told.setattr("process", self.process)?;
            told.setattr("thread", self.thread)?;
            told.setattr("kind", kind)?;
            told.setattr("name", name)?;
            told.setattr("handle", self.handle.to_string())
        };
        set().err().unwrap_or(error)
    }
}

/// An error of the system as an exception, with its number.
pub(crate) fn os_error(error: std::io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => PyOSError::new_err((number, text_of(&error))),
        None => error.into(),
    }
}

/// What the system says of an error, without the number that Rust adds.
pub(crate) fn text_of(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The handle that a text names.
pub(crate) fn handle(text: &str) -> PyResult<Handle> {
    text.parse().map_err(|error: ParseHandleError| PyValueError::new_err(error.to_string()))
}
