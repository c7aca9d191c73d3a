//! What `run` takes: the interpreter's options, then a program, then what is the program's.
//!
//! The rules are those of `python` itself (its documentation, "Command line"): options of one
//! letter may be put together, a value may follow its letter at once or as the next argument, `-c`
//! and `-m` end the options, and `--` does.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::{Command, Program};

pub(crate) const OPTIONS_HELP: &str = "\
Options of the interpreter, before the program, as for `python`; the program is run with them, and \
so are the children that it spawns:
  -b -B -d -E -i -I -O -OO -P -q -R -s -S -u -v
  -X OPTION, -W ACTION
  --check-hash-based-pycs MODE";

/// Letters that stand for themselves, and those that take a value.
const FLAGS: &[u8] = b"bBdEiIOPqRsSuv";
const WITH_VALUE: &[u8] = b"XW";

const CHECK_PYCS: &str = "--check-hash-based-pycs";

pub(crate) enum Error {
    /// Help was asked for.
    Help,
    /// This is wrong with the arguments.
    Wrong(String),
}

/// Reads what comes behind `run`.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, Error> {
    let mut rest = arguments;
    let mut options = Vec::new();
    let program = loop {
        let Some(argument) = rest.next() else {
            break None;
        };
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            break rest.next().map(script);
        }
        if bytes.len() < 2 || bytes[0] != b'-' {
            break Some(script(argument));
        }
        let found = if bytes[1] == b'-' {
            long(&argument, &mut rest, &mut options)?
        } else {
            letters(&bytes[1..], &mut rest, &mut options)?
        };
        if found.is_some() {
            break found;
        }
    };
    let program = program.ok_or_else(|| {
        Error::Wrong("there is no program: name a script, a module by -m, or code by -c".into())
    })?;
    Ok(Command::Run { program, arguments: rest.collect(), options })
}

fn script(path: OsString) -> Program {
    if path == "-" { Program::Stdin } else { Program::Script(path) }
}

/// Reads options of one letter each, which are put together; returns the program if one is among
/// them.
fn letters(
    letters: &[u8],
    rest: &mut impl Iterator<Item = OsString>,
    options: &mut Vec<OsString>,
) -> Result<Option<Program>, Error> {
    for (at, &letter) in letters.iter().enumerate() {
        let name = OsString::from_vec(vec![b'-', letter]);
        let mut value = || {
            let attached = &letters[at + 1..];
            if attached.is_empty() {
                rest.next().ok_or_else(|| needs_value(&name))
            } else {
                Ok(OsStr::from_bytes(attached).to_owned())
            }
        };
        match letter {
            b'm' => return value().map(|module| Some(Program::Module(module))),
            b'c' => return value().map(|code| Some(Program::Code(code))),
            b'h' | b'?' => return Err(Error::Help),
            b'x' => {
                return Err(Error::Wrong(
                    "the option -x, to skip the first line of a script, is not known here: \
                     make that line a comment"
                        .into(),
                ));
            }
            _ if FLAGS.contains(&letter) => options.push(name),
            _ if WITH_VALUE.contains(&letter) => {
                let value = value()?;
                options.extend([name, value]);
                return Ok(None);
            }
            _ => {
                // A letter of more than one byte is shown whole.
                let text = String::from_utf8_lossy(&letters[at..]);
                let letter: String = text.chars().take(1).collect();
                return Err(unknown(&format!("-{letter}")));
            }
        }
    }
    Ok(None)
}

fn long(
    argument: &OsStr,
    rest: &mut impl Iterator<Item = OsString>,
    options: &mut Vec<OsString>,
) -> Result<Option<Program>, Error> {
    let bytes = argument.as_bytes();
    let equals = bytes.iter().position(|&byte| byte == b'=');
    let (name, attached) = match equals {
        Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
        None => (bytes, None),
    };
    let mut value =
        || attached.clone().or_else(|| rest.next()).ok_or_else(|| needs_value(argument));
    match name {
        b"--help" => Err(Error::Help),
        b"--module" => value().map(|module| Some(Program::Module(module))),
        b"--code" => value().map(|code| Some(Program::Code(code))),
        _ if name == CHECK_PYCS.as_bytes() => {
            options.extend([CHECK_PYCS.into(), value()?]);
            Ok(None)
        }
        _ => Err(unknown(&String::from_utf8_lossy(name))),
    }
}

fn needs_value(option: &OsStr) -> Error {
    Error::Wrong(format!("the option {} needs a value", option.to_string_lossy()))
}

fn unknown(option: &str) -> Error {
    Error::Wrong(format!(
        "there is no option {option} before the program, where the interpreter's options are: put \
         the program's own options after the program"
    ))
}
