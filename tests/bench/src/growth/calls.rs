//! How a call of a plugin grows with the message.

use std::{hint::black_box, time::Duration};

use anyhow::{Result, ensure};
use bench_rename::rename;
use gristmill_core::{
    Headers, Message, Stopwatch, Timestamp,
    limits::{FlowLimits, PluginLimits},
    plugin::Transformed,
};
use gristmill_mill::{
    plugin::{bind_within, failed},
    sample,
};
use gristmill_wasm::{WasmHost, WasmHostConfig, bare::BareTransformer};
use tokio::runtime::Runtime;

use super::{add, line, median, moment};
use crate::{case::Setup, plot::Plot, plugin_call::timed, report::Report};

/// Of the bodies, in bytes.
const SIZES: [usize; 8] = [64, 256, 1 << 10, 8 << 10, 64 << 10, 512 << 10, 2 << 20, 8 << 20];

const HEADERS: [usize; 6] = [0, 5, 10, 20, 35, 50];

/// Room for 8 MiB of JSON as a tree of values.
const MEMORY_MIB: u32 = 1024;

/// `rename` over bodies of all sizes, beside the bare call and the native code.
pub(super) fn bodies(setup: &Setup, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let host = WasmHost::new(WasmHostConfig::new(&setup.plugins))?;
    let limits = PluginLimits { memory_mib: MEMORY_MIB, ..PluginLimits::default() };
    // The answer is a few bytes longer than the body.
    let flow_limits = FlowLimits { body_bytes: 16 << 20, ..FlowLimits::default() };
    let plugin = runtime.block_on(bind_within(&host, "bench-rename", limits, flow_limits))?;
    let watch = Stopwatch::unread();
    let mut bare = runtime.block_on(BareTransformer::new(&host, "bench-rename", "{}"))?;
    let (mut native, mut wasm, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for size in SIZES {
        let message = Message::new("0192f1c5-7f3a", Timestamp::from_millis(0), sample::order(size));
        let body = message.body().clone();
        let expected = rename(&body)?;
        let answer = runtime.block_on(plugin.transform(&message, &watch)).map_err(failed)?;
        let is_right =
            matches!(&answer, Transformed::Change(change) if change.body.as_deref() == Some(&expected));
        ensure!(is_right, "a wrong answer for {size} bytes");
        let x = size as f64;
        let round = moment(setup);
        native.push((x, nanoseconds(&runtime, round, async || Ok(rename(black_box(&body))?))?));
        wasm.push((
            x,
            nanoseconds(&runtime, round, async || {
                Ok(bare.transform(message.id().as_str(), &[], &body).await?)
            })?,
        ));
        ours.push((
            x,
            nanoseconds(&runtime, round, async || {
                watch.forget();
                plugin.transform(&message, &watch).await.map_err(failed)
            })?,
        ));
    }
    let plot = Plot {
        name: "body-bytes",
        title: "One call of the plugin `rename`, by the size of the body".into(),
        x: "bytes of JSON",
        y: "ns of processor time a call",
        lines: vec![line("native code", &native), line("bare Wasm call", &wasm), line("Gristmill", &ours)],
    };
    // The small ones are all overhead in Wasm and none natively, so the floor is the bare call.
    add(report, plot, &wasm, &ours)
}

/// `all-headers`, which gets every header that there is.
pub(super) fn headers(setup: &Setup, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let host = WasmHost::new(WasmHostConfig::new(&setup.plugins))?;
    let (limits, flow_limits) = (PluginLimits::default(), FlowLimits::default());
    let plugin = runtime.block_on(bind_within(&host, "bench-all-headers", limits, flow_limits))?;
    let watch = Stopwatch::unread();
    let mut bare = runtime.block_on(BareTransformer::new(&host, "bench-all-headers", "{}"))?;
    let (mut wasm, mut ours) = (Vec::new(), Vec::new());
    for count in HEADERS {
        let names: Vec<String> = (0..count).map(|n| format!("x-header-{n:02}")).collect();
        let mut headers = Headers::new();
        for name in &names {
            headers.append(name, "a value of some length")?;
        }
        let pairs: Vec<(&str, &str)> = headers.iter().collect();
        let message = Message::new("0192f1c5-7f3a", Timestamp::from_millis(0), "{}");
        let message = message.with_headers(headers.clone());
        let x = count as f64;
        let round = moment(setup);
        wasm.push((
            x,
            nanoseconds(&runtime, round, async || {
                Ok(bare.transform(message.id().as_str(), &pairs, b"").await?)
            })?,
        ));
        ours.push((
            x,
            nanoseconds(&runtime, round, async || {
                watch.forget();
                plugin.transform(&message, &watch).await.map_err(failed)
            })?,
        ));
    }
    let plot = Plot {
        name: "headers",
        title: "One call of a plugin that wants all headers, by how many there are".into(),
        x: "headers",
        y: "ns of processor time a call",
        lines: vec![line("bare Wasm call", &wasm), line("Gristmill", &ours)],
    };
    add(report, plot, &wasm, &ours)
}

/// What one call takes.
fn nanoseconds<T>(
    runtime: &Runtime,
    round: Duration,
    mut call: impl AsyncFnMut() -> Result<T>,
) -> Result<f64> {
    let mut once = || {
        runtime.block_on(timed(round, async || {
            black_box(call().await?);
            Ok(())
        }))
    };
    median(|| Ok(once()?.nanoseconds))
}
