//! One plugin, bound as a flow binds it, and the message that it is called with.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bench_rename::rename;
use bench_set_header::{READS, SETS, queue_of};
use gristmill_core::{
    Failure, Headers, Message, Stopwatch, Timestamp,
    limits::{FlowLimits, PluginLimits},
    plugin::{Grants, Plugin, PluginHost, PluginScope, PluginSettings, Transformed},
};
use gristmill_wasm::WasmHost;

use crate::{counted::Calls, sample};

/// How large the body of [`message`] is.
pub const BODY_BYTES: usize = 1024;

/// The value of the header of [`message`] that the plugin `bench-set-header` reads.
pub const REGION: &str = "north";

/// A message as one that came over HTTP is: several headers, of which a plugin wants at most one.
///
/// # Errors
/// When one of its headers is not allowed, which a test would show.
pub fn message() -> Result<Message> {
    let mut headers = Headers::new();
    for (name, value) in [
        ("accept", "*/*"),
        ("content-type", "application/json"),
        ("user-agent", "bench"),
        ("x-request-id", "0192f1c5"),
        (READS, REGION),
        ("gristmill-method", "POST"),
        ("gristmill-path", "/orders"),
    ] {
        headers.append(name, value)?;
    }
    let message = Message::new("0192f1c5-7f3a", Timestamp::from_millis(0), sample::order(BODY_BYTES));
    Ok(message.with_headers(headers))
}

/// The plugin in `file` (its name without `.wasm`), with the default limits, no grants and an empty configuration.
///
/// # Errors
/// When it cannot be loaded or refuses the configuration.
pub async fn bind(host: &WasmHost, file: &str) -> Result<Arc<dyn Plugin>> {
    bind_within(host, file, PluginLimits::default(), FlowLimits::default()).await
}

/// The same with other limits.
///
/// # Errors
/// As [`bind`].
pub async fn bind_within(
    host: &WasmHost,
    file: &str,
    limits: PluginLimits,
    flow_limits: FlowLimits,
) -> Result<Arc<dyn Plugin>> {
    let settings = PluginSettings {
        secrets: Vec::new(),
        config: serde_json::json!({}),
        grants: Grants::default(),
        limits,
        flow_limits,
        scope: PluginScope {
            flow: "bench".into(),
            version: "1".into(),
            step: "steps[0]".into(),
            observer: Arc::new(Calls::default()),
        },
    };
    Ok(host.load(file).await?.bind(settings).await?)
}

/// The plugins of the bench.
pub const PLUGINS: [&str; 3] = ["bench-set-header", "bench-rename", "bench-all-headers"];

/// Makes sure that one of [`PLUGINS`] does what it is there for: how fast another one is says nothing.
///
/// # Errors
/// When it cannot be called, or its answer is wrong.
pub async fn check(host: &WasmHost, file: &str) -> Result<()> {
    let message = message()?;
    let answer = bind(host, file).await?.transform(&message, &Stopwatch::unread()).await.map_err(failed)?;
    ensure!(is_right(file, &message, &answer), "the plugin {file} gave a wrong answer: {answer:?}");
    Ok(())
}

/// Whether this is what one of [`PLUGINS`] has to answer to a message with the headers of [`message`].
pub fn is_right(file: &str, message: &Message, answer: &Transformed) -> bool {
    let Transformed::Change(change) = answer else { return false };
    let (headers, body) = match file {
        "bench-set-header" => (vec![(SETS.to_owned(), queue_of(REGION))], None),
        "bench-rename" => match rename(message.body()) {
            Ok(body) => (Vec::new(), Some(body)),
            Err(_) => return false,
        },
        "bench-all-headers" => (Vec::new(), None),
        _ => return false,
    };
    change.set_headers == headers
        && change.remove_headers.is_empty()
        && change.body.as_deref() == body.as_deref()
}

/// A failed call as an error of the bench.
pub fn failed(failure: Failure) -> anyhow::Error {
    anyhow::anyhow!("the call failed: {failure}")
}
