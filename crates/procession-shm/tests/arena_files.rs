//! The files of the arena use each other in one direction.
//!
//! A file depends on another if it names it in a path, or if it calls a method that the other
//! defines in an `impl Arena`. What a `mod.rs` exports for its children is no dependency of its
//! own: a path to such a name leads to the child.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The text of each file, by its path within the folder, without the extension.
type Files = BTreeMap<String, String>;
/// For each file those that it uses, each with a name by which it does.
type Uses = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn no_file_of_the_arena_is_used_by_one_that_it_uses() {
    let mut files = Files::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/arena"), "", &mut files);
    let uses = uses(&files);
    for (user, used) in [("recovery", "objects"), ("heap/free", "heap/lock"), ("mod", "recovery")] {
        assert!(uses[user].contains_key(used), "{user} uses {used}, which was not found");
    }
    assert_eq!(circle(&uses), None);
}

#[test]
fn a_circle_is_found_by_paths_and_by_methods() {
    let row = "use super::family::{Arena, Slot};";
    let family = "struct Arena; impl Row { fn load(&self) {} }";
    let with = |family: &str, last: &str| {
        let named = [("mod", "pub use row::Row;"), ("row", row), ("family", family), ("top", last)];
        circle(&uses(&named.map(|(name, text)| (name.to_owned(), text.to_owned())).into()))
    };
    assert_eq!(with(family, "use super::Row;"), None);
    let by_path = with("use super::Row;\nstruct Arena;", "");
    assert_eq!(by_path.as_deref(), Some("family (Row) → row (Arena) → family"));
    let caller = "impl Arena {\n    fn me(&self) {\n        self\n            .end(1)\n    }\n}\n";
    let by_method =
        with(caller, "impl Arena {\n    pub fn end(&self) {\n        self.me();\n    }\n}\n");
    assert_eq!(by_method.as_deref(), Some("family (end) → top (me) → family"));
}

fn read(folder: &Path, prefix: &str, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_stem().unwrap().to_str().unwrap());
        if path.is_dir() {
            read(&path, &format!("{name}/"), files);
        } else if !name.ends_with("tests") {
            files.insert(name, fs::read_to_string(path).unwrap());
        }
    }
}

/// The text without comments, tests and line breaks before a dot.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut code = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        if !line.trim_start().starts_with('.') {
            code.push('\n');
            code.push_str(line);
        } else {
            code.push_str(line.trim_start());
        }
    }
    code
}

/// The modules that lead to a file.
fn module(file: &str) -> Vec<&str> {
    file.split('/').filter(|part| *part != "mod").collect()
}

/// A path with braces as paths without.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let rest = rest.strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, sign) in rest.char_indices().chain([(rest.len(), ',')]) {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branches = paths(&rest[start..at]);
                found.extend(
                    branches.iter().filter(|it| !it.is_empty()).map(|it| format!("{prefix}{it}")),
                );
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The paths of `use` statements, and whether each is one that exports.
fn imports(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rsplit('\n').next().unwrap_or_default();
        if (line.is_empty() || line.starts_with("pub"))
            && let Some(end) = code[at..].find(';')
        {
            let tree = code[at + 4..at + end].split_whitespace().collect::<String>();
            found.extend(paths(&tree).into_iter().map(|path| (line.starts_with("pub"), path)));
        }
    }
    found
}

/// The path from the arena's own module on; `None` if it leads elsewhere.
fn absolute(file: &str, path: &str) -> Option<Vec<String>> {
    let mut at: Vec<String> = module(file).into_iter().map(str::to_owned).collect();
    let mut parts = path.split("::").peekable();
    match *parts.peek()? {
        "crate" => {
            parts.next();
            at.clear();
            (parts.next()? == "arena").then_some(())?;
        }
        "super" => {}
        // A child, in the file of its parent.
        _ if file.ends_with("mod") => {}
        _ => return None,
    }
    while parts.next_if_eq(&"super").is_some() {
        at.pop()?;
    }
    at.extend(parts.filter(|part| *part != "self").map(str::to_owned));
    Some(at)
}

/// The file that a path leads to.
fn file_of(path: &[String], files: &Files, exports: &BTreeMap<Vec<String>, Vec<String>>) -> String {
    let mut path = path.to_vec();
    while let Some(origin) = exports.get(&path).filter(|origin| **origin != path) {
        path = origin.clone();
    }
    (0..=path.len())
        .rev()
        .flat_map(|len| {
            let module = path[..len].join("/");
            [format!("{module}/mod").trim_start_matches('/').to_owned(), module]
        })
        .find(|file| files.contains_key(file))
        .expect("mod.rs is a file")
}

