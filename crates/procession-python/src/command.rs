//! The command line, for `procession.__main__`.

use std::ffi::OsString;

use procession_cli::{Command, Program, parse};
use pyo3::prelude::*;

/// What to do. To run a program: its kind ("script", "stdin", "module", "code"), the program, its
/// arguments, and the interpreter's options. To print: the name of a stream and the text. The last
/// item is the status to exit with.
#[pyfunction]
pub(crate) fn parse_command(
    arguments: Vec<OsString>,
) -> (&'static str, OsString, Vec<OsString>, Vec<OsString>, i32) {
    match parse(arguments) {
        Command::Run { program, arguments, options } => {
            let (what, program) = match program {
                Program::Script(path) => ("script", path),
                Program::Stdin => ("stdin", "-".into()),
                Program::Module(name) => ("module", name),
                Program::Code(code) => ("code", code),
            };
            (what, program, arguments, options, 0)
        }
        Command::Print { text, is_error, status } => {
            let stream = if is_error { "stderr" } else { "stdout" };
            (stream, text.into(), vec![], vec![], status)
        }
    }
}
