//! Chunks and the records in them.
//!
//! ```text
//! chunk:  length │ next chunk │ number of the first message │ generation of its block │ records…
//! record: length (32 bits) │ kind (8) │ form (8) │ 0 …
//!         then the bytes, or block, length, generation
//! ```
//! A chunk's first message number never changes, so the place of any message in it can be found
//! from the front. A record of form `END` says that the next message is in the next chunk.

use procession_os::memory::SharedBytes;

use crate::arena::{Arena, Block, Error, Result, UNIT};
use crate::atomics::{AtomicU64, Ordering};

/// Where a chunk's records begin.
pub(super) const FIRST: u64 = 32;
const HEAD: u64 = 8;
/// The bytes of a record that says where a block is.
pub(super) const BLOCK_RECORD: usize = 24;
/// A queue begins with little and grows in steps of four.
const SMALLEST: u64 = 1024;

/// How many chunks without a message may follow one another: each is that of a producer which died
/// before it wrote.
const EMPTY_MAX: usize = 1 << 16;

const INLINE: u8 = 1;
const BLOCK: u8 = 2;
const END: u8 = 3;

/// Where an end is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) chunk: u64,
    pub(super) at: u64,
}

/// The size of a record of `len` bytes.
pub(super) fn record_size(len: usize) -> u64 {
    HEAD + (len as u64).next_multiple_of(8)
}

/// The size of the chunk that follows the one at `last` (0: there is none).
pub(super) fn next_size(arena: &Arena, last: u64, needed: u64) -> Result<u64> {
    let grown = if last == 0 { SMALLEST } else { Chunk::at(arena, last)?.len * 4 };
    Ok(grown.min(UNIT).max((FIRST + needed + HEAD).next_power_of_two()).min(UNIT))
}

/// A chunk of the chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk<'a> {
    arena: &'a Arena,
    pub(super) offset: u64,
    len: u64,
}

impl<'a> Chunk<'a> {
    pub(super) fn at(arena: &'a Arena, offset: u64) -> Result<Self> {
        let len = arena.word(offset)?.load(Ordering::Relaxed);
        let inside = (SMALLEST..=UNIT).contains(&len) && offset <= arena.capacity() - len;
        if !inside || offset == 0 {
            return Err(Error::Corrupt("a queue's chunk has an impossible length"));
        }
        Ok(Self { arena, offset, len })
    }

    /// Makes a block a chunk, whose first message will have the number `first`.
    pub(super) fn make(arena: &'a Arena, block: Block, first: u64) -> Result<Self> {
        let (offset, len) = (block.offset(), arena.size_at(block.offset())?);
        arena.word(offset)?.store(len, Ordering::Relaxed);
        arena.word(offset + 8)?.store(0, Ordering::Relaxed);
        arena.word(offset + 16)?.store(first, Ordering::Relaxed);
        Self::at(arena, offset)
    }

    fn word(&self, at: u64) -> &'a AtomicU64 {
        // `at` looked that the whole chunk is in bounds.
        self.arena.word(self.offset + at).expect("a chunk's head is in the mapping")
    }

    pub(super) fn next(&self) -> u64 {
        self.word(8).load(Ordering::SeqCst)
    }

    pub(super) fn link(&self, next: u64) {
        self.word(8).store(next, Ordering::SeqCst);
    }

    /// The number of its first message.
    pub(super) fn first(&self) -> u64 {
        self.word(16).load(Ordering::Relaxed)
    }

    /// Where a record of `needed` bytes at `at` would lie; `None` if it doesn't fit.
    pub(super) fn fits(&self, at: u64, needed: u64) -> Result<Option<u64>> {
        if at < FIRST || !at.is_multiple_of(8) || at > self.len {
            return Err(Error::Corrupt("a queue's end is outside its chunk"));
        }
        Ok((at + needed <= self.len).then_some(self.offset + at))
    }

    /// Says that the next message is in the next chunk.
    pub(super) fn end_at(&self, at: u64) -> Result<()> {
        if at + HEAD <= self.len {
            let word = self.arena.word(self.offset + at)?;
            word.store(u64::from(END) << 40, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether the message at `at`, of which the caller knows that it was put, is in the next
    /// chunk.
    pub(super) fn ends_at(&self, at: u64) -> Result<bool> {
        if at > self.len || !at.is_multiple_of(8) {
            return Err(Error::Corrupt("a queue's end is outside its chunk"));
        }
        if at + HEAD > self.len {
            return Ok(true);
        }
        Ok((self.arena.word(self.offset + at)?.load(Ordering::Relaxed) >> 40) as u8 == END)
    }
}

/// Goes on from `at` in a chunk to where the next message is, of which the caller knows that it was
/// put: it may be in a later chunk.
pub(super) fn skip_to_message<'a>(chunk: Chunk<'a>, at: u64) -> Result<(Chunk<'a>, u64)> {
    let (mut chunk, mut at) = (chunk, at);
    for _ in 0..EMPTY_MAX {
        if !chunk.ends_at(at)? {
            return Ok((chunk, at));
        }
        chunk = Chunk::at(chunk.arena, chunk.next())?;
        at = FIRST;
    }
    Err(Error::Corrupt("a queue's chunks go round in circles"))
}

/// Finds where in a chunk the message with a number is, or would be put next.
pub(super) fn find(arena: &Arena, chunk: u64, number: u64) -> Result<u64> {
    let first = Chunk::at(arena, chunk)?.first();
    let before = number.checked_sub(first);
    let before = before.ok_or(Error::Corrupt("a queue's chunk begins behind its end"))?;
    let mut at = FIRST;
    for _ in 0..before {
        at += Record::read(arena, chunk, at)?.size();
    }
    Ok(at)
}

/// A message as it lies in a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    offset: u64,
    len: u32,
    kind: u8,
    form: u8,
}

