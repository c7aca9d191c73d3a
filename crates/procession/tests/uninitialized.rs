//! A program that has no `init()` in its main: the test harness's.

use procession::{Builder, SpawnError, StartMethod, spawn};

#[test]
fn a_program_without_init_is_not_started_anew() {
    let refused = Builder::new().start_method(StartMethod::Spawn).spawn(|()| (), ());
    let Err(error @ SpawnError::NotInitialized) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("first in main"), "{error}");
    // The harness has a thread for each test, so this can't be forked either.
    assert!(matches!(spawn(|()| (), ()), Err(SpawnError::NotInitialized)));
}
