//! The condition variable.

use procession_shm::arena::{Handle, family};
use procession_shm::sync::{self, Monitor, NotOwnerError, Waiter};
use procession_shm::wait::{Acquired, Owner, Wait, WaitError};
use pyo3::exceptions::{PyAssertionError, PyTypeError};
use pyo3::prelude::*;

use super::robust::owner_died;
use super::{Lock, RLock};
use crate::errors::{Death, arena_error, handle};
use crate::waiting::{deadline, wait};

/// A lock of either kind.
enum AnyLock {
    Lock(sync::Lock),
    RLock(sync::RLock),
}

impl AnyLock {
    fn handle(&self) -> Handle {
        match self {
            Self::Lock(lock) => lock.handle(),
            Self::RLock(lock) => lock.handle(),
        }
    }
}

const HELD: &str = "The lock is held by this thread and no other is told: repair what it guards \
                    before it is released; or make the lock with on_owner_death=\"recover\", with \
                    which wait() warns instead";

impl Monitor for AnyLock {
    fn leave(&self) -> Result<u64, NotOwnerError> {
        match self {
            Self::Lock(lock) => lock.leave(),
            Self::RLock(lock) => lock.leave(),
        }
    }

    fn enter(&self, depth: u64, waiting: Wait) -> Result<Acquired, WaitError> {
        match self {
            Self::Lock(lock) => lock.enter(depth, waiting),
            Self::RLock(lock) => lock.enter(depth, waiting),
        }
    }

    fn is_mine(&self) -> bool {
        match self {
            Self::Lock(lock) => lock.is_mine(),
            Self::RLock(lock) => lock.is_mine(),
        }
    }

    fn holder(&self) -> Option<Owner> {
        match self {
            Self::Lock(lock) => lock.holder(),
            Self::RLock(lock) => lock.holder(),
        }
    }
}

/// Wait, beside a lock, for another process to say that something has changed.
#[pyclass(frozen, module = "procession._native")]
pub(crate) struct Condition {
    condition: sync::Condition,
    lock: AnyLock,
    recovers: bool,
}

/// Acquires the lock again, whatever signals come. If a second handler raises, this stops without
/// an acquisition. `raised` is what a handler has raised before.
fn relock<M: Monitor + Sync>(
    py: Python<'_>,
    waiter: &Waiter<'_, M, procession_shm::arena::Arena>,
    raised: &mut Option<PyErr>,
) -> Option<Acquired> {
    let waiting = Wait { deadline: None, interruptible: true };
    loop {
        if let Ok(acquired) = py.detach(|| waiter.relock(waiting)) {
            return Some(acquired);
        }
        if let Err(error) = py.check_signals()
            && raised.replace(error).is_some()
        {
            return None;
        }
    }
}

#[pymethods]
impl Condition {
    #[new]
    #[pyo3(signature = (lock, *, name="", _handle=None))]
    fn new(lock: &Bound<'_, PyAny>, name: &str, _handle: Option<&str>) -> PyResult<Self> {
        let (lock, recovers) = if let Ok(lock) = lock.cast::<Lock>() {
            let made = lock.get().made.get()?;
            (AnyLock::Lock(made.lock.clone()), made.recovers)
        } else if let Ok(lock) = lock.cast::<RLock>() {
            let made = lock.get().made.get()?;
            (AnyLock::RLock(made.lock.clone()), made.recovers)
        } else {
            let class = lock.get_type().qualname()?;
            return Err(PyTypeError::new_err(format!(
                "a Condition goes with a Lock or an RLock of procession, not with {class}"
            )));
        };
        let condition = match _handle {
            Some(text) => sync::Condition::open(handle(text)?),
            None => family().and_then(|arena| sync::Condition::new(arena, name)),
        };
        Ok(Self { condition: condition.map_err(arena_error)?, lock, recovers })
    }

    #[getter]
    fn handle(&self) -> String {
        self.condition.handle().to_string()
    }

    /// Holds the lock again at the end, also when it raises; but for the exception of a second
    /// signal handler that raises.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let waiter = self.condition.begin(&self.lock).map_err(|NotOwnerError| {
            PyAssertionError::new_err("must acquire() condition before using wait()")
        })?;
        let deadline = deadline(timeout);
        loop {
            let slept = wait(py, deadline, |waiting| waiter.sleep(waiting));
            let timed_out = matches!(slept, Ok(None));
            let mut raised = slept.err();
            let relocked = relock(py, &waiter, &mut raised);
            if let Some(error) = raised {
                waiter.give_up();
                return Err(error);
            }
            let clean = relocked == Some(Acquired::Clean);
            let owner_died = || match relocked {
                Some(Acquired::OwnerDied(owner)) => {
                    let death = Death::of(owner, self.lock.handle());
                    owner_died(py, self.recovers, death, HELD, || {})
                }
                _ => Ok(false),
            };
            if waiter.take() {
                return if clean { Ok(true) } else { owner_died() };
            }
            if timed_out || !clean {
                waiter.give_up();
                return if clean { Ok(false) } else { owner_died() };
            }
            waiter.unlock().map_err(|error| PyAssertionError::new_err(error.to_string()))?;
        }
    }

    /// Lets `n` of the waiters go on.
    fn notify(&self, n: i64) -> PyResult<()> {
        let max = u32::try_from(n.max(0)).unwrap_or(u32::MAX);
        self.condition
            .notify(&self.lock, max)
            .map_err(|NotOwnerError| PyAssertionError::new_err("lock is not owned"))
    }

    /// How many wait and have not been notified.
    fn waiting(&self) -> u32 {
        self.condition.waiting()
    }

    /// How many notifications no waiter has taken yet.
    fn notified(&self) -> u32 {
        self.condition.notified()
    }
}
