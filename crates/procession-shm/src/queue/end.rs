//! One end of a queue: its lock, its count, and where in the chain it is.

use super::chunks::{self, Chunk, Position, Record};
use super::{Control, MessageBuffer, Queue, QueueError};
use crate::arena::{Arena, Block, Error, Result};
use crate::atomics::{AtomicU64, Ordering};
use crate::failpoint::failpoint;
use crate::wait::{Acquired, BlockedOn, Operation, Owner, OwnerLock, Wait, WaitError};

/// A cache line: what one end is about.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct End {
    lock: OwnerLock,
    /// How many messages have passed this end. The store that raises it is what puts or gets them.
    count: AtomicU64,
    /// The chunk that this end is in; 0 before the first message.
    chunk: AtomicU64,
    /// Where in the chunk. Derived.
    at: AtomicU64,
    /// The block or chunk that is about to change hands; 0 if none is.
    pending: AtomicU64,
    pending_generation: AtomicU64,
    /// The consumers': how many messages were put when they last looked. Looking costs the
    /// producers their cache line, so it is done once for all messages that are there.
    seen: AtomicU64,
}

impl End {
    #[inline]
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn announce(&self, block: Block) {
        self.pending_generation.store(block.generation(), Ordering::Relaxed);
        self.pending.store(block.offset(), Ordering::SeqCst);
    }

    fn settle(&self) {
        self.pending.store(0, Ordering::Release);
    }

    fn pending(&self) -> Option<Block> {
        let offset = self.pending.load(Ordering::Acquire);
        let generation = self.pending_generation.load(Ordering::Relaxed);
        (offset != 0).then(|| Block::recorded(offset, generation))
    }
}

/// The producers' end, locked.
pub(super) struct PutEnd<'q> {
    queue: &'q Queue,
    arena: &'static Arena,
    end: &'static End,
    me: Owner,
    position: Position,
    written: u64,
    /// How long a put may wait for the heap.
    waiting: Wait,
}

/// The consumers' end, locked.
pub(super) struct GetEnd<'q> {
    queue: &'q Queue,
    arena: &'static Arena,
    control: &'static Control,
    me: Owner,
}

/// A message that was taken out of its queue.
pub(super) struct Taken {
    pub(super) kind: u8,
    pub(super) number: u64,
    /// The block that has its bytes, now this process's, and how many there are; `None` if it was
    /// inline.
    pub(super) block: Option<(Block, usize)>,
}

impl Queue {
    #[inline]
    fn lock_end(&self, end: &'static End, me: Owner, waiting: Wait) -> Result<bool, WaitError> {
        let arena = self.object.arena();
        let on = BlockedOn { object: self.object.index(), operation: Operation::QueueEnd };
        let acquired = end.lock.lock(me, arena, on, waiting)?;
        Ok(matches!(acquired, Acquired::OwnerDied(_)))
    }

    /// Refuses a process without a row: no other process could see it die within an end.
    #[inline]
    fn check_member(&self) -> Result<()> {
        self.object.arena().check_member()
    }

    #[inline]
    pub(super) fn lock_put(&self, waiting: Wait) -> Result<PutEnd<'_>, QueueError> {
        self.check_member()?;
        let end = &self.control.put;
        let me = self.object.arena().owner();
        let owner_died = self.lock_end(end, me, waiting)?;
        let mut locked = PutEnd {
            queue: self,
            arena: self.object.arena(),
            end,
            me,
            position: Position { chunk: 0, at: 0 },
            written: 0,
            waiting,
        };
        failpoint!("queue.put.locked");
        if owner_died {
            locked.recover()?;
        }
        locked.position = Position {
            chunk: end.chunk.load(Ordering::Relaxed),
            at: end.at.load(Ordering::Relaxed),
        };
        Ok(locked)
    }

    #[inline]
    pub(super) fn lock_get(&self, waiting: Wait) -> Result<GetEnd<'_>, QueueError> {
        self.check_member()?;
        let control = self.control;
        let me = self.object.arena().owner();
        let owner_died = self.lock_end(&control.get, me, waiting)?;
        let locked = GetEnd { queue: self, arena: self.object.arena(), control, me };
        failpoint!("queue.get.locked");
        if owner_died {
            locked.recover()?;
        }
        Ok(locked)
    }
}

