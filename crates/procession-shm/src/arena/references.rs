//! The objects that this process has open.
//!
//! References are counted in private memory. The first and the last have a `BUSY` mark while the
//! process's [held bit](super::holding) is being changed; a child that was forked meanwhile takes
//! it away. No child has a count without the bit: a thread that opens an object while a fork is
//! under way sets the child's bit too, before it takes its mark away ([`mod@super::fork`]).

use std::sync::atomic::AtomicU32 as PrivateU32;

use procession_os::clock::Monotonic;
use procession_os::memory::Shared;
use procession_os::process;

use super::error::{Error, Result};
use super::family::Arena;
use super::handle::Handle;
use super::heap::{Block, BlockOwner};
use super::kind::Kind;
use super::object_row::{State, Status};
use super::text::store_text;
use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;

/// This process's private count for an object: a mark, or how many references there are.
const BUSY: u32 = u32::MAX;

/// An object that this process has open; a clone is a further reference.
#[derive(Debug)]
pub struct ObjectRef {
    arena: &'static Arena,
    handle: Handle,
}

impl ObjectRef {
    /// The arena that the object is in.
    #[inline]
    #[must_use]
    pub fn arena(&self) -> &'static Arena {
        self.arena
    }

    /// The value that names the object in other processes.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// The object's row in the table.
    #[inline]
    #[must_use]
    pub fn index(&self) -> u32 {
        self.handle.index
    }

    /// The object's own cache line.
    pub(crate) fn payload<T: Shared + 'static>(&self) -> Result<&'static T> {
        self.arena.payload(self.handle.index)
    }

    /// Where the object's block in the heap is; 0 if it has none.
    pub(crate) fn body(&self) -> Result<u64> {
        Ok(self.arena.object(self.handle.index)?.body.load(Ordering::Acquire))
    }
}

impl Clone for ObjectRef {
    fn clone(&self) -> Self {
        // The object is held, so its count can be raised without a look at the table.
        if let Some(count) = self.arena.counts.get(self.handle.index as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self { arena: self.arena, handle: self.handle }
    }
}

impl Drop for ObjectRef {
    fn drop(&mut self) {
        self.arena.close(self.handle.index);
    }
}

impl Arena {
    /// Makes an object in the row that `claim` takes for this process's slot, open in this process.
    /// `fill` sees the zeroed payload before any other process can; `body` is the object's block,
    /// which goes over to it.
    pub(super) fn make_claimed<T: Shared + 'static>(
        &'static self,
        kind: Kind,
        name: &str,
        body: Option<Block>,
        claim: impl FnOnce(u16) -> Result<(u32, u32)>,
        fill: impl FnOnce(&T) -> Result<()>,
    ) -> Result<ObjectRef> {
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        unsettled.fetch_add(1, Ordering::SeqCst);
        let (index, generation) = match claim(me) {
            Ok(found) => found,
            Err(error) => {
                unsettled.fetch_sub(1, Ordering::SeqCst);
                if let Some(body) = body {
                    self.free(body)?;
                }
                return Err(error);
            }
        };
        failpoint!("object.claimed");
        let claimed =
            State { status: Status::Claimed, turn: 0, kind: kind as u8, by: me, generation };
        if let Err(error) = self.fill_claimed(index, name, body, fill) {
            self.give_up_claimed(index, claimed, body)?;
            unsettled.fetch_sub(1, Ordering::SeqCst);
            return Err(error);
        }
        let object = self.object(index)?;
        object.change(claimed, State { status: Status::Live, by: 0, ..claimed });
        failpoint!("object.live");
        unsettled.fetch_sub(1, Ordering::SeqCst);
        if let Some(count) = self.counts.get(index as usize) {
            count.store(1, Ordering::Release);
        }
        let handle = Handle { family: self.family(), index, generation };
        Ok(ObjectRef { arena: self, handle })
    }

