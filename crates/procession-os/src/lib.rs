//! The kernel's calls that multi-process programs need, behind safe, owned types.
//!
//! Everything here is about one process and the kernel; nothing here depends on what the upper
//! floors build from it. Descriptors are owned and always `CLOEXEC`. A raw number is returned only
//! where another program must get it.
//!
//! What this crate does *not* do: it has no process-private futexes (use `std::sync`, or
//! [`per_process`] where another thread may fork), no named semaphores or POSIX shared memory (a
//! memfd needs no name, so nothing can leak), and it runs on Linux only.

#![deny(unsafe_code)]

pub mod atfork;
pub mod clock;
pub mod futex;
pub mod holders;
pub mod image;
pub mod load;
pub mod memory;
pub mod parent_death;
pub mod per_process;
pub mod pidfd;
pub mod poll;
pub mod process;
pub mod robust;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod stat;
pub mod thread_end;
pub mod tree;
pub mod wiped;
