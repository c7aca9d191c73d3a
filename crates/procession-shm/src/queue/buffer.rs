//! Where the bytes of a message go that is got.

use procession_os::memory::{SharedBytes, make_room};

/// Takes a message's bytes out of shared memory.
///
/// Room for them is made before the message is taken, so a process without memory loses none.
pub trait MessageBuffer {
    /// Makes room for the message with this number, of `len` bytes; says whether there is. If not,
    /// the message stays in the queue. It is called with the consumers' end locked: it must not
    /// block.
    fn make_room(&mut self, number: u64, len: usize) -> bool;

    /// Takes the bytes, for which [`Self::make_room`] has made room.
    fn fill(&mut self, bytes: SharedBytes<'_>);
}

/// The bytes are appended.
impl MessageBuffer for Vec<u8> {
    #[inline]
    fn make_room(&mut self, _number: u64, len: usize) -> bool {
        make_room(self, len).is_ok()
    }

    #[inline]
    fn fill(&mut self, bytes: SharedBytes<'_>) {
        bytes.append_to(self).expect("room was made before");
    }
}
