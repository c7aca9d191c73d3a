//! The object table: what kind each object is, who holds it, and the end of those that nobody
//! holds.
//!
//! # An object's life
//! ```text
//! free → claimed (by its maker, who fills it) → live ⇄ freeing (by the last to let go)
//!                                                     → emptying → free, generation + 1
//! ```
//! Each arrow is one store to the state word. The maker and the freer stand in the word, so that
//! who buries them can bring the object to its end. A freed object's kind, generation and name
//! stay, for errors about handles that still name it; the row's next maker changes the generation
//! first.
//!
//! # References
//! Who holds an object is written in one place: a bit for each slot and object, in the slot's row
//! of *held bits*. Setting and clearing a bit can be repeated, so there is no count that a death
//! could leave wrong: burying a process clears its row, forking copies it.
//!
//! Whoever clears a bit looks whether any other is set; if not, it makes the state `freeing` and
//! looks once more: held again, the object is live as before; unheld, it is `emptying`, from which
//! there is no way back. Whoever opens sets its bit first and looks at the state then; finding
//! `freeing` it makes the object live itself. All these are sequentially consistent, so one of the
//! two sees the other: no object is freed that was opened. A look goes over the slots one by one,
//! so it may miss an object that goes from hand to hand; that is why the first look settles
//! nothing.
//!
//! Within a process the references are counted in private memory. The first and the last have a
//! `BUSY` mark while the bit is being changed; a child that was forked meanwhile takes it away. No
//! child has a count without the bit: who opens an object while a fork is under way sets the
//! child's bit too, before it takes its mark away ([`registry`]).

use std::sync::atomic::AtomicU32 as PrivateU32;

use procession_os::clock::Monotonic;
use procession_os::memory::Shared;
use procession_os::process;

