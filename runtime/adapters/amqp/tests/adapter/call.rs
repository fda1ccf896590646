//! Request and reply.

use futures_util::{StreamExt as _, future::join_all};
use gristmill_brokers::rabbitmq::RabbitMq;
use gristmill_core::{ErrorClass, adapter::SinkUse};
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, BasicPublishOptions},
    types::FieldTable,
};
use serde_json::json;

use crate::support::{Bench, Outside, message, unique};

fn url() -> &'static str {
    RabbitMq::shared().url()
}

/// Answers questions of a queue with their text in capitals; `quiet` ones not at all. Backwards in pairs.
async fn answer(queue: String) {
    let outside = Outside::new(url()).await;
    outside.declare(&queue).await;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = outside.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut consumer = consumer.await.unwrap();
    tokio::spawn(async move {
        while let Some(Ok(question)) = consumer.next().await {
            if question.data == b"quiet" {
                continue;
            }
            let to = question.properties.reply_to().clone().unwrap();
            let properties = BasicProperties::default()
                .with_correlation_id(question.properties.correlation_id().clone().unwrap())
                .with_content_type("text/plain".into());
            let body = question.data.to_ascii_uppercase();
            let options = BasicPublishOptions::default();
            let sent = outside.channel.basic_publish("".into(), to, options, &body, properties).await;
            sent.unwrap().await.unwrap();
        }
    });
}

#[tokio::test]
async fn each_question_gets_its_own_reply() {
    let (bench, queue) = (Bench::new(url()), unique("call"));
    answer(queue.clone()).await;
    let config = json!({"connection": "rabbit", "routing_key": queue, "timeout_ms": 15_000});
    let sink = bench.open(&config, SinkUse::Call).await;
    let calls = (0..50).map(|n| {
        let sink = &sink;
        async move { (n, sink.call(&message(&format!("question {n}"))).await.unwrap()) }
    });
    for (n, answer) in join_all(calls).await {
        assert_eq!(answer.body, format!("QUESTION {n}"));
        assert_eq!(answer.headers.iter().collect::<Vec<_>>(), [("content-type", "text/plain")]);
    }
}

#[tokio::test]
async fn a_question_without_a_reply_ends_and_one_that_no_queue_takes_at_once() {
    let (bench, queue) = (Bench::new(url()), unique("call"));
    answer(queue.clone()).await;
    let config = |key: &str| json!({"connection": "rabbit", "routing_key": key, "timeout_ms": 500});
    let sink = bench.open(&config(&queue), SinkUse::Call).await;
    let failure = sink.call(&message("quiet")).await.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::Timeout, "{failure}");
    assert_eq!(sink.call(&message("loud")).await.unwrap().body, "LOUD");
    let mut config = config("nowhere");
    config["timeout_ms"] = 15_000.into();
    let sink = bench.open(&config, SinkUse::Call).await;
    let failure = sink.call(&message("x")).await.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::SinkReturned);
    assert!(failure.text().contains("no queue"), "{failure}");
}

#[tokio::test]
async fn a_reply_over_the_limit_is_a_failure() {
    let (mut bench, queue) = (Bench::new(url()), unique("call"));
    bench.limits.body_bytes = 10;
    answer(queue.clone()).await;
    let config = json!({"connection": "rabbit", "routing_key": queue});
    let sink = bench.open(&config, SinkUse::Call).await;
    let failure = sink.call(&message("eleven byte")).await.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::Limit);
}
