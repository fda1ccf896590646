//! `transform`: a plugin changes the message, makes several of it, or drops it (EIP: message translator).

use std::sync::Arc;

use async_trait::async_trait;
use gristmill_core::{
    Message,
    config::{self, Node},
    limits::{FlowLimits, PluginLimits},
    plugin::{Grants, LoadedPlugin, Plugin, PluginScope, PluginSettings, World},
    step::{Running, Step, StepContext},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use super::{BuildContext, Built, Checked, CheckedStep, Verb};
use crate::flow::{Rehearsal, StepChecker};

pub(super) const VERB: Verb = Verb {
    name: "transform",
    summary: "A transformer plugin changes the message, makes several of it, or drops it.",
    schema: config::schema_of::<TransformConfig>,
    check,
};

/// A transformer plugin with its configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TransformConfig {
    /// The plugin: the name of its file in the plugins folder, without `.wasm`.
    plugin: String,
    /// Its configuration, checked against the schema that the plugin exports.
    #[serde(default)]
    #[allow(dead_code, reason = "read from the node, which knows the place of each value")]
    config: Option<Json>,
    /// What it may; nothing unless written.
    #[serde(default)]
    grants: Grants,
    /// Its limits.
    #[serde(default)]
    limits: PluginLimits,
}

fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Checked> {
    let config: TransformConfig = config::parse(node, checker.mistakes)?;
    let (name, grants, limits) = (config.plugin, config.grants, config.limits);
    let bound = CheckedPlugin::check(node, &name, grants, limits, World::Transformer, checker)?;
    Some(Checked {
        plugin: Some(bound.name.clone()),
        step: Arc::new(CheckedTransform(bound)),
        branches: Vec::new(),
    })
}

/// A plugin whose configuration and grants are good: what `transform` and `route` have in common.
pub(super) struct CheckedPlugin {
    pub(super) name: Arc<str>,
    loaded: Arc<dyn LoadedPlugin>,
    config: Json,
    /// What of the configuration was substituted: the host keeps it out of everything that the plugin says.
    secrets: Vec<String>,
    grants: Grants,
    limits: PluginLimits,
}

impl CheckedPlugin {
    /// Checks what a step says of its plugin against what the plugin says of itself.
    pub(super) fn check(
        node: &Node,
        name: &str,
        grants: Grants,
        limits: PluginLimits,
        world: World,
        checker: &mut StepChecker<'_>,
    ) -> Option<Self> {
        let loaded = checker.plugin(node.at(["plugin"]), name)?;
        let mut good = true;
        if loaded.world() != world {
            let (is, verb) = match loaded.world() {
                World::Transformer => ("a transformer", "transform"),
                World::Router => ("a router", "route"),
            };
            let text = format!("the plugin `{name}` is {is}");
            checker.mistake(
                "plugin_wrong_world",
                node.at(["plugin"]),
                text,
                format!("use it with `{verb}:`"),
            );
            good = false;
        }
        for grant in loaded.needs().iter().filter(|g| !grants.has(**g)) {
            let text = format!("the plugin `{name}` needs `{}`, which is not granted", grant.name());
            let mend = format!("add `grants: {{ {}: true }}`, if the plugin may have it", grant.name());
            checker.mistake("plugin_needs_grant", node.at(["plugin"]), text, mend);
            good = false;
        }
        let nothing = Node::new(config::Value::Map(Vec::new()), node.at(["plugin"]).span.clone());
        let config_node = node.get("config").unwrap_or(&nothing);
        let config =
            config::check_against(&loaded.description().config_schema, config_node, checker.mistakes)?;
        let secrets = substituted(config_node);
        if !good {
            return None;
        }
        checker.rehearsals.push(Rehearsal {
            loaded: Arc::clone(&loaded),
            config: config.clone(),
            secrets: secrets.clone(),
            grants,
            limits: limits.clone(),
            flow_limits: checker.limits.clone(),
            written: config_node.clone(),
            named: node.at(["plugin"]).span.clone(),
            step: checker.path.as_str().into(),
        });
        Some(Self { name: name.into(), loaded, config, secrets, grants, limits })
    }

    /// Binds it to the step.
    pub(super) async fn bind(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Plugin>, String> {
        let settings = PluginSettings {
            config: self.config.clone(),
            secrets: self.secrets.clone(),
            grants: self.grants,
            limits: self.limits.clone(),
            flow_limits: context.limits.clone(),
            scope: PluginScope {
                flow: Arc::clone(context.flow),
                version: Arc::clone(context.version),
                step: Arc::clone(context.path),
                observer: context.observer.plugin(context.flow, context.path, &self.name),
            },
        };
        self.loaded.bind(settings).await.map_err(|e| format!("plugin `{}`: {e}", self.name))
    }
}

/// What came into a configuration from the environment or files: each value, and each text that holds one.
fn substituted(node: &Node) -> Vec<String> {
    let here = node.substitution.iter().flat_map(|substitution| {
        std::iter::once(substitution.resolved()).chain(substitution.values().map(str::to_owned))
    });
    let below = node.entries().iter().map(|entry| &entry.value).chain(node.as_list().unwrap_or_default());
    here.chain(below.flat_map(substituted)).collect()
}

struct CheckedTransform(CheckedPlugin);

struct TransformStep {
    plugin: Arc<dyn Plugin>,
    limits: FlowLimits,
}

#[async_trait]
impl CheckedStep for CheckedTransform {
    async fn build(&self, context: &BuildContext<'_>) -> Result<Built, String> {
        let plugin = self.0.bind(context).await?;
        let health = Some(plugin.health());
        Ok(Built { step: Arc::new(TransformStep { plugin, limits: context.limits.clone() }), health })
    }
}

impl Step for TransformStep {
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a> {
        Running::Waiting(self.plugin.transform_and_apply(message, &self.limits, context.watch))
    }
}
