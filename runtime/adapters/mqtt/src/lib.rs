//! The MQTT adapter, 5.0 and 3.1.1.
//!
//! | module | holds |
//! |---|---|
//! | `config` | what stands in a flow file and in the runtime's configuration |
//! | `connection` | a broker, checked |
//! | `topic` | the rules of topics and topic filters |
//! | `wire` | packets, and 3.1.1 as 5.0 |
//! | `reason` | why a broker refuses, by number |
//! | `monitor` | how the clients are doing |
//! | `link` | one network connection to a broker |
//! | `backoff` | how long to wait before the next one |
//! | `properties` | properties of a PUBLISH as headers, and back |
//! | `source` | a session at the broker becomes deliveries |
//! | `sink` | messages are published, calls are answered |
//!
//! `docs/adapters/mqtt.md` is the reference for those who write flows.

mod backoff;
mod config;
mod connection;
mod link;
mod monitor;
mod properties;
mod reason;
mod sink;
mod source;
mod topic;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use gristmill_core::{
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::{Node, Schema, schema_of},
    connection::{ConnectionSpec, ConnectionState},
    source::SourceSpec,
};
use tokio_util::task::TaskTracker;

use self::{monitor::Monitors, sink::Clients, source::Leases};

/// The key of the adapter.
const NAME: &str = "mqtt";

/// The protocol `mqtt`. One value per process: the clients that sinks share hang from it, and so
/// does which source has which client id.
#[derive(Debug)]
pub struct MqttAdapter {
    /// What says good-bye to brokers when it ends.
    tasks: TaskTracker,
    clients: Arc<Clients>,
    monitors: Arc<Monitors>,
    leases: Arc<Leases>,
}

impl MqttAdapter {
    /// Nothing is connected yet.
    pub fn new() -> Self {
        let (tasks, monitors) = (TaskTracker::new(), Arc::new(Monitors::default()));
        Self {
            clients: Arc::new(Clients::new(tasks.clone(), Arc::clone(&monitors))),
            tasks,
            monitors,
            leases: Arc::default(),
        }
    }
}

impl Default for MqttAdapter {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Adapter for MqttAdapter {
    fn name(&self) -> &'static str {
        NAME
    }

    fn source_schema(&self) -> Option<Schema> {
        Some(schema_of::<config::SourceConfig>())
    }

    fn sink_schema(&self) -> Option<Schema> {
        Some(schema_of::<config::SinkConfig>())
    }

    fn connection_schema(&self) -> Option<Schema> {
        Some(schema_of::<config::ConnectionConfig>())
    }

    fn check_connection(&self, config: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn ConnectionSpec>> {
        Some(Arc::new(connection::check(config, checker)?))
    }

    fn connection_states(&self) -> Vec<ConnectionState> {
        self.monitors.states()
    }

    fn check_source(&self, config: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn SourceSpec>> {
        Some(Arc::new(source::check(config, checker, &self.tasks, &self.monitors, &self.leases)?))
    }

    fn check_sink(&self, config: &Node, usage: SinkUse, checker: &mut Checker<'_>) -> Option<CheckedSink> {
        sink::check(config, usage, checker, &self.clients)
    }

    /// Acknowledgements and good-byes are on their way a moment longer than the sources.
    async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
