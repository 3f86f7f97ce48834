//! The binary under test. A test of package `control` gets it from cargo, built with everything else; a program of
//! `e2e` builds it, in its own profile. Cold.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The path of `evenkeel`.
pub fn evenkeel() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(built) = std::env::var_os("CARGO_BIN_EXE_evenkeel") {
            return built.into();
        }
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--quiet", "-p", "control", "--bin", "evenkeel", "--message-format", "json"]);
        if !cfg!(debug_assertions) {
            command.arg("--release");
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e is a member of a workspace");
        let output = command.current_dir(root).stdin(Stdio::null()).output().expect("cargo can be started");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "evenkeel does not build:\n{stderr}");
        let messages = String::from_utf8_lossy(&output.stdout);
        let executable =
            |line: &str| serde_json::from_str::<Value>(line).ok()?["executable"].as_str().map(PathBuf::from);
        messages.lines().find_map(executable).expect("cargo names the executable")
    })
}
