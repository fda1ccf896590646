//! How fast Gristmill is. Run it by `cargo xtask bench`, which builds what it needs.
//!
//! A case ([`case`]) measures something of ours in alternating rounds with a floor, which is the best that the same machine does
//! without us ([`stats`]), and gives rows of a table ([`report`]). What a floor leaves out is what we are asked to be cheap
//! at; `docs/performance.md` says for each what that is.

mod allocations;
mod amqp;
mod case;
mod counter;
mod engine;
mod file_lines;
mod floors;
mod forwarding;
mod gateway;
mod growth;
mod http;
mod idle;
mod in_process;
mod load;
mod machine;
mod mqtt;
mod plot;
mod plugin_call;
mod plugins;
mod queue;
mod reload;
mod report;
mod start;
mod stats;
mod subject;
mod work;

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use gristmill_mill::plugin::{PLUGINS, check};
use gristmill_wasm::{WasmHost, WasmHostConfig};

use crate::{
    case::{CASES, Case, Effort, Setup},
    machine::Others,
    report::Report,
};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// How fast Gristmill is, each figure beside a floor.
#[derive(Parser)]
#[command(name = "gristmill-bench")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measures.
    Measure(Measure),
    /// Is a floor that takes messages from files or a broker and puts them back there, until it is killed.
    #[command(subcommand)]
    Floor(floors::Floor),
    /// Is the floor of the case `http`: a server that does the same work natively.
    ServeFloor {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// Is the floor of the case `gateway`: sends every request on.
    ServeForwarder {
        /// Where it listens.
        listen: SocketAddr,
        /// Where it sends them.
        upstream: SocketAddr,
    },
    /// Is the floor of the case `start`: ends at once.
    DoNothing,
    /// Is the upstream of the case `gateway`: answers with what it was sent.
    ServeEcho {
        /// Where it listens.
        listen: SocketAddr,
    },
}

/// What is measured, and with what.
#[derive(clap::Args)]
struct Measure {
    /// The cases [default: all]
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
    /// The folder of the bench's plugins.
    #[arg(long, value_name = "DIR")]
    plugins: PathBuf,
    /// The binary `gristmill`.
    #[arg(long, value_name = "FILE")]
    gristmill: PathBuf,
    /// The library that counts how often a process asks for memory. Without it, that is not told of processes.
    #[arg(long, value_name = "FILE")]
    counting: Option<PathBuf>,
}

/// From which share of the processors on other processes are worth a remark.
const NOTICEABLE: f64 = 0.05;

fn main() -> Result<()> {
    let task = Arguments::parse().task;
    if !matches!(task, Task::Measure(_)) {
        allocations::exempt_this_process();
    }
    match task {
        Task::Measure(measure) => run(&measure),
        Task::Floor(floor) => floor.run(),
        Task::ServeFloor { listen } => http::serve_floor(listen),
        Task::ServeForwarder { listen, upstream } => gateway::serve_forwarder(listen, upstream),
        Task::DoNothing => Ok(()),
        Task::ServeEcho { listen } => gateway::serve_echo(listen),
    }
}

/// Makes sure that what is measured does what it has to. Cases that see no answers rely on it.
fn check_plugins(setup: &Setup) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let host = WasmHost::new(WasmHostConfig::new(&setup.plugins))?;
    runtime.block_on(async {
        for plugin in PLUGINS {
            check(&host, plugin).await?;
        }
        Ok(())
    })
}

/// Makes sure that a file can be written, and leaves what is in it: the bench may be interrupted.
fn check_writable(file: &Path) -> Result<()> {
    let opened = OpenOptions::new().append(true).create(true).open(file);
    opened.map(drop).with_context(|| format!("cannot write {}", file.display()))
}

fn run(arguments: &Measure) -> Result<()> {
    let cases = chosen(&arguments.cases)?;
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    // A child process has another working directory.
    let absolute = |path: &PathBuf| path.canonicalize().with_context(|| format!("no {}", path.display()));
    let setup = Setup {
        plugins: absolute(&arguments.plugins)?,
        gristmill: absolute(&arguments.gristmill)?,
        counting: arguments.counting.as_ref().map(absolute).transpose()?,
        effort,
    };
    let mut report = Report {
        processors: machine::processors().len(),
        quick: arguments.quick,
        rounds: effort.rounds,
        rows: Vec::new(),
        costs: Vec::new(),
        plots: Vec::new(),
        remarks: Vec::new(),
    };
    check_plugins(&setup)?;
    // What cannot be written is better known now than when everything has been measured.
    if let Some(file) = &arguments.json {
        check_writable(file)?;
    }
    if let Some(folder) = &arguments.plots {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let others = Others::watch()?;
    let mut failed = Vec::new();
    for case in cases {
        eprintln!("{}: {}", case.name, case.summary);
        // What the others measured took minutes, and is told all the same.
        if let Err(error) = (case.run)(&setup, &mut report) {
            eprintln!("{}: failed: {error:?}", case.name);
            report.remarks.push(format!("{}: failed: {error:#}", case.name));
            failed.push(case.name);
        }
    }
    let others = others.share()?;
    if others > NOTICEABLE {
        report.remarks.push(format!(
            "other processes used {:.0} % of the processors: times of calls and processor times still tell, rates and latencies do not",
            others * 100.0
        ));
    }
    if arguments.plots.is_some() && report.plots.is_empty() {
        report.remarks.push("nothing was drawn: no case that was measured has a plot (`growth` has)".into());
    }
    println!("{}", report.table());
    if let Some(file) = &arguments.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(folder) = &arguments.plots {
        for plot in &report.plots {
            plot.draw(folder)?;
        }
    }
    ensure!(failed.is_empty(), "not measured to their end: {}", failed.join(", "));
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Case>> {
    for name in names {
        if !CASES.iter().any(|case| case.name == name) {
            let known: Vec<_> = CASES.iter().map(|case| case.name).collect();
            bail!("there is no case `{name}`; there are {}", known.join(", "));
        }
    }
    Ok(CASES.iter().filter(|case| names.is_empty() || names.iter().any(|name| name == case.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_be_written_keeps_what_it_holds_until_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("figures.json");
        std::fs::write(&file, "those of before").unwrap();
        check_writable(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "those of before");
        let error = check_writable(&folder.path().join("missing/figures.json")).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
    }

    #[test]
    fn without_names_every_case_is_run_and_a_wrong_name_is_told_the_right_ones() {
        assert_eq!(chosen(&[]).unwrap().len(), CASES.len());
        let one = chosen(&["http".to_owned()]).unwrap();
        assert_eq!(one.iter().map(|case| case.name).collect::<Vec<_>>(), ["http"]);
        let error = chosen(&["htp".to_owned()]).err().unwrap().to_string();
        assert!(
            error.contains("plugin-call, engine-plugin, engine-steps, engine-lanes, growth, http"),
            "{error}"
        );
    }
}
