//! What the tests stand on: a host over a folder of its own, settings, messages, an observer that remembers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gristmill_core::{
    ErrorClass, Failure, Message, Stopwatch, Timestamp,
    limits::{FlowLimits, PluginLimits},
    observe::PluginObserver,
    plugin::{
        Grants, LoadedPlugin, Plugin, PluginError, PluginHost, PluginScope, PluginSettings, Transformed,
    },
};
use gristmill_wasm::{WasmHost, WasmHostConfig};

use crate::guest::Guest;

/// A host over a folder that is deleted at the end.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) host: WasmHost,
    pub(crate) observer: Arc<Recorder>,
}

/// Remembers what it was told.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<String>>);

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(configure: impl FnOnce(&mut WasmHostConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = WasmHostConfig::new(dir.path());
        configure(&mut config);
        Self { dir, host: WasmHost::new(config).unwrap(), observer: Arc::default() }
    }

    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.dir.path().join(format!("{name}.wasm")), bytes).unwrap();
    }

    pub(crate) async fn load(&self, bytes: impl AsRef<[u8]>) -> Result<Arc<dyn LoadedPlugin>, PluginError> {
        self.put("plugin", bytes);
        self.host.load("plugin").await
    }

    pub(crate) async fn load_error(&self, bytes: impl AsRef<[u8]>) -> PluginError {
        match self.load(bytes).await {
            Ok(loaded) => panic!("loaded: {:?}", loaded.description()),
            Err(error) => error,
        }
    }

    /// Settings in which a slow machine makes no test fail.
    pub(crate) fn settings(&self) -> PluginSettings {
        PluginSettings {
            config: serde_json::json!({}),
            secrets: Vec::new(),
            grants: Grants::default(),
            limits: PluginLimits {
                deadline_ms: 2_000,
                call_timeout_ms: 20_000,
                memory_mib: 16,
                instances: Some(2),
                ..PluginLimits::default()
            },
            flow_limits: FlowLimits::default(),
            scope: PluginScope {
                flow: "orders".into(),
                version: "1".into(),
                step: "steps[0]".into(),
                observer: self.observer.clone(),
            },
        }
    }

    pub(crate) async fn bind(&self, guest: &Guest) -> Arc<dyn Plugin> {
        self.bind_with(guest, |_| {}).await.unwrap()
    }

    pub(crate) async fn bind_with(
        &self,
        guest: &Guest,
        set: impl FnOnce(&mut PluginSettings),
    ) -> Result<Arc<dyn Plugin>, PluginError> {
        let mut settings = self.settings();
        set(&mut settings);
        self.load(guest.module()).await.unwrap().bind(settings).await
    }
}

impl Recorder {
    fn push(&self, event: String) {
        self.0.lock().unwrap().push(event);
    }

    /// What was told since the last look.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl PluginObserver for Recorder {
    fn call(&self, _: &Message, _: Duration, failure: Option<&Failure>) {
        self.push(format!("call {}", failure.map_or("ok", |f| f.class().name())));
    }
    fn quarantined(&self, is: bool) {
        self.push(format!("quarantined {is}"));
    }
    fn guest_counter(&self, name: &str, amount: u64) {
        self.push(format!("counter {name} {amount}"));
    }
    fn guest_gauge(&self, name: &str, value: f64) {
        self.push(format!("gauge {name} {value}"));
    }
}

pub(crate) fn message(body: impl Into<bytes::Bytes>) -> Message {
    Message::new("m-1", Timestamp::from_millis(0), body)
}

pub(crate) async fn transform(plugin: &Arc<dyn Plugin>, body: &'static str) -> Result<Transformed, Failure> {
    plugin.transform(&message(body), &Stopwatch::unread()).await
}

/// The new body, which must be the whole change.
pub(crate) async fn body_of(plugin: &Arc<dyn Plugin>, body: &'static str) -> String {
    match transform(plugin, body).await.unwrap() {
        Transformed::Change(change) => String::from_utf8(change.body.unwrap().to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The failure, which must be of this class.
pub(crate) fn fails<T: std::fmt::Debug>(result: Result<T, Failure>, class: ErrorClass) -> Failure {
    let failure = result.unwrap_err();
    assert_eq!(failure.class(), class, "{failure} {:?}", failure.details().collect::<Vec<_>>());
    failure
}
