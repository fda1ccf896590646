//! The project tasks: `cargo xtask <task>`. A task is a module and a line of each match here.

mod apt;
mod bench;
mod binary;
mod brokers;
mod demo;
mod example;
mod instructions;
mod plugins;
mod soak;
mod story;
mod test;
mod wait;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

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
    /// Measures how fast Gristmill is, each figure beside a floor.
    Bench(bench::Arguments),
    /// Starts the flows, sends real input through them, and shows what came out where.
    Demo(demo::Arguments),
    /// Starts an example with the brokers that it needs, and shows what comes out of it.
    Example(example::Arguments),
    /// Counts the instructions of a plugin call and of a delivery, and fails when they have become more.
    Instructions(instructions::Arguments),
    /// Builds the first-party plugins into `plugins/*.wasm`.
    Plugins(plugins::Arguments),
    /// Breaks everything around the runtime for a long time, and counts what came out.
    Soak(soak::Arguments),
    /// Checks everything: format, lints, unit tests, contract suites, end-to-end tests, the demo, the example, instruction
    /// counts.
    Test(test::Arguments),
}

fn main() -> ExitCode {
    let root: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default();
    let done = match Arguments::parse().task {
        Task::Bench(arguments) => bench::run(&root, &arguments),
        Task::Demo(arguments) => demo::run(&root, arguments),
        Task::Example(arguments) => example::run(&root, &arguments),
        Task::Instructions(arguments) => instructions::run(&root, &arguments),
        Task::Plugins(arguments) => plugins::run(&root, arguments),
        Task::Soak(arguments) => soak::run(&root, &arguments),
        Task::Test(arguments) => test::run(&root, arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("\nerror: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

/// The cargo that runs this task.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
