//! Runs of heap units: search for one that fits, splitting, joining with free neighbours.
//!
//! Everything here is called with the heap's lock held.

use super::super::error::{Error, Result};
use super::super::family::Arena;
use super::super::layout::UNIT;
use super::block::{BlockOwner, BlockState, Word};
use super::state::BINS;
use crate::atomics::{AtomicU32, Ordering};
use crate::failpoint::failpoint;

/// Whether free units have memory of the machine behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temperature {
    Warm = 0,
    Cold = 1,
}

/// Units that were taken from the heap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) unit: u32,
    pub(super) units: u32,
    pub(super) generation: u64,
    pub(super) temperature: Temperature,
}

impl Extent {
    pub(super) fn bytes(self) -> u64 {
        u64::from(self.units) * UNIT
    }
}

impl Temperature {
    pub(in super::super) fn state(self) -> BlockState {
        match self {
            Self::Warm => BlockState::Warm,
            Self::Cold => BlockState::Cold,
        }
    }

    pub(in super::super) fn of(state: BlockState) -> Option<Self> {
        match state {
            BlockState::Warm => Some(Self::Warm),
            BlockState::Cold => Some(Self::Cold),
            _ => None,
        }
    }
}

/// How hard to look for an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Effort {
    /// At the first few of each list.
    Usual,
    /// At all.
    Thorough,
}

impl Effort {
    fn looks(self) -> u32 {
        match self {
            Self::Usual => 16,
            Self::Thorough => u32::MAX,
        }
    }
}

/// Free extents that follow one another.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    len: u32,
    /// Warm if all of them are.
    all: Temperature,
    last: Temperature,
}

impl Default for Run {
    fn default() -> Self {
        Self { first: 0, len: 0, all: Temperature::Warm, last: Temperature::Warm }
    }
}

impl Run {
    pub(in super::super) fn add(&mut self, unit: u32, units: u32, temperature: Temperature) {
        if self.len == 0 {
            self.first = unit;
        }
        if temperature == Temperature::Cold {
            self.all = Temperature::Cold;
        }
        self.last = temperature;
        self.len += units;
    }
}

fn process_word(units: u32, slot: u16, generation: u64) -> Word {
    Word::free(BlockState::Process, units).owned_by(BlockOwner::Process(slot)).at(generation)
}

fn bin_of(units: u32) -> usize {
    (units.max(1).ilog2() as usize).min(BINS - 1)
}

impl Arena {
    /// Calls `visit` for each extent, in order, with its first unit and its word.
    pub(super) fn each_extent(&self, mut visit: impl FnMut(u32, Word) -> Result<()>) -> Result<()> {
        let used = self.units_used();
        let mut unit = 0;
        while unit < used {
            let word = Word::unpack(self.unit_word(unit)?.load(Ordering::Acquire))?;
            if word.units == 0 || word.units > used - unit {
                return Err(Error::Corrupt("an extent has an impossible length"));
            }
            visit(unit, word)?;
            unit += word.units;
        }
        Ok(())
    }

    /// Takes `units` units for the process of a slot; `None` if nothing fits.
    pub(super) fn take_extent(
        &self,
        units: u32,
        slot: u16,
        effort: Effort,
    ) -> Result<Option<Extent>> {
        for temperature in [Temperature::Warm, Temperature::Cold] {
            let Some((unit, len)) = self.find_extent(units, temperature, effort)? else { continue };
            self.unlist_extent(unit, len, temperature)?;
            failpoint!("heap.extent.unlinked");
            return self.cut(unit, len, units, slot, temperature, temperature).map(Some);
        }
        if let Some(extent) = self.take_at_frontier(units, slot)? {
            return Ok(Some(extent));
        }
        if effort == Effort::Usual {
            return Ok(None);
        }
        self.take_run(units, slot)
    }

    /// Takes a warm extent, or its first `max` units, for the process of a slot.
    pub(super) fn take_warm(&self, max: u32, slot: u16) -> Result<Option<Extent>> {
        let bins = &self.heap().bins[Temperature::Warm as usize];
        let longest = bins.iter().rev().map(|bin| bin.load(Ordering::Relaxed));
        let Some(unit) = longest.filter_map(|unit| unit.checked_sub(1)).next() else {
            return Ok(None);
        };
        let word = Word::unpack(self.unit_word(unit)?.load(Ordering::Relaxed))?;
        if word.state != BlockState::Warm || word.units == 0 {
            return Err(Error::Corrupt("a listed extent is not free"));
        }
        let (warm, units) = (Temperature::Warm, word.units.min(max));
        self.unlist_extent(unit, word.units, warm)?;
        self.cut(unit, word.units, units, slot, warm, warm).map(Some)
    }

