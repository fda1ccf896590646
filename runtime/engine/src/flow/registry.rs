//! What a flow can name: the adapters of this binary, and the plugins that were loaded for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use gristmill_core::{
    adapter::Adapter,
    plugin::{LoadedPlugin, PluginError, PluginHost},
};

/// How many plugins are compiled at once.
const PLUGINS_LOADED_AT_ONCE: usize = 2;

/// The adapters of this binary, by name.
#[derive(Default, Clone)]
pub struct Registry {
    adapters: BTreeMap<&'static str, Arc<dyn Adapter>>,
    /// The names of those that are sources, and of those that are sinks: what a schema is made for only to know that there is one.
    sources: Vec<&'static str>,
    sinks: Vec<&'static str>,
}

/// Plugins by name, each loaded or not.
#[derive(Default)]
pub struct PluginTable {
    loaded: BTreeMap<String, Result<Arc<dyn LoadedPlugin>, PluginError>>,
}

impl Registry {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    #[must_use]
    pub fn with(mut self, adapter: Arc<dyn Adapter>) -> Self {
        self.adapters.insert(adapter.name(), adapter);
        let named = |is: fn(&dyn Adapter) -> bool| {
            self.adapters.iter().filter(|(_, adapter)| is(&***adapter)).map(|(name, _)| *name).collect()
        };
        self.sources = named(|adapter| adapter.source_schema().is_some());
        self.sinks = named(|adapter| adapter.sink_schema().is_some());
        self
    }

    /// The names of the adapters that have sources, in their order.
    pub(crate) fn sources(&self) -> &[&'static str] {
        &self.sources
    }

    /// The names of the adapters that have sinks, in their order.
    pub(crate) fn sinks(&self) -> &[&'static str] {
        &self.sinks
    }

    /// The adapter of that name.
    pub fn get(&self, name: &str) -> Option<(&'static str, &Arc<dyn Adapter>)> {
        self.adapters.get_key_value(name).map(|(name, adapter)| (*name, adapter))
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Arc<dyn Adapter>)> {
        self.adapters.iter().map(|(name, adapter)| (*name, adapter))
    }
}

impl PluginTable {
    /// Loads these plugins.
    pub async fn load(host: &dyn PluginHost, names: BTreeSet<String>) -> Self {
        let loaded = stream::iter(names)
            .map(|name| async move {
                let loaded = host.load(&name).await;
                (name, loaded)
            })
            .buffer_unordered(PLUGINS_LOADED_AT_ONCE)
            .collect()
            .await;
        Self { loaded }
    }

    /// What became of the plugin of that name.
    pub fn get(&self, name: &str) -> Option<&Result<Arc<dyn LoadedPlugin>, PluginError>> {
        self.loaded.get(name)
    }
}
