//! Makes sure that a program of the operating system is there, or says exactly how to get it. Which programs a
//! measurement needs is the measurement's business. Cold.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{Because, Failure, Outcome};

/// The path of `program`. Where it is missing, root installs its Debian package; anybody else gets the line to run.
pub fn need(program: &str) -> Outcome<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    let package = package_of(program);
    let line = format!("apt-get update && apt-get install -y --no-install-recommends {package}");
    if !rustix::process::geteuid().is_root() || find("apt-get").is_none() {
        return Err(Failure(format!("`{program}` is not installed; as root, run: {line}")));
    }
    eprintln!("installing {package}, which has `{program}`");
    update_once().and_then(|()| apt_get(&["install", "-y", "-q", "--no-install-recommends", package]))?;
    find(program)
        .ok_or_else(|| Failure(format!("package {package} is installed but has no `{program}`; as root, run: {line}")))
}

/// The Debian package that has a program, where the two names differ.
fn package_of(program: &str) -> &str {
    match program {
        "nginx" => "nginx-light",
        "h2load" | "nghttp" | "nghttpd" => "nghttp2-client",
        "python3" => "python3-venv",
        "node" => "nodejs",
        "perf" => "linux-perf",
        "readelf" => "binutils",
        other => other,
    }
}

fn find(program: &str) -> Option<PathBuf> {
    // Daemons lie in sbin, which the path of ordinary users lacks.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}

/// The lists of packages are fetched once in the life of the process, and a failure is remembered.
fn update_once() -> Outcome<()> {
    static UPDATED: OnceLock<Result<(), String>> = OnceLock::new();
    UPDATED.get_or_init(|| apt_get(&["update", "-q"]).map_err(|failure| failure.0)).clone().map_err(Failure)
}

fn apt_get(arguments: &[&str]) -> Outcome<()> {
    let line = format!("apt-get {}", arguments.join(" "));
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .because(|| line.clone())?;
    if status.success() { Ok(()) } else { Err(Failure(format!("{line}: {status}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_exists_is_found_with_its_path() {
        assert!(need("sh").expect("every Debian has sh").is_absolute());
    }

    #[test]
    fn packages_are_named_by_their_program_except_a_few() {
        assert_eq!(package_of("haproxy"), "haproxy");
        assert_eq!(package_of("nginx"), "nginx-light");
        assert_eq!(package_of("h2load"), "nghttp2-client");
    }
}