    /// Takes the first units of `len` free ones that are in no list. `rest` is the temperature of
    /// the last of them.
    pub(super) fn cut(
        &self,
        unit: u32,
        len: u32,
        units: u32,
        slot: u16,
        temperature: Temperature,
        rest: Temperature,
    ) -> Result<Extent> {
        let generation = self.fresh_generation(slot)?;
        let words = self.unit_words(unit)?;
        if len > units {
            let word = Word::free(rest.state(), len - units);
            self.unit_word(unit + units)?.store(word.pack(), Ordering::Release);
            failpoint!("heap.extent.split");
        }
        // Before the store that takes it.
        words.generation.store(generation, Ordering::Relaxed);
        words.word.store(process_word(units, slot, generation).pack(), Ordering::SeqCst);
        failpoint!("heap.extent.taken");
        self.write_footer(unit, units)?;
        if len > units {
            self.write_footer(unit + units, len - units)?;
            self.list_extent(unit + units, len - units, rest)?;
        }
        self.heap().used.fetch_add(u64::from(units), Ordering::Relaxed);
        Ok(Extent { unit, units, generation, temperature })
    }

    fn take_at_frontier(&self, units: u32, slot: u16) -> Result<Option<Extent>> {
        let heap = self.heap();
        let unit = self.units_used();
        let end = unit.checked_add(units).filter(|&end| end <= self.layout.units);
        let Some(end) = end else { return Ok(None) };
        let generation = self.fresh_generation(slot)?;
        let words = self.unit_words(unit)?;
        words.generation.store(generation, Ordering::Relaxed);
        words.word.store(process_word(units, slot, generation).pack(), Ordering::Release);
        self.write_footer(unit, units)?;
        heap.units_used.store(end, Ordering::SeqCst);
        failpoint!("heap.extent.taken");
        heap.used.fetch_add(u64::from(units), Ordering::Relaxed);
        Ok(Some(Extent { unit, units, generation, temperature: Temperature::Cold }))
    }

    /// Takes units out of several free extents that follow one another, with memory behind some of
    /// them or not: one by itself was not enough. One store takes them all.
    fn take_run(&self, units: u32, slot: u16) -> Result<Option<Extent>> {
        let mut run = Run::default();
        let mut found = None;
        self.each_extent(|unit, word| {
            if found.is_some() {
                return Ok(());
            }
            match Temperature::of(word.state) {
                Some(temperature) => run.add(unit, word.units, temperature),
                None => run = Run::default(),
            }
            if run.len >= units {
                found = Some(run);
            }
            Ok(())
        })?;
        if let Some(run) = found {
            self.unlist_run(run)?;
            return self.cut(run.first, run.len, units, slot, run.all, run.last).map(Some);
        }
        if run.len == 0 || units > self.layout.units - run.first {
            return Ok(None);
        }
        // With what is behind the frontier it is enough, so the frontier is drawn back first.
        self.unlist_run(run)?;
        self.heap().units_used.store(run.first, Ordering::SeqCst);
        failpoint!("heap.run.withdrawn");
        self.take_at_frontier(units, slot)
    }

    /// Takes the extents of a run out of their lists.
    fn unlist_run(&self, run: Run) -> Result<()> {
        let (mut unit, end) = (run.first, run.first + run.len);
        while unit < end {
            let word = Word::unpack(self.unit_word(unit)?.load(Ordering::Relaxed))?;
            let temperature = Temperature::of(word.state).filter(|_| word.units > 0);
            let temperature = temperature.ok_or(Error::Corrupt("a free extent is none"))?;
            self.unlist_extent(unit, word.units, temperature)?;
            failpoint!("heap.run.unlinked");
            unit += word.units;
        }
        Ok(())
    }

    fn find_extent(
        &self,
        units: u32,
        temperature: Temperature,
        effort: Effort,
    ) -> Result<Option<(u32, u32)>> {
        // No list is longer than there are units, whatever another process wrote there.
        let max = effort.looks().min(self.units_used());
        for bin in bin_of(units)..BINS {
            let mut best: Option<(u32, u32)> = None;
            let mut next = self.heap().bins[temperature as usize][bin].load(Ordering::Relaxed);
            let mut looked_at = 0;
            while let Some(unit) = next.checked_sub(1)
                && looked_at < max
            {
                let words = self.unit_words(unit)?;
                let word = Word::unpack(words.word.load(Ordering::Relaxed))?;
                if word.state != temperature.state() {
                    return Err(Error::Corrupt("a listed extent is not free"));
                }
                if word.units >= units && best.is_none_or(|(_, len)| word.units < len) {
                    best = Some((unit, word.units));
                    if word.units == units {
                        break;
                    }
                }
                next = words.next.load(Ordering::Relaxed);
                looked_at += 1;
            }
            if best.is_some() {
                return Ok(best);
            }
        }
        Ok(None)
    }

