//! Memory that several processes see: a memfd and its mapping.
//!
//! # Invariant
//! A [`SharedMemory`] is mapped whole, for as long as it lives, at an address of the kernel's
//! choice. All access goes through bounds-checked offsets, either as atomics
//! ([`SharedMemory::cell`]) or as copies; no reference to plain shared bytes is ever made, because
//! another process may write them at any time.
//!
//! The memfd is sealed at its size: a process that opens it by `/proc/PID/fd` can't cut it short,
//! which would make the next access of every other one a SIGBUS.

#![allow(unsafe_code)]

use std::collections::TryReserveError;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// A type that may lie over shared bytes.
///
/// # Safety
/// The type consists only of atomics (or arrays and `repr(C)` structs of them), so that every bit
/// pattern is valid, writes of other processes are allowed at any time, and dropping does nothing.
pub unsafe trait Shared {}

// SAFETY: an atomic of any bit pattern is valid.
unsafe impl Shared for AtomicU32 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU64 {}

/// An offset that does not lie in the mapping, or not as the type needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds {
    /// The first byte that was asked for.
    pub offset: u64,
    /// How many bytes were asked for.
    pub len: u64,
    /// The size of the mapping in bytes.
    pub size: u64,
}

impl std::fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bytes {}..+{} of a mapping of {} bytes", self.offset, self.len, self.size)
    }
}

impl std::error::Error for OutOfBounds {}

/// A memfd, mapped shared and whole.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    /// Which file it is, to tell it from another that got its descriptor's number.
    inode: u64,
    base: NonNull<u8>,
    size: u64,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached by atomics and
// copies.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes a sparse memfd of `size` bytes, all zero, and maps it. Nothing is taken from the
    /// machine's memory before it is written to or [reserved](Self::reserve). Its size is sealed
    /// (`F_ADD_SEALS`, `fcntl(2)`).
    ///
    /// # Errors
    /// As `memfd_create(2)`, `ftruncate(2)`, `mmap(2)`; `ENOMEM` where `RLIMIT_AS` is too low.
    pub fn create(name: &str, size: u64) -> io::Result<Self> {
        if size > file_size_limit() {
            // Past RLIMIT_FSIZE ftruncate would end the process by SIGXFSZ.
            return Err(rustix::io::Errno::FBIG.into());
        }
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, size)?;
        // Writing stays allowed, and with it giving memory back: that changes no size.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(fd, size)
    }

    /// Maps the memory behind a descriptor that came from another process.
    ///
    /// # Errors
    /// As `fstat(2)` and `mmap(2)`.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let size = rustix::fs::fstat(&fd)?.st_size as u64;
        Self::map(fd, size)
    }

    fn map(fd: OwnedFd, size: u64) -> io::Result<Self> {
        let len = usize::try_from(size).map_err(|_| rustix::io::Errno::NOMEM)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        let inode = rustix::fs::fstat(&fd)?.st_ino;
        Ok(Self { fd, inode, base, size })
    }

    /// The memfd's descriptor, to be passed on.
    ///
    /// # Errors
    /// `EBADF` if the program has closed it, as daemons close all descriptors. The mapping stays,
    /// but can't be passed on to another process.
    pub fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        if rustix::fs::fstat(&self.fd)?.st_ino != self.inode {
            return Err(rustix::io::Errno::BADF.into());
        }
        Ok(self.fd.as_fd())
    }

    /// Which file the memory is.
    ///
    /// # Errors
    /// As `fstat(2)`; `EBADF` if the program has closed the descriptor.
    pub fn file_id(&self) -> io::Result<crate::holders::FileId> {
        let stat = rustix::fs::fstat(self.descriptor()?)?;
        Ok(crate::holders::FileId { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Which file of its kind it is.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// The mapping's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    fn at(&self, offset: u64, len: u64) -> Result<NonNull<u8>, OutOfBounds> {
        match offset.checked_add(len) {
            // SAFETY: offset lies within the mapping, so the sum stays inside one allocation.
            Some(end) if end <= self.size => Ok(unsafe { self.base.add(offset as usize) }),
            _ => Err(OutOfBounds { offset, len, size: self.size }),
        }
    }

    /// The atomics at `offset`.
    ///
    /// # Errors
    /// If they would not lie in the mapping, or would not be aligned.
    #[inline]
    pub fn cell<T: Shared>(&self, offset: u64) -> Result<&T, OutOfBounds> {
        let len = size_of::<T>() as u64;
        let at = self.at(offset, len)?.cast::<T>();
        if !at.is_aligned() {
            return Err(OutOfBounds { offset, len, size: self.size });
        }
        // SAFETY: in bounds and aligned by the checks above; any bits are valid by `Shared`; the
        // mapping lives as long as `self`.
        Ok(unsafe { at.as_ref() })
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// If they don't lie in the mapping.
    #[inline]
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.at(offset, into.len() as u64)?;
        // SAFETY: both ranges are valid for the length; shared memory never overlaps `into`, which
        // is memory of this process only.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// The bytes from `offset` on, to be copied out.
    ///
    /// # Errors
    /// If they don't lie in the mapping.
    #[inline]
    pub fn bytes(&self, offset: u64, len: usize) -> Result<SharedBytes<'_>, OutOfBounds> {
        Ok(SharedBytes { at: self.at(offset, len as u64)?, len, memory: PhantomData })
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// If they don't lie in the mapping.
    #[inline]
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        let into = self.at(offset, from.len() as u64)?;
        // SAFETY: both ranges are valid for the length and don't overlap, as above.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), from.len()) };
        Ok(())
    }

    /// Sets bytes to zero.
    ///
    /// # Errors
    /// If they don't lie in the mapping.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), OutOfBounds> {
        let at = self.at(offset, len)?;
        // SAFETY: the range is valid for the length.
        unsafe { ptr::write_bytes(at.as_ptr(), 0, len as usize) };
        Ok(())
    }

    /// Where the bytes lie in this process, for callers that lend them out under a contract of
    /// their own (a buffer of the host language).
    ///
    /// # Errors
    /// If they don't lie in the mapping.
    pub fn address(&self, offset: u64, len: u64) -> Result<NonNull<u8>, OutOfBounds> {
        self.at(offset, len)
    }

    /// Takes memory for the range from the machine and maps it in this process, so that writing to
    /// it can't fail later and needs no fault.
    ///
    /// It goes by the mapping (`MADV_POPULATE_WRITE`, `madvise(2)`) and not by the descriptor: a
    /// program that closes all descriptors, as daemons do, may have another file under its number.
    ///
    /// # Errors
    /// `ENOMEM` or `EFAULT` where the machine has none. A kernel before 5.14 doesn't know the call;
    /// there nothing is taken, and pages come as they are touched.
    pub fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let out = |OutOfBounds { .. }| io::Error::from(rustix::io::Errno::INVAL);
        let at = self.at(offset, len).map_err(out)?.as_ptr().cast();
        loop {
            // SAFETY: MADV_POPULATE_WRITE changes no byte, it only faults pages of our mapping in.
            match unsafe { rustix::mm::madvise(at, len as usize, Advice::LinuxPopulateWrite) } {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::INVAL) => return Ok(()),
                other => return Ok(other?),
            }
        }
    }

    /// Gives the memory of a range back to the machine; it reads as zero afterwards. By the mapping
    /// (`MADV_REMOVE`), as [`Self::reserve`].
    ///
    /// # Errors
    /// As `madvise(2)`; `EINVAL` if the range is not in the mapping.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let out = |OutOfBounds { .. }| io::Error::from(rustix::io::Errno::INVAL);
        let at = self.at(offset, len).map_err(out)?.as_ptr().cast();
        // SAFETY: the bytes are shared and may change at any time, to zeros as well.
        Ok(unsafe { rustix::mm::madvise(at, len as usize, Advice::LinuxRemove) }?)
    }

    /// Bytes of the machine's memory that the memfd holds now.
    ///
    /// # Errors
    /// As `fstat(2)`.
    pub fn resident(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_blocks as u64 * 512)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: `base` and `size` are those of the mapping made in `map`; `&self` borrows are
        // over.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.size as usize) };
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Bytes of a [`SharedMemory`], which another process may write at any time: they are only copied
/// out.
#[derive(Clone, Copy, Debug)]
pub struct SharedBytes<'m> {
    at: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'m SharedMemory>,
}

