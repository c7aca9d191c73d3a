//! The memory that a family shares: one sparse memfd, mapped whole in each of its processes.
//!
//! # Invariant
//! Every change becomes true by one atomic store; what comes before it can be thrown away, and what
//! comes after it can be derived. So a process may be killed at any instruction, and what it leaves
//! is put in order by the next that comes along: the allocator's lists by the next holder of its
//! lock, a process's references by the process that [buries](Arena::bury) it.
//!
//! Inside the arena there are only offsets, and everything that is read from it is checked: another
//! process may have written anything.
//!
//! # Floors
//! Each file uses only those above it in this list, and a test checks it:
//! - `handle`, `kind`, `error`, `text`: values;
//! - `row`, `object_row`, `layout`, `family`: the rows, where they lie, and the mapping;
//! - `liveness`, `watch`, `blocked`: which process is over, and what tells the processes that wait;
//! - `heap`: the allocator;
//! - `holding`, `fork`: which process holds which object, and which child comes to hold it;
//! - `objects`, `processes`, `names`: the tables;
//! - `recovery`: what a death leaves;
//! - `references`: what this process has open;
//! - this file: what to do when something is full;
//! - `membership`, `registry`, `following`, `founding`: how a process gets its slot, and what
//!   happens to its arenas when it forks.

mod blocked;
mod error;
mod family;
mod following;
mod fork;
mod founding;
mod handle;
mod heap;
mod holding;
mod kind;
mod layout;
mod liveness;
mod membership;
mod names;
mod object_row;
mod objects;
mod processes;
mod recovery;
mod references;
mod registry;
mod row;
mod text;
mod watch;

use procession_os::memory::Shared;

pub use blocked::SleepsOn;
pub use error::{Error, Result};
pub use family::Arena;
pub use following::{FollowedFork, Forked, fork, leave_without_row};
pub use founding::{arena_of, attach, family, inherit, inherit_as, is_founded, name_process};
pub use handle::{Handle, ParseHandleError};
pub(crate) use heap::{Block, BlockOwner};
pub use heap::{IDLE, WARM_FLOOR, WARM_MAX, make_interruptibly};
pub use kind::{Kind, Named};
pub use layout::UNIT;
pub use objects::ObjectInfo;
pub use processes::{ProcessInfo, ProcessName};
pub use references::ObjectRef;
pub use row::Slot;

use crate::atomics::Ordering;
use crate::wait::Wait;
use heap::Effort;

impl Arena {
    /// Makes an attempt at something that needs room. If there is none, gives back what the dead
    /// hold, and makes one more attempt, which is told what was full.
    fn retried_when_full<T>(
        &self,
        mut attempt: impl FnMut(Option<&Error>) -> Result<T>,
    ) -> Result<T> {
        match attempt(None) {
            Err(full) if full.is_full() => {
                self.bury_abandoned();
                attempt(Some(&full))
            }
            done => done,
        }
    }

    /// A block of at least `size` bytes that belongs to this process until it is
    /// [given](Self::give) away or [freed](Self::free). What it holds is left from before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::MachineFull`]; [`Error::Wait`] if another process is at the
    /// heap for longer than the caller waits.
    pub(crate) fn allocate(&self, size: u64, waiting: Wait) -> Result<Block> {
        self.finish_put_off();
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        unsettled.fetch_add(1, Ordering::SeqCst);
        let allocated = self.retried_when_full(|full| {
            let Some(full) = full else {
                return self.try_allocate(size, me, Effort::Usual, waiting);
            };
            // What is missing may be kept by some process, or be there in pieces.
            self.reclaim(matches!(full, Error::MachineFull { .. }))?;
            self.try_allocate(size, me, Effort::Thorough, waiting)
        });
        if allocated.is_err() {
            unsettled.fetch_sub(1, Ordering::SeqCst);
        }
        allocated
    }

    /// What a process does for the heap when it comes by: it frees what it had to put off, and
    /// returns memory that has been idle to the machine. Waits for a moment at most.
    pub fn look_after_heap(&self) {
        self.tidy();
        self.finish_put_off();
        self.trim();
    }

    /// Makes an object, open in this process. `fill` sees the zeroed payload before any other
    /// process can; `body` is the object's block, which goes over to it.
    pub(crate) fn make<T: Shared + 'static>(
        &'static self,
        kind: Kind,
        name: &str,
        body: Option<Block>,
        fill: impl FnOnce(&T) -> Result<()>,
    ) -> Result<ObjectRef> {
        let claim = |me| self.retried_when_full(|_| self.claim(kind, me));
        self.make_claimed(kind, name, body, claim, fill)
    }

    /// Reserves a free slot in the name of `by`, or of no process.
    fn take_slot(&self, by: Option<u16>) -> Result<Slot> {
        self.retried_when_full(|_| self.take_free_slot(by))
    }
}

#[cfg(test)]
mod tests;
