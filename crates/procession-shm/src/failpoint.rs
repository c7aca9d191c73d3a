//! Named points between two stores, at which a test can have the process killed.
//!
//! A protocol that must survive death at any instruction says `failpoint!("queue.put.written")`
//! where the shared memory is between two states. Without the feature `failpoints` that is nothing
//! at all; with it, [`arm`] makes the process end by SIGKILL the n-th time it comes there.

#[cfg(all(feature = "failpoints", not(model)))]
mod armed {
    use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

    static TARGET: AtomicUsize = AtomicUsize::new(usize::MAX);
    static LEFT: AtomicU32 = AtomicU32::new(0);

    /// Has the process killed the `nth` time (from 1) that it comes to the point called `name`.
    ///
    /// # Panics
    /// If there is no point of that name.
    pub fn arm(name: &str, nth: u32) {
        let index = super::ALL.iter().position(|point| *point == name);
        TARGET.store(index.unwrap_or_else(|| panic!("no fail point {name:?}")), Ordering::Relaxed);
        LEFT.store(nth, Ordering::Relaxed);
    }

    static RARE_TICKS: AtomicBool = AtomicBool::new(false);

    /// Has this process and those that it forks look by themselves no more than once an hour, when
    /// they have waited for a moment: to show that something else wakes them.
    pub fn make_ticks_rare() {
        RARE_TICKS.store(true, Ordering::Relaxed);
    }

    pub(crate) fn ticks_are_rare() -> bool {
        RARE_TICKS.load(Ordering::Relaxed)
    }

    #[doc(hidden)]
    pub fn reached(name: &str) {
        let target = TARGET.load(Ordering::Relaxed);
        if target == usize::MAX {
            return;
        }
        debug_assert!(super::ALL.contains(&name), "{name} is not in failpoint::ALL");
        if super::ALL[target] == name && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
            procession_os::process::kill_self();
        }
    }
}

#[cfg(all(feature = "failpoints", not(model)))]
pub(crate) use armed::ticks_are_rare;
#[cfg(all(feature = "failpoints", not(model)))]
pub use armed::{arm, make_ticks_rare, reached};

/// Under the model checker a thread dies by unwinding past everything: nothing on its way does
/// anything on being dropped.
#[cfg(model)]
mod mortal {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use shuttle::rand::{Rng, thread_rng};

    shuttle::thread_local! {
        static MORTAL: Cell<bool> = const { Cell::new(false) };
    }

    struct Death(&'static str);

    /// Runs what a process does, which may die at any fail point; then the point is the error.
    ///
    /// # Errors
    /// The name of the point at which it died.
    pub fn mortal<R>(life: impl FnOnce() -> R) -> Result<R, &'static str> {
        MORTAL.with(|mortal| mortal.set(true));
        let lived = catch_unwind(AssertUnwindSafe(life));
        MORTAL.with(|mortal| mortal.set(false));
        lived.map_err(|end| match end.downcast::<Death>() {
            Ok(death) => death.0,
            Err(panic) => resume_unwind(panic),
        })
    }

    #[doc(hidden)]
    pub fn reached(name: &'static str) {
        if MORTAL.with(Cell::get) && thread_rng().gen_ratio(1, 4) {
            resume_unwind(Box::new(Death(name)));
        }
    }
}

#[cfg(model)]
pub use mortal::{mortal, reached};

/// Every fail point, by floor.
pub const ALL: &[&str] = &[
    "heap.extent.split",
    "heap.extent.unlinked",
    "heap.extent.taken",
    "heap.extent.unreserved",
    "heap.run.unlinked",
    "heap.run.withdrawn",
    "heap.trim.taken",
    "heap.cache.emptied",
    "heap.cache.taken",
    "heap.slab.made",
    "heap.slab.unlinked",
    "heap.slab.taken",
    "heap.free.begun",
    "heap.free.freed",
    "heap.free.joined",
    "heap.free.punched",
    "object.claimed",
    "object.held",
    "object.filled",
    "object.live",
    "object.released",
    "object.freeing",
    "object.emptying",
    "object.emptied",
    "lock.acquired",
    "lock.releasing",
    "lock.released",
    "lock.waking",
    "lock.woken",
    "event.set",
    "condition.registered",
    "condition.released",
    "condition.relocked",
    "condition.taken",
    "condition.given_up",
    "condition.notified",
    "condition.waking",
    "barrier.arriving",
    "barrier.arrived",
    "barrier.acting",
    "barrier.noted",
    "barrier.ended",
    "barrier.leaving",
    "barrier.left",
    "queue.put.locked",
    "queue.put.grow.allocated",
    "queue.put.grow.pending",
    "queue.put.grow.owned",
    "queue.put.grow.linked",
    "queue.put.grow.placed",
    "queue.put.grow.moved",
    "queue.put.block.filled",
    "queue.put.block.pending",
    "queue.put.block.owned",
    "queue.put.written",
    "queue.put.placed",
    "queue.put.committed",
    "queue.put.unlocked",
    "queue.get.locked",
    "queue.get.chunk.pending",
    "queue.get.chunk.placed",
    "queue.get.chunk.moved",
    "queue.get.chunk.freed",
    "queue.get.copied",
    "queue.get.block.pending",
    "queue.get.claimed",
    "queue.get.placed",
    "queue.get.accounted",
    "queue.get.committed",
    "queue.get.block.owned",
    "queue.get.unlocked",
    "queue.get.block.copied",
    "queue.task_done.counted",
    "queue.task_done.accounted",
    "tasks.succeeding",
    "tasks.doubted",
    "tasks.overdone",
    "tasks.forgiving",
    "tasks.forgiven",
    "tasks.settling",
    "watch.taken",
    "watch.left",
    "watch.announced",
    "process.reserved",
    "process.released",
    "process.burying",
    "process.given_back",
    "process.buried",
];

/// Marks a point between two stores; see the [module](crate::failpoint).
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(any(feature = "failpoints", model))]
        $crate::failpoint::reached($name);
    };
}
pub(crate) use failpoint;
