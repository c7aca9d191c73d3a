//! Tests that spawn, under the standard harness. Each child runs only its function, and no test a
//! second time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use procession::{Builder, JoinError, Lock, Queue, StartMethod, spawn};

/// How many tests of this program have begun in this process.
static BEGUN: AtomicU32 = AtomicU32::new(0);

#[procession::test]
fn a_child_computes() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    assert_eq!(spawn(|(a, b): (u64, u64)| a * b, (6, 7)).unwrap().join().unwrap(), 42);
}

#[procession::test]
fn no_test_runs_in_a_child() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let begun = spawn(|()| BEGUN.load(Ordering::Relaxed), ()).unwrap().join().unwrap();
    assert_eq!(begun, 0);
}

#[procession::test]
fn a_child_may_have_children() -> Result<(), Box<dyn std::error::Error>> {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    fn factorial((number, method): (u64, u8)) -> u64 {
        let methods = [None, Some(StartMethod::Fork), Some(StartMethod::Spawn)];
        procession::set_start_method(methods[usize::from(method)]);
        match number {
            0 => 1,
            _ => number * spawn(factorial, (number - 1, method)).unwrap().join().unwrap(),
        }
    }
    for method in 0..3 {
        assert_eq!(spawn(factorial, (4, method))?.join()?, 24);
    }
    Ok(())
}

#[procession::test]
fn a_child_finds_fresh_statics_and_the_directory_and_environment_of_its_parent() {
    static TOLD: OnceLock<u32> = OnceLock::new();
    BEGUN.fetch_add(1, Ordering::Relaxed);
    TOLD.set(7).unwrap();
    let child = spawn(
        |()| {
            let here = std::env::current_dir().unwrap();
            (TOLD.get().copied(), here, std::env::var("CARGO_MANIFEST_DIR").ok())
        },
        (),
    );
    let here = std::env::current_dir().unwrap();
    let expected = (None, here, std::env::var("CARGO_MANIFEST_DIR").ok());
    assert_eq!(child.unwrap().join().unwrap(), expected);
}

#[procession::test]
fn a_panic_in_a_child_is_told() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let line = line!() + 1;
    let error = spawn(|()| -> () { panic!("no") }, ()).unwrap().join().unwrap_err();
    assert!(matches!(error, JoinError::Panicked { .. }), "{error:?}");
    assert!(error.name().ends_with(&format!("tests/harness.rs:{line}")), "{error}");
}

#[procession::test]
#[should_panic(expected = "the child has none")]
fn a_test_that_should_panic_may() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let found: Option<u32> = spawn(|()| None, ()).unwrap().join().unwrap();
    found.expect("the child has none");
}

#[procession::test]
fn objects_are_shared_with_a_child() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let (lock, queue) = (Lock::new().unwrap(), Queue::new().unwrap());
    let guard = lock.lock().unwrap();
    let child = Builder::new().name("waiter").daemon(true).spawn(
        |(lock, queue): (Lock, Queue<String>)| {
            queue.put("here".to_owned()).unwrap();
            drop(lock.lock().unwrap());
        },
        (lock.clone(), queue.clone()),
    );
    assert_eq!(queue.get().unwrap(), "here");
    drop(guard);
    child.unwrap().join().unwrap();
}

#[procession::test]
#[tokio::test]
async fn a_runtime_goes_with_it() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let child = spawn(|n: u64| n + 1, 41).unwrap();
    let joined = tokio::task::spawn_blocking(move || child.join()).await.unwrap();
    assert_eq!(joined.unwrap(), 42);
}

#[tokio::test]
#[procession::test]
async fn in_either_order() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    assert_eq!(spawn(|n: u64| n + 1, 41).unwrap().join().unwrap(), 42);
}
