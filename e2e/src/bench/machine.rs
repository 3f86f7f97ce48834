//! Says on what machine, with which versions and by which command a run was made: without that its figures mean
//! nothing. Cold.

use std::fmt::Write;
use std::fs;

use super::Installed;
use crate::peers;

/// A few lines of Markdown.
pub(crate) fn describe(installed: &[Installed]) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches(['\t', ' ', ':']).trim_end());
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let release = read("/etc/os-release");
    let system = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown");
    let mut text = format!(
        "- machine: {count} × {model}, Linux {}, {}; the proxy has CPU 0, generator and backend share CPU 1\n",
        kernel.trim(),
        system.trim_matches('"'),
    );
    for installed in installed {
        writeln!(text, "- {}: {}", installed.kind.name(), peers::version(installed.kind, &installed.program))
            .expect("a String takes all");
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    writeln!(text, "- command: `cargo run --release -p e2e -- {}`", arguments.join(" ")).expect("a String takes all");
    text
}
