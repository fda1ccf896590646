//! `route`: a router plugin names the branches that get a copy of the message (EIP: recipient list, dynamic router). When
//! all of them are done, the message goes on after the step as it was.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use gristmill_core::{
    Failure, Message, Stopwatch,
    config::{self, Node},
    limits::PluginLimits,
    plugin::{Grants, Plugin, World},
    step::{Next, Running, Step, StepContext},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use super::{
    BuildContext, Built, Checked, CheckedStep, Verb, branching::no_branch, transform::CheckedPlugin,
};
use crate::flow::StepChecker;

pub(super) const VERB: Verb = Verb {
    name: "route",
    summary: "A router plugin names the branches that get a copy of the message; then the message goes on as it was.",
    schema: config::schema_of::<RouteConfig>,
    check,
};

/// A router plugin and the branches that it can name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RouteConfig {
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
    /// The branches: route name to steps.
    #[schemars(extend("x-branches" = true))]
    #[allow(dead_code, reason = "the steps are read from the node, which knows their place")]
    branches: BTreeMap<String, Vec<Json>>,
    /// Takes the message when the plugin names no route. Without it, that is an error.
    #[serde(default)]
    #[schemars(extend("x-steps" = true))]
    #[allow(dead_code, reason = "the steps are read from the node, which knows their place")]
    otherwise: Option<Vec<Json>>,
}

fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Checked> {
    let Some(config) = config::parse::<RouteConfig>(node, checker.mistakes) else {
        for entry in node.get("branches").map(Node::entries).unwrap_or_default() {
            checker.broken_branch(Some(&entry.value), &format!("route.branches.{}", entry.key));
        }
        checker.broken_branch(node.get("otherwise"), "route.otherwise");
        return None;
    };
    let (name, grants, limits) = (config.plugin, config.grants, config.limits);
    let plugin = CheckedPlugin::check(node, &name, grants, limits, World::Router, checker);
    let (mut names, mut branches, mut good) = (Vec::new(), Vec::new(), true);
    for entry in node.at(["branches"]).entries() {
        match checker.branch(&entry.value, &format!("route.branches.{}", entry.key)) {
            Some(steps) => {
                names.push(entry.key.clone());
                branches.push(steps);
            }
            None => good = false,
        }
    }
    let mut otherwise = None;
    if let Some(steps) = node.get("otherwise") {
        match checker.branch(steps, "route.otherwise") {
            Some(steps) => {
                otherwise = Some(branches.len());
                branches.push(steps);
            }
            None => good = false,
        }
    }
    let plugin = plugin.filter(|_| good)?;
    Some(Checked {
        plugin: Some(plugin.name.clone()),
        step: Arc::new(CheckedRoute { plugin, names, otherwise }),
        branches,
    })
}

struct CheckedRoute {
    plugin: CheckedPlugin,
    names: Vec<String>,
    otherwise: Option<usize>,
}

struct RouteStep {
    plugin: Arc<dyn Plugin>,
    names: Vec<String>,
    otherwise: Option<usize>,
}

#[async_trait]
impl CheckedStep for CheckedRoute {
    async fn build(&self, context: &BuildContext<'_>) -> Result<Built, String> {
        let plugin = self.plugin.bind(context).await?;
        let health = Some(plugin.health());
        let step = RouteStep { plugin, names: self.names.clone(), otherwise: self.otherwise };
        Ok(Built { step: Arc::new(step), health })
    }
}

impl Step for RouteStep {
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a> {
        Running::waiting(self.route(message, context.watch))
    }
}

impl RouteStep {
    async fn route(&self, message: Message, watch: &Stopwatch) -> Result<Next, Failure> {
        let routes = self.plugin.route(&message, watch).await?;
        let mut chosen = Vec::with_capacity(routes.len());
        for route in &routes {
            let Some(index) = self.names.iter().position(|name| name == route) else {
                let text = format!(
                    "the plugin named the route `{}`, and `branches` has only: {}",
                    route.escape_debug().take(80).collect::<String>(),
                    self.names.join(", ")
                );
                return Err(no_branch(text));
            };
            if !chosen.contains(&index) {
                chosen.push(index);
            }
        }
        // In the order of the file, so that the steps of an ordered flow are reached in one order by every message.
        chosen.sort_unstable();
        match (chosen.is_empty(), self.otherwise) {
            (false, _) => Ok(Next::EnterAll(message, chosen)),
            (true, Some(otherwise)) => Ok(Next::EnterAll(message, vec![otherwise])),
            (true, None) => Err(no_branch("the plugin named no route, and the step has no `otherwise`")),
        }
    }
}
