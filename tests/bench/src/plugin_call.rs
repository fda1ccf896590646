//! The case `plugin-call`: what one call of a plugin costs on the whole way through the host (quarantine, an instance from
//! the pool, limits, both deadlines, the checks of the answer, the metrics), against the bare Wasm call of the same
//! component, and against the same code compiled natively.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bench_rename::rename;
use bench_set_header::{READS, queue_of};
use gristmill_core::Stopwatch;
use gristmill_mill::plugin::{REGION, bind, failed, is_right, message};
use gristmill_wasm::{WasmHost, WasmHostConfig, bare::BareTransformer};
use tokio::runtime::Runtime;

use crate::{
    case::{Effort, Setup},
    in_process::{self, Clock, Round},
    report::{Goal, Report, Row, Unit},
    stats::alternate,
};

/// Calls between two looks at the clock, at most, so that looking costs nothing that shows.
const BATCH: u32 = 64;

/// A plugin of the case.
struct Guest {
    name: &'static str,
    /// What it does, natively; gives something that depends on all of the work.
    native: fn(&str, &[u8]) -> usize,
    /// How its times may be to those of each floor.
    goals: [Option<Goal>; 2],
}

const GUESTS: [Guest; 2] = [
    Guest {
        name: "set-header",
        native: |region, body| queue_of(black_box(region)).len() + black_box(body).len(),
        goals: [Some(Goal::RatioAtMost(1.3)), None],
    },
    Guest {
        name: "rename",
        native: |_, body| rename(black_box(body)).map_or(0, |body| body.len()),
        goals: [None, Some(Goal::RatioAtMost(2.0))],
    },
];

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    // One thread: a call is made where its task is, so another thread would only add the cost of getting there.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for guest in &GUESTS {
        measure(setup, guest, &runtime, report).with_context(|| format!("the plugin {}", guest.name))?;
    }
    Ok(())
}

fn measure(setup: &Setup, guest: &Guest, runtime: &Runtime, report: &mut Report) -> Result<()> {
    let Effort { rounds, calls: round, .. } = setup.effort;
    let file = format!("bench-{}", guest.name);
    let message = message()?;
    let body = message.body().clone();

    let host = WasmHost::new(WasmHostConfig::new(&setup.plugins))?;
    let plugin = runtime.block_on(bind(&host, &file))?;
    let watch = Stopwatch::unread();
    let answer = runtime.block_on(plugin.transform(&message, &watch)).map_err(failed)?;
    ensure!(is_right(&file, &message, &answer), "it answered {answer:?}");

    let mut bare = runtime.block_on(BareTransformer::new(&host, &file, "{}"))?;
    let headers: &[(&str, &str)] = if guest.name == "set-header" { &[(READS, REGION)] } else { &[] };

    let mut bare_round = || {
        runtime.block_on(timed(round, async || {
            black_box(bare.transform(message.id().as_str(), headers, &body).await?);
            Ok(())
        }))
    };
    let mut native_round = || {
        runtime.block_on(timed(round, async || {
            black_box((guest.native)(REGION, &body));
            Ok(())
        }))
    };
    let mut our_round = || {
        runtime.block_on(timed(round, async || {
            // As a call by itself: it reads the clock when it begins, too.
            watch.forget();
            black_box(plugin.transform(&message, &watch).await.map_err(failed)?);
            Ok(())
        }))
    };
    let measured = alternate(rounds, &mut [&mut bare_round, &mut native_round], &mut our_round)?;
    let case = format!("plugin-call/{}", guest.name);
    let floors = ["bare Wasm call", "native code"].into_iter().zip(guest.goals);
    for (index, (floor, goal)) in floors.enumerate() {
        let compared = measured.compare(index, |round| round.nanoseconds)?;
        report.rows.push(Row::compared(case.clone(), floor, Unit::Nanoseconds, compared).goal(goal));
    }
    report.costs.push(in_process::cost(case, &measured)?);
    Ok(())
}

/// What one call takes, over about the time of a round. Calls never wait, so on a machine with nothing else to do the processor
/// time is the time that they take; on any other, it is that without the time of others.
pub(crate) async fn timed(round: Duration, mut call: impl AsyncFnMut() -> Result<()>) -> Result<Round> {
    let (began, clock) = (Instant::now(), Clock::start());
    let (mut calls, mut batch) = (0_u32, 1);
    while began.elapsed() < round {
        for _ in 0..batch {
            call().await?;
        }
        calls = calls.saturating_add(batch);
        // Calls that are long enough to be looked at one by one are.
        batch = if began.elapsed() / calls < round / 1_000 { BATCH } else { 1 };
    }
    Ok(clock.stop(calls.into()))
}
