//! The `gristmill` binary: the leaf that knows every crate. It reads the command line, wires adapters and the plugin host to
//! the engine, watches the folders, and shows what is happening.

#[macro_use]
mod output;

mod admin;
mod assemble;
mod cli;
mod commands;
mod excerpt;
mod files;
mod report;
mod settings;
mod telemetry;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, NewCommand, PluginCommand};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(arguments) => commands::run::run(&arguments),
        Command::Validate(arguments) => commands::validate::validate(&arguments),
        Command::Plugin(PluginCommand::Inspect(arguments)) => commands::inspect::inspect(&arguments),
        Command::Schema(arguments) => commands::schema::schema(&arguments),
        Command::New(NewCommand::Flow(arguments)) => commands::new::flow(&arguments),
        Command::New(NewCommand::Plugin(arguments)) => commands::new::plugin(&arguments),
    };
    result.unwrap_or_else(|problem| {
        report::problem(&problem);
        ExitCode::FAILURE
    })
}
