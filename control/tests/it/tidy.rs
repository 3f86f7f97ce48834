//! What a program can check of .github/CONTRIBUTING.md, so that `cargo test` is the whole gate.

use std::fs;
use std::path::{Path, PathBuf};

/// The only file that may hold unsafe code.
const UNSAFE: &str = "proxy/src/sys.rs";
/// Files may grow to this; most should be a third of it.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("control lies in the workspace").to_path_buf()
}

/// Every Rust file of the project with its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["config", "filters", "proxy", "control", "e2e"].iter().map(|name| root().join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((relative, fs::read_to_string(&path).expect("a source file")));
            }
        }
    }
    assert!(found.len() > 40, "the sources were not found");
    found.sort();
    found
}

/// Fails with all of them at once.
fn none(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn each_file_opens_by_saying_what_it_is() {
    let offenders = sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path);
    none("a file opens with //!", offenders.collect());
}

#[test]
fn unsafe_code_stays_in_one_file() {
    // Built from pieces, so that this file does not find itself.
    let words = [["unsafe", " {"].concat(), ["unsafe", " fn"].concat(), ["allow(", "unsafe_code"].concat()];
    let offenders = sources()
        .into_iter()
        .filter(|(path, text)| path != UNSAFE && words.iter().any(|word| text.contains(word)))
        .map(|(path, _)| path);
    none("unsafe code outside proxy::sys", offenders.collect());
}

#[test]
fn files_hold_one_idea_each() {
    let long = |(path, text): (String, String)| {
        let lines = text.lines().count();
        (lines > LINES_MAX).then(|| format!("{path}: {lines} lines"))
    };
    none("files too long to be one idea", sources().into_iter().filter_map(long).collect());
}

#[test]
fn decisions_take_the_time_as_an_argument() {
    let clocks = ["Instant::now", "SystemTime::now", "thread::sleep", "Timestamp::now"];
    let offenders = sources().into_iter().filter(|(path, text)| {
        let pure =
            path.starts_with("config/src") || path.starts_with("filters/src") || path.starts_with("proxy/src/h1");
        pure && clocks.iter().any(|clock| text.contains(clock))
    });
    none("a clock inside a decision", offenders.map(|(path, _)| path).collect());
}

#[test]
fn only_the_binary_sees_both_sides() {
    let offenders = sources().into_iter().filter(|(path, text)| {
        let edge = path == "control/src/main.rs" || path.starts_with("control/src/cli/");
        path.starts_with("control/src/") && !edge && text.contains("proxy::")
    });
    none("control names proxy outside its binary", offenders.map(|(path, _)| path).collect());
}

#[test]
fn pure_crates_know_no_runtime_and_no_socket() {
    let mut offenders = Vec::new();
    for name in ["config", "filters"] {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
        for word in ["tokio", "rustix", "libc", "hyper"] {
            if manifest.contains(word) {
                offenders.push(format!("{name} depends on {word}"));
            }
        }
    }
    none("config and filters are free of runtimes and sockets", offenders);
}

#[test]
fn each_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let table = manifest.split("[workspace.dependencies]").nth(1).expect("the table");
    let table = table.split("\n[").next().expect("the table's end");
    let offenders = table
        .lines()
        .filter(|line| line.contains('=') && !line.contains('#') && !line.contains("path ="))
        .map(str::to_owned);
    none("dependencies without a reason", offenders.collect());
}
