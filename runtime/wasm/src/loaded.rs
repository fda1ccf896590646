//! A plugin's code, compiled, with what it said of itself. Binding gives it a place in a flow.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use gristmill_core::{
    Clock, background,
    limits::{FlowLimits, PluginLimits},
    observe::Unobserved,
    plugin::{
        Description, Grant, Grants, LoadedPlugin, Plugin, PluginError, PluginScope, PluginSettings, World,
    },
};
use jsonschema::Validator;
use wasmtime::component::Component;

use crate::{
    answer::MAX_REASON_BYTES,
    binary::Kind,
    bound::{Bound, BoundParts, Route, Transform},
    describe::MAX_DESCRIPTION_BYTES,
    instance::{Shared, StartFault, hostcall_fuel},
    link::Links,
    memory::Memories,
    output::GuestLog,
    quarantine::Quarantine,
    secrets::Secrets,
    surface::{Surface, wrong_contract},
    text::clean,
    ticker::Ticker,
};

/// What plugins get from their host.
#[derive(Clone)]
pub(crate) struct HostParts {
    pub(crate) links: Links,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) memories: Arc<Memories>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where the guests' monotonic clock starts.
    pub(crate) monotonic_base: std::time::Instant,
}

/// A plugin that has been loaded.
pub(crate) struct Loaded {
    pub(crate) host: HostParts,
    pub(crate) component: Component,
    pub(crate) kind: Kind,
    pub(crate) surface: Surface,
    pub(crate) description: Description,
    /// Of the description's schema.
    pub(crate) validator: Validator,
    pub(crate) digest: String,
    pub(crate) size_bytes: usize,
}

// === impl HostParts ===

impl HostParts {
    /// What the instances of a plugin in one place share.
    pub(crate) fn shared(&self, plugin: &str, settings: &PluginSettings) -> Shared {
        let PluginSettings { config: _, secrets, grants, limits, flow_limits, scope } = settings;
        let secrets = Secrets::new(secrets);
        let PluginScope { flow, version, step, observer } = scope;
        let plugin: Arc<str> = plugin.into();
        Shared {
            grants: *grants,
            limits: limits.clone(),
            hostcall_fuel: hostcall_fuel(flow_limits),
            memory: self.memories.of(flow, step, &plugin),
            log: Arc::new(GuestLog::new(
                [flow, version, step].map(Arc::clone),
                plugin,
                limits.log_lines_per_second,
                secrets.clone(),
            )),
            secrets,
            observer: observer.clone(),
            clock: self.clock.clone(),
            monotonic_base: self.monotonic_base,
        }
    }

    /// What an instance gets that runs nowhere: nothing granted, and no more said than a description needs.
    pub(crate) fn sandbox(&self) -> Arc<Shared> {
        let settings = PluginSettings {
            config: serde_json::Value::Null,
            secrets: Vec::new(),
            grants: Grants::default(),
            limits: PluginLimits::default(),
            flow_limits: FlowLimits {
                body_bytes: MAX_DESCRIPTION_BYTES,
                fan_out: 0,
                ..FlowLimits::default()
            },
            scope: PluginScope {
                flow: "".into(),
                version: "".into(),
                step: "describe".into(),
                observer: Arc::new(Unobserved),
            },
        };
        Arc::new(self.shared("", &settings))
    }
}

// === impl Loaded ===

impl Loaded {
    fn check_grants(&self, grants: Grants) -> Result<(), PluginError> {
        let missing: Vec<&str> =
            self.surface.needs.iter().filter(|g| !grants.has(**g)).map(|g| g.name()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let name = &self.description.name;
        let interfaces: Vec<_> = missing.iter().map(|g| format!("`gristmill:plugin/{g}`")).collect();
        let text =
            format!("the plugin `{name}` imports {}, which the step does not grant", interfaces.join(", "));
        let lines: Vec<_> = missing.iter().map(|g| format!("{g}: true")).collect();
        Err(PluginError::new("plugin_needs_grant", text)
            .mend(format!("add `grants: {{ {} }}` to the step", lines.join(", "))))
    }

    /// Whoever reads flows checks this too, and can say where in the file; here it is so that no guest is ever configured
    /// with what it said it does not take.
    fn check_config(&self, config: &serde_json::Value) -> Result<(), PluginError> {
        let wrong: Vec<_> = self
            .validator
            .iter_errors(config)
            .map(|e| {
                let place = e.instance_path().to_string();
                let masked = e.masked().to_string();
                if place.is_empty() { masked } else { format!("{place}: {masked}") }
            })
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let name = &self.description.name;
        let text = format!("the configuration of plugin `{name}` does not fit: {}", wrong.join("; "));
        Err(PluginError::new("plugin_config_invalid", text)
            .mend("`gristmill plugin inspect` shows the schema that the plugin wants"))
    }
}

#[async_trait]
impl LoadedPlugin for Loaded {
    fn description(&self) -> &Description {
        &self.description
    }

    fn world(&self) -> World {
        self.surface.world
    }

    fn needs(&self) -> &BTreeSet<Grant> {
        &self.surface.needs
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    async fn bind(&self, settings: PluginSettings) -> Result<Arc<dyn Plugin>, PluginError> {
        self.check_grants(settings.grants)?;
        self.check_config(&settings.config)?;
        let pre = self
            .host
            .links
            .link(&self.component, self.surface.uses_wasi, settings.grants)
            .map_err(|e| wrong_contract(format!("the plugin cannot be linked: {e:#}")))?;
        background::pause();
        let limits = &settings.limits;
        let secrets = Secrets::new(&settings.secrets);
        let parts = BoundParts {
            pre,
            shared: Arc::new(self.host.shared(&self.description.name, &settings)),
            config: settings.config.to_string(),
            wants_headers: self.description.wants_headers.clone(),
            wants_body: self.description.wants_body,
            ticker: self.host.ticker.clone(),
            quarantine: Quarantine::new(
                limits.quarantine_after,
                Duration::from_millis(limits.quarantine_ms),
                settings.scope.observer.clone(),
            ),
            flow_limits: settings.flow_limits,
        };
        let bound: Result<Arc<dyn Plugin>, StartFault> = match self.surface.world {
            World::Transformer => Bound::<Transform>::new(parts).await.map(|b| Arc::new(b) as _),
            World::Router => Bound::<Route>::new(parts).await.map(|b| Arc::new(b) as _),
        };
        let name = &self.description.name;
        bound.map_err(|fault| match fault {
            StartFault::Guest(fault) => {
                fault.into_plugin_error(&format!("while the plugin `{name}` was started and configured"))
            }
            StartFault::Refused(text) => PluginError::new(
                "plugin_config_refused",
                format!(
                    "the plugin `{name}` refuses its configuration: {}",
                    clean(&secrets.redact(&text), MAX_REASON_BYTES, true)
                ),
            ),
        })
    }
}