impl SharedBytes<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `count` of them, or all if there are fewer, and the rest.
    #[must_use]
    pub fn split_at(self, count: usize) -> (Self, Self) {
        let first = count.min(self.len);
        // SAFETY: `first` lies within the bytes, or just behind them.
        let rest = Self { at: unsafe { self.at.add(first) }, len: self.len - first, ..self };
        (Self { len: first, ..self }, rest)
    }

    /// Copies them out.
    ///
    /// # Panics
    /// If `into` is not as long.
    pub fn read(self, into: &mut [u8]) {
        assert_eq!(self.len, into.len(), "bytes are copied into as many");
        // SAFETY: both ranges are valid for the length; shared memory never overlaps `into`, which
        // is memory of this process only.
        unsafe { ptr::copy_nonoverlapping(self.at.as_ptr(), into.as_mut_ptr(), self.len) };
    }

    /// Copies them into memory of this process that has not been written to.
    ///
    /// # Panics
    /// If that is not as long.
    #[inline]
    pub fn copy_to(self, into: &mut [MaybeUninit<u8>]) {
        assert_eq!(self.len, into.len(), "bytes are copied into as many");
        // SAFETY: both ranges are valid for the length; shared memory never overlaps `into`, which
        // is memory of this process only.
        unsafe { ptr::copy_nonoverlapping(self.at.as_ptr(), into.as_mut_ptr().cast(), self.len) };
    }

    /// Appends them to `into`.
    ///
    /// # Errors
    /// If this process has no memory for them; `into` is as before.
    #[inline]
    pub fn append_to(self, into: &mut Vec<u8>) -> Result<(), TryReserveError> {
        make_room(into, self.len)?;
        self.copy_to(&mut into.spare_capacity_mut()[..self.len]);
        // SAFETY: there was room for as many bytes behind the present ones, and they were copied
        // there.
        unsafe { into.set_len(into.len() + self.len) };
        Ok(())
    }
}

