//! The object table: how an object comes to its end, and what is known of the objects.
//!
//! # Invariant
//! An object that a process holds, or is about to hold, is not freed.
//!
//! # Protocol
//! A process that clears a [held bit](super::holding) looks whether any other is set. If none is,
//! it makes the state `freeing` and looks once more: held again, the object is live as before;
//! unheld, it is `emptying`, from which there is no way back. A process that opens the object sets
//! its bit first and looks at the state then; finding `freeing` it makes the object live itself.
//! All these are sequentially consistent, so one of the two sees the other: no object is freed that
//! was opened. A look goes over the slots one by one, so it may miss an object that goes from hand
//! to hand; that is why the first look settles nothing.

use std::sync::atomic::AtomicU64 as PrivateU64;

use procession_os::clock::Monotonic;
use procession_os::memory::Shared;

use super::error::{Error, Result};
use super::family::Arena;
use super::handle::Handle;
use super::heap::BlockOwner;
use super::kind::Kind;
use super::object_row::{Object, PAYLOAD_WORDS, State, Status};
use super::text::load_text;
use crate::atomics::Ordering;
use crate::failpoint::failpoint;

/// What the object table says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Names it.
    pub handle: Handle,
    /// What it is.
    pub kind: Kind,
    /// Its name, at most 32 bytes of it.
    pub name: String,
    /// The number of the process that made it.
    pub creator: u32,
    /// When it was made.
    pub created: Monotonic,
    /// The slots that hold it.
    pub holders: Vec<u16>,
}

