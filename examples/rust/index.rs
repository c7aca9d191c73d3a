//! Indexes the names used in Rust sources, with all cores: the sources of this workspace and of all
//! that it depends on.
//!
//! Worker processes take batches of files from one queue, lex them, and in the end send their
//! counts back through another. A shared total under a lock drives the progress line. The result is
//! checked against that of one process, and the times are compared.
//!
//! `cargo run --release --example index [--workers N] [--files N] [--root DIR]`

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use procession::queue::GetError;
use procession::sync::OwnerDied;
use procession::{Builder, JoinHandle, Lock, Queue, SharedBlock, arena};
use serde::{Deserialize, Serialize};

/// How many bytes of sources make a batch.
const BATCH: u64 = 256 * 1024;
const MOST_USED: usize = 15;

type Failure = Box<dyn Error>;

/// What was found in some files.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    files: u64,
    /// Files that are no UTF-8.
    skipped: u64,
    identifiers: u64,
    /// How often each identifier that is no keyword was used.
    names: HashMap<String, u64>,
}

impl Index {
    fn add_file(&mut self, path: &Path) -> u64 {
        let Ok(text) = std::fs::read_to_string(path) else {
            self.skipped += 1;
            return 0;
        };
        self.files += 1;
        let before = self.identifiers;
        for name in Identifiers::of(&text) {
            self.identifiers += 1;
            if KEYWORDS.binary_search(&name).is_ok() {
                continue;
            }
            match self.names.get_mut(name) {
                Some(uses) => *uses += 1,
                None => drop(self.names.insert(name.to_owned(), 1)),
            }
        }
        self.identifiers - before
    }

    fn add(&mut self, mut other: Self) {
        self.files += other.files;
        self.skipped += other.skipped;
        self.identifiers += other.identifiers;
        // The smaller goes into the larger.
        if self.names.len() < other.names.len() {
            std::mem::swap(&mut self.names, &mut other.names);
        }
        for (name, uses) in other.names {
            *self.names.entry(name).or_default() += uses;
        }
    }
}

/// In their order, for a binary search.
const KEYWORDS: [&str; 38] = [
    "Self", "as", "async", "await", "break", "const", "continue", "crate", "dyn", "else", "enum",
    "extern", "false", "fn", "for", "if", "impl", "in", "let", "loop", "match", "mod", "move",
    "mut", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true", "type",
    "unsafe", "use", "where", "while",
];

/// The identifiers in a Rust source, keywords among them; comments, strings, characters, lifetimes
/// and numbers are passed over.
struct Identifiers<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Identifiers<'t> {
    fn of(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'t [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// How long the word (identifier or number) is that begins here.
    fn word(&self) -> usize {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
        self.rest().iter().position(|byte| !is_part(byte)).unwrap_or(self.rest().len())
    }

    fn skip_line(&mut self) {
        let rest = self.rest();
        self.at += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        loop {
            match self.rest() {
                [b'/', b'*', ..] => (depth, self.at) = (depth + 1, self.at + 2),
                [b'*', b'/', ..] => (depth, self.at) = (depth - 1, self.at + 2),
                [_, ..] => self.at += 1,
                [] => return,
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips to behind an unescaped `quote`; the opening one has been passed.
    fn skip_quoted(&mut self, quote: u8) {
        while let [byte, ..] = self.rest() {
            self.at += match byte {
                b'\\' => 2.min(self.rest().len()),
                _ => 1,
            };
            if *byte == quote {
                return;
            }
        }
    }

    /// Skips a raw string from its `#`s or its quote on; a raw identifier is not skipped.
    fn skip_raw_string(&mut self) {
        let hashes = self.rest().iter().take_while(|&&byte| byte == b'#').count();
        if self.rest().get(hashes) != Some(&b'"') {
            self.at += hashes;
            return;
        }
        self.at += hashes + 1;
        let end = format!("\"{}", "#".repeat(hashes));
        let rest = self.rest();
        let length = rest.windows(end.len()).position(|window| window == end.as_bytes());
        self.at += length.map_or(rest.len(), |length| length + end.len());
    }

    /// Skips a character, or the quote and the name of a lifetime.
    fn skip_character_or_lifetime(&mut self) {
        self.at += 1;
        match self.rest() {
            [b'\\', ..] => self.skip_quoted(b'\''),
            _ => {
                let character = self.text[self.at..].chars().next().map_or(0, char::len_utf8);
                if self.rest().get(character) == Some(&b'\'') {
                    self.at += character + 1;
                } else {
                    self.at += self.word();
                }
            }
        }
    }
}

impl<'t> Iterator for Identifiers<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        loop {
            match self.rest() {
                [] => return None,
                [b'/', b'/', ..] => self.skip_line(),
                [b'/', b'*', ..] => self.skip_block_comment(),
                [b'"', ..] => {
                    self.at += 1;
                    self.skip_quoted(b'"');
                }
                [b'\'', ..] => self.skip_character_or_lifetime(),
                [byte, ..] if byte.is_ascii_digit() => self.at += self.word(),
                [byte, ..] if byte.is_ascii_alphabetic() || *byte == b'_' || *byte >= 0x80 => {
                    let word = &self.text[self.at..self.at + self.word()];
                    self.at += word.len();
                    match (word, self.rest()) {
                        ("r" | "br" | "cr", [b'"' | b'#', ..]) => self.skip_raw_string(),
                        ("b" | "c", [b'"', ..]) => {}
                        ("b", [b'\'', ..]) => {}
                        _ => return Some(word),
                    }
                }
                [_, ..] => self.at += 1,
            }
        }
    }
}

