//! The HTTP adapter.
//!
//! The source serves routes of shared listeners and answers each request when its delivery has settled; the sink sends a
//! message as a request and reads the answer. `docs/adapters/http.md` is the reference for those who write flows.

mod config;
mod fields;
mod gathered;
mod id;
mod percent;
mod sink;
mod source;

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use gristmill_core::{
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::{Node, Schema, schema_of},
    source::SourceSpec,
};

use crate::{sink::Clients, source::Listeners};

/// The protocol `http`. One value per process: listeners and connection pools hang from it.
#[derive(Default)]
pub struct HttpAdapter {
    listeners: Arc<Listeners>,
    clients: Arc<Clients>,
}

impl HttpAdapter {
    /// Nothing is open yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The address that is listened on for the `listen` of a running source, if there is one: another than the configured
    /// one when its port is 0.
    pub fn bound_address(&self, listen: SocketAddr) -> Option<SocketAddr> {
        self.listeners.bound(listen)
    }
}

#[async_trait]
impl Adapter for HttpAdapter {
    fn name(&self) -> &'static str {
        "http"
    }

    fn source_schema(&self) -> Option<Schema> {
        Some(schema_of::<config::SourceConfig>())
    }

    fn sink_schema(&self) -> Option<Schema> {
        Some(schema_of::<config::SinkConfig>())
    }

    fn check_source(&self, config: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn SourceSpec>> {
        let spec = source::check(config, checker, &self.listeners)?;
        Some(Arc::new(spec))
    }

    fn check_sink(&self, config: &Node, _usage: SinkUse, checker: &mut Checker<'_>) -> Option<CheckedSink> {
        sink::check(config, checker, &self.clients)
    }

    /// A delivery is settled a moment before its sender has read the answer.
    async fn finish(&self) {
        self.listeners.finished().await;
    }
}
