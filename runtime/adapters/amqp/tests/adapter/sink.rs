//! Confirms, returns, properties, and what a broker refuses.

use std::sync::Arc;

use futures_util::future::join_all;
use gristmill_brokers::rabbitmq::RabbitMq;
use gristmill_core::{
    ErrorClass,
    adapter::{Adapter as _, SinkUse},
};
use lapin::{
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Bench, Outside, message, unique};

fn url() -> &'static str {
    RabbitMq::shared().url()
}

#[tokio::test]
async fn a_message_that_no_queue_takes_is_never_taken_for_confirmed() {
    let (bench, outside) = (Bench::new(url()), Outside::new(url()).await);
    let queue = unique("mandatory");
    outside.declare(&queue).await;
    let config = |key: &str| json!({"connection": "rabbit", "routing_key": key, "mandatory": true, "mandatory_channels": 8});
    let there = Arc::new(bench.open(&config(&queue), SinkUse::Send).await);
    let mut nowhere = bench.open(&config("nowhere"), SinkUse::Send).await;
    // One sink, one set of channels, two routing keys: what the client library would mix up.
    nowhere.sink = Arc::clone(&there.sink);
    let sends = (0..400).map(|n| {
        let (there, nowhere) = (&there, &nowhere);
        async move {
            let sink = if n % 3 == 0 { nowhere } else { there };
            (n, sink.send(&message(&n.to_string())).await)
        }
    });
    for (n, sent) in join_all(sends).await {
        match sent {
            Ok(()) => assert_ne!(n % 3, 0, "{n} was confirmed, and is nowhere"),
            Err(failure) => {
                assert_eq!(n % 3, 0, "{n} is there: {failure}");
                assert_eq!(failure.class(), ErrorClass::SinkReturned);
                assert!(failure.text().contains("no queue takes the routing key `nowhere`"), "{failure}");
            }
        }
    }
    assert_eq!(outside.ready(&queue).await, 266);
}

