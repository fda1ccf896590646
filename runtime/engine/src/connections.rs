//! Checks `connections:` of the runtime's configuration: names, each with one adapter and what that wants.

use std::path::Path;

use gristmill_core::{
    adapter::Checker,
    config::{Mistake, Mistakes, Node},
    connection::{Connection, Connections},
    limits::FlowLimits,
};

use crate::flow::{Registry, adapter_of, fingerprint, is_id};

/// The most connections.
const MAX_CONNECTIONS: usize = 1_000;

/// Checks the map of connections at `node`. All mistakes are added; what is good is given.
pub fn check_connections(
    node: &Node,
    registry: &Registry,
    base_dir: &Path,
    mistakes: &mut Mistakes,
) -> Connections {
    let mut connections = Connections::default();
    if node.entries().len() > MAX_CONNECTIONS {
        let text = format!("there are more than {MAX_CONNECTIONS} connections");
        mistakes
            .push(Mistake::new("too_many_connections", &node.span, text).mend("share them between flows"));
        return connections;
    }
    for entry in node.entries() {
        if !is_id(&entry.key) {
            let text = "a connection's name is 1 to 64 lower-case letters, digits, `-` and `_`";
            mistakes.push(Mistake::new("invalid_id", &entry.key_span, text).mend("e.g. `orders-broker`"));
        }
        let known =
            registry.iter().filter(|(_, a)| a.connection_schema().is_some()).map(|(n, _)| n).collect();
        let Some((adapter, implementation, config)) =
            adapter_of(&entry.value, "connection", known, registry, mistakes)
        else {
            connections.insert_broken(&entry.key);
            continue;
        };
        let limits = FlowLimits::default();
        let mut checker = Checker::new(mistakes, base_dir, &limits);
        let Some(spec) = implementation.check_connection(config, &mut checker) else {
            connections.insert_broken(&entry.key);
            continue;
        };
        let fingerprint = fingerprint::connection(config, &spec.configuration_files());
        connections.insert(Connection {
            name: entry.key.as_str().into(),
            adapter,
            fingerprint: fingerprint.into(),
            spec,
        });
    }
    connections
}