/// How much all workers have done: two numbers, changed under one lock.
#[derive(Clone, Serialize, Deserialize)]
struct SharedTotal {
    lock: Lock,
    numbers: SharedBlock,
}

impl SharedTotal {
    fn new() -> arena::Result<Self> {
        Ok(Self { lock: Lock::named("total")?, numbers: SharedBlock::named("total", 16)? })
    }

    /// Adds to both. If a worker dies while it adds, the total stays wrong. The comparison at the
    /// end shows that, and the worker's death is reported before.
    fn add(&self, files: u64, identifiers: u64) -> arena::Result<()> {
        let _guard = self.lock.lock().unwrap_or_else(OwnerDied::into_guard);
        self.numbers.write_u64(0, self.numbers.read_u64(0)? + files)?;
        self.numbers.write_u64(8, self.numbers.read_u64(8)? + identifiers)
    }

    /// The files and identifiers so far.
    fn glance(&self) -> arena::Result<(u64, u64)> {
        let _guard = self.lock.lock().unwrap_or_else(OwnerDied::into_guard);
        Ok((self.numbers.read_u64(0)?, self.numbers.read_u64(8)?))
    }
}

/// Progress: on a terminal one line that is overwritten, otherwise a line every tenth.
struct Display {
    label: String,
    files: u64,
    next_tenth: u64,
}

impl Display {
    fn new(label: String, files: usize) -> Self {
        Self { label, files: files as u64, next_tenth: 1 }
    }

    fn show(&mut self, done: u64, identifiers: u64) {
        let line =
            format!("{}: {done} of {} files, {identifiers} identifiers", self.label, self.files);
        if std::io::stdout().is_terminal() {
            print!("\r{line}");
            let _ = std::io::stdout().flush();
        } else if done * 10 >= self.next_tenth * self.files {
            println!("{line}");
            self.next_tenth = done * 10 / self.files.max(1) + 1;
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if std::io::stdout().is_terminal() {
            println!();
        }
    }
}

/// Files for one worker; an empty batch is the last.
type Batch = Vec<PathBuf>;

/// Batches of about the same size, the largest files first, so that no worker begins a large file
/// when the others are done.
fn batches_of(paths: &[PathBuf]) -> Vec<Batch> {
    let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let mut by_size: Vec<_> = paths.iter().map(|path| (size(path), path)).collect();
    by_size.sort_by_key(|&(size, _)| std::cmp::Reverse(size));
    let mut filled = 0;
    let full = |(size, _): &(u64, _), _: &(u64, &PathBuf)| {
        filled += size;
        let room = filled < BATCH;
        filled = if room { filled } else { 0 };
        room
    };
    let batches = by_size.chunk_by(full);
    batches.map(|batch| batch.iter().map(|(_, path)| path.to_path_buf()).collect()).collect()
}

/// A worker process: indexes batches until there is an empty one, and puts what it found.
fn work((batches, results, total): (Queue<Batch>, Queue<Index>, SharedTotal)) {
    let mut index = Index::default();
    loop {
        let batch = batches.get().expect("a batch");
        if batch.is_empty() {
            break;
        }
        for path in &batch {
            let identifiers = index.add_file(path);
            total.add(1, identifiers).expect("the total");
        }
    }
    results.put(index).expect("room for the result");
}

fn index_with_workers(paths: &[PathBuf], how_many: usize) -> Result<Index, Failure> {
    let (batches, results) = (Queue::named("batches", None)?, Queue::named("results", None)?);
    let total = SharedTotal::new()?;
    let mut workers = Vec::new();
    for number in 1..=how_many {
        let work_with = (batches.clone(), results.clone(), total.clone());
        let builder = Builder::new().name(format!("worker {number}")).daemon(true);
        workers.push(builder.spawn(work, work_with)?);
    }
    batches.put_many(batches_of(paths))?;
    batches.put_many(workers.iter().map(|_| Vec::new()))?;

    let mut index = Index::default();
    let mut display = Display::new(processes(how_many), paths.len());
    let mut missing = how_many;
    while missing > 0 {
        // Looked at before the queue: what a worker has put is there once it has ended.
        let all_ended = workers.iter().all(JoinHandle::is_finished);
        match results.get_timeout(Duration::from_millis(100)) {
            Ok(result) => {
                index.add(result);
                missing -= 1;
            }
            Err(GetError::Empty) if all_ended => break,
            Err(GetError::Empty) => workers = those_that_run(workers)?,
            Err(error) => return Err(error.into()),
        }
        let (done, identifiers) = total.glance()?;
        display.show(done, identifiers);
    }
    drop(display);
    for worker in workers {
        joined(worker)?;
    }
    if missing > 0 {
        return Err(format!("all workers ended, {missing} results missing").into());
    }
    if total.glance()? != (index.files + index.skipped, index.identifiers) {
        return Err("the shared total is not the sum of the results".into());
    }
    Ok(index)
}

/// The workers that have not ended; an error if any worker has died.
fn those_that_run(workers: Vec<JoinHandle<()>>) -> Result<Vec<JoinHandle<()>>, Failure> {
    let (ended, running): (Vec<_>, Vec<_>) = workers.into_iter().partition(JoinHandle::is_finished);
    ended.into_iter().try_for_each(joined)?;
    Ok(running)
}

fn joined(worker: JoinHandle<()>) -> Result<(), Failure> {
    let name = worker.name().to_owned();
    worker.join().map_err(|error| format!("{name} has died: {error}").into())
}

fn index_alone(paths: &[PathBuf]) -> Index {
    let mut index = Index::default();
    let mut display = Display::new("one process".to_owned(), paths.len());
    for (done, path) in paths.iter().enumerate() {
        index.add_file(path);
        display.show(done as u64 + 1, index.identifiers);
    }
    index
}

/// The `.rs` files of this workspace and of its dependencies, as cargo names them; only those of
/// the workspace if cargo can't be asked.
fn sources() -> Result<Vec<PathBuf>, Failure> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut roots = vec![workspace.clone()];
    match dependencies(&workspace) {
        Ok(dependencies) => roots.extend(dependencies),
        Err(why) => println!("note: only this workspace is indexed: cargo metadata: {why}"),
    }
    let mut files = BTreeSet::new();
    for root in roots {
        add_files(&root, &mut files)?;
    }
    Ok(files.into_iter().collect())
}

