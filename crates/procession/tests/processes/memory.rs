//! Processes without memory for what they are sent.

use procession::process::SpawnErrorKind;
use procession::queue::{BYTES, GetError, PutError};
use procession::{
    Builder, ByteQueue, DecodeError, EncodeError, JoinError, Queue, SharedBlock, StartMethod,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Serialize, Serializer};

/// More than [`limit`] leaves memory for.
const LONG: usize = 64 << 20;

/// Limits this process to so much address space more than it has.
fn limit() {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let current = Some(pages * 4096 + LONG as u64 / 2);
    setrlimit(Resource::As, Rlimit { current, maximum: None }).unwrap();
}

pub(crate) fn what_there_is_no_memory_for_stays_in_the_queue(method: StartMethod) {
    type Queues = (Queue<Vec<u8>>, Queue<String>, ByteQueue);
    fn refuse(error: GetError) {
        assert!(matches!(error, GetError::NoMemory { len } if len >= LONG), "{error:?}");
    }
    let queues: Queues = (Queue::new().unwrap(), Queue::new().unwrap(), ByteQueue::new().unwrap());
    let (blobs, texts, bytes) = &queues;
    blobs.put(vec![7; LONG]).unwrap();
    texts.put("x".repeat(LONG)).unwrap();
    bytes.put(BYTES, &vec![7; LONG]).unwrap();
    let poor = Builder::new().start_method(method).spawn(
        |(blobs, texts, bytes): Queues| {
            limit();
            refuse(blobs.get().unwrap_err());
            refuse(blobs.try_get().unwrap_err());
            refuse(blobs.get_many(2).unwrap_err());
            refuse(texts.get().unwrap_err());
            refuse(texts.get_many(2).unwrap_err());
            refuse(bytes.get().unwrap_err());
            refuse(bytes.get_many(2, |_, _| {}).unwrap_err());
            (blobs.len(), texts.len(), bytes.len())
        },
        queues.clone(),
    );
    assert_eq!(poor.unwrap().join().unwrap(), (1, 1, 1));
    assert!(blobs.get().unwrap() == vec![7; LONG]);
    assert!(texts.get().unwrap().len() == LONG);
    assert!(bytes.get().unwrap().bytes.len() == LONG);
}

/// It has no bytes of its own, and many when it is encoded.
struct Swelling;

impl Serialize for Swelling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(std::iter::repeat_n(7u8, LONG))
    }
}

pub(crate) fn what_there_is_no_memory_to_encode_is_not_put(method: StartMethod) {
    let queue = Queue::<Swelling>::new().unwrap();
    let poor = Builder::new().start_method(method).spawn(
        |handle: Queue<Vec<u8>>| {
            limit();
            let queue = Queue::<Swelling>::open(handle.handle()).unwrap();
            let error = queue.put(Swelling).unwrap_err();
            assert!(matches!(error, PutError::Encode(EncodeError::NoMemory { .. })), "{error:?}");
            let error = queue.put_many([Swelling]).unwrap_err();
            assert_eq!(error.put, 0);
        },
        Queue::<Vec<u8>>::open(queue.handle()).unwrap(),
    );
    poor.unwrap().join().unwrap();
    assert!(queue.is_empty());
}

pub(crate) fn arguments_without_memory_are_told(method: StartMethod) {
    let long = vec![7u8; LONG];
    limit();
    // Its bytes are another copy, in this process.
    let child = Builder::new().start_method(method).spawn(|bytes: Vec<u8>| bytes.len(), long);
    let error = child.err().unwrap();
    assert!(matches!(error.kind(), SpawnErrorKind::Encode(EncodeError::NoMemory { .. })));
    let child = Builder::new().start_method(method).spawn(|bytes: Vec<u8>| bytes.len(), vec![7; 9]);
    assert_eq!(child.unwrap().join().unwrap(), 9);
}

pub(crate) fn a_result_without_memory_is_told_by_join(method: StartMethod) {
    let block = SharedBlock::new(8).unwrap();
    let child = Builder::new().start_method(method).spawn(
        |block: SharedBlock| {
            block.write_u64(0, 1).unwrap();
            vec![7u8; LONG]
        },
        block.clone(),
    );
    let child = child.unwrap();
    limit();
    let error = child.join().unwrap_err();
    let source = match error {
        JoinError::Decode { source, .. } => source,
        other => panic!("{other:?}"),
    };
    assert!(matches!(source, DecodeError::NoMemory { len } if len >= LONG), "{source:?}");
    assert_eq!(block.read_u64(0).unwrap(), 1);
}
