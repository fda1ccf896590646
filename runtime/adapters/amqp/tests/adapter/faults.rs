//! A broker that goes away and comes back, hangs, or takes nothing. Each test has a broker of its own.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use gristmill_brokers::rabbitmq::RabbitMq;
use gristmill_core::{
    ErrorClass,
    adapter::{Adapter as _, SinkUse},
};
use lapin::BasicProperties;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::support::{Bench, Outside, body, eventually, message, next, unique};

const MESSAGES: usize = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_while_messages_pass_loses_none() {
    let mut broker = spawn_blocking(RabbitMq::start).await.unwrap();
    let bench = Bench::new(&broker.url());
    let (first, second) = (unique("first"), unique("second"));
    let source = |queue: &str| json!({"connection": "rabbit", "queue": queue, "declare": {}});
    let sink = |queue: &str| json!({"connection": "rabbit", "routing_key": queue, "mandatory": queue.contains("second"), "timeout_ms": 10_000});
    let mut passing = bench.start(&source(&first)).await.unwrap();
    let mut last = bench.start(&source(&second)).await.unwrap();
    let into_first = bench.open(&sink(&first), SinkUse::Send).await;
    let into_second = Arc::new(bench.open(&sink(&second), SinkUse::Send).await);
    let fill = tokio::spawn(async move {
        let send = async |n: usize| {
            while into_first.send(&message(&n.to_string())).await.is_err() {}
        };
        let mut sends = FuturesUnordered::new();
        for n in 0..MESSAGES {
            sends.push(send(n));
            if sends.len() == 64 {
                sends.next().await;
            }
        }
        while sends.next().await.is_some() {}
    });
    let pass = tokio::spawn(async move {
        loop {
            let delivery = next(&mut *passing).await;
            let sink = Arc::clone(&into_second);
            tokio::spawn(async move {
                match sink.send(&delivery.message).await {
                    Ok(()) => delivery.acknowledgement.delivered(),
                    Err(_) => delivery.acknowledgement.released(None),
                }
            });
        }
    });
    let mut seen = HashSet::new();
    let mut kills = 0;
    while seen.len() < MESSAGES {
        let delivery = next(&mut *last).await;
        seen.insert(body(&delivery));
        delivery.acknowledgement.delivered();
        if kills < 2 && seen.len() > (kills + 1) * MESSAGES / 4 {
            kills += 1;
            broker = spawn_blocking(move || {
                broker.kill();
                broker.restart();
                broker
            })
            .await
            .unwrap();
        }
    }
    assert_eq!(kills, 2);
    fill.await.unwrap();
    pass.abort();
}

#[tokio::test]
async fn a_broker_that_is_away_is_said_and_waited_for() {
    let mut broker = spawn_blocking(RabbitMq::start).await.unwrap();
    let (bench, queue) = (Bench::new(&broker.url()), unique("away"));
    Outside::new(&broker.url()).await.declare(&queue).await;
    broker.stop();
    let sink = bench.open(&json!({"connection": "rabbit", "routing_key": queue}), SinkUse::Send).await;
    let failure = sink.send(&message("x")).await.unwrap_err();
    assert_eq!((failure.class(), failure.is_retryable()), (ErrorClass::SinkUnavailable, true));
    assert!(failure.text().contains("refused"), "{failure}");
    // A flow starts without its broker, and says why it has nothing.
    let mut source = bench.start(&json!({"connection": "rabbit", "queue": queue})).await.unwrap();
    let error = source.next().await.unwrap_err();
    assert!(error.text.contains("connection `rabbit`") && error.text.contains("refused"), "{error}");
    broker = spawn_blocking(move || {
        broker.restart();
        broker
    })
    .await
    .unwrap();
    let outside = Outside::new(&broker.url()).await;
    outside.publish(&queue, b"hello", BasicProperties::default()).await;
    let delivery = next(&mut *source).await;
    assert_eq!(body(&delivery), "hello");
    delivery.acknowledgement.delivered();
    eventually("a message can be sent again", async || sink.send(&message("y")).await.is_ok()).await;
}

