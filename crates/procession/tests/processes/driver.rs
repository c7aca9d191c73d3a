//! Runs each promise in a process group of its own, and watches it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use procession::StartMethod;

/// How long a promise may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Promise {
    pub(crate) name: &'static str,
    pub(crate) run: fn(StartMethod),
}

const METHODS: [(&str, StartMethod); 2] =
    [("fork", StartMethod::Fork), ("spawn", StartMethod::Spawn)];

pub(crate) fn main(promises: &[Promise]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [run, name, method] = &arguments[..]
        && run == "run"
    {
        let promise = promises.iter().find(|promise| promise.name == name).expect("a promise");
        let (_, method) = METHODS.iter().find(|(text, _)| text == method).expect("a method");
        (promise.run)(*method);
        return ExitCode::SUCCESS;
    }
    let told = |option: &str| arguments.iter().any(|text| text == option);
    let filters: Vec<_> = arguments.iter().filter(|text| !text.starts_with('-')).collect();
    let mut failed = 0;
    for promise in promises {
        for (method, _) in METHODS {
            let name = format!("{}::{method}", promise.name);
            // As the standard harness does, and nextest expects of one; nothing here is ignored.
            if told("--list") {
                if !told("--ignored") {
                    println!("{name}: test");
                }
                continue;
            }
            let wanted =
                |text: &String| if told("--exact") { name == *text } else { name.contains(text) };
            if !filters.is_empty() && !filters.iter().any(|text| wanted(text)) {
                continue;
            }
            let outcome = watch(promise.name, method);
            let text = outcome.as_ref().err().map_or("ok", |why| &why[..]);
            println!("test {name} ... {text}");
            failed += usize::from(outcome.is_err());
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn watch(name: &str, method: &str) -> Result<(), String> {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["run", name, method]).process_group(0);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let group = child.id();
    let Some(status) = wait(&mut child) else {
        show(group);
        end(group);
        let _ = child.wait();
        return Err(format!("HANGS (for {PATIENCE:?})"));
    };
    let left = left_behind(group);
    end(group);
    if !status.success() {
        return Err(format!("FAILED ({status})"));
    }
    if !left.is_empty() {
        return Err(format!("FAILED: left processes {left:?} behind"));
    }
    Ok(())
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("a child to wait for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// The processes of a group that still run, after a moment for those that die with others.
fn left_behind(group: u32) -> Vec<u32> {
    for _ in 0..500 {
        if members(group).is_empty() {
            return Vec::new();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    members(group)
}

fn end(group: u32) {
    for pid in members(group) {
        let _ = procession_os::process::kill(pid, 9);
    }
}

fn members(group: u32) -> Vec<u32> {
    processes()
        .filter(|process| process.group == group && process.state != 'Z')
        .map(|p| p.pid)
        .collect()
}

/// A line of `/proc/PID/stat`.
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) state: char,
    pub(crate) parent: u32,
    pub(crate) group: u32,
}

pub(crate) fn processes() -> impl Iterator<Item = Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
        Some(Process {
            pid,
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
        })
    })
}

/// Prints what each process of a hanging group waits for.
fn show(group: u32) {
    eprintln!("the processes of group {group}: {:?}", members(group));
    match procession::arena::attach(group) {
        Ok(arena) => {
            for process in arena.processes() {
                eprintln!("{process:?}");
            }
            for object in arena.objects() {
                eprintln!("{object:?}");
            }
        }
        Err(error) => eprintln!("no look into the arena: {error}"),
    }
}

/// Waits until a condition holds; the driver's limit for a promise ends the wait.
pub(crate) fn until(mut so: impl FnMut() -> bool) {
    while !so() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
