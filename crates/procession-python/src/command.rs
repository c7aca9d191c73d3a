//! The command line, for `procession.__main__`.

use std::ffi::OsString;

use procession_cli::{Command, Program, parse};
use pyo3::prelude::*;

/// What to run: how it is meant ("script", "module", "code"), the program, its arguments; or
/// ("print", text, status) with the stream's name for what is to be shown.
#[pyfunction]
pub(crate) fn parse_command(
    arguments: Vec<OsString>,
) -> (&'static str, OsString, Vec<OsString>, i32) {
    match parse(arguments) {
        Command::Run(Program::Script(path), rest) => ("script", path, rest, 0),
        Command::Run(Program::Module(name), rest) => ("module", name.into(), rest, 0),
        Command::Run(Program::Code(code), rest) => ("code", code.into(), rest, 0),
        Command::Print { text, is_error: false, status } => ("stdout", text.into(), vec![], status),
        Command::Print { text, is_error: true, status } => ("stderr", text.into(), vec![], status),
    }
}
