//! What the command `procession` understands.
//!
//! It parses and explains; the host (the Python package) does what was asked for.

#![forbid(unsafe_code)]

use std::ffi::OsString;

use clap::{ArgGroup, Args, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "procession",
    version,
    about = "Multi-process programs that cannot hang because something died."
)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a Python program with multiprocessing replaced by procession, in it and in all it starts
    Run(Run),
}

#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true)))]
#[command(override_usage = "procession run SCRIPT [ARGUMENT]...
       procession run -m MODULE [ARGUMENT]...
       procession run -c CODE [ARGUMENT]...")]
struct Run {
    /// Run a module by its name, as `python -m` does
    #[arg(short, long, group = "what", conflicts_with = "code")]
    module: Option<String>,
    /// Run a piece of code, as `python -c` does
    #[arg(short, long, group = "what")]
    code: Option<String>,
    /// The script's path, and the arguments that the program sees
    #[arg(
        value_name = "SCRIPT",
        group = "what",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    rest: Vec<OsString>,
}

/// What a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A file.
    Script(OsString),
    /// A module's name.
    Module(String),
    /// Source text.
    Code(String),
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run a program with these arguments.
    Run(Program, Vec<OsString>),
    /// Print this and leave with the status: help, the version, or what was wrong.
    Print {
        /// What to print.
        text: String,
        /// Whether it belongs on standard error.
        is_error: bool,
        /// The status to leave with.
        status: i32,
    },
}

/// Parses the arguments that follow the command's name.
///
/// What comes after the program is the program's, options included.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Command {
    let all = std::iter::once(OsString::from("procession")).chain(split(arguments));
    match Arguments::try_parse_from(all) {
        Ok(Arguments { command: Verb::Run(run) }) => {
            let mut rest = run.rest.into_iter();
            let program = match (run.module, run.code) {
                (Some(module), _) => Program::Module(module),
                (None, Some(code)) => Program::Code(code),
                (None, None) => Program::Script(rest.next().unwrap_or_default()),
            };
            Command::Run(program, rest.collect())
        }
        Err(error) => Command::Print {
            text: error.render().to_string(),
            is_error: error.use_stderr(),
            status: error.exit_code(),
        },
    }
}

/// Puts `--` before the script, or behind `-m MODULE` and `-c CODE`, so that what follows is not
/// taken for our options.
fn split(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let is_option = argument.to_string_lossy().starts_with('-');
        let is_script = !is_option && !out.is_empty();
        if is_script {
            out.push("--".into());
        }
        let takes_value = argument == "-m" || argument == "-c";
        out.push(argument);
        if takes_value {
            out.extend(arguments.next());
            out.push("--".into());
        }
        if is_script || takes_value {
            out.extend(arguments);
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Command {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn strings(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_script_has_the_rest_to_itself() {
        let script = Program::Script("a.py".into());
        assert_eq!(
            parsed("run a.py -m x --help"),
            Command::Run(script, strings(&["-m", "x", "--help"]))
        );
    }

    #[test]
    fn a_module_and_code_too() {
        let module = Program::Module("a.b".into());
        assert_eq!(
            parsed("run -m a.b -c --version"),
            Command::Run(module, strings(&["-c", "--version"]))
        );
        assert_eq!(
            parsed("run -c pass x"),
            Command::Run(Program::Code("pass".into()), strings(&["x"]))
        );
    }

    #[test]
    fn the_version_and_help_are_printed() {
        let Command::Print { text, is_error: false, status: 0 } = parsed("--version") else {
            panic!()
        };
        assert_eq!(text.trim(), concat!("procession ", env!("CARGO_PKG_VERSION")));
        assert!(matches!(parsed("run --help"), Command::Print { is_error: false, status: 0, .. }));
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        assert!(matches!(parsed("run"), Command::Print { is_error: true, status: 2, .. }));
        assert!(matches!(parsed("fly"), Command::Print { is_error: true, status: 2, .. }));
    }
}
