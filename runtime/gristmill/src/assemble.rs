//! Puts the parts together: the adapters of this binary, the plugin host, the environment.
//!
//! To add an adapter: its lines in the workspace's `Cargo.toml` and in that of this crate, and its line in [`registry`].

use std::{path::Path, sync::Arc};

use gristmill_core::plugin::PluginHost;
use gristmill_engine::{
    flow::{Registry, SetContext},
    substitute::ProcessEnvironment,
};
use gristmill_wasm::{WasmHost, WasmHostConfig};

use crate::settings::Settings;

/// The adapters of this binary.
pub(crate) fn registry() -> Registry {
    Registry::new()
        .with(Arc::new(gristmill_amqp::AmqpAdapter::new()))
        .with(Arc::new(gristmill_file::FileAdapter::new()))
        .with(Arc::new(gristmill_http::HttpAdapter::new()))
        .with(Arc::new(gristmill_mqtt::MqttAdapter::new()))
}

/// The plugin host over a folder of plugins, with its cache below the state folder.
///
/// # Errors
/// When the host cannot be made.
pub(crate) fn plugin_host(plugins: &Path, state: &Path) -> Result<Arc<WasmHost>, String> {
    let config = WasmHostConfig { cache_dir: Some(state.join("compiled")), ..WasmHostConfig::new(plugins) };
    WasmHost::new(config).map(Arc::new).map_err(|e| format!("the plugin host cannot be made: {e}"))
}

/// What flows are checked with.
pub(crate) fn set_context(
    registry: Registry,
    plugins: Arc<dyn PluginHost>,
    settings: &Settings,
) -> SetContext {
    SetContext {
        registry,
        plugins,
        environment: Arc::new(ProcessEnvironment::new(&settings.base_dir)),
        base_dir: settings.base_dir.clone(),
        connections: Arc::new(settings.connections.clone()),
    }
}
