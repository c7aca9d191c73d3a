//! The processes of a family, seen by those that started them or look at them: a child to follow,
//! what each process is doing, and all that one has started.
//!
//! How a process is started is not known here: its starter follows it as a [`Child`].

mod child;
mod exit_report;
mod states;

pub use child::{Child, SpareDescriptor};
pub use exit_report::ExitReport;
pub use procession_os::pidfd::ExitStatus;
pub use states::{Blocked, Member, ProcessState, signal_tree};
