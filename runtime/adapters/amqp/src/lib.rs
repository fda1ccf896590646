//! The AMQP 0-9-1 adapter, for RabbitMQ.
//!
//! The source consumes a queue and acknowledges each message by how its delivery settled; the sink publishes with confirms, or
//! asks and awaits the reply. `docs/adapters/amqp.md` is the reference for those who write flows.

mod config;
mod connection;
mod header_map;
mod sink;
mod source;
mod trouble;

use std::sync::Arc;

use async_trait::async_trait;
use gristmill_core::{
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::{Node, Schema, schema_of},
    connection::{ConnectionSpec, ConnectionState},
    source::SourceSpec,
};

use crate::connection::Brokers;

/// The name of the adapter, in flow files and in its mistakes.
const NAME: &str = "amqp";

/// The protocol `amqp`. One value per process: connections hang from it.
#[derive(Debug, Default)]
pub struct AmqpAdapter {
    brokers: Arc<Brokers>,
}

impl AmqpAdapter {
    /// Nothing is open yet.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Adapter for AmqpAdapter {
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
        let spec = connection::check(config, checker)?;
        Some(Arc::new(spec))
    }

    fn connection_states(&self) -> Vec<ConnectionState> {
        self.brokers.states()
    }

    fn check_source(&self, config: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn SourceSpec>> {
        let spec = source::check(config, checker, &self.brokers)?;
        Some(Arc::new(spec))
    }

    fn check_sink(&self, config: &Node, usage: SinkUse, checker: &mut Checker<'_>) -> Option<CheckedSink> {
        sink::check(config, usage, checker, &self.brokers)
    }

    /// A delivery is settled a moment before its acknowledgement is on its way to the broker.
    async fn finish(&self) {
        let settling = self.brokers.settling();
        settling.close();
        settling.wait().await;
    }
}
