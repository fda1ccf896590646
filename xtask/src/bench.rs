//! `cargo xtask bench`: builds the runtime, the bench and its plugins as they are released, and measures.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::builder::PossibleValuesParser;

use crate::{binary, brokers, plugins};

/// The arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The cases [default: all]
    #[arg(value_parser = PossibleValuesParser::new(CASES.lines()))]
    cases: Vec<String>,
    /// Fewer and shorter rounds: within ten minutes for all cases.
    #[arg(long)]
    quick: bool,
    /// Writes what was measured as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the plots, as SVG, into this folder.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

/// The names of all cases, a line each: known here, a wrong one is told before everything is built.
const CASES: &str = include_str!("../../tests/bench/cases.txt");

/// The cases that want brokers.
const WITH_BROKERS: [&str; 3] = ["amqp", "mqtt", "queue"];

/// Runs `cargo xtask bench`.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    if arguments.cases.is_empty() || arguments.cases.iter().any(|it| WITH_BROKERS.contains(&it.as_str())) {
        brokers::install_brokers()?;
    }
    // Together, so that what they depend on is compiled once, with the features of all.
    let packages = ["gristmill", "gristmill-bench", "bench-counting"];
    let build = ["build", "--release"].into_iter().chain(packages.iter().flat_map(|it| ["--package", it]));
    let gristmill = binary::build(root, &build.collect::<Vec<_>>())?;
    let plugins = guests(root, gristmill.with_file_name("bench-plugins"))?;

    let mut bench = Command::new(gristmill.with_file_name("gristmill-bench"));
    bench.arg("measure").args(&arguments.cases);
    if arguments.quick {
        bench.arg("--quick");
    }
    if let Some(file) = &arguments.json {
        bench.arg("--json").arg(file);
    }
    if let Some(folder) = &arguments.plots {
        bench.arg("--plots").arg(folder);
    }
    // It has the place of functions of this C library.
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        bench.arg("--counting").arg(gristmill.with_file_name("libbench_counting.so"));
    }
    let status = bench
        .arg("--plugins")
        .arg(&plugins)
        .arg("--gristmill")
        .arg(&gristmill)
        .status()
        .context("cannot run the bench")?;
    ensure!(status.success(), "the bench failed, see above");
    Ok(())
}

/// Builds the plugins of the bench into a folder.
pub(crate) fn guests(root: &Path, out: PathBuf) -> Result<PathBuf> {
    let guests = ["all-headers", "rename", "set-header"]
        .map(|guest| root.join("tests/bench/guests").join(guest))
        .to_vec();
    let options = plugins::Options { route: None, guests, out };
    plugins::build(root, &options)?;
    Ok(options.out)
}
