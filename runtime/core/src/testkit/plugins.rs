//! Plugins made of closures.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    failure::{ErrorClass, Failure},
    message::Message,
    plugin::{
        Description, Grant, Health, LoadedPlugin, Plugin, PluginError, PluginHost, PluginSettings,
        Transformed, WantsHeaders, World,
    },
    stopwatch::Stopwatch,
};

type Transform = Arc<dyn Fn(&Message) -> Result<Transformed, Failure> + Send + Sync>;
type Takes = Arc<dyn Fn(&Message) -> Duration + Send + Sync>;
type Route = Arc<dyn Fn(&Message) -> Result<Vec<String>, Failure> + Send + Sync>;

/// A plugin made of a closure.
#[derive(Clone)]
pub struct ScriptedPlugin {
    description: Description,
    needs: BTreeSet<Grant>,
    digest: String,
    call: Call,
    takes: Option<Takes>,
    health: Arc<watch::Sender<Health>>,
    bind: Result<(), PluginError>,
}

#[derive(Clone)]
enum Call {
    Transform(Transform),
    Route(Route),
}

/// A plugins folder made of closures. Replacing one is what saving a plugin's file is.
#[derive(Default)]
pub struct ScriptedPlugins {
    plugins: Mutex<BTreeMap<String, ScriptedPlugin>>,
}

impl ScriptedPlugin {
    /// A transformer without configuration.
    pub fn transformer(
        call: impl Fn(&Message) -> Result<Transformed, Failure> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Call::Transform(Arc::new(call)))
    }

    /// A router without configuration.
    pub fn router(call: impl Fn(&Message) -> Result<Vec<String>, Failure> + Send + Sync + 'static) -> Self {
        Self::new(Call::Route(Arc::new(call)))
    }

    fn new(call: Call) -> Self {
        Self {
            description: Description {
                name: "scripted".into(),
                version: "0.0.0".into(),
                summary: "A closure.".into(),
                config_schema: serde_json::json!({ "type": "object", "additionalProperties": false }),
                wants_headers: WantsHeaders::All,
                wants_body: true,
            },
            needs: BTreeSet::new(),
            digest: "0".into(),
            call,
            takes: None,
            health: Arc::new(watch::Sender::new(Health::Fit)),
            bind: Ok(()),
        }
    }

    /// The same with a configuration of this schema.
    #[must_use]
    pub fn with_schema(mut self, schema: serde_json::Value) -> Self {
        self.description.config_schema = schema;
        self
    }

    /// The same with needs.
    #[must_use]
    pub fn needing(mut self, grants: impl IntoIterator<Item = Grant>) -> Self {
        self.needs = grants.into_iter().collect();
        self
    }

    /// The same with other content, as far as a flow's version is concerned.
    #[must_use]
    pub fn with_digest(mut self, digest: impl Into<String>) -> Self {
        self.digest = digest.into();
        self
    }

    /// The same, but a call takes this long.
    #[must_use]
    pub fn taking(mut self, time: impl Fn(&Message) -> Duration + Send + Sync + 'static) -> Self {
        self.takes = Some(Arc::new(time));
        self
    }

    async fn take_time(&self, message: &Message) {
        if let Some(takes) = &self.takes {
            tokio::time::sleep(takes(message)).await;
        }
    }

    /// The same, but it cannot be bound.
    #[must_use]
    pub fn failing_to_bind(mut self, error: PluginError) -> Self {
        self.bind = Err(error);
        self
    }

    /// To hold it back and let it go again.
    pub fn health(&self) -> Arc<watch::Sender<Health>> {
        Arc::clone(&self.health)
    }
}

impl ScriptedPlugins {
    /// An empty folder.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts a plugin there, or another in its place.
    pub fn save(&self, name: &str, plugin: ScriptedPlugin) {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), plugin);
    }
}

#[async_trait]
impl PluginHost for ScriptedPlugins {
    async fn load(&self, name: &str) -> Result<Arc<dyn LoadedPlugin>, PluginError> {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        match plugins.get(name) {
            Some(plugin) => Ok(Arc::new(plugin.clone())),
            None => Err(PluginError::new("plugin_not_found", format!("there is no plugin `{name}`"))),
        }
    }

    fn names(&self) -> Vec<String> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

#[async_trait]
impl LoadedPlugin for ScriptedPlugin {
    fn description(&self) -> &Description {
        &self.description
    }

    fn world(&self) -> World {
        match self.call {
            Call::Transform(_) => World::Transformer,
            Call::Route(_) => World::Router,
        }
    }

    fn needs(&self) -> &BTreeSet<Grant> {
        &self.needs
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    async fn bind(&self, _: PluginSettings) -> Result<Arc<dyn Plugin>, PluginError> {
        self.bind.clone().map(|()| Arc::new(self.clone()) as Arc<dyn Plugin>)
    }
}

#[async_trait]
impl Plugin for ScriptedPlugin {
    async fn transform(&self, message: &Message, _: &Stopwatch) -> Result<Transformed, Failure> {
        self.take_time(message).await;
        match &self.call {
            Call::Transform(call) => call(message),
            Call::Route(_) => Err(Failure::new(ErrorClass::Internal, "a router cannot transform")),
        }
    }

    async fn route(&self, message: &Message, _: &Stopwatch) -> Result<Vec<String>, Failure> {
        self.take_time(message).await;
        match &self.call {
            Call::Route(call) => call(message),
            Call::Transform(_) => Err(Failure::new(ErrorClass::Internal, "a transformer cannot route")),
        }
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}