    /// Frees an extent, joined with its free neighbours of the same temperature.
    pub(super) fn free_extent(
        &self,
        unit: u32,
        units: u32,
        temperature: Temperature,
    ) -> Result<()> {
        let used = self.units_used();
        if units == 0 || unit >= used || units > used - unit {
            return Err(Error::Corrupt("an extent has an impossible length"));
        }
        // Free by itself first, and joined then: so no word within a free extent says that it is in
        // use, and a second attempt to free the block finds that it was done.
        let free = |units| Word::free(temperature.state(), units);
        self.unit_word(unit)?.store(free(units).pack(), Ordering::SeqCst);
        failpoint!("heap.free.freed");
        let (mut first, mut len) = (unit, units);
        if unit + units < used {
            let behind = Word::unpack(self.unit_word(unit + units)?.load(Ordering::Relaxed))?;
            if Temperature::of(behind.state) == Some(temperature) {
                self.unlist_extent(unit + units, behind.units, temperature)?;
                len += behind.units;
            }
        }
        if unit > 0 {
            let before = self.unit_words(unit - 1)?.footer.load(Ordering::Relaxed);
            let word = Word::unpack(self.unit_word(before)?.load(Ordering::Relaxed))?;
            if before >= unit || word.units != unit - before {
                return Err(Error::Corrupt("an extent's footer is wrong"));
            }
            if Temperature::of(word.state) == Some(temperature) {
                self.unlist_extent(before, word.units, temperature)?;
                first = before;
                len += word.units;
            }
        }
        self.unit_word(first)?.store(free(len).pack(), Ordering::SeqCst);
        failpoint!("heap.free.joined");
        self.heap().used.fetch_sub(u64::from(units), Ordering::Relaxed);
        self.write_footer(first, len)?;
        self.list_extent(first, len, temperature)
    }

    pub(super) fn write_footer(&self, unit: u32, units: u32) -> Result<()> {
        self.unit_words(unit + units - 1)?.footer.store(unit, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn list_extent(
        &self,
        unit: u32,
        units: u32,
        temperature: Temperature,
    ) -> Result<()> {
        let heap = self.heap();
        self.push(&heap.bins[temperature as usize][bin_of(units)], unit)?;
        if temperature == Temperature::Warm {
            heap.warm.fetch_add(u64::from(units) * UNIT, Ordering::Relaxed);
        }
        Ok(())
    }

    fn unlist_extent(&self, unit: u32, units: u32, temperature: Temperature) -> Result<()> {
        let heap = self.heap();
        self.remove(&heap.bins[temperature as usize][bin_of(units)], unit)?;
        if temperature == Temperature::Warm {
            let bytes = u64::from(units) * UNIT;
            let left = heap.warm.load(Ordering::Relaxed).saturating_sub(bytes);
            heap.warm.store(left, Ordering::Relaxed);
            if left < heap.warm_min.load(Ordering::Relaxed) {
                heap.warm_min.store(left, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Puts a unit at the front of a list.
    pub(super) fn push(&self, head: &AtomicU32, unit: u32) -> Result<()> {
        let words = self.unit_words(unit)?;
        let next = head.load(Ordering::Relaxed);
        words.next.store(next, Ordering::Relaxed);
        words.previous.store(0, Ordering::Relaxed);
        if let Some(next) = next.checked_sub(1) {
            self.unit_words(next)?.previous.store(unit + 1, Ordering::Relaxed);
        }
        head.store(unit + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a unit out of a list.
    pub(super) fn remove(&self, head: &AtomicU32, unit: u32) -> Result<()> {
        let words = self.unit_words(unit)?;
        let next = words.next.load(Ordering::Relaxed);
        let previous = words.previous.load(Ordering::Relaxed);
        match previous.checked_sub(1) {
            Some(previous) => self.unit_words(previous)?.next.store(next, Ordering::Relaxed),
            None => head.store(next, Ordering::Relaxed),
        }
        if let Some(next) = next.checked_sub(1) {
            self.unit_words(next)?.previous.store(previous, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn count_listed_extents(&self) -> Result<u64> {
        let mut count = 0;
        for (temperature, bins) in
            [Temperature::Warm, Temperature::Cold].iter().zip(&self.heap().bins)
        {
            for (bin, head) in bins.iter().enumerate() {
                let mut next = head.load(Ordering::Relaxed);
                while let Some(unit) = next.checked_sub(1) {
                    let words = self.unit_words(unit)?;
                    let word = Word::unpack(words.word.load(Ordering::Relaxed))?;
                    if word.state != temperature.state() || bin_of(word.units) != bin {
                        return Err(Error::Corrupt("an extent is in the wrong list"));
                    }
                    count += 1;
                    if count > u64::from(self.units_used()) {
                        return Err(Error::Corrupt("a free list goes round in circles"));
                    }
                    next = words.next.load(Ordering::Relaxed);
                }
            }
        }
        Ok(count)
    }
}