    fn fill_claimed<T: Shared + 'static>(
        &'static self,
        index: u32,
        name: &str,
        body: Option<Block>,
        fill: impl FnOnce(&T) -> Result<()>,
    ) -> Result<()> {
        self.hold(index)?;
        failpoint!("object.held");
        let object = self.object(index)?;
        object.creator.store(process::id(), Ordering::Relaxed);
        object.created.store(Monotonic::now().as_nanos(), Ordering::Relaxed);
        store_text(&object.name, name);
        if let Some(body) = body {
            object.body.store(body.offset(), Ordering::Release);
            self.give(body, BlockOwner::Object(index))?;
        }
        fill(self.payload(index)?)?;
        failpoint!("object.filled");
        Ok(())
    }

    /// Takes back an object that could not be made, with the mark that its first reference has
    /// left. On an error its row stays claimed, and this process unsettled: its burial tries again.
    fn give_up_claimed(&self, index: u32, claimed: State, body: Option<Block>) -> Result<()> {
        let freed = body.map_or(Ok(()), |body| self.free(body)).and(self.finish(index, claimed));
        if let Some(count) = self.counts.get(index as usize)
            && count.load(Ordering::Relaxed) == BUSY
        {
            let _ = self.release_held(claimed.by, index);
            count.store(0, Ordering::Release);
        }
        freed
    }

    /// Opens the object that a handle names, as a `kind`.
    ///
    /// # Errors
    /// If the object is no more, of another kind, or of another family.
    pub fn open(&'static self, handle: Handle, kind: Kind) -> Result<ObjectRef> {
        if handle.family != self.family() {
            return Err(Error::ForeignFamily(handle));
        }
        if handle.index >= self.layout.objects {
            return Err(self.stale(handle, kind));
        }
        self.hold(handle.index)?;
        let checked = self.live_state(handle.index).and_then(|state| {
            if state.status != Status::Live || state.generation != handle.generation {
                return Err(self.stale(handle, kind));
            }
            match Kind::from_number(state.kind) {
                Some(found) if found == kind => Ok(()),
                Some(found) => Err(Error::WrongKind { handle, expected: kind, found }),
                None => Err(Error::Corrupt("an object row has an unknown kind")),
            }
        });
        if let Some(count) = self.counts.get(handle.index as usize) {
            let _ = count.compare_exchange(BUSY, 1, Ordering::Release, Ordering::Relaxed);
        }
        // From here on dropping the reference closes it again.
        let opened = ObjectRef { arena: self, handle };
        checked.map(|()| opened)
    }

    /// The error of a handle to an object that is no more, and that was to be opened as a `kind`.
    fn stale(&self, handle: Handle, kind: Kind) -> Error {
        let (kind, name) = match self.name_of(handle) {
            Some((kind, name)) => (kind, Some(name.into())),
            None => (kind, None),
        };
        Error::Stale { handle, kind, name }
    }

    /// Raises this process's count. The first reference sets the held bit and leaves `BUSY`, which
    /// the caller replaces by 1.
    fn hold(&self, index: u32) -> Result<()> {
        let count = self.counts.get(index as usize).ok_or(Error::Corrupt("no such object"))?;
        loop {
            match count.load(Ordering::Acquire) {
                BUSY => std::thread::yield_now(),
                0 => {
                    self.drop_late();
                    self.counted.fetch_max(index + 1, Ordering::SeqCst);
                    let order = Ordering::Acquire;
                    if count.compare_exchange(0, BUSY, order, Ordering::Relaxed).is_ok() {
                        return self.set_first_held(index).inspect_err(|_| {
                            count.store(0, Ordering::Release);
                        });
                    }
                }
                many => {
                    let order = Ordering::Relaxed;
                    if count.compare_exchange(many, many + 1, order, order).is_ok() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sets this process's bit, and those of the children that are being forked.
    fn set_first_held(&self, index: u32) -> Result<()> {
        self.set_held(self.me().index, index)?;
        self.hold_for_children_to_come(index);
        Ok(())
    }

    fn close(&self, index: u32) {
        let Some(count) = self.counts.get(index as usize) else { return };
        loop {
            match count.load(Ordering::Acquire) {
                0 => return,
                BUSY => std::thread::yield_now(),
                1 => {
                    let order = Ordering::Acquire;
                    if count.compare_exchange(1, BUSY, order, Ordering::Relaxed).is_ok() {
                        let _ = self.release_held(self.me().index, index);
                        count.store(0, Ordering::Release);
                        return;
                    }
                }
                many => {
                    let order = Ordering::Relaxed;
                    if count.compare_exchange(many, many - 1, Ordering::Release, order).is_ok() {
                        return;
                    }
                }
            }
        }
    }

    fn release_held(&self, slot: u16, index: u32) -> Result<()> {
        let (word, bit) = self.layout.held(slot, index)?;
        let unsettled = &self.row(slot)?.unsettled;
        unsettled.fetch_add(1, Ordering::SeqCst);
        self.memory.cell::<AtomicU64>(word)?.fetch_and(!bit, Ordering::SeqCst);
        failpoint!("object.released");
        let freed = self.free_if_unheld(index);
        unsettled.fetch_sub(1, Ordering::SeqCst);
        freed?;
        self.bury_dead_holders(index);
        Ok(())
    }

    /// Buries the processes that hold an object and are over, up to the first that lives: they may
    /// be the last holders, and no other process may look at them for long.
    fn bury_dead_holders(&self, index: u32) {
        for slot in self.holders(index) {
            if !self.is_dead_row(slot) {
                return;
            }
            self.bury_if_abandoned(slot);
        }
    }

    /// Takes away the marks of threads that were opening or closing while this process was forked:
    /// in this process they are no more. Async-signal-safe.
    pub(super) fn forget_half_open(&self) {
        let me = self.me().index;
        self.late.iter().for_each(|late| late.store(0, Ordering::Relaxed));
        let mut late = self.late.iter();
        for (index, count) in self.changed_counts() {
            if count.load(Ordering::Relaxed) == BUSY {
                count.store(0, Ordering::Relaxed);
                // The thread may still be about to set this process's bit.
                if !self.has_bit(me, index)
                    && let Some(late) = late.next()
                {
                    late.store(index + 1, Ordering::Relaxed);
                }
            }
        }
        let (Ok(row), Ok(words)) = (self.row(me), self.held_words(me)) else { return };
        for (first, word) in words {
            let bits = word.load(Ordering::SeqCst);
            for bit in 0..64 {
                let Some(count) = self.counts.get((first + bit) as usize) else { break };
                if count.load(Ordering::Relaxed) == 0 && bits & 1 << bit != 0 {
                    // Whether this was the last holder is looked at when this process is buried:
                    // freeing takes a lock, and this is a fresh child.
                    row.unsettled.fetch_add(1, Ordering::SeqCst);
                    word.fetch_and(!(1 << bit), Ordering::SeqCst);
                }
            }
        }
    }

    /// The private counts that may be other than 0.
    fn changed_counts(&self) -> impl Iterator<Item = (u32, &PrivateU32)> {
        let counted = self.counted.load(Ordering::SeqCst).min(self.layout.objects);
        (0..counted).filter_map(|index| Some((index, self.counts.get(index as usize)?)))
    }

    /// Takes a share in what this process has open, as a copy whose slot came with none.
    /// Async-signal-safe.
    pub(super) fn hold_what_is_open(&self) {
        let me = self.me().index;
        for (index, count) in self.changed_counts() {
            if count.load(Ordering::Relaxed) != 0 && self.set_held(me, index).is_ok() {
                let _ = self.live_state(index);
            }
        }
    }

    /// Lets go what a thread of the parent, that was opening it when this process was forked, has
    /// had this process hold since then.
    pub(super) fn drop_late(&self) {
        for late in &self.late {
            let Some(index) = late.load(Ordering::Relaxed).checked_sub(1) else { return };
            let me = self.me().index;
            let Some(count) = self.counts.get(index as usize) else { continue };
            let order = Ordering::Acquire;
            if self.has_bit(me, index)
                && count.compare_exchange(0, BUSY, order, Ordering::Relaxed).is_ok()
            {
                let _ = self.release_held(me, index);
                count.store(0, Ordering::Release);
            }
        }
    }

    /// Gives back the shares that came with this process's slot in objects that it has not opened.
    pub fn drop_unopened(&self) {
        let me = self.me().index;
        let Ok(words) = self.held_words(me) else { return };
        for (first, word) in words {
            let mut bits = word.load(Ordering::SeqCst);
            while bits != 0 {
                let index = first + bits.trailing_zeros();
                bits &= bits - 1;
                let Some(count) = self.counts.get(index as usize) else { continue };
                let order = Ordering::Acquire;
                // The mark keeps threads that open it meanwhile waiting, as in `close`.
                if count.compare_exchange(0, BUSY, order, Ordering::Relaxed).is_ok() {
                    let _ = self.release_held(me, index);
                    count.store(0, Ordering::Release);
                }
            }
        }
    }
}
