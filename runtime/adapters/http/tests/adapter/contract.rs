//! The contract of every adapter.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_core::{
    sink::Sink,
    source::Source,
    testkit::contract::{SinkHarness, SourceHarness, sink_suite, source_suite, spec_is_sound},
};
use http::Request;
use http_body_util::Full;
use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

use crate::{
    authority::Authority,
    https::{https_client, https_url, server_tls},
    support::{Bench, Flow, OpenSink, post, soon, source},
};

/// Senders that wait for their answers.
struct Senders {
    bench: Bench,
    /// Whose certificate the source has, if it speaks TLS.
    authority: Option<Authority>,
    waiting: Vec<JoinHandle<u16>>,
}

/// A flow that takes all that is sent to it.
struct Receiver {
    bench: Bench,
    flow: Option<Flow>,
    arrived: Arc<Mutex<Vec<Bytes>>>,
}

impl Senders {
    fn new() -> Self {
        Self { bench: Bench::new(), authority: None, waiting: Vec::new() }
    }

    fn over_tls() -> Self {
        let authority = Authority::new();
        authority.write("127.0.0.1");
        Self { authority: Some(authority), ..Self::new() }
    }

    fn config(&self, read_timeout_ms: u64) -> Json {
        let mut more = json!({"read_timeout_ms": read_timeout_ms});
        if let Some(authority) = &self.authority {
            more["tls"] = server_tls(authority);
        }
        source("/", more)
    }
}

#[async_trait]
impl SourceHarness for Senders {
    async fn start(&mut self) -> Box<dyn Source> {
        self.bench.start(self.config(30_000)).await
    }

    async fn take_over(&mut self, old: Box<dyn Source>) -> Box<dyn Source> {
        let prepared = self.bench.prepare(self.config(20_000)).await;
        prepared.take_over(old).await.unwrap_or_else(|failed| panic!("{}", failed.error))
    }

    async fn inject(&mut self, body: Bytes) {
        let Some(authority) = &self.authority else {
            let url = self.bench.url("/");
            let body = String::from_utf8(body.to_vec()).unwrap();
            self.waiting.push(tokio::spawn(async move { post(&url, &body).await.status.as_u16() }));
            return;
        };
        let client = https_client(authority.client_config(None), true);
        let request = Request::post(https_url(&self.bench)).body(Full::new(body)).unwrap();
        let sent = async move { client.request(request).await.unwrap().status().as_u16() };
        self.waiting.push(tokio::spawn(sent));
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
    source_suite(Senders::new).await;
}

#[tokio::test]
async fn the_source_keeps_the_contract_over_tls() {
    source_suite(Senders::over_tls).await;
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
