//! `procession` beside its peers, on this machine, in one run.
//!
//! Each workload is run by both in turns, five rounds or as many as the first argument says; the
//! table has the medians and their ratio, and the least ratio that the project asks for. Other
//! arguments choose workloads by parts of their names. With `fairness` as the only argument the
//! table is another: how long a waiter waits for a lock that is always wanted.
//!
//! The rival between processes is `ipc-channel`. For messages of bytes it gets the fastest way it
//! has: its bytes channel for 1 KiB, and for 1 MiB the better of that and its shared memory.
//! `crossbeam-channel` between threads is a reference, not a rival.

mod channels;
mod fairness;
mod locks;
mod table;

use table::{Unit, Workload};

fn main() {
    procession::init();
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["fairness"] {
        fairness::print();
        return;
    }
    let rounds = match arguments.first().map(|text| text.parse()) {
        Some(Ok(rounds)) => {
            arguments.remove(0);
            rounds
        }
        _ => 5,
    };
    let workloads = [
        Workload {
            name: "queue u64, one way",
            rival: "ipc-channel",
            unit: Unit::PerSecond("msg"),
            at_least: Some(10.0),
            ours: channels::numbers_by_queue,
            theirs: &[channels::numbers_by_ipc],
        },
        Workload {
            name: "queue 1 KiB, one way",
            rival: "ipc-channel bytes",
            unit: Unit::PerSecond("msg"),
            at_least: Some(5.0),
            ours: channels::kilobytes_by_queue,
            theirs: &[channels::kilobytes_by_ipc],
        },
        Workload {
            name: "queue 1 MiB, one way",
            rival: "ipc-channel best",
            unit: Unit::PerSecond("B"),
            at_least: Some(2.0),
            ours: channels::megabytes_by_queue,
            theirs: &[channels::megabytes_by_ipc, channels::megabytes_by_ipc_memory],
        },
        Workload {
            name: "ping-pong u64",
            rival: "ipc-channel",
            unit: Unit::SecondsEach,
            at_least: Some(10.0),
            ours: channels::round_trips_by_queue,
            theirs: &[channels::round_trips_by_ipc],
        },
        Workload {
            name: "queue u64 (reference)",
            rival: "crossbeam threads",
            unit: Unit::PerSecond("msg"),
            at_least: None,
            ours: channels::numbers_by_queue,
            theirs: &[channels::numbers_by_crossbeam],
        },
        Workload {
            name: "lock, uncontended",
            rival: "parking_lot",
            unit: Unit::SecondsEach,
            at_least: Some(0.8),
            ours: locks::uncontended,
            theirs: &[locks::uncontended_parking_lot],
        },
        Workload {
            name: "lock, two contend",
            rival: "parking_lot threads",
            unit: Unit::SecondsEach,
            at_least: None,
            ours: locks::contended,
            theirs: &[locks::contended_parking_lot],
        },
    ];
    table::print(&workloads, rounds, &arguments);
}