use super::Arena;
use super::error::{Error, Result};
use super::handle::Handle;
use super::heap::{Block, BlockOwner};
use super::registry;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::failpoint::failpoint;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::sync::Lock`].
    Lock = 1,
    /// [`crate::sync::RLock`].
    RLock = 2,
    /// [`crate::sync::Semaphore`].
    Semaphore = 3,
    /// [`crate::sync::Event`].
    Event = 4,
    /// [`crate::queue::Queue`].
    Queue = 5,
    /// [`crate::memory::SharedBlock`].
    Block = 6,
    /// [`crate::sync::Condition`].
    Condition = 7,
    /// [`crate::sync::Barrier`].
    Barrier = 8,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        use Kind::{Barrier, Block, Condition, Event, Lock, Queue, RLock, Semaphore};
        [Lock, RLock, Semaphore, Event, Queue, Block, Condition, Barrier]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lock => "Lock",
            Self::RLock => "RLock",
            Self::Semaphore => "Semaphore",
            Self::Event => "Event",
            Self::Queue => "Queue",
            Self::Block => "Block",
            Self::Condition => "Condition",
            Self::Barrier => "Barrier",
        })
    }
}

const NAME_WORDS: usize = 4;
const PAYLOAD_WORDS: usize = 8;

/// An object's row: a cache line about it, and one that is the object.
#[repr(C)]
pub(super) struct Object {
    state: AtomicU64,
    creator: AtomicU32,
    unused: AtomicU32,
    created: AtomicU64,
    /// Where the object's block in the heap is, if it has one.
    body: AtomicU64,
    /// Stays when the object has been freed, until the row is taken for another.
    name: [AtomicU64; NAME_WORDS],
    payload: [AtomicU64; PAYLOAD_WORDS],
}

#[allow(unsafe_code)]
// SAFETY: atomics alone.
unsafe impl Shared for Object {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Free = 0,
    Claimed = 1,
    Live = 2,
    Freeing = 3,
    Emptying = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    status: Status,
    /// Tells one attempt to free the object from the next.
    turn: u8,
    kind: u8,
    by: u16,
    generation: u32,
}

impl State {
    fn word(self) -> u64 {
        let low = u64::from(self.kind & 0xf) << 12 | u64::from(self.turn) << 4 | self.status as u64;
        u64::from(self.generation) << 32 | u64::from(self.by) << 16 | low
    }

    fn from_word(word: u64) -> Result<Self> {
        let status = match word & 0xf {
            0 => Status::Free,
            1 => Status::Claimed,
            2 => Status::Live,
            3 => Status::Freeing,
            4 => Status::Emptying,
            _ => return Err(Error::Corrupt("an object row has an unknown state")),
        };
        let (turn, kind) = ((word >> 4) as u8, (word >> 12) as u8 & 0xf);
        Ok(Self { status, turn, kind, by: (word >> 16) as u16, generation: (word >> 32) as u32 })
    }
}

impl Object {
    fn state(&self) -> Result<State> {
        State::from_word(self.state.load(Ordering::SeqCst))
    }

    /// The kind of the object with this generation; `None` if the row has another, or it is being
    /// made.
    fn kind_of(&self, generation: u32) -> Option<Kind> {
        let state = self.state().ok()?;
        let is_made = state.generation == generation && state.status != Status::Claimed;
        is_made.then(|| Kind::from_number(state.kind))?
    }

    fn change(&self, from: State, to: State) -> bool {
        let order = Ordering::SeqCst;
        self.state.compare_exchange(from.word(), to.word(), order, order).is_ok()
    }
}

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

/// This process's private count for an object: a mark, or how many references there are.
const BUSY: u32 = u32::MAX;

/// How many objects a forked process remembers that its parent may come to hold on its behalf. Of
/// more it keeps its share until it ends.
pub(super) const LATE: usize = 8;

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
    #[inline]
    pub(super) fn object(&self, index: u32) -> Result<&Object> {
        Ok(self.memory.cell(self.layout.object(index)?)?)
    }

    fn payload<T: Shared + 'static>(&'static self, index: u32) -> Result<&'static T> {
        const { assert!(size_of::<T>() <= PAYLOAD_WORDS * 8) };
        let row = self.layout.object(index)?;
        Ok(self.memory.cell(row + std::mem::offset_of!(Object, payload) as u64)?)
    }

    /// Makes an object, open in this process. `fill` sees the zeroed payload before anyone else
    /// can; `body` is the object's block, which goes over to it.
    pub(crate) fn make<T: Shared + 'static>(
        &'static self,
        kind: Kind,
        name: &str,
        body: Option<Block>,
        fill: impl FnOnce(&T) -> Result<()>,
    ) -> Result<ObjectRef> {
        let me = self.me().index;
        let unsettled = &self.row(me)?.unsettled;
        unsettled.fetch_add(1, Ordering::SeqCst);
        let claimed = self.claim(kind, me);
        let (index, generation) = match claimed {
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
        super::store_text(&object.name, name);
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

    fn claim(&self, kind: Kind, me: u16) -> Result<(u32, u32)> {
        let objects = self.layout.objects;
        let header = self.header();
        for round in 0..2 {
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
                let claimed = State {
                    status: Status::Claimed,
                    turn: 0,
                    kind: kind as u8,
                    by: me,
                    generation,
                };
                if object.change(state, claimed) {
                    header.object_hint.store(index + 1, Ordering::Relaxed);
                    return Ok((index, generation));
                }
            }
            if round == 0 {
                self.bury_abandoned();
            }
        }
        Err(Error::TooManyObjects(objects))
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

    /// The state of an object that this process holds by now: what was about to be freed lives
    /// again.
    fn live_state(&self, index: u32) -> Result<State> {
        let object = self.object(index)?;
        loop {
            let state = object.state()?;
            if state.status != Status::Freeing {
                return Ok(state);
            }
            object.change(state, State { status: Status::Live, by: 0, ..state });
        }
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
        registry::hold_for_children_to_come(self, index);
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

    pub(super) fn set_held(&self, slot: u16, index: u32) -> Result<()> {
        let (word, bit) = self.layout.held(slot, index)?;
        self.row(slot)?.held_high.fetch_max(index + 1, Ordering::SeqCst);
        self.memory.cell::<AtomicU64>(word)?.fetch_or(bit, Ordering::SeqCst);
        Ok(())
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

    /// Buries those who hold an object and are over, up to the first that lives: they may be the
    /// last ones, and nobody else may come along for long.
    fn bury_dead_holders(&self, index: u32) {
        for slot in self.holders(index) {
            if !self.is_dead_row(slot) {
                return;
            }
            self.bury_if_abandoned(slot);
        }
    }

    fn held_words(&self, slot: u16) -> Result<impl Iterator<Item = (u32, &AtomicU64)>> {
        let high = self.row(slot)?.held_high.load(Ordering::SeqCst).min(self.layout.objects);
        let (first, _) = self.layout.held(slot, 0)?;
        Ok((0..high.div_ceil(64)).filter_map(move |n| {
            self.memory.cell(first + u64::from(n) * 8).ok().map(|word| (n * 64, word))
        }))
    }

    /// Gives one slot a share in all that another holds. Async-signal-safe.
    pub(super) fn copy_held(&self, from: u16, to: u16) -> Result<()> {
        let high = self.row(from)?.held_high.load(Ordering::SeqCst);
        self.row(to)?.held_high.fetch_max(high, Ordering::SeqCst);
        for ((_, from), (_, to)) in self.held_words(from)?.zip(self.held_words(to)?) {
            to.fetch_or(from.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        Ok(())
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

    fn has_bit(&self, slot: u16, index: u32) -> bool {
        self.layout.held(slot, index).is_ok_and(|(word, bit)| {
            let word = self.memory.cell::<AtomicU64>(word);
            word.is_ok_and(|word| word.load(Ordering::SeqCst) & bit != 0)
        })
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

    /// Takes away a dead process's references. The caller has raised its own `unsettled`.
    pub(super) fn drop_all_held(&self, slot: u16) {
        let Ok(words) = self.held_words(slot) else { return };
        for (first, word) in words {
            let mut bits = word.load(Ordering::SeqCst);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                word.fetch_and(!(1 << bit), Ordering::SeqCst);
                let _ = self.free_if_unheld(first + bit);
            }
        }
        if let Ok(row) = self.row(slot) {
            row.held_high.store(0, Ordering::SeqCst);
        }
    }

    fn holders(&self, index: u32) -> impl Iterator<Item = u16> {
        // Behind the table is the row that holds for processes without one.
        let rowless = self.header().rowless.load(Ordering::SeqCst) != 0;
        let pinned = rowless.then_some(self.layout.slots as u16);
        (0..self.slots_used()).chain(pinned).filter(move |&slot| self.has_bit(slot, index))
    }

    fn is_held(&self, index: u32) -> bool {
        self.holders(index).next().is_some()
    }

    /// Frees an object if no process holds it. The caller has raised its own `unsettled`, so that
    /// its burial finishes this if it dies here.
    fn free_if_unheld(&self, index: u32) -> Result<()> {
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
            // Somebody opened it in between, or is about to.
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

    /// Takes an object that nobody can reach to its end. May be done twice.
    fn finish(&self, index: u32, state: State) -> Result<()> {
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
            // Somebody was stopped in the middle of the heap.
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
        // One that never came to live has no kind, and perhaps the name of another.
        let kind = if state.status == Status::Claimed { 0 } else { state.kind };
        let free = State { status: Status::Free, turn: 0, kind, by: 0, ..state };
        object.change(state, free);
        self.header().object_hint.fetch_min(index, Ordering::Relaxed);
        Ok(())
    }

    /// Brings an object to its end that this process could not end before; says whether it was one.
    pub(super) fn finish_own(&self, index: u32) -> Result<bool> {
        let state = self.object(index)?.state()?;
        let unfinished = matches!(state.status, Status::Claimed | Status::Emptying);
        let own = unfinished && state.by == self.me().index;
        if own {
            self.finish(index, state)?;
        }
        Ok(own)
    }

    /// Brings to their end the objects that a dead process was making or freeing, and those that it
    /// let go as the last without coming to free them.
    ///
    /// # Errors
    /// [`Error::Wait`] if somebody was stopped in the middle of the heap: some are left.
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
        let name = super::load_text(&object.name);
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

    /// Whether an object with this index lives, for the check of the heap.
    pub(super) fn object_lives(&self, index: u32) -> bool {
        self.object(index).and_then(Object::state).is_ok_and(|state| state.status != Status::Free)
    }
}