impl PutEnd<'_> {
    /// Writes a message behind the last one. It is in the queue after [`Self::commit`].
    pub(super) fn write(&mut self, kind: u8, message: &[&[u8]]) -> Result<()> {
        let at = self.make_room(chunks::length(message))?;
        Record::write(self.arena, at, kind, message)?;
        self.written += 1;
        failpoint!("queue.put.written");
        Ok(())
    }

    /// Makes all written messages part of the queue; returns the number of the last.
    pub(super) fn commit(&mut self) -> u64 {
        self.end.at.store(self.position.at, Ordering::Relaxed);
        let count = self.end.count.load(Ordering::Relaxed).wrapping_add(self.written);
        self.written = 0;
        failpoint!("queue.put.placed");
        self.end.count.store(count, Ordering::SeqCst);
        failpoint!("queue.put.committed");
        count.wrapping_sub(1)
    }

    /// Puts a message whose bytes are in a block of the caller's; returns its number.
    pub(super) fn write_block(&mut self, kind: u8, block: Block, len: usize) -> Result<u64> {
        let at = self.make_room(chunks::BLOCK_RECORD)?;
        Record::write_block(self.arena, at, kind, block, len as u64)?;
        self.end.announce(block);
        failpoint!("queue.put.block.pending");
        self.arena.give(block, self.queue.owner())?;
        failpoint!("queue.put.block.owned");
        self.written += 1;
        let number = self.commit();
        self.end.settle();
        Ok(number)
    }

    /// Makes room for a record of `len` bytes; returns where.
    fn make_room(&mut self, len: usize) -> Result<u64> {
        let needed = chunks::record_size(len);
        if self.position.chunk != 0 {
            let chunk = Chunk::at(self.arena, self.position.chunk)?;
            if let Some(at) = chunk.fits(self.position.at, needed)? {
                self.position.at += needed;
                return Ok(at);
            }
            chunk.end_at(self.position.at)?;
        }
        // What was written so far lies in the chunk that is left, so it is part of the queue first:
        // recovery looks for the end only in the last chunk.
        if self.written > 0 {
            self.commit();
        }
        self.grow(needed)?;
        let chunk = Chunk::at(self.arena, self.position.chunk)?;
        let at = chunk.fits(self.position.at, needed)?;
        self.position.at += needed;
        at.ok_or(Error::Corrupt("a fresh chunk has no room"))
    }

    fn grow(&mut self, needed: u64) -> Result<()> {
        let size = chunks::next_size(self.arena, self.position.chunk, needed)?;
        let block = self.arena.allocate(size, self.waiting)?;
        failpoint!("queue.put.grow.allocated");
        let count = self.end.count.load(Ordering::Relaxed);
        let chunk = Chunk::make(self.arena, block, count)?;
        self.end.announce(block);
        failpoint!("queue.put.grow.pending");
        self.arena.give(block, self.queue.owner())?;
        failpoint!("queue.put.grow.owned");
        if self.position.chunk == 0 {
            self.queue.control.get.at.store(chunks::FIRST, Ordering::Relaxed);
            self.queue.control.get.chunk.store(block.offset(), Ordering::SeqCst);
        } else {
            Chunk::at(self.arena, self.position.chunk)?.link(block.offset());
        }
        failpoint!("queue.put.grow.linked");
        self.enter(chunk.offset);
        failpoint!("queue.put.grow.moved");
        self.end.settle();
        Ok(())
    }

    fn enter(&mut self, chunk: u64) {
        self.position = Position { chunk, at: chunks::FIRST };
        self.end.at.store(self.position.at, Ordering::Relaxed);
        failpoint!("queue.put.grow.placed");
        self.end.chunk.store(chunk, Ordering::SeqCst);
    }

    /// Puts the end in order after its holder died: finishes a link that was made, frees what was
    /// not reached, and finds the place behind the last message.
    fn recover(&mut self) -> Result<()> {
        let end = self.end;
        let last = end.chunk.load(Ordering::Relaxed);
        if let Some(pending) = end.pending() {
            let linked = if last == 0 {
                self.queue.control.get.chunk.load(Ordering::SeqCst)
            } else {
                Chunk::at(self.arena, last)?.next()
            };
            let offset = pending.offset();
            if linked == offset && linked != last {
                self.enter(offset);
            } else if last != offset && !self.is_last_message(pending)? {
                self.arena.free_word(pending, self.queue.owner())?;
            }
            end.settle();
        }
        let chunk = end.chunk.load(Ordering::Relaxed);
        if chunk != 0 {
            let at = chunks::find(self.arena, chunk, end.count.load(Ordering::Relaxed))?;
            end.at.store(at, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether the message put last is in the block that was written down: then it was put, and the
    /// block is the queue's (or by now a consumer's).
    fn is_last_message(&self, pending: Block) -> Result<bool> {
        let count = self.end.count.load(Ordering::Relaxed);
        let chunk = self.end.chunk.load(Ordering::Relaxed);
        if chunk == 0 || count == Chunk::at(self.arena, chunk)?.first() {
            return Ok(false);
        }
        let at = chunks::find(self.arena, chunk, count.wrapping_sub(1))?;
        let record = Record::read(self.arena, chunk, at)?;
        Ok(record.block(self.arena)?.is_some_and(|(block, _)| block == pending))
    }
}

impl Drop for PutEnd<'_> {
    fn drop(&mut self) {
        if self.written > 0 {
            self.commit();
        }
        let _ = self.end.lock.unlock_mine(self.me);
    }
}

impl GetEnd<'_> {
    /// How many messages there are at least; 0 only if there is none.
    pub(super) fn available(&self) -> u64 {
        let got = self.control.get.count.load(Ordering::Relaxed);
        let mut seen = self.control.get.seen.load(Ordering::Relaxed);
        if seen <= got {
            seen = self.control.put.count();
            self.control.get.seen.store(seen, Ordering::Relaxed);
        }
        seen.saturating_sub(got)
    }

    /// Takes the oldest message, if `into` has room for it; the bytes of one that is inline go
    /// there. The caller has seen that there is one.
    #[inline]
    pub(super) fn take(
        &mut self,
        into: &mut dyn MessageBuffer,
        claim: Option<&AtomicU64>,
    ) -> Result<Taken, QueueError> {
        let (arena, end) = (self.arena, &self.control.get);
        let mut at = end.at.load(Ordering::Relaxed);
        let mut chunk = Chunk::at(arena, end.chunk.load(Ordering::Relaxed))?;
        while chunk.ends_at(at)? {
            chunk = self.leave(chunk)?;
            at = chunks::FIRST;
        }
        let record = Record::read(arena, chunk.offset, at)?;
        let block = record.block(arena)?;
        let len = match block {
            None => record.len(),
            Some((block, len)) if len as u64 <= arena.size_at(block.offset())? => len,
            Some(_) => {
                return Err(Error::Corrupt("a message is longer than the memory it has").into());
            }
        };
        let number = end.count.load(Ordering::Relaxed);
        if !into.make_room(number, len) {
            return Err(QueueError::NoMemory { number, len });
        }
        if block.is_none() {
            into.fill(record.inline(arena)?);
        }
        failpoint!("queue.get.copied");
        if let Some((block, _)) = block {
            end.announce(block);
            failpoint!("queue.get.block.pending");
        }
        if let Some(claim) = claim {
            claim.store(number.wrapping_add(1), Ordering::SeqCst);
            failpoint!("queue.get.claimed");
        }
        end.at.store(at + record.size(), Ordering::Relaxed);
        failpoint!("queue.get.placed");
        self.queue.will_take();
        end.count.store(number.wrapping_add(1), Ordering::SeqCst);
        failpoint!("queue.get.committed");
        if let Some((block, _)) = block {
            arena.take(block, self.queue.owner())?;
            failpoint!("queue.get.block.owned");
            end.settle();
        }
        Ok(Taken { kind: record.kind(), number, block })
    }

    /// Goes on to the next chunk and frees this one.
    fn leave(&self, chunk: Chunk<'_>) -> Result<Chunk<'static>> {
        let end = &self.control.get;
        let next = Chunk::at(self.arena, chunk.next())?;
        let block = self.arena.block_at(chunk.offset)?;
        end.announce(block);
        failpoint!("queue.get.chunk.pending");
        end.at.store(chunks::FIRST, Ordering::Relaxed);
        failpoint!("queue.get.chunk.placed");
        end.chunk.store(next.offset, Ordering::SeqCst);
        failpoint!("queue.get.chunk.moved");
        let freed = self.arena.free_word(block, self.queue.owner())?;
        failpoint!("queue.get.chunk.freed");
        end.settle();
        if !freed {
            return Err(Error::Corrupt("a queue's chunk is not the queue's"));
        }
        Ok(next)
    }

    /// Puts the end in order after its holder died.
    fn recover(&self) -> Result<()> {
        let end = &self.control.get;
        end.seen.store(0, Ordering::Relaxed);
        let chunk = end.chunk.load(Ordering::SeqCst);
        if chunk == 0 {
            end.settle();
            return Ok(());
        }
        let count = end.count.load(Ordering::Relaxed);
        let at = chunks::find(self.arena, chunk, count)?;
        if let Some(pending) = end.pending() {
            let still_to_come = chunk == pending.offset() || self.is_next(chunk, at, pending)?;
            if !still_to_come {
                // A chunk that was left, or a message that went with its consumer.
                self.arena.free_word(pending, self.queue.owner())?;
            }
            end.settle();
        }
        end.at.store(at, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the next message is the one whose block was written down.
    fn is_next(&self, chunk: u64, at: u64, pending: Block) -> Result<bool> {
        if self.queue.is_empty() {
            return Ok(false);
        }
        let (chunk, at) = chunks::skip_to_message(Chunk::at(self.arena, chunk)?, at)?;
        let record = Record::read(self.arena, chunk.offset, at)?;
        Ok(record.block(self.arena)?.is_some_and(|(block, _)| block == pending))
    }

    /// Reads all `count` messages without taking them.
    pub(super) fn check(&self, count: u64) -> Result<u64> {
        let end = &self.control.get;
        let mut at = end.at.load(Ordering::Relaxed);
        let mut offset = end.chunk.load(Ordering::Relaxed);
        if count > self.arena.capacity() / chunks::record_size(0) {
            return Err(Error::Corrupt("a queue counts more messages than there is room for"));
        }
        let got = end.count.load(Ordering::Relaxed);
        for number in got..got.saturating_add(count) {
            let chunk;
            (chunk, at) = chunks::skip_to_message(Chunk::at(self.arena, offset)?, at)?;
            // The numbers grow from chunk to chunk, so a chain that goes round is seen after one
            // round.
            if chunk.offset != offset && chunk.first() != number {
                return Err(Error::Corrupt("a queue's chunks are not in order"));
            }
            offset = chunk.offset;
            let record = Record::read(self.arena, offset, at)?;
            if let Some((block, len)) = record.block(self.arena)?
                && (len as u64 > self.arena.size_at(block.offset())?
                    || self.arena.block_at(block.offset())? != block)
            {
                return Err(Error::Corrupt("a message's block is not what it should be"));
            }
            at += record.size();
        }
        Ok(count)
    }
}

impl Drop for GetEnd<'_> {
    fn drop(&mut self) {
        let _ = self.control.get.lock.unlock_mine(self.me);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_chain_that_goes_round_is_seen_as_such() {
        // So large that as many messages as it has room for are not read in the time.
        let arena = Arena::with_capacity(1 << 38).unwrap();
        let queue = Queue::new(arena, "queue", None).unwrap();
        for _ in 0..200 {
            queue.put(0, &[1; 100], Wait::FOREVER).unwrap();
        }
        let (put, get) = (&queue.control.put, &queue.control.get);
        let chunk = |end: &End| Chunk::at(arena, end.chunk.load(Ordering::Relaxed)).unwrap();
        chunk(put).end_at(put.at.load(Ordering::Relaxed)).unwrap();
        chunk(put).link(chunk(get).offset);
        put.count.store(1 << 34, Ordering::SeqCst);
        let (done, ended) = channel();
        let looked_at = queue.clone();
        std::thread::spawn(move || done.send(looked_at.check()));
        let found = ended.recv_timeout(Duration::from_secs(60)).expect("it goes round and round");
        assert!(matches!(found, Err(Error::Corrupt(_))), "{found:?}");
    }
}