/// Makes room for `len` more bytes, and as usual for some more, as bytes may be appended again and
/// again. If there is no memory for that, the room is for an eighth more than there are, so that
/// small appends don't take a reallocation each.
///
/// # Errors
/// If this process has no memory for them.
#[inline]
pub fn make_room(into: &mut Vec<u8>, len: usize) -> Result<(), TryReserveError> {
    into.try_reserve(len).or_else(|_| into.try_reserve_exact(len.max(into.len() / 8)))
}

/// A zeroed table of atomics for this process only, sparse: what is not touched costs nothing. A
/// forked child has its own copy.
#[derive(Debug)]
pub struct PrivateCells {
    base: NonNull<AtomicU32>,
    len: usize,
}

// SAFETY: the cells are atomics, and the mapping belongs to the process.
unsafe impl Send for PrivateCells {}
// SAFETY: as above.
unsafe impl Sync for PrivateCells {}

impl PrivateCells {
    /// A table of `len` cells, all 0.
    ///
    /// # Errors
    /// As `mmap(2)`.
    pub fn new(len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len.max(1) * 4, access, flags) }?;
        Ok(Self { base: NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)?, len })
    }

    /// The cell at `index`, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&AtomicU32> {
        // SAFETY: in bounds by the check; zeroed memory is valid atomics; it lives as long as
        // `self`.
        (index < self.len).then(|| unsafe { self.base.add(index).as_ref() })
    }
}

impl Drop for PrivateCells {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; `&self` borrows are over.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len.max(1) * 4) };
    }
}

fn file_size_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terabyte_costs_nothing_until_it_is_touched() {
        let memory = SharedMemory::create("test", 1 << 40).unwrap();
        assert_eq!(memory.resident().unwrap(), 0);
        memory.write(1 << 39, b"here").unwrap();
        assert!(memory.resident().unwrap() <= 4096);
        memory.punch(1 << 39, 4096).unwrap();
        assert_eq!(memory.resident().unwrap(), 0);
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let memory = SharedMemory::create("test", 4096).unwrap();
        assert!(memory.write(4090, &[0; 7]).is_err());
        assert!(memory.read(u64::MAX, &mut [0; 2]).is_err());
        assert!(memory.cell::<AtomicU64>(4096).is_err());
        assert!(memory.cell::<AtomicU64>(4).is_err(), "not aligned");
        assert!(memory.cell::<AtomicU64>(4088).is_ok());
    }

    #[test]
    fn nobody_can_change_its_size() {
        let memory = SharedMemory::create("test", 8192).unwrap();
        memory.write(4096, b"kept").unwrap();
        for size in [0, 4096, 8191, 8193, 1 << 30] {
            // As another process would open it.
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory.fd));
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            let error = file.set_len(size).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::PERM.raw_os_error()));
        }
        let more = rustix::fs::fcntl_add_seals(&memory, SealFlags::FUTURE_WRITE);
        assert!(more.is_err(), "nor seal it against writing");
        let second = SharedMemory::from_fd(memory.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let mut bytes = [0; 4];
        second.read(4096, &mut bytes).unwrap();
        assert_eq!(&bytes, b"kept");
        second.punch(0, 8192).unwrap();
        assert_eq!(memory.resident().unwrap(), 0, "memory can still be given back");
        memory.reserve(0, 8192).unwrap();
        assert_eq!(memory.resident().unwrap(), 8192);
    }

    #[test]
    fn bytes_are_copied_out_in_parts() {
        let memory = SharedMemory::create("test", 4096).unwrap();
        memory.write(1, b"headrest").unwrap();
        assert!(memory.bytes(4090, 7).is_err());
        let (head, rest) = memory.bytes(1, 8).unwrap().split_at(4);
        let mut into = b"the ".to_vec();
        head.append_to(&mut into).unwrap();
        assert_eq!(into, b"the head");
        let (all, none) = rest.split_at(5);
        assert!(all.len() == 4 && none.is_empty());
        let mut four = [MaybeUninit::uninit(); 4];
        rest.copy_to(&mut four);
        // SAFETY: it was copied to.
        assert_eq!(four.map(|byte| unsafe { byte.assume_init() }), *b"rest");
    }

    #[test]
    fn room_that_there_is_no_memory_for_is_an_error() {
        let mut into = b"kept".to_vec();
        assert!(make_room(&mut into, isize::MAX as usize - 4).is_err());
        assert_eq!(into, b"kept");
    }

    #[test]
    fn a_second_mapping_sees_the_first() {
        let one = SharedMemory::create("test", 4096).unwrap();
        let two = SharedMemory::from_fd(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        one.write(100, b"seen").unwrap();
        let mut bytes = [0; 4];
        two.read(100, &mut bytes).unwrap();
        assert_eq!(&bytes, b"seen");
    }
}