fn is_part_of_name(sign: char) -> bool {
    sign.is_alphanumeric() || sign == '_'
}

fn name_at(text: &str) -> &str {
    text.split(|sign| !is_part_of_name(sign)).next().unwrap_or_default()
}

/// The names that follow a text in the code, where that text is not the end of a longer name and
/// arguments follow.
fn functions_after<'a>(code: &'a str, text: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(text)
        .filter(|(at, _)| !code[..*at].ends_with(is_part_of_name))
        .map(move |(at, _)| &code[at + text.len()..])
        .map(|rest| (name_at(rest), &rest[name_at(rest).len()..]))
        .filter(|(_, rest)| ["(", "<", "::<"].iter().any(|start| rest.starts_with(start)))
        .map(|(name, _)| name)
}

/// The blocks of a file that implement the arena; those of traits with `with_traits`.
fn blocks_of_arena(code: &str, with_traits: bool) -> impl Iterator<Item = &str> {
    code.split("\nimpl ").skip(1).filter_map(move |rest| {
        let head = rest.split('{').next()?.trim();
        let is_meant = head == "Arena" || with_traits && head.ends_with(" for Arena");
        is_meant.then(|| rest.split("\n}").next()).flatten()
    })
}

fn uses(files: &Files) -> Uses {
    let codes: Files = files.iter().map(|(name, text)| (name.clone(), code(text))).collect();
    let mut exports = BTreeMap::new();
    let mut methods = BTreeMap::new();
    for (file, code) in &codes {
        for (exported, path) in imports(code) {
            let name = path.rsplit("::").next().unwrap_or_default().to_owned();
            if let Some(path) = absolute(file, &path).filter(|_| exported) {
                let place = module(file).into_iter().map(str::to_owned).chain([name]).collect();
                exports.insert(place, path);
            }
        }
        for block in blocks_of_arena(code, false) {
            methods.extend(functions_after(block, "fn ").map(|name| (name, file.as_str())));
        }
    }
    let mut uses = Uses::new();
    for (file, code) in &codes {
        let used = uses.entry(file.clone()).or_default();
        let mut add = |other: &str, name: &str| {
            if other != file {
                used.entry(other.to_owned()).or_insert_with(|| name.to_owned());
            }
        };
        let mut all: Vec<String> = imports(code)
            .into_iter()
            .filter_map(|(exported, path)| (!exported).then_some(path))
            .collect();
        for start in ["super::", "crate::arena::"] {
            let inline = code.match_indices(start).filter(|(at, _)| !code[..*at].ends_with("::"));
            // One that ends with braces is of an import.
            all.extend(inline.filter_map(|(at, _)| {
                let end = |sign: char| !is_part_of_name(sign) && sign != ':';
                let path = code[at..].split(end).next().unwrap_or_default();
                (!path.ends_with("::")).then(|| path.to_owned())
            }));
        }
        for path in all.iter().filter_map(|path| absolute(file, path)) {
            if let Some(name) = path.last() {
                add(&file_of(&path, files, &exports), name);
            }
        }
        let mut calls: BTreeSet<&str> = BTreeSet::new();
        for block in blocks_of_arena(code, true) {
            calls.extend(functions_after(block, "self."));
            calls.extend(functions_after(block, "Self::"));
        }
        for start in ["arena.", "self.arena.", "Arena::"] {
            calls.extend(functions_after(code, start));
        }
        for name in calls {
            if let Some(other) = methods.get(name) {
                add(other, name);
            }
        }
    }
    uses
}

/// Files of which each uses the next, and the last the first.
fn circle(uses: &Uses) -> Option<String> {
    fn follow<'a>(
        uses: &'a Uses,
        file: &'a str,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        if let Some(start) = way.iter().position(|other| *other == file) {
            way.push(file);
            let steps = way[start..].windows(2);
            let named = steps.map(|pair| format!("{} ({})", pair[0], uses[pair[0]][pair[1]]));
            let mut named: Vec<String> = named.collect();
            named.push(file.to_owned());
            return Some(named.join(" → "));
        }
        if !done.insert(file) {
            return None;
        }
        way.push(file);
        let found = uses[file].keys().find_map(|next| follow(uses, next, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|file| follow(uses, file, &mut Vec::new(), &mut done))
}
