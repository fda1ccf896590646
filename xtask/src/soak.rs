//! `cargo xtask soak`: builds the runtime and the delivery bench, and lets the bench break everything around the runtime for
//! as long as wanted.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{binary, brokers};

/// The arguments of `cargo xtask soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// For how many minutes scenarios are begun.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Where all chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this pair: `amqp:file`, or two sinks: `http:amqp+file` [default: all]
    #[arg(long)]
    pair: Option<String>,
    /// One scenario with just this seed, as a failure names it; needs `--pair`.
    #[arg(long, requires = "pair")]
    once: bool,
    /// Only what must not repeat anything: reloads, SIGTERM, slow plugins, jumps of the clock.
    #[arg(long)]
    calm: bool,
    /// How many seconds faults are begun in a scenario.
    #[arg(long)]
    seconds: Option<u64>,
    /// Messages a second.
    #[arg(long)]
    rate: Option<u64>,
    /// The runtime as it is released; it takes longer to build.
    #[arg(long)]
    release: bool,
    /// Writes the table as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs `cargo xtask soak`.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    brokers::install()?;
    let mut build = vec!["build", "--package", "gristmill", "--package", "gristmill-delivery", "--bins"];
    build.extend(arguments.release.then_some("--release"));
    let gristmill = binary::build(root, &build)?;
    let mut soak = Command::new(gristmill.with_file_name("soak"));
    soak.arg("--gristmill").arg(&gristmill);
    soak.arg("--minutes").arg(arguments.minutes.to_string());
    soak.arg("--seed").arg(arguments.seed.to_string());
    if let Some(pair) = &arguments.pair {
        soak.arg("--pair").arg(pair);
    }
    for (flag, wanted) in [("--once", arguments.once), ("--calm", arguments.calm)] {
        soak.args(wanted.then_some(flag));
    }
    for (name, value) in [("--seconds", arguments.seconds), ("--rate", arguments.rate)] {
        if let Some(value) = value {
            soak.arg(name).arg(value.to_string());
        }
    }
    if let Some(file) = &arguments.json {
        soak.arg("--json").arg(file);
    }
    let status = soak.status().context("cannot run the delivery bench")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("a promise did not hold, see above"),
        _ => bail!("the delivery bench could not be run, see above"),
    }
}
