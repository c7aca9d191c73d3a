//! A program that has no `init()` in its `main`: that of the test harness.

use std::panic::catch_unwind;

use procession::process::SpawnErrorKind;
use procession::{Builder, StartMethod, init, spawn};

#[test]
fn a_program_without_init_is_not_started_a_second_time() {
    let refused = Builder::new().start_method(StartMethod::Spawn).spawn(|()| (), ()).unwrap_err();
    assert!(matches!(refused.kind(), SpawnErrorKind::NotInitialized), "{refused:?}");
    for advice in ["first in main", "#[procession::main]", "#[procession::test]"] {
        assert!(refused.to_string().contains(advice), "{refused}");
        assert!(format!("{refused:?}").contains(advice), "{refused:?}: as unwrap shows it");
    }
    // The harness has a thread for each test, so this can't be forked either.
    let refused = spawn(|()| (), ()).unwrap_err();
    assert!(matches!(refused.kind(), SpawnErrorKind::NotInitialized), "{refused:?}");
}

#[test]
fn init_in_a_test_is_refused() {
    let panic = catch_unwind(init).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("was called too late: there are other threads than"), "{text}");
    assert!(text.contains("write #[procession::test] for #[test]"), "{text}");
    // Nothing is started that would run all these tests again.
    let refused = spawn(|()| (), ()).unwrap_err();
    assert!(matches!(refused.kind(), SpawnErrorKind::NotInitialized), "{refused:?}");
}
