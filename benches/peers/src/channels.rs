//! Messages from one process to another. The sender is a child, which waits for a flag to begin;
//! this process receives and holds the watch.

use std::thread;
use std::time::Instant;

use ipc_channel::ipc::{
    self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender,
    IpcSharedMemory,
};
use procession::queue::BYTES;
use procession::{ByteQueue, Event, Queue, spawn};

const NUMBERS: u64 = 2_000_000;
const NUMBERS_BY_IPC: u64 = 300_000;
const KILOBYTES: u64 = 300_000;
const KILOBYTES_BY_IPC: u64 = 100_000;
const MEGABYTES: u64 = 1_000;
const ROUND_TRIPS: u64 = 100_000;
const ROUND_TRIPS_BY_IPC: u64 = 10_000;
const MIB: usize = 1 << 20;

fn timed(go: &Event, steps: u64, receive: impl FnOnce()) -> (f64, f64) {
    let begun = Instant::now();
    go.set();
    receive();
    (steps as f64, begun.elapsed().as_secs_f64())
}

pub fn numbers_by_queue() -> (f64, f64) {
    fn send((queue, go): (Queue<u64>, Event)) {
        go.wait();
        for number in 0..NUMBERS {
            queue.put(number).unwrap();
        }
    }
    let (queue, go) = (Queue::new().unwrap(), Event::new().unwrap());
    let child = spawn(send, (queue.clone(), go.clone())).unwrap();
    let timed = timed(&go, NUMBERS, || {
        for number in 0..NUMBERS {
            assert_eq!(queue.get().unwrap(), number);
        }
    });
    child.join().unwrap();
    timed
}

/// Has a child connect to a one-shot server, and receives what it sends to begin with.
fn meet<T>(child: fn((String, Event)), go: &Event) -> (procession::JoinHandle<()>, T)
where
    T: serde::Serialize + for<'de> serde::Deserialize<'de>,
{
    let (server, name) = IpcOneShotServer::<T>::new().unwrap();
    let child = spawn(child, (name, go.clone())).unwrap();
    let (_, first) = server.accept().unwrap();
    (child, first)
}

fn introduce<T: serde::Serialize>(name: String, first: T) {
    IpcSender::connect(name).unwrap().send(first).unwrap();
}

pub fn numbers_by_ipc() -> (f64, f64) {
    fn send((name, go): (String, Event)) {
        let (sender, receiver) = ipc::channel::<u64>().unwrap();
        introduce(name, receiver);
        go.wait();
        for number in 0..NUMBERS_BY_IPC {
            sender.send(number).unwrap();
        }
    }
    let go = Event::new().unwrap();
    let (child, receiver) = meet::<IpcReceiver<u64>>(send, &go);
    let timed = timed(&go, NUMBERS_BY_IPC, || {
        for number in 0..NUMBERS_BY_IPC {
            assert_eq!(receiver.recv().unwrap(), number);
        }
    });
    child.join().unwrap();
    timed
}

pub fn numbers_by_crossbeam() -> (f64, f64) {
    let (sender, receiver) = crossbeam_channel::unbounded::<u64>();
    let go = Event::new().unwrap();
    let gone = go.clone();
    let thread = thread::spawn(move || {
        gone.wait();
        for number in 0..NUMBERS {
            sender.send(number).unwrap();
        }
    });
    let timed = timed(&go, NUMBERS, || {
        for number in 0..NUMBERS {
            assert_eq!(receiver.recv().unwrap(), number);
        }
    });
    thread.join().unwrap();
    timed
}

fn send_bytes(queue: &ByteQueue, go: &Event, count: u64, size: usize) {
    let message = vec![7; size];
    go.wait();
    for _ in 0..count {
        queue.put(BYTES, &message).unwrap();
    }
}

fn receive_bytes(queue: &ByteQueue, count: u64, size: usize) {
    for _ in 0..count {
        assert_eq!(queue.get().unwrap().bytes.len(), size);
    }
}

pub fn kilobytes_by_queue() -> (f64, f64) {
    let (queue, go) = (ByteQueue::new().unwrap(), Event::new().unwrap());
    let send = |(queue, go): (ByteQueue, Event)| send_bytes(&queue, &go, KILOBYTES, 1024);
    let child = spawn(send, (queue.clone(), go.clone())).unwrap();
    let timed = timed(&go, KILOBYTES, || receive_bytes(&queue, KILOBYTES, 1024));
    child.join().unwrap();
    timed
}