/// The client library numbers a message and queues it under two locks; the broker counts them as they come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_on_several_threads_hear_of_their_own_messages() {
    let (bench, outside) = (Bench::new(url()), Outside::new(url()).await);
    let (open, full) = (unique("open"), unique("full"));
    outside.declare(&open).await;
    let mut refuses = FieldTable::default();
    refuses.insert("x-max-length".into(), AMQPValue::LongInt(0));
    refuses.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    outside
        .channel
        .queue_declare(full.as_str().into(), QueueDeclareOptions::default(), refuses)
        .await
        .unwrap();
    let config = |key: &str| json!({"connection": "rabbit", "routing_key": key});
    let there = Arc::new(bench.open(&config(&open), SinkUse::Send).await);
    let mut refused = bench.open(&config(&full), SinkUse::Send).await;
    refused.sink = Arc::clone(&there.sink);
    let refused = Arc::new(refused);
    let mut tasks = JoinSet::new();
    for _ in 0..100 {
        let (there, refused) = (Arc::clone(&there), Arc::clone(&refused));
        tasks.spawn(async move {
            for n in 0..50 {
                let message = message(&n.to_string());
                there.send(&message).await.unwrap();
                let failure = refused.send(&message).await.unwrap_err();
                assert!(failure.text().contains("refused the message"), "{failure}");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(outside.ready(&open).await, 5_000);
}

#[tokio::test]
async fn a_dead_letter_that_no_queue_takes_is_not_written() {
    let bench = Bench::new(url());
    let config = json!({"connection": "rabbit", "routing_key": unique("dead")});
    let letters = bench.open(&config, SinkUse::DeadLetter).await;
    let failure = letters.send(&message("letter")).await.unwrap_err();
    assert!(failure.text().contains("no queue"), "{failure}");
}

#[tokio::test]
async fn a_sink_that_the_broker_does_not_let_in_is_not_opened_and_one_whose_broker_is_away_is() {
    let config = json!({"connection": "rabbit", "routing_key": "q"});
    let open = async |connection| {
        let bench = Bench::with(connection);
        let opened = bench.try_open(&config, SinkUse::Send).await.map(drop);
        (opened, bench.adapter.connection_states())
    };
    let (refused, _) = open(json!({"urls": [url()], "user": "guest", "password": "wrong"})).await;
    let failure = refused.unwrap_err();
    assert!(failure.text().contains("correct `user` and `password`"), "{failure}");
    let (opened, states) = open(json!({"urls": ["amqp://127.0.0.1:1"]})).await;
    opened.unwrap();
    let problem = states.first().and_then(|state| state.problem.clone()).unwrap();
    assert!(problem.contains("refused") && !problem.contains("TLS"), "{problem}");
}

#[tokio::test]
async fn properties_are_as_they_are_written() {
    let (bench, outside) = (Bench::new(url()), Outside::new(url()).await);
    let queue = unique("properties");
    outside.declare(&queue).await;
    let sink = bench.open(&json!({
        "connection": "rabbit", "routing_key": queue, "expiration_ms": 60_000, "priority": 3, "type": "order",
        "app_id": "shop", "correlation_id": "c1", "message_id": "m1", "content_encoding": "identity",
        "headers": {"X-Kind": "large"}, "forward_headers": ["content-type", "customer", "amqp-*"],
    }), SinkUse::Send).await;
    let mut sent = message("{}");
    for (name, value) in [
        ("content-type", "application/json"),
        ("customer", "7"),
        ("other", "no"),
        ("amqp-reply-to", "somewhere"),
        ("amqp-routing-key", "old"),
        ("amqp-header-types", r#"{"customer":{"name":"Customer","type":"integer"}}"#),
    ] {
        sent.headers_mut().append(name, value).unwrap();
    }
    sink.send(&sent).await.unwrap();
    let got = outside.get(&queue).await.unwrap().properties;
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().unwrap().as_str().to_owned();
    assert_eq!(text(got.content_type()), "application/json");
    assert_eq!(text(got.content_encoding()), "identity");
    assert_eq!(text(got.expiration()), "60000");
    assert_eq!(text(got.kind()), "order");
    assert_eq!(text(got.app_id()), "shop");
    assert_eq!(text(got.correlation_id()), "c1");
    assert_eq!(text(got.message_id()), "m1");
    assert_eq!(text(got.reply_to()), "somewhere");
    assert_eq!(
        (*got.delivery_mode(), *got.priority(), *got.timestamp()),
        (Some(2), Some(3), Some(1_700_000_000))
    );
    let headers = got.headers().as_ref().unwrap().inner();
    assert_eq!(headers.len(), 2, "{headers:?}");
    assert_eq!(headers["Customer"], AMQPValue::LongLongInt(7));
    assert_eq!(headers["X-Kind"], AMQPValue::LongString("large".into()));
}

#[tokio::test]
async fn a_message_that_amqp_cannot_carry_is_rejected_and_harms_no_other() {
    let (bench, outside) = (Bench::new(url()), Outside::new(url()).await);
    let queue = unique("unfit");
    outside.declare(&queue).await;
    let config = json!({"connection": "rabbit", "routing_key": queue, "forward_headers": ["*"]});
    let sink = bench.open(&config, SinkUse::Send).await;
    let long = "x".repeat(256);
    let huge = "x".repeat(200_000);
    for (name, value, part) in [
        ("amqp-type", long.as_str(), "255 bytes"),
        ("amqp-priority", "high", "a number from 0 to 255"),
        ("amqp-expiration", "soon", "a number of milliseconds"),
        (long.as_str(), "x", "255 bytes"),
        ("big", huge.as_str(), "forward fewer"),
    ] {
        let mut bad = message("bad");
        bad.headers_mut().append(name, value).unwrap();
        let failure = sink.send(&bad).await.unwrap_err();
        assert_eq!(failure.class(), ErrorClass::SinkRejected, "{name:.20}: {failure}");
        assert!(failure.text().contains(part), "{failure}");
    }
    sink.send(&message("good")).await.unwrap();
    assert_eq!(outside.ready(&queue).await, 1);
}

#[tokio::test]
async fn what_the_broker_refuses_in_a_window_is_found_and_the_others_go_on() {
    let (bench, outside) = (Bench::new(url()), Outside::new(url()).await);
    let queue = unique("refused");
    outside.declare(&queue).await;
    // The broker checks the user of a message against that of the connection, and closes the channel.
    let config = json!({"connection": "rabbit", "routing_key": queue, "forward_headers": ["*"]});
    let sink = bench.open(&config, SinkUse::Send).await;
    let sends = (0..20).map(|n| {
        let sink = &sink;
        async move {
            let mut message = message(&n.to_string());
            if n == 10 {
                // A CC header that is no list is refused.
                message.headers_mut().append("cc", "text").unwrap();
                message.headers_mut().append("amqp-header-types", r#"{"cc":{"name":"CC"}}"#).unwrap();
            }
            for _ in 0..20 {
                match sink.send(&message).await {
                    Ok(()) => return None,
                    Err(failure) if failure.is_retryable() => {}
                    Err(failure) => return Some((n, failure)),
                }
            }
            panic!("{n} is tried for ever");
        }
    });
    let refused: Vec<_> = join_all(sends).await.into_iter().flatten().collect();
    assert_eq!(refused.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [10], "{refused:?}");
    assert_eq!(refused[0].1.class(), ErrorClass::SinkRejected);
}

#[tokio::test]
async fn an_exchange_that_is_missing_is_named() {
    let bench = Bench::new(url());
    let config = json!({"connection": "rabbit", "exchange": "no-such-exchange", "routing_key": "x"});
    let sink = bench.open(&config, SinkUse::Send).await;
    let failure = sink.send(&message("x")).await.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::SinkUnavailable);
    assert!(failure.text().contains("no exchange 'no-such-exchange'"), "{failure}");
    assert!(failure.text().contains("declare it"), "{failure}");
}
