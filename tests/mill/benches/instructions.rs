//! How many instructions a plugin call and a delivery take, counted by callgrind. Run it by `cargo xtask instructions`, which
//! tells it by the environment where the plugins are and how many to count, and compares with `instructions.txt`.
//!
//! What is counted is the function that has the attribute, and what it calls, on its thread: compiling the plugin, starting
//! the flow and the calls that warm both up are `setup`, before it.
#![allow(missing_docs, reason = "the macros make public functions")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what cannot be set up cannot be counted: gungraun tells the panic"
)]

use std::{env, hint::black_box, sync::Arc};

use gristmill_core::{Message, Stopwatch, plugin::Plugin};
use gristmill_mill::{
    Mill,
    flows::{WITH_PLUGIN, with_steps},
    plugin::{bind, check, failed, message},
};
use gristmill_wasm::{WasmHost, WasmHostConfig};
use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use tokio::runtime::Runtime as Tokio;

/// The folder of the plugins `bench-…`.
const PLUGINS: &str = "GRISTMILL_BENCH_PLUGINS";

/// How many calls or deliveries are counted.
const COUNTED: &str = "GRISTMILL_BENCH_COUNTED";

/// How many are made before: until pools are filled and buffers have grown.
const WARM_UP: u64 = 200;

struct Calls {
    tokio: Tokio,
    plugin: Arc<dyn Plugin>,
    message: Message,
    number: u64,
}

struct Deliveries {
    tokio: Tokio,
    mill: Mill,
    number: u64,
}

#[library_benchmark]
#[bench::set_header(args = ("bench-set-header"), setup = Calls::ready)]
#[bench::rename(args = ("bench-rename"), setup = Calls::ready)]
fn plugin_call(calls: Calls) -> Calls {
    calls.make(calls.number);
    calls
}

#[library_benchmark]
#[bench::plugin(args = (WITH_PLUGIN), setup = Deliveries::ready)]
#[bench::steps(args = (&with_steps()), setup = Deliveries::ready)]
fn delivery(deliveries: Deliveries) -> Deliveries {
    deliveries.make(deliveries.number);
    deliveries
}

library_benchmark_group!(name = all, benchmarks = [plugin_call, delivery]);

main!(
    config = LibraryBenchmarkConfig::default()
        .pass_through_envs([PLUGINS, COUNTED])
        // Instructions alone: what caches would do takes longer to find out, and is not asked.
        .tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = all
);

// === impl Calls ===

impl Calls {
    fn ready(plugin: &str) -> Self {
        let tokio = tokio();
        let host = host();
        tokio.block_on(check(&host, plugin)).unwrap();
        let plugin = tokio.block_on(bind(&host, plugin)).unwrap();
        let ready = Self { tokio, plugin, message: message().unwrap(), number: number() };
        ready.make(WARM_UP);
        ready
    }

    fn make(&self, calls: u64) {
        self.tokio.block_on(async {
            let watch = Stopwatch::unread();
            for _ in 0..calls {
                watch.forget();
                black_box(self.plugin.transform(&self.message, &watch).await.map_err(failed).unwrap());
            }
        });
    }
}

// === impl Deliveries ===

impl Deliveries {
    fn ready(flow: &str) -> Self {
        let tokio = tokio();
        let mill = tokio.block_on(Mill::start(flow, &message().unwrap(), Arc::new(host()))).unwrap();
        let ready = Self { tokio, mill, number: number() };
        ready.make(WARM_UP);
        ready
    }

    fn make(&self, deliveries: u64) {
        self.tokio.block_on(self.mill.pass(deliveries)).unwrap();
    }
}

fn tokio() -> Tokio {
    // One thread: it is the one whose instructions are counted.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn host() -> WasmHost {
    let mut config =
        WasmHostConfig::new(env::var_os(PLUGINS).expect("run this by `cargo xtask instructions`"));
    // Everything takes some fifty times its time here, the compiler above all.
    config.describe_timeout_ms *= 100;
    config.compile_timeout_ms *= 100;
    WasmHost::new(config).unwrap()
}

fn number() -> u64 {
    env::var(COUNTED).expect("run this by `cargo xtask instructions`").parse().unwrap()
}
