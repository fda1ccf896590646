//! How a delivery grows with what the runtime has to run.

use std::{fs, sync::Arc, time::Instant};

use anyhow::Result;
use gristmill_mill::{Mill, plugin::message};
use gristmill_wasm::{WasmHost, WasmHostConfig};
use tokio::runtime::Runtime as Tokio;

use super::{add, line, median, moment, straight};
use crate::{
    case::Setup,
    machine::{processors, thread_cpu_time},
    plot::Plot,
    plugins as files,
    report::Report,
};

/// Messages between two looks at the clock.
const BATCH: u64 = 500;

/// Steps of one flow.
const STEPS: [usize; 5] = [1, 2, 4, 8, 16];

const FLOWS: [usize; 4] = [1, 10, 100, 1_000];

const PLUGINS: [u16; 4] = [1, 5, 15, 50];

const INSTANCES: [usize; 4] = [1, 2, 4, 8];

/// One flow with more and more steps, without and with a plugin in each.
pub(super) fn steps(setup: &Setup, report: &mut Report) -> Result<()> {
    let (mut set, mut transform) = (Vec::new(), Vec::new());
    for count in STEPS {
        let flow =
            |step: &str| format!("flow: bench\nsource: {{ memory: {{}} }}\nsteps:\n{}", step.repeat(count));
        let x = count as f64;
        set.push((x, nanoseconds(setup, &[flow("  - set: { headers: { x-a: one } }\n")])?));
        transform.push((x, nanoseconds(setup, &[flow("  - transform: { plugin: bench-set-header }\n")])?));
    }
    let plot = Plot {
        name: "steps",
        title: "One delivery through a flow, by the number of its steps".into(),
        x: "steps",
        y: "ns of processor time a delivery",
        lines: vec![line("set a header", &set), line("a plugin that sets a header", &transform)],
    };
    let expected = straight(&transform);
    add(report, plot, &expected, &transform)
}

/// More and more flows with one plugin, each of which gets its share of the messages.
pub(super) fn flows(setup: &Setup, report: &mut Report) -> Result<()> {
    let mut cost = Vec::new();
    for count in FLOWS {
        let flows: Vec<String> = (0..count).map(|n| with_plugin(n, "bench-set-header")).collect();
        cost.push((count as f64, nanoseconds(setup, &flows)?));
    }
    let plot = Plot {
        name: "flows",
        title: "One delivery through one plugin, by the number of flows that have work".into(),
        x: "flows",
        y: "ns of processor time a delivery",
        lines: vec![line("Gristmill", &cost)],
    };
    let flat: Vec<_> = cost.iter().map(|(x, _)| (*x, 1.0)).collect();
    add(report, plot, &flat, &cost)
}

/// More and more plugins, each in a flow of its own.
pub(super) fn plugins(setup: &Setup, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let plugin = files::read(&setup.plugins, "bench-set-header")?;
    for mark in 0..PLUGINS.iter().copied().max().unwrap_or(0) {
        fs::write(files::file(folder.path(), &format!("copy-{mark}")), files::marked(&plugin, mark))?;
    }
    let mut cost = Vec::new();
    for count in PLUGINS {
        let flows: Vec<String> =
            (0..count).map(|n| with_plugin(usize::from(n), &format!("copy-{n}"))).collect();
        let mut config = WasmHostConfig::new(folder.path());
        // What was compiled for fewer plugins is not compiled again.
        config.cache_dir = Some(folder.path().join("compiled"));
        cost.push((f64::from(count), nanoseconds_with(setup, &flows, config)?));
    }
    let plot = Plot {
        name: "plugins",
        title: "One delivery through one plugin, by the number of different plugins at work".into(),
        x: "plugins",
        y: "ns of processor time a delivery",
        lines: vec![line("Gristmill", &cost)],
    };
    let flat: Vec<_> = cost.iter().map(|(x, _)| (*x, 1.0)).collect();
    add(report, plot, &flat, &cost)
}

/// More and more instances of one plugin in a flow of 16 lanes on two threads. More of them than there are processors are of
/// no use, and must do no harm.
pub(super) fn instances(setup: &Setup, report: &mut Report) -> Result<()> {
    if processors().len() < 2 {
        report.remarks.push("growth: not measured with instances, there is one processor only".into());
        return Ok(());
    }
    let mut cost = Vec::new();
    for count in INSTANCES {
        let flow = format!(
            "flow: bench
source: {{ memory: {{}} }}
parallel: {{ by: message.id, lanes: 16 }}
steps:
  - transform: {{ plugin: bench-rename, limits: {{ instances: {count} }} }}
"
        );
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let host = Arc::new(WasmHost::new(WasmHostConfig::new(&setup.plugins))?);
        let mill = tokio.block_on(Mill::start_all(&[flow], &message()?, host))?;
        let round = || -> Result<f64> {
            tokio.block_on(async {
                let (began, mut messages) = (Instant::now(), 0);
                while began.elapsed() < moment(setup) {
                    mill.pass(BATCH).await?;
                    messages += BATCH;
                }
                Ok(began.elapsed().as_secs_f64() * 1e9 / messages as f64)
            })
        };
        cost.push((count as f64, median(round)?));
    }
    let plot = Plot {
        name: "instances",
        title: "One delivery through `rename` in 16 lanes on two threads, by the number of instances".into(),
        x: "instances",
        y: "ns by the clock on the wall a delivery",
        lines: vec![line("Gristmill", &cost)],
    };
    let flat: Vec<_> = cost.iter().map(|(x, _)| (*x, 1.0)).collect();
    add(report, plot, &flat, &cost)
}

fn with_plugin(number: usize, plugin: &str) -> String {
    format!(
        "flow: bench-{number}\nsource: {{ memory: {{}} }}\nsteps:\n  - transform: {{ plugin: {plugin} }}\n"
    )
}

fn nanoseconds(setup: &Setup, flows: &[String]) -> Result<f64> {
    nanoseconds_with(setup, flows, WasmHostConfig::new(&setup.plugins))
}

/// The processor time of one delivery, when these flows share the messages. All on this thread.
fn nanoseconds_with(setup: &Setup, flows: &[String], config: WasmHostConfig) -> Result<f64> {
    let tokio: Tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let host = Arc::new(WasmHost::new(config)?);
    let mill = tokio.block_on(Mill::start_all(flows, &message()?, host))?;
    // Every flow has had something to do before it is measured.
    tokio.block_on(mill.pass(BATCH.max(flows.len() as u64 * 4)))?;
    median(|| {
        tokio.block_on(async {
            let (began, before, mut messages) = (Instant::now(), thread_cpu_time(), 0);
            while began.elapsed() < moment(setup) {
                mill.pass(BATCH).await?;
                messages += BATCH;
            }
            let used = thread_cpu_time().saturating_sub(before);
            Ok(used.as_secs_f64() * 1e9 / messages as f64)
        })
    })
}
