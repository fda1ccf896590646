//! The contract of every adapter.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_core::{
    sink::Sink,
    source::Source,
    testkit::contract::{SinkHarness, SourceHarness, sink_suite, source_suite, spec_is_sound},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::{Bench, Flow, OpenSink, post, soon, source};

/// Senders that wait for their answers.
struct Senders {
    bench: Bench,
    waiting: Vec<JoinHandle<u16>>,
}

/// A flow that takes all that is sent to it.
struct Receiver {
    bench: Bench,
    flow: Option<Flow>,
    arrived: Arc<Mutex<Vec<Bytes>>>,
}

#[async_trait]
impl SourceHarness for Senders {
    async fn start(&mut self) -> Box<dyn Source> {
        self.bench.start(source("/", json!({}))).await
    }

    async fn take_over(&mut self, old: Box<dyn Source>) -> Box<dyn Source> {
        let prepared = self.bench.prepare(source("/", json!({"read_timeout_ms": 20_000}))).await;
        prepared.take_over(old).await.unwrap_or_else(|failed| panic!("{}", failed.error))
    }

    async fn inject(&mut self, body: Bytes) {
        let url = self.bench.url("/");
        let body = String::from_utf8(body.to_vec()).unwrap();
        self.waiting.push(tokio::spawn(async move { post(&url, &body).await.status.as_u16() }));
    }

    fn redelivers(&self) -> bool {
        false
    }

    async fn is_empty(&mut self) -> bool {
        for sender in self.waiting.drain(..) {
            assert_eq!(soon(sender).await.unwrap(), 204);
        }
        true
    }
}

#[async_trait]
impl SinkHarness for Receiver {
    async fn open(&mut self) -> (Arc<dyn Sink>, Vec<String>) {
        let arrived = Arc::clone(&self.arrived);
        let running = self.bench.start(source("/", json!({}))).await;
        self.flow = Some(Flow::run(running, move |delivery| {
            arrived.lock().unwrap().push(delivery.message.body().clone());
            delivery.acknowledgement.delivered();
        }));
        let OpenSink { sink, .. } = self.bench.sink(json!({"url": self.bench.url("/")})).await;
        (sink, Vec::new())
    }

    async fn arrived(&mut self) -> Vec<Bytes> {
        self.arrived.lock().unwrap().clone()
    }

    fn keeps_order(&self) -> bool {
        false
    }

    async fn break_it(&mut self) {
        drop(self.flow.take().unwrap().stop().await);
    }
}

#[tokio::test]
async fn the_source_keeps_the_contract() {
    source_suite(|| Senders { bench: Bench::new(), waiting: Vec::new() }).await;
}

#[tokio::test]
async fn the_sink_keeps_the_contract() {
    sink_suite(|| Receiver { bench: Bench::new(), flow: None, arrived: Arc::default() }).await;
}

#[test]
fn what_a_source_says_about_itself_fits_together() {
    let config = source("/{a}/{*b}", json!({"methods": ["POST", "GET", "POST"], "host": "a.test"}));
    spec_is_sound(&*Bench::new().check_source(&config).unwrap());
}
