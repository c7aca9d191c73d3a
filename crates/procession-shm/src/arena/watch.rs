//! Which threads are woken when a process dies.
//!
//! # Invariant
//! While a thread sleeps for long whose wait a death may end, a thread of the family sleeps on the
//! life words of all the others; it *announces* each death, which wakes all of the former.
//!
//! # Protocol
//! A sleeper can't sleep on the life word of the process that it waits for: that process takes the
//! lock, or arrives at the barrier, long after the sleeper fell asleep. And the kernel wakes one
//! sleeper of a word. So the rows of the process table are divided into [ranges](RANGE), and each
//! range has a *watcher*: one of the sleeping threads, which sleeps on the words of the range
//! beside its own word.
//! - To sleep for long: read the count of deaths, look for deaths by oneself, become the watcher of
//!   a range that has none, and sleep on one's own word and the count. A watcher sleeps on the life
//!   words of its range as well, and every sleeper on that of another watcher, so that its death is
//!   seen.
//! - To announce: raise the count, wake all that sleep on it. The first process to know that
//!   another is over does it, when all can see that.
//! - To wake for good: leave the range, and have one of the others look, which takes it, or leaves
//!   as well.
//! - A process that joins, or has another thread watch over its row, has the watcher look again.
//!
//! The death of a watcher is seen by the threads that sleep on its life word. Where a watcher is
//! stopped, or the kernel can't sleep on several words, deaths are found at the ticks of the
//! waiters.
//!
//! A row that no thread of its process watches over tells nothing: as long as there is one, its
//! watcher asks every [`UNTOLD`].

use std::time::Duration;

use procession_os::robust::Sign;

use super::family::Arena;
use super::layout::{RANGE, RANGES, Watch};
use super::row::{Row, Slot};
use crate::atomics::Ordering;
use crate::failpoint::failpoint;
use crate::slots::Status;
use crate::wait::{Owner, Words, wake};

/// How soon to look again after a row whose process is about to end.
const ENDING: Duration = Duration::from_millis(1);

/// How soon to look again after a row that no word tells of.
const UNTOLD: Duration = Duration::from_millis(20);
const ASLEEP: u32 = 1;

fn sooner(soon: &mut Option<Duration>, than: Duration) {
    *soon = Some(soon.map_or(than, |soon| soon.min(than)));
}

impl Arena {
    fn watches(&self) -> &[Watch] {
        let used = usize::from(self.slots_used().div_ceil(RANGE));
        &self.header().watches[..used.clamp(1, RANGES)]
    }

    /// Has the watcher of a row look at it again. Async-signal-safe.
    pub(super) fn look_again_at(&self, slot: u16) {
        let Some(watch) = self.header().watches.get(usize::from(slot / RANGE)) else { return };
        if watch.sequence.load(Ordering::SeqCst) & ASLEEP != 0 {
            watch.sequence.fetch_add(1, Ordering::SeqCst);
            wake(&watch.sequence, 1);
        }
    }

    /// The part of [`Probe::keep_watch`](crate::wait::Probe::keep_watch).
    pub(super) fn watch_others<'a>(&'a self, words: &mut Words<'a>) -> Option<Duration> {
        if !self.is_member() {
            return None;
        }
        let me = self.owner().word();
        let watches = self.watches();
        let mut soon = None;
        let mine = watches
            .iter()
            .position(|watch| watch.watcher.load(Ordering::SeqCst) == me)
            .or_else(|| watches.iter().position(|watch| self.take_watch(watch, me)));
        // The watcher of which this thread sees the end: of the watchers that of the next range.
        let other = mine.map_or(0, |mine| (mine + 1) % watches.len());
        if mine != Some(other) {
            let watcher = watches[other].watcher.load(Ordering::SeqCst);
            if let Some(watcher) = Owner::from_bits(watcher) {
                match self.life_word(watcher.slot(), watcher.generation()) {
                    Some(word) => words.add(word),
                    None => sooner(&mut soon, ENDING),
                }
            }
        }
        if let Some(mine) = mine {
            let sequence = &watches[mine].sequence;
            let value = sequence.fetch_or(ASLEEP, Ordering::SeqCst) | ASLEEP;
            words.add((sequence, value));
            let first = mine as u16 * RANGE;
            for slot in (first..self.slots_used()).take(RANGE.into()) {
                self.watch_row(slot, words, &mut soon);
            }
        }
        soon
    }

    fn take_watch(&self, watch: &Watch, me: u64) -> bool {
        let watcher = watch.watcher.load(Ordering::SeqCst);
        let is_left = Owner::from_bits(watcher)
            .is_none_or(|watcher| self.is_over(watcher.slot(), watcher.generation()));
        let order = Ordering::SeqCst;
        let taken = is_left && watch.watcher.compare_exchange(watcher, me, order, order).is_ok();
        if taken {
            failpoint!("watch.taken");
        }
        taken
    }

    fn watch_row<'a>(&'a self, index: u16, words: &mut Words<'a>, soon: &mut Option<Duration>) {
        let Ok(row) = self.row(index) else { return };
        let Ok(state) = row.state() else { return };
        let generation = state.generation;
        match state.status {
            // A free row has been buried, which was announced; a reservation has nothing.
            Status::Free | Status::Reserved => {}
            Status::Burying | Status::Ended => self.announce_death(row, generation),
            Status::Live if index == self.me().index => {}
            Status::Live => match row.sign() {
                Sign::Runs => match self.life_word(index, generation) {
                    Some(word) => words.add(word),
                    None => sooner(soon, ENDING),
                },
                _ if self.has_process_left(row, Slot { index, generation }) => {
                    self.announce_death(row, generation);
                }
                Sign::Unwatched => sooner(soon, UNTOLD),
                Sign::Gone | Sign::Confirmed => sooner(soon, ENDING),
            },
        }
    }

    /// The calling thread sleeps no more.
    pub(super) fn leave_watch(&self) {
        let me = self.owner().word();
        let order = Ordering::SeqCst;
        for watch in self.watches() {
            if watch.watcher.compare_exchange(me, 0, order, order).is_ok() {
                failpoint!("watch.left");
                watch.sequence.fetch_and(!ASLEEP, order);
            }
            // Also where it was woken to be the next.
            if watch.watcher.load(order) == 0 {
                self.header().deaths.nudge_one();
            }
        }
    }

    /// Has the calling thread watch over this process's row, if none does.
    pub(super) fn watch(&'static self) {
        let me = self.me().index;
        if self.row(me).is_ok_and(Row::watch) {
            self.look_again_at(me);
        }
    }

    /// Ends the watch of the calling thread, which is about to end.
    pub(super) fn release_watch(&self) {
        if let Ok(row) = self.row(self.me().index) {
            row.life.0.release();
        }
    }
}