impl Arena {
    pub(super) fn payload<T: Shared + 'static>(&'static self, index: u32) -> Result<&'static T> {
        const { assert!(size_of::<T>() <= PAYLOAD_WORDS * 8) };
        let row = self.layout.object(index)?;
        Ok(self.memory.cell(row + std::mem::offset_of!(Object, payload) as u64)?)
    }

    /// Takes a free row for an object that the process of a slot makes; returns the row's index and
    /// the object's generation.
    pub(super) fn claim(&self, kind: Kind, me: u16) -> Result<(u32, u32)> {
        let objects = self.layout.objects;
        let header = self.header();
        let hint = header.object_hint.load(Ordering::Relaxed) % objects;
        for index in (hint..objects).chain(0..hint) {
            let object = self.object(index)?;
            let state = object.state()?;
            // A row whose generations are used up is left: none may come twice.
            if state.status != Status::Free || state.generation == u32::MAX {
                continue;
            }
            header.objects_used.fetch_max(index + 1, Ordering::SeqCst);
            let generation = state.generation + 1;
            let claimed =
                State { status: Status::Claimed, turn: 0, kind: kind as u8, by: me, generation };
            if object.change(state, claimed) {
                header.object_hint.store(index + 1, Ordering::Relaxed);
                return Ok((index, generation));
            }
        }
        Err(Error::TooManyObjects(objects))
    }

    /// The state of an object that this process holds by now: what was about to be freed lives
    /// again.
    pub(super) fn live_state(&self, index: u32) -> Result<State> {
        let object = self.object(index)?;
        loop {
            let state = object.state()?;
            if state.status != Status::Freeing {
                return Ok(state);
            }
            object.change(state, State { status: Status::Live, by: 0, ..state });
        }
    }

    /// Frees an object if no process holds it. The caller has raised its own `unsettled`, so that
    /// its burial finishes this if it dies here.
    pub(super) fn free_if_unheld(&self, index: u32) -> Result<()> {
        let object = self.object(index)?;
        let me = self.me().index;
        loop {
            // The state first: it is this object that must be seen unheld, not one before it.
            let state = object.state()?;
            if state.status != Status::Live || self.is_held(index) {
                return Ok(());
            }
            let turn = state.turn.wrapping_add(1);
            let freeing = State { status: Status::Freeing, turn, by: me, ..state };
            if object.change(state, freeing) {
                failpoint!("object.freeing");
                self.look_once_more(index, freeing)?;
            }
        }
    }

    /// What follows on `freeing`: the end, or back to life.
    fn look_once_more(&self, index: u32, freeing: State) -> Result<()> {
        let object = self.object(index)?;
        if self.is_held(index) {
            // Another process opened it in between, or is about to.
            object.change(freeing, State { status: Status::Live, by: 0, ..freeing });
            return Ok(());
        }
        let emptying = State { status: Status::Emptying, ..freeing };
        if !object.change(freeing, emptying) {
            return Ok(());
        }
        failpoint!("object.emptying");
        self.finish(index, emptying)
    }

    /// Brings to its end an object that no process can reach. May be done twice.
    pub(super) fn finish(&self, index: u32, state: State) -> Result<()> {
        let object = self.object(index)?;
        let body = object.body.load(Ordering::Acquire);
        let freed = if Kind::from_number(state.kind) == Some(Kind::Queue) {
            self.free_blocks_of(index)
        } else if body != 0 {
            self.free_block_at(body, BlockOwner::Object(index)).map(|_| ())
        } else {
            Ok(())
        };
        match freed {
            // Another process was stopped in the middle of the heap.
            Err(Error::Wait(_)) if state.by == self.me().index => {
                return self.finish_later(index);
            }
            freed => freed?,
        }
        failpoint!("object.emptied");
        object.body.store(0, Ordering::Relaxed);
        for word in &object.payload {
            word.store(0, Ordering::Relaxed);
        }
        // An object that was never live has no kind, and perhaps the name of another.
        let kind = if state.status == Status::Claimed { 0 } else { state.kind };
        let free = State { status: Status::Free, turn: 0, kind, by: 0, ..state };
        object.change(state, free);
        self.header().object_hint.fetch_min(index, Ordering::Relaxed);
        Ok(())
    }

    /// Brings an object to its end that this process could not end before; returns whether it was
    /// such an object.
    fn finish_own(&self, index: u32) -> Result<bool> {
        let state = self.object(index)?.state()?;
        let unfinished = matches!(state.status, Status::Claimed | Status::Emptying);
        let own = unfinished && state.by == self.me().index;
        if own {
            self.finish(index, state)?;
        }
        Ok(own)
    }

    /// Notes that this process has still to end an object, for which it stays unsettled.
    fn finish_later(&self, index: u32) -> Result<()> {
        let me = self.me().index;
        self.row(me)?.unsettled.fetch_add(1, Ordering::SeqCst);
        let order = Ordering::Relaxed;
        let note = u64::from(me) << 32 | u64::from(index + 1);
        let free = |cell: &&PrivateU64| cell.compare_exchange(0, note, order, order).is_ok();
        // Without a cell it ends when this process is buried.
        let _ = self.unfinished.objects.iter().find(free);
        self.unfinished.any.store(true, order);
        Ok(())
    }

    /// Ends the objects whose end this process had to put off.
    pub(super) fn finish_put_off(&self) {
        if self.unfinished.any.load(Ordering::Relaxed) {
            let _ = self.finish_noted();
        }
    }

    #[cold]
    fn finish_noted(&self) -> Result<()> {
        // Not while the process that was in the way still is.
        if !self.is_heap_within_reach()? {
            return Ok(());
        }
        self.unfinished.any.store(false, Ordering::Relaxed);
        let me = self.me().index;
        for cell in &self.unfinished.objects {
            let noted = cell.swap(0, Ordering::Relaxed);
            if let Some(index) = (noted as u32).checked_sub(1)
                && noted >> 32 == u64::from(me)
                && self.finish_own(index)?
            {
                self.row(me)?.unsettled.fetch_sub(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// Brings to their end the objects that a dead process was making or freeing, and those that it
    /// let go as the last without coming to free them.
    ///
    /// # Errors
    /// [`Error::Wait`] if another process was stopped in the middle of the heap: some objects are
    /// left then.
    pub(super) fn settle_objects_of(&self, slot: u16) -> Result<()> {
        let mut all = Ok(());
        let used = self.header().objects_used.load(Ordering::SeqCst).min(self.layout.objects);
        for index in 0..used {
            let Ok(state) = self.object(index).and_then(Object::state) else { continue };
            let settled = match state.status {
                Status::Claimed | Status::Emptying if state.by == slot => self.finish(index, state),
                Status::Freeing if state.by == slot => {
                    self.look_once_more(index, state).and_then(|()| self.free_if_unheld(index))
                }
                Status::Live => self.free_if_unheld(index),
                _ => Ok(()),
            };
            if let Err(Error::Wait(_)) = settled {
                all = settled;
            }
        }
        all
    }

    /// What the object of a row with this generation is and what it is called, also if it has been
    /// freed, but not once the row was taken for another.
    pub(super) fn object_name(&self, index: u32, generation: u32) -> Option<(Kind, String)> {
        let object = self.object(index).ok()?;
        let kind = object.kind_of(generation)?;
        let name = load_text(&object.name);
        // Looked at again behind the name: the next maker changes the generation first.
        (object.kind_of(generation)? == kind).then_some((kind, name))
    }

    /// What is known of each live object.
    pub fn objects(&self) -> Vec<ObjectInfo> {
        let used = self.header().objects_used.load(Ordering::SeqCst).min(self.layout.objects);
        (0..used).filter_map(|index| self.object_info(index)).collect()
    }

    /// What is known of the object in a row, if it lives.
    pub(crate) fn object_info(&self, index: u32) -> Option<ObjectInfo> {
        let object = self.object(index).ok()?;
        let state = object.state().ok()?;
        (state.status == Status::Live).then_some(())?;
        let (kind, name) = self.object_name(index, state.generation)?;
        Some(ObjectInfo {
            handle: Handle { family: self.family(), index, generation: state.generation },
            kind,
            name,
            creator: object.creator.load(Ordering::Relaxed),
            created: Monotonic::from_nanos(object.created.load(Ordering::Relaxed)),
            holders: self.holders(index).collect(),
        })
    }

    /// The first word of what an object is: that of a lock has its owner.
    pub(crate) fn first_word(&self, index: u32) -> Option<u64> {
        Some(self.object(index).ok()?.payload[0].load(Ordering::Relaxed))
    }
}