/// The directories of the packages that the workspace depends on.
fn dependencies(workspace: &Path) -> Result<Vec<PathBuf>, Failure> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        manifest_path: PathBuf,
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(workspace)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let directories = metadata
        .packages
        .into_iter()
        .filter_map(|package| package.manifest_path.parent().map(Path::to_path_buf));
    Ok(directories.filter(|directory| !directory.starts_with(workspace)).collect())
}

/// Adds the `.rs` files below a directory, except what was built.
fn add_files(directory: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), Failure> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && entry.file_name() != "target" && entry.file_name() != ".git" {
            add_files(&path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(path);
        }
    }
    Ok(())
}

fn processes(how_many: usize) -> String {
    format!("{how_many} process{}", if how_many == 1 { "" } else { "es" })
}

struct Arguments {
    workers: usize,
    files: usize,
    root: Option<PathBuf>,
}

impl Arguments {
    fn parse() -> Result<Self, Failure> {
        let workers = std::thread::available_parallelism()?.get();
        let mut parsed = Self { workers, files: usize::MAX, root: None };
        let mut texts = std::env::args().skip(1);
        while let Some(option) = texts.next() {
            let value = texts.next().ok_or_else(|| format!("{option} needs a value"))?;
            match &option[..] {
                "--workers" => parsed.workers = value.parse::<usize>()?.max(1),
                "--files" => parsed.files = value.parse()?,
                "--root" => parsed.root = Some(value.into()),
                _ => return Err(format!("{option} is none of --workers, --files, --root").into()),
            }
        }
        Ok(parsed)
    }
}

fn run() -> Result<(), Failure> {
    let arguments = Arguments::parse()?;
    let mut paths = match &arguments.root {
        Some(root) => {
            let mut files = BTreeSet::new();
            add_files(root, &mut files)?;
            files.into_iter().collect()
        }
        None => sources()?,
    };
    paths.truncate(arguments.files);
    if paths.is_empty() {
        return Err("there are no .rs files".into());
    }
    let many = processes(arguments.workers);

    // The workers go first, so that reading files for the first time is not to their advantage.
    let begun = Instant::now();
    let index = index_with_workers(&paths, arguments.workers)?;
    let with_workers = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let expected = index_alone(&paths);
    let alone = begun.elapsed().as_secs_f64();

    println!("\nfiles: {}\nskipped: {}", index.files, index.skipped);
    println!("identifiers: {}", index.identifiers);
    println!("\nnames: {}, the {MOST_USED} max used:", index.names.len());
    let mut by_use: Vec<_> = index.names.iter().collect();
    by_use.sort_by(|(a, uses_a), (b, uses_b)| uses_b.cmp(uses_a).then(a.cmp(b)));
    for (name, uses) in by_use.into_iter().take(MOST_USED) {
        println!("{uses:>9}  {name}");
    }
    println!("\none process: {alone:.2} s\n{many}: {with_workers:.2} s");
    println!("ratio: {:.2}", alone / with_workers);
    if index != expected {
        return Err(format!("{many} did not count the same as one process").into());
    }
    println!("{many} counted the same as one process");
    Ok(())
}

fn main() -> ExitCode {
    procession::init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("index: {error}");
            ExitCode::FAILURE
        }
    }
}
