//! `evenkeel completion`: what a shell completes after `evenkeel`. Cold.

use std::process::ExitCode;

use crate::cli::output::print;

/// For which shell.
#[derive(clap::Args)]
pub struct CompletionArgs {
    /// Such as bash: evenkeel completion bash > /etc/bash_completion.d/evenkeel
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(args: CompletionArgs, mut command: clap::Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "evenkeel", &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
