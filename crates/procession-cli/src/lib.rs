//! What the command `procession` understands.
//!
//! It parses and explains; the host (the Python package) does what was asked for.

#![forbid(unsafe_code)]

mod python;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, Command as Interface};

/// What there is, for help and for errors. The arguments of `run` are read by [`python::parse`].
fn interface() -> Interface {
    let run = Interface::new("run")
        .about(
            "Run a Python program with multiprocessing replaced by procession, in it and in all it \
             starts",
        )
        .override_usage(
            "procession run [OPTION]... SCRIPT [ARGUMENT]...
       procession run [OPTION]... - [ARGUMENT]...
       procession run [OPTION]... -m MODULE [ARGUMENT]...
       procession run [OPTION]... -c CODE [ARGUMENT]...",
        )
        .arg(
            Arg::new("script")
                .value_name("SCRIPT")
                .help("The script's path, or - for standard input; what follows is the program's"),
        )
        .arg(
            Arg::new("module")
                .short('m')
                .long("module")
                .help("Run a module by its name, as `python -m` does"),
        )
        .arg(
            Arg::new("code")
                .short('c')
                .long("code")
                .help("Run a piece of code, as `python -c` does"),
        )
        .after_help(python::OPTIONS_HELP);
    Interface::new("procession")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Multi-process programs that cannot hang because something died.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run)
}

/// What a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A file.
    Script(OsString),
    /// What comes from standard input.
    Stdin,
    /// A module's name.
    Module(OsString),
    /// Source text.
    Code(OsString),
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run a program.
    Run {
        /// Which.
        program: Program,
        /// What it sees as its arguments.
        arguments: Vec<OsString>,
        /// The interpreter's options, as `python` takes them.
        options: Vec<OsString>,
    },
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

impl From<clap::Error> for Command {
    fn from(error: clap::Error) -> Self {
        Self::Print {
            text: error.render().to_string(),
            is_error: error.use_stderr(),
            status: error.exit_code(),
        }
    }
}

/// Parses the arguments that follow the command's name.
///
/// What comes after the program is the program's, options included; what comes before it are the
/// interpreter's options.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Command {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.next_if(|first| first == "run").is_none() {
        return explained(arguments);
    }
    match python::parse(arguments) {
        Ok(command) => command,
        Err(python::Error::Help) => explained(["run".into(), "--help".into()]),
        Err(python::Error::Wrong(text)) => wrong(text),
    }
}

/// The text to show for arguments that run nothing.
fn explained(arguments: impl IntoIterator<Item = OsString>) -> Command {
    let all = std::iter::once(OsString::from("procession")).chain(arguments);
    match interface().try_get_matches_from(all) {
        Ok(_) => wrong("there is nothing to do: see procession --help".into()),
        Err(error) => error.into(),
    }
}

/// What is wrong with the arguments of `run`.
fn wrong(text: String) -> Command {
    let mut interface = interface();
    interface.build();
    match interface.find_subcommand_mut("run") {
        Some(run) => run.error(ErrorKind::UnknownArgument, text).into(),
        None => interface.error(ErrorKind::UnknownArgument, text).into(),
    }
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

    fn run(options: &[&str], program: Program, arguments: &[&str]) -> Command {
        let (options, arguments) = (strings(options), strings(arguments));
        Command::Run { program, arguments, options }
    }

    fn wrong(line: &str) -> String {
        match parsed(line) {
            Command::Print { text, is_error: true, status: 2 } => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_script_has_the_rest_to_itself() {
        let script = Program::Script("a.py".into());
        assert_eq!(parsed("run a.py -m x --help"), run(&[], script, &["-m", "x", "--help"]));
    }

    #[test]
    fn a_module_and_code_too() {
        let module = Program::Module("a.b".into());
        for line in ["-m a.b", "-ma.b", "--module a.b", "--module=a.b"] {
            let line = format!("run {line} -c --version");
            assert_eq!(parsed(&line), run(&[], module.clone(), &["-c", "--version"]));
        }
        let code = Program::Code("pass".into());
        for line in ["-c pass", "-cpass", "--code pass", "--code=pass"] {
            assert_eq!(parsed(&format!("run {line} x")), run(&[], code.clone(), &["x"]));
        }
    }

    #[test]
    fn standard_input_is_a_program() {
        assert_eq!(parsed("run -"), run(&[], Program::Stdin, &[]));
        assert_eq!(parsed("run -u - -x"), run(&["-u"], Program::Stdin, &["-x"]));
        assert_eq!(parsed("run -- -"), run(&[], Program::Stdin, &[]));
    }

    #[test]
    fn what_comes_before_the_program_are_the_interpreters_options() {
        let script = || Program::Script("a.py".into());
        assert_eq!(
            parsed("run -uO -OO a.py -u"),
            run(&["-u", "-O", "-O", "-O"], script(), &["-u"])
        );
        for line in ["-X dev -W error", "-Xdev -Werror"] {
            let all = run(&["-X", "dev", "-W", "error"], script(), &[]);
            assert_eq!(parsed(&format!("run {line} a.py")), all);
        }
        assert_eq!(parsed("run -BXdev a.py"), run(&["-B", "-X", "dev"], script(), &[]));
        for each in "bBdEiIOPqRsSuv".chars() {
            let option = format!("-{each}");
            assert_eq!(parsed(&format!("run {option} a.py")), run(&[&option], script(), &[]));
        }
        for line in ["--check-hash-based-pycs always", "--check-hash-based-pycs=always"] {
            let all = run(&["--check-hash-based-pycs", "always"], script(), &[]);
            assert_eq!(parsed(&format!("run {line} a.py")), all);
        }
        let module = Program::Module("mod".into());
        assert_eq!(parsed("run -um mod -O"), run(&["-u"], module, &["-O"]));
        assert_eq!(parsed("run -O -- a.py"), run(&["-O"], script(), &[]));
    }

    #[test]
    fn a_script_may_be_called_like_an_option_behind_two_hyphens() {
        assert_eq!(parsed("run -- -u"), run(&[], Program::Script("-u".into()), &[]));
    }

    #[test]
    fn an_option_that_there_is_not_is_explained() {
        for (line, option) in
            [("run -Z a.py", "-Z"), ("run -uZ a.py", "-Z"), ("run --no a.py", "--no")]
        {
            let text = wrong(line);
            assert!(text.contains(&format!("there is no option {option}")), "{text}");
            assert!(text.contains("after the program"), "{text}");
        }
        assert!(wrong("run -x a.py").contains("first line"));
        for line in ["run -X", "run -m", "run -c", "run --module", "run -OW"] {
            assert!(wrong(line).contains("needs a value"));
        }
    }

    #[test]
    fn the_version_and_help_are_printed() {
        let Command::Print { text, is_error: false, status: 0 } = parsed("--version") else {
            panic!()
        };
        assert_eq!(text.trim(), concat!("procession ", env!("CARGO_PKG_VERSION")));
        for line in ["run --help", "run -h", "run -uh", "run -u --help"] {
            let Command::Print { text, is_error: false, status: 0 } = parsed(line) else {
                panic!("{line}")
            };
            assert!(text.contains("-W"), "{text}");
        }
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        assert!(wrong("run").contains("no program"));
        assert!(wrong("run -u").contains("no program"));
        wrong("fly");
        assert!(matches!(parsed(""), Command::Print { is_error: true, status: 2, .. }));
    }
}
