//! Style rules that clippy cannot express. Each rule is one function from a file to its problems; the crate arrows are beside, in
//! `arrows.rs`. It reads the files that git tracks and changes nothing, except `--bless`, which lowers `xtask/lengths.txt`.

use crate::arrows;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Production lines (those before the file's `#[cfg(test)]` module) a file may have without being on the list of debts.
const LINES_ALLOWED: usize = 400;
/// Files longer than that, with the length they had when they were last looked at. Numbers only go down.
const DEBTS: &str = "xtask/lengths.txt";

/// Every rule over every file; the problems found, as `path: what`.
pub fn run(root: &Path, bless: bool) -> Vec<String> {
    let mut problems = match metadata(root) {
        Ok(metadata) => arrows::problems(&metadata),
        Err(why) => vec![why],
    };
    let paths = match tracked_files(root) {
        Ok(paths) => paths,
        Err(why) => return vec![why],
    };
    let mut lengths = BTreeMap::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        problems.extend(machine_paths(&path, &text));
        if path.ends_with(".rs") {
            problems.extend(head(&path, &text));
            lengths.insert(path, production_lines(&text));
        } else if path.ends_with("Cargo.toml") {
            problems.extend(shared_lints(&path, &text));
        }
    }
    let debts = read_debts(&fs::read_to_string(root.join(DEBTS)).unwrap_or_default());
    if bless {
        let lowered = lowered(&debts, &lengths);
        if let Err(error) = fs::write(root.join(DEBTS), lowered) {
            problems.push(format!("{DEBTS}: {error}"));
        }
    } else {
        problems.extend(length_problems(&debts, &lengths));
    }
    problems
}

fn metadata(root: &Path) -> Result<serde_json::Value, String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

fn tracked_files(root: &Path) -> Result<Vec<String>, String> {
    let listed = Command::new("git").args(["ls-files"]).current_dir(root).output();
    match listed {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
        }
        // A release archive has no git directory: walk the folders instead.
        _ => {
            let mut found = Vec::new();
            walk(root, root, &mut found).map_err(|error| format!("cannot list the files: {error}"))?;
            Ok(found)
        }
    }
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !matches!(name, "target" | ".git" | "node_modules") {
            walk(root, &path, found)?;
        } else if let (true, Ok(inside)) = (path.is_file(), path.strip_prefix(root)) {
            found.push(inside.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// Each Rust file begins by saying what it is about.
fn head(path: &str, text: &str) -> Option<String> {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    let has_head = first.is_some_and(|line| line.starts_with("//!"));
    (!has_head).then(|| format!("{path}: the first line must be a `//!` head that says what the file is about"))
}

/// Paths of the machine a file was written on.
fn machine_paths(path: &str, text: &str) -> Option<String> {
    let marks = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/Use", "rs/")];
    let (number, line) = text.lines().enumerate().find(|(_, line)| marks.iter().any(|mark| line.contains(mark)))?;
    Some(format!("{path}:{}: a path of somebody's machine: {}", number + 1, line.trim()))
}

/// Each crate takes the workspace's lints.
fn shared_lints(path: &str, text: &str) -> Option<String> {
    let is_package = text.contains("[package]") && !text.contains("[workspace]");
    let shared = text.contains("[lints]\nworkspace = true");
    (is_package && !shared).then(|| format!("{path}: add `[lints] workspace = true`"))
}

fn production_lines(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

fn read_debts(text: &str) -> BTreeMap<String, usize> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(lines, path)| Some((path.to_owned(), lines.parse().ok()?))).collect()
}

fn length_problems(debts: &BTreeMap<String, usize>, lengths: &BTreeMap<String, usize>) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, &lines) in lengths {
        let allowed = debts.get(path).copied().unwrap_or(LINES_ALLOWED);
        if lines > allowed {
            problems.push(format!(
                "{path}: {lines} production lines, {allowed} allowed; move a part into a file of its own, or add it to {DEBTS} with a reason in the commit"
            ));
        } else if debts.contains_key(path) && lines <= LINES_ALLOWED {
            problems.push(format!("{path}: no longer too long, well done; run `cargo xtask tidy --bless`"));
        }
    }
    let gone = debts.keys().filter(|path| !lengths.contains_key(*path));
    problems.extend(gone.map(|path| format!("{DEBTS}: {path} is gone; run `cargo xtask tidy --bless`")));
    problems
}

/// The debts with every number lowered to today's length, the paid ones left out.
fn lowered(debts: &BTreeMap<String, usize>, lengths: &BTreeMap<String, usize>) -> String {
    let still = debts.iter().filter_map(|(path, &allowed)| {
        let today = lengths.get(path).copied().unwrap_or(0).min(allowed);
        (today > LINES_ALLOWED).then(|| format!("{today} {path}\n"))
    });
    still.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, usize)]) -> BTreeMap<String, usize> {
        rows.iter().map(|(path, lines)| ((*path).to_owned(), *lines)).collect()
    }

    #[test]
    fn a_file_needs_a_head() {
        assert_eq!(head("a.rs", "//! About.\nfn a() {}\n"), None);
        assert_eq!(head("a.rs", "#![allow(x)]\n\n//! About.\n"), None);
        assert!(head("a.rs", "use b;\n//! late\n").is_some());
        assert!(head("a.rs", "").is_some());
    }

    #[test]
    fn machine_paths_are_found_with_their_line() {
        let bad = format!("fine\nopen(\"/wo{}\")", "rk/x");
        assert!(machine_paths("a.md", &bad).unwrap().starts_with("a.md:2:"));
        assert_eq!(machine_paths("a.md", "~/store and /var/lib/x"), None);
    }

    #[test]
    fn tests_do_not_count_as_length() {
        assert_eq!(production_lines("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
    }

    #[test]
    fn lengths_only_shrink() {
        let debts = read_debts("900 long.rs\n500 gone.rs\n700 paid.rs\n");
        let lengths = table(&[("long.rs", 850), ("paid.rs", 300), ("new.rs", 401), ("small.rs", 10)]);
        let problems = length_problems(&debts, &lengths);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert_eq!(lowered(&debts, &lengths), "850 long.rs\n");
        assert_eq!(lowered(&read_debts("900 long.rs"), &table(&[("long.rs", 950)])), "900 long.rs\n", "never up");
    }
}
