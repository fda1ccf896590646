//! The empty WASI that a plugin compiled for `wasm32-wasip2` gets: no files, no environment, no arguments, no sockets. Its
//! stdout and stderr are log lines. Its clock stands still and its random numbers come from a constant seed until the
//! flow grants `clock` and `random`: a language's runtime may ask for both at its start, so they must not fail.

use std::{
    pin::Pin,
    sync::{Arc, LazyLock, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use gristmill_core::{Clock, MessageId, plugin::Grant};
use sha2::{Digest, Sha256};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
    random::Deterministic,
};

use crate::{
    grants::MAX_RANDOM_BYTES,
    instance::{GuestState, MAX_HANDLES, Shared},
    output::Lines,
    sync::lock,
};

/// How many bytes a guest may write in one go.
const WRITE_PERMIT_BYTES: usize = 64 * 1024;

/// WASI of one instance.
pub(crate) struct Wasi {
    context: WasiCtx,
    table: ResourceTable,
    stdout: Output,
    stderr: Output,
}

/// Stdout or stderr.
#[derive(Debug, Clone)]
struct Output(Arc<Mutex<Lines>>);

/// A clock that stands at 1970.
struct StandingClock;

/// The runtime's wall clock.
struct WallClock(Arc<dyn Clock>);

/// Nanoseconds since the plugin was bound.
struct MonotonicClock(Instant);

/// The seed of ungranted random numbers, drawn out to 4 KiB.
static CONSTANT_RANDOM: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0_u8..128).flat_map(|block| Sha256::digest([block])).collect());

// === impl Wasi ===

impl Wasi {
    fn new(shared: &Arc<Shared>, message: Option<&MessageId>) -> Self {
        let stdout = Output::new(Lines::stdout(shared.log.clone()), message);
        let stderr = Output::new(Lines::stderr(shared.log.clone()), message);
        let mut builder = WasiCtx::builder();
        builder
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(u64::from(MAX_RANDOM_BYTES));
        if shared.grants.has(Grant::Clock) {
            builder
                .wall_clock(WallClock(shared.clock.clone()))
                .monotonic_clock(MonotonicClock(shared.monotonic_base));
        } else {
            builder.wall_clock(StandingClock).monotonic_clock(StandingClock);
        }
        if !shared.grants.has(Grant::Random) {
            builder
                .secure_random(Deterministic::new(CONSTANT_RANDOM.clone()))
                .insecure_random(Deterministic::new(CONSTANT_RANDOM.clone()))
                .insecure_random_seed(0);
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self { context: builder.build(), table, stdout, stderr }
    }

    pub(crate) fn begin_call(&self, message: Option<&MessageId>) {
        lock(&self.stdout.0).begin_call(message);
        lock(&self.stderr.0).begin_call(message);
    }

    pub(crate) fn end_call(&self) {
        lock(&self.stdout.0).flush();
        lock(&self.stderr.0).flush();
    }

    pub(crate) fn stderr_tail(&self) -> Option<String> {
        lock(&self.stderr.0).tail()
    }
}

/// A call that fails still leaves its last words in the log.
impl Drop for Wasi {
    fn drop(&mut self) {
        self.end_call();
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| Box::new(Wasi::new(&self.shared, self.message.as_ref())));
        WasiCtxView { ctx: &mut wasi.context, table: &mut wasi.table }
    }
}

// === impl Output ===

impl Output {
    fn new(mut lines: Lines, message: Option<&MessageId>) -> Self {
        lines.begin_call(message);
        Self(Arc::new(Mutex::new(lines)))
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        lock(&self.0).write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT_BYTES)
    }
}

impl tokio::io::AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        lock(&self.0).write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

// === impl the clocks ===

impl HostWallClock for StandingClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StandingClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}

impl HostWallClock for WallClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.0.now().as_millis())
    }
}

impl HostMonotonicClock for MonotonicClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
