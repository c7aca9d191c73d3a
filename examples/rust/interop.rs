//! Takes part in the family of another program, which may be written in any language.
//!
//! ```text
//! interop PARENT_PID QUEUE_HANDLE LOCK_HANDLE TOTAL_HANDLE REPLIES_HANDLE
//! ```
//! - `PARENT_PID`: a process of the family, of the same user, which must live while this starts.
//! - `QUEUE_HANDLE`: a queue of byte messages to this program; an empty one is the last.
//! - `LOCK_HANDLE`: the lock that protects the total.
//! - `TOTAL_HANDLE`: a block of at least 16 bytes, two little-endian 64-bit numbers: how many
//!   messages all receivers have taken, and how many bytes these had.
//! - `REPLIES_HANDLE`: a queue for the replies, each the message in upper case (ASCII).
//!
//! Handles are texts, `procession:FAMILY:INDEX:GENERATION`. Messages in both directions are of the
//! kind of plain bytes. For each message the total is raised before the reply is put, so a process
//! that has all replies sees all of them in the total. Exits with status 0, or with 1 and a text on
//! standard error.

use std::error::Error;
use std::process::ExitCode;

use procession::queue::BYTES;
use procession::sync::OwnerDied;
use procession::{ByteQueue, Handle, Lock, SharedBlock, arena};

const USAGE: &str =
    "usage: interop PARENT_PID QUEUE_HANDLE LOCK_HANDLE TOTAL_HANDLE REPLIES_HANDLE";

struct Shared {
    messages: ByteQueue,
    lock: Lock,
    total: SharedBlock,
    replies: ByteQueue,
}

impl Shared {
    fn from_arguments(arguments: &[String]) -> Result<Self, Box<dyn Error>> {
        let [pid, messages, lock, total, replies] = arguments else { return Err(USAGE.into()) };
        arena::attach(pid.parse()?)?.set_name("interop");
        let handle = |text: &str| text.parse::<Handle>();
        Ok(Self {
            messages: ByteQueue::open(handle(messages)?)?,
            lock: Lock::open(handle(lock)?)?,
            total: SharedBlock::open(handle(total)?)?,
            replies: ByteQueue::open(handle(replies)?)?,
        })
    }

    fn raise_total(&self, bytes: usize) -> arena::Result<()> {
        // The two numbers are raised one by one, so a dead owner may have left the second behind;
        // for this total that is no reason to stop.
        let _guard = self.lock.lock().unwrap_or_else(OwnerDied::into_guard);
        self.total.write_u64(0, self.total.read_u64(0)? + 1)?;
        self.total.write_u64(8, self.total.read_u64(8)? + bytes as u64)
    }

    fn answer(&self) -> Result<u64, Box<dyn Error>> {
        let mut answered = 0;
        loop {
            let message = self.messages.get()?;
            if message.kind != BYTES {
                return Err(format!("a message of kind {}, not plain bytes", message.kind).into());
            }
            if message.bytes.is_empty() {
                return Ok(answered);
            }
            self.raise_total(message.bytes.len())?;
            self.replies.put(BYTES, &message.bytes.to_ascii_uppercase())?;
            answered += 1;
        }
    }
}

fn main() -> ExitCode {
    procession::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match Shared::from_arguments(&arguments).and_then(|shared| shared.answer()) {
        Ok(answered) => {
            println!("interop: {answered} messages answered");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("interop: {error}");
            ExitCode::FAILURE
        }
    }
}
