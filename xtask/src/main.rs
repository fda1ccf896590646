//! The project tasks.
mod plugins;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

/// The project tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds the first-party plugins into `plugins/*.wasm`.
    Plugins(plugins::Arguments),
}

fn main() -> anyhow::Result<()> {
    let root: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default();
    match Arguments::parse().task {
        Task::Plugins(arguments) => plugins::run(&root, arguments),
    }
}