#[tokio::test]
async fn a_message_that_is_held_too_long_comes_again_and_its_late_acknowledgement_harms_nothing() {
    let broker = spawn_blocking(RabbitMq::start).await.unwrap();
    let broker = spawn_blocking(move || {
        let set = "application:set_env(rabbit, consumer_timeout, 300), application:set_env(rabbit, channel_tick_interval, 100).";
        broker.ctl(&["eval", set]);
        broker
    })
    .await
    .unwrap();
    let (bench, queue) = (Bench::new(&broker.url()), unique("slow"));
    let mut source =
        bench.start(&json!({"connection": "rabbit", "queue": queue, "declare": {}})).await.unwrap();
    let outside = Outside::new(&broker.url()).await;
    outside.publish(&queue, b"slow", BasicProperties::default()).await;
    let first = next(&mut *source).await;
    let mut said = String::new();
    // What is said depends on whether the consumer had lived for a second; that the message comes again does not.
    let again = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match source.next().await {
                Ok(delivery) => break delivery.unwrap(),
                Err(error) => said = error.text,
            }
        }
    })
    .await
    .unwrap();
    assert!(again.redelivered && body(&again) == "slow");
    assert!(said.is_empty() || said.contains("`consumer_timeout`"), "{said}");
    first.acknowledgement.delivered();
    again.acknowledgement.delivered();
    source.close().await;
    drop(source);
    bench.adapter.finish().await;
    eventually("nothing is left", async || outside.ready(&queue).await == 0).await;
    let states = bench.adapter.connection_states();
    assert!(states.iter().all(|state| state.connects <= 1), "the connection stays: {states:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_is_given_up_and_one_that_is_short_of_memory_is_waited_for() {
    let broker = spawn_blocking(RabbitMq::start).await.unwrap();
    let url = broker.url();
    let bench = Bench::with(json!({"urls": [url], "heartbeat_ms": 1_000, "connect_timeout_ms": 1_000,
        "reconnect": {"initial_delay_ms": 50, "max_delay_ms": 100}}));
    let queue = unique("hangs");
    let mut source =
        bench.start(&json!({"connection": "rabbit", "queue": queue, "declare": {}})).await.unwrap();
    let sink = bench
        .open(&json!({"connection": "rabbit", "routing_key": queue, "timeout_ms": 2_000}), SinkUse::Send)
        .await;
    sink.send(&message("one")).await.unwrap();
    let one = next(&mut *source).await;
    broker.suspend();
    let failure = sink.send(&message("lost")).await.unwrap_err();
    assert!(failure.is_retryable(), "{failure}");
    // For longer than two heartbeats.
    eventually("the hanging broker is given up", async || source.next().await.is_err()).await;
    broker.resume();
    // Too late for its channel, so it comes again.
    one.acknowledgement.delivered();
    let mut seen = HashSet::new();
    while !seen.contains("one") {
        let delivery = next(&mut *source).await;
        seen.insert(body(&delivery));
        delivery.acknowledgement.delivered();
    }
    eventually("a message can be sent again", async || sink.send(&message("two")).await.is_ok()).await;

    let broker = spawn_blocking(move || {
        broker.memory_alarm(true);
        broker
    })
    .await
    .unwrap();
    // The first publish is what makes the broker say so.
    let failure = sink.send(&message("blocked")).await.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::Timeout);
    eventually("the blocked connection is seen", async || {
        bench
            .adapter
            .connection_states()
            .iter()
            .any(|state| &*state.role == "publishing" && state.blocked.is_some())
    })
    .await;
    let failure = sink.send(&message("blocked too")).await.unwrap_err();
    assert!(failure.text().contains("takes nothing for now"), "{failure}");
    // Acknowledgements go on, on their own connection.
    let delivery = next(&mut *source).await;
    delivery.acknowledgement.delivered();
    assert!(
        bench
            .adapter
            .connection_states()
            .iter()
            .any(|state| &*state.role == "consuming" && state.blocked.is_none())
    );
    let _broker = spawn_blocking(move || {
        broker.memory_alarm(false);
        broker
    })
    .await
    .unwrap();
    eventually("a message can be sent again", async || sink.send(&message("three")).await.is_ok()).await;
    tokio::time::timeout(Duration::from_secs(20), async {
        while body(&next(&mut *source).await) != "three" {}
    })
    .await
    .unwrap();
}
