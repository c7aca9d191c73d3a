//! The environment and the directory of a child.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// How the environment and the directory of a child differ from its parent's.
#[derive(Clone, Debug, Default)]
pub(super) struct ChildEnv {
    pub(super) clear: bool,
    /// The value of each variable; `None` for a variable that is removed.
    pub(super) changes: BTreeMap<OsString, Option<OsString>>,
    pub(super) directory: Option<PathBuf>,
}

impl ChildEnv {
    /// Refuses variables that the kernel can't represent.
    pub(super) fn check(&self) -> io::Result<()> {
        let bad = |(name, value): (&OsString, &Option<OsString>)| {
            name.is_empty()
                || name.as_bytes().iter().any(|&byte| byte == b'=' || byte == 0)
                || value.as_ref().is_some_and(|value| value.as_bytes().contains(&0))
        };
        match self.changes.iter().find(|&change| bad(change)) {
            Some((name, _)) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the variable {name:?}: a name has no '=', and neither part a NUL byte"),
            )),
            None => Ok(()),
        }
    }

    /// The whole environment of a child that is started a second time, with one more variable.
    pub(super) fn environment(&self, name: &str, value: &OsStr) -> Vec<(OsString, OsString)> {
        let mut all = BTreeMap::new();
        if !self.clear {
            all.extend(std::env::vars_os());
        }
        for (name, value) in &self.changes {
            match value {
                Some(value) => all.insert(name.clone(), value.clone()),
                None => all.remove(name),
            };
        }
        all.insert(name.into(), value.into());
        all.into_iter().collect()
    }

    /// Changes this process's environment.
    ///
    /// # Safety
    /// This process has one thread.
    pub(super) unsafe fn enter_environment(&self) {
        let names = std::env::vars_os().map(|(name, _)| name);
        let gone: Vec<_> = if self.clear { names.collect() } else { Vec::new() };
        let gone = gone.iter().map(|name| (name, &None));
        for (name, value) in gone.chain(&self.changes) {
            // SAFETY: no other thread reads the environment meanwhile.
            unsafe {
                match value {
                    Some(value) => std::env::set_var(name, value),
                    None => std::env::remove_var(name),
                }
            }
        }
    }
}

/// Goes into the directory that a child is to begin in.
pub(super) fn enter_directory(directory: Option<&PathBuf>) -> Result<(), String> {
    match directory {
        Some(directory) => std::env::set_current_dir(directory)
            .map_err(|error| format!("its directory {}: {error}", directory.display())),
        None => Ok(()),
    }
}