/// A bound as a program would have one that moves large messages: the rival's socket has one too.
pub fn megabytes_by_queue() -> (f64, f64) {
    let (queue, go) = (ByteQueue::bounded(8).unwrap(), Event::new().unwrap());
    let send = |(queue, go): (ByteQueue, Event)| send_bytes(&queue, &go, MEGABYTES, MIB);
    let child = spawn(send, (queue.clone(), go.clone())).unwrap();
    let bytes = MEGABYTES * MIB as u64;
    let timed = timed(&go, bytes, || receive_bytes(&queue, MEGABYTES, MIB));
    child.join().unwrap();
    timed
}

fn send_bytes_by_ipc(name: String, go: &Event, count: u64, size: usize) {
    let (sender, receiver): (IpcBytesSender, IpcBytesReceiver) = ipc::bytes_channel().unwrap();
    introduce(name, receiver);
    let message = vec![7; size];
    go.wait();
    for _ in 0..count {
        sender.send(&message).unwrap();
    }
}

pub fn kilobytes_by_ipc() -> (f64, f64) {
    let go = Event::new().unwrap();
    let (child, receiver) = meet::<IpcBytesReceiver>(
        |(name, go)| send_bytes_by_ipc(name, &go, KILOBYTES_BY_IPC, 1024),
        &go,
    );
    let timed = timed(&go, KILOBYTES_BY_IPC, || {
        for _ in 0..KILOBYTES_BY_IPC {
            assert_eq!(receiver.recv().unwrap().len(), 1024);
        }
    });
    child.join().unwrap();
    timed
}

pub fn megabytes_by_ipc() -> (f64, f64) {
    let go = Event::new().unwrap();
    let (child, receiver) =
        meet::<IpcBytesReceiver>(|(name, go)| send_bytes_by_ipc(name, &go, MEGABYTES, MIB), &go);
    let timed = timed(&go, MEGABYTES * MIB as u64, || {
        for _ in 0..MEGABYTES {
            assert_eq!(receiver.recv().unwrap().len(), MIB);
        }
    });
    child.join().unwrap();
    timed
}

pub fn megabytes_by_ipc_memory() -> (f64, f64) {
    fn send((name, go): (String, Event)) {
        let (sender, receiver) = ipc::channel::<IpcSharedMemory>().unwrap();
        introduce(name, receiver);
        let message = vec![7; MIB];
        go.wait();
        for _ in 0..MEGABYTES {
            sender.send(IpcSharedMemory::from_bytes(&message)).unwrap();
        }
    }
    let go = Event::new().unwrap();
    let (child, receiver) = meet::<IpcReceiver<IpcSharedMemory>>(send, &go);
    // As for all others, the receiver ends up with bytes of its own.
    let timed = timed(&go, MEGABYTES * MIB as u64, || {
        for _ in 0..MEGABYTES {
            assert_eq!(receiver.recv().unwrap().to_vec().len(), MIB);
        }
    });
    child.join().unwrap();
    timed
}

pub fn round_trips_by_queue() -> (f64, f64) {
    fn answer((there, back, go): (Queue<u64>, Queue<u64>, Event)) {
        go.wait();
        for _ in 0..ROUND_TRIPS {
            back.put(there.get().unwrap()).unwrap();
        }
    }
    let (there, back) = (Queue::new().unwrap(), Queue::new().unwrap());
    let go = Event::new().unwrap();
    let child = spawn(answer, (there.clone(), back.clone(), go.clone())).unwrap();
    let timed = timed(&go, ROUND_TRIPS, || {
        for number in 0..ROUND_TRIPS {
            there.put(number).unwrap();
            assert_eq!(back.get().unwrap(), number);
        }
    });
    child.join().unwrap();
    timed
}

pub fn round_trips_by_ipc() -> (f64, f64) {
    fn answer((name, go): (String, Event)) {
        let (there, requests) = ipc::channel::<u64>().unwrap();
        let (replies, back) = ipc::channel::<u64>().unwrap();
        introduce(name, (there, back));
        go.wait();
        for _ in 0..ROUND_TRIPS_BY_IPC {
            replies.send(requests.recv().unwrap()).unwrap();
        }
    }
    let go = Event::new().unwrap();
    let (child, (there, back)) = meet::<(IpcSender<u64>, IpcReceiver<u64>)>(answer, &go);
    let timed = timed(&go, ROUND_TRIPS_BY_IPC, || {
        for number in 0..ROUND_TRIPS_BY_IPC {
            there.send(number).unwrap();
            assert_eq!(back.recv().unwrap(), number);
        }
    });
    child.join().unwrap();
    timed
}