impl Record {
    #[inline]
    pub(super) fn write(arena: &Arena, offset: u64, kind: u8, message: &[&[u8]]) -> Result<()> {
        let head = length(message) as u64 | u64::from(kind) << 32 | u64::from(INLINE) << 40;
        arena.word(offset)?.store(head, Ordering::Relaxed);
        write_parts(arena, offset + HEAD, message)
    }

    pub(super) fn write_block(
        arena: &Arena,
        offset: u64,
        kind: u8,
        block: Block,
        len: u64,
    ) -> Result<()> {
        let head = BLOCK_RECORD as u64 | u64::from(kind) << 32 | u64::from(BLOCK) << 40;
        arena.word(offset)?.store(head, Ordering::Relaxed);
        arena.word(offset + 8)?.store(block.offset(), Ordering::Relaxed);
        arena.word(offset + 16)?.store(len, Ordering::Relaxed);
        arena.word(offset + 24)?.store(block.generation(), Ordering::Relaxed);
        Ok(())
    }

    /// The record at `at` in a chunk, checked to lie within it.
    #[inline]
    pub(super) fn read(arena: &Arena, chunk: u64, at: u64) -> Result<Self> {
        let room = Chunk::at(arena, chunk)?.len.saturating_sub(at);
        if room < HEAD {
            return Err(Error::Corrupt("a queue holds what is no message"));
        }
        let offset = chunk + at;
        let head = arena.word(offset)?.load(Ordering::Relaxed);
        let record =
            Self { offset, len: head as u32, kind: (head >> 32) as u8, form: (head >> 40) as u8 };
        let known =
            record.form == INLINE || record.form == BLOCK && record.len as usize == BLOCK_RECORD;
        if !known || record.size() > room {
            return Err(Error::Corrupt("a queue holds what is no message"));
        }
        Ok(record)
    }

    pub(super) fn kind(&self) -> u8 {
        self.kind
    }

    /// How many bytes its message has, or what says where its block is.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn size(&self) -> u64 {
        record_size(self.len as usize)
    }

    /// The block that holds the message, and the message's length.
    pub(super) fn block(&self, arena: &Arena) -> Result<Option<(Block, usize)>> {
        if self.form != BLOCK {
            return Ok(None);
        }
        let word = |at| arena.word(self.offset + at).map(|word| word.load(Ordering::Relaxed));
        let (offset, len, generation) = (word(8)?, word(16)?, word(24)?);
        if len > arena.capacity() {
            return Err(Error::Corrupt("a message has an impossible length"));
        }
        Ok(Some((Block::recorded(offset, generation), len as usize)))
    }

    /// The bytes of a message that has no block.
    #[inline]
    pub(super) fn inline<'a>(&self, arena: &'a Arena) -> Result<SharedBytes<'a>> {
        Ok(arena.memory().bytes(self.offset + HEAD, self.len as usize)?)
    }
}

/// How many bytes a message has that is given in parts.
#[inline]
pub(super) fn length(message: &[&[u8]]) -> usize {
    message.iter().map(|part| part.len()).sum()
}

/// Writes a message's parts one behind the other.
#[inline]
pub(super) fn write_parts(arena: &Arena, mut offset: u64, message: &[&[u8]]) -> Result<()> {
    for part in message {
        arena.memory().write(offset, part)?;
        offset += part.len() as u64;
    }
    Ok(())
}
