//! Texts in words of shared memory.

use crate::atomics::{AtomicU64, Ordering};

/// Writes a text, so that a reader of a part of it sees all that the writer did before.
pub(super) fn store_text(words: &[AtomicU64], text: &str) {
    let mut end = text.len().min(words.len() * 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = text.as_bytes()[..end].chunks(8);
    for word in words {
        let mut eight = [0; 8];
        let chunk = bytes.next().unwrap_or_default();
        eight[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(eight), Ordering::Release);
    }
}

pub(super) fn load_text(words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.load(Ordering::Acquire).to_le_bytes()).collect();
    text_of(&bytes)
}

/// The text in bytes that end with it, or with zeroes behind it.
pub(super) fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
