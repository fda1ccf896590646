//! How often a request asks for memory: both servers once more, in this process, where that is counted. The load is exempt.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use gristmill_core::{
    SystemClock,
    observe::{ReloadResult, Unobserved},
    plugin::PluginHost,
};
use gristmill_engine::{
    flow::{FlowFile, Registry, SetContext},
    runtime::{Runtime, RuntimeParts},
    substitute::ProcessEnvironment,
};
use gristmill_http::HttpAdapter;
use gristmill_wasm::{WasmHost, WasmHostConfig};
use tokio::net::TcpListener;

use super::{floor, server::Work};
use crate::{
    allocations,
    case::Setup,
    load::{self, Pace, Plan},
    machine::{bound_to, places},
    subject::free_address,
};

const CONNECTIONS: usize = 32;

/// Some thousand requests, beside which the connections that are made do not show.
const ROUND: Duration = Duration::from_millis(300);

/// Allocations a request, of the floor and of ours.
///
/// # Errors
/// When a server does not start, or answers wrongly.
pub(super) fn per_request(setup: &Setup, work: &Work) -> Result<(f64, f64)> {
    let tokio = || -> Result<tokio::runtime::Runtime> {
        let start = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Ok(bound_to(places().subject, start)??)
    };
    let floor = {
        let tokio = tokio()?;
        let listener = tokio.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        tokio.spawn(floor::serve_on(listener, floor::routes()));
        counted(work, address)?
    };
    let ours = {
        let (tokio, address) = (tokio()?, free_address()?);
        let runtime = tokio.block_on(gristmill(setup, address))?;
        let counted = counted(work, address)?;
        tokio.block_on(runtime.shutdown());
        counted
    };
    Ok((floor, ours))
}

async fn gristmill(setup: &Setup, address: SocketAddr) -> Result<Runtime> {
    let host = WasmHost::new(WasmHostConfig::new(&setup.plugins))?;
    let runtime = Runtime::new(RuntimeParts {
        context: SetContext {
            registry: Registry::new().with(Arc::new(HttpAdapter::new())),
            plugins: Arc::new(host) as Arc<dyn PluginHost>,
            environment: Arc::new(ProcessEnvironment::new(".")),
            base_dir: ".".into(),
            connections: Arc::default(),
        },
        observer: Arc::new(Unobserved),
        clock: Arc::new(SystemClock),
        state_dir: ".".into(),
    });
    let file = FlowFile { path: "orders.yaml".into(), text: Ok(super::flow(address).into()) };
    let applied = runtime.apply(vec![file]).await;
    ensure!(
        applied.iter().all(|one| one.result == ReloadResult::Applied),
        "the flow does not run: {applied:?}"
    );
    Ok(runtime)
}

fn counted(work: &Work, address: SocketAddr) -> Result<f64> {
    let plan = Plan {
        address,
        request: work.request(address, super::PATH),
        expected: work.expected().to_vec(),
        connections: CONNECTIONS,
        pace: Pace::Answers,
        round: ROUND,
        server: std::process::id(),
        helper: None,
    };
    // What is made once: the instances of the plugin, the buffers of the allocator.
    load::round(&plan)?;
    let before = allocations::so_far();
    let requests = load::round(&plan)?.requests;
    let calls = allocations::so_far().saturating_sub(before);
    ensure!(requests > 0, "no request was answered");
    u32::try_from(calls).map(|calls| f64::from(calls) / requests as f64).context("more than were expected")
}
