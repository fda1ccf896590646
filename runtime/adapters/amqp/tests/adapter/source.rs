//! Queues: declared, missing, deleted, of other properties.

use std::collections::VecDeque;

use gristmill_brokers::rabbitmq::RabbitMq;
use gristmill_core::adapter::{Adapter as _, SinkUse};
use lapin::{
    BasicProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

use crate::support::{Bench, Outside, Relay, body, eventually, message, next, unique};

fn url() -> &'static str {
    RabbitMq::shared().url()
}

#[tokio::test]
async fn a_queue_that_is_missing_is_named() {
    let queue = unique("missing");
    let config = json!({"connection": "rabbit", "queue": queue});
    let error = Bench::new(url()).start(&config).await.err().unwrap();
    assert!(error.text.contains(&format!("no queue '{queue}'")), "{error}");
    assert!(error.text.contains("declare it (`declare: {}`), or correct `queue`"), "{error}");
}

#[tokio::test]
async fn a_dead_letter_exchange_that_is_missing_is_named_because_what_is_rejected_would_be_lost() {
    let exchange = unique("nowhere");
    let declare = json!({"dead_letter_exchange": exchange});
    let config = json!({"connection": "rabbit", "queue": unique("doomed"), "declare": declare});
    let error = Bench::new(url()).start(&config).await.err().unwrap();
    assert!(error.text.contains(&format!("its `dead_letter_exchange` `{exchange}`")), "{error}");
    assert!(error.text.contains("declare it at the broker"), "{error}");
}

#[tokio::test]
async fn what_differs_from_a_queue_that_is_there_is_named() {
    let (bench, outside, queue) = (Bench::new(url()), Outside::new(url()).await, unique("differs"));
    outside.declare(&queue).await;
    for (declare, part) in [
        (json!({"durable": false}), "inequivalent arg 'durable'"),
        (json!({"message_ttl_ms": 1_000}), "inequivalent arg 'x-message-ttl'"),
        (json!({"type": "quorum"}), "inequivalent arg 'x-queue-type'"),
    ] {
        let config = json!({"connection": "rabbit", "queue": queue, "declare": declare});
        let error = bench.start(&config).await.err().unwrap();
        assert!(error.text.contains(part), "{error}");
        assert!(error.text.contains("write the properties that it has"), "{error}");
    }
}

#[tokio::test]
async fn wrong_credentials_and_a_missing_vhost_are_named() {
    let config = json!({"connection": "rabbit", "queue": "q"});
    for (connection, part) in [
        (json!({"urls": [url()], "user": "guest", "password": "wrong"}), "correct `user` and `password`"),
        (json!({"urls": [url()], "vhost": "nowhere"}), "correct `vhost`"),
    ] {
        let error = Bench::with(connection).start(&config).await.err().unwrap();
        assert!(error.text.contains(part), "{error}");
        assert!(!error.text.contains("wrong"), "{error}");
        assert!(error.text.contains("closed the connection"), "{error}");
    }
}

#[tokio::test]
async fn several_hosts_are_tried_in_turn() {
    let bench = Bench::with(json!({"urls": ["amqp://127.0.0.1:1", url()]}));
    let config = json!({"connection": "rabbit", "queue": unique("hosts"), "declare": {"auto_delete": true}});
    let _source = bench.start(&config).await.unwrap();
    let states = bench.adapter.connection_states();
    assert_eq!((states.len(), &*states[0].role, states[0].is_up), (1, "consuming", true), "{states:?}");
}

#[tokio::test]
async fn a_connection_in_the_place_of_another_counts_on() {
    let mut bench = Bench::new(url());
    let config = json!({"connection": "rabbit", "queue": unique("counts"), "declare": {"auto_delete": true}});
    let old = bench.start(&config).await.unwrap();
    bench.connect(&json!({"urls": [url()], "heartbeat_ms": 20_000}));
    let source = bench.take_over(&config, old).await.ok().unwrap();
    let states = bench.adapter.connection_states();
    assert_eq!((states.len(), states[0].is_up, states[0].connects), (1, true, 2), "{states:?}");
    drop(source);
}

#[tokio::test]
async fn the_next_host_is_tried_when_the_first_is_lost() {
    let broker = url().trim_start_matches("amqp://").to_owned();
    let (listener, host) = (tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), broker.clone());
    let first = listener.local_addr().unwrap();
    let proxy = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(host).await.unwrap();
        let _cut = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let urls = json!([format!("amqp://{first}"), url()]);
    let bench =
        Bench::with(json!({"urls": urls, "reconnect": {"initial_delay_ms": 10, "max_delay_ms": 60_000}}));
    let (queue, outside) = (unique("second-host"), Outside::new(url()).await);
    let mut source =
        bench.start(&json!({"connection": "rabbit", "queue": queue, "declare": {}})).await.unwrap();
    outside.publish(&queue, b"one", BasicProperties::default()).await;
    let held = next(&mut *source).await;
    proxy.abort();
    let again = next(&mut *source).await;
    assert!(again.redelivered && body(&again) == "one");
    held.acknowledgement.delivered();
    again.acknowledgement.delivered();
    outside.publish(&queue, b"two", BasicProperties::default()).await;
    let two = next(&mut *source).await;
    assert_eq!(body(&two), "two");
    two.acknowledgement.delivered();
}

#[tokio::test]
async fn a_rejected_message_goes_to_the_dead_letter_exchange_and_says_so_when_it_comes() {
    let (bench, outside) = (Bench::new(url()), Outside::new(url()).await);
    let (queue, dead) = (unique("rejects"), unique("dead"));
    outside.declare(&dead).await;
    let declare = json!({"dead_letter_exchange": "", "dead_letter_routing_key": dead});
    let config = json!({"connection": "rabbit", "queue": queue, "declare": declare});
    assert!(bench.check_source(&config).unwrap().keeps_rejected());
    let mut source = bench.start(&config).await.unwrap();
    outside.publish(&queue, b"bad", BasicProperties::default()).await;
    let first = next(&mut *source).await;
    assert!(!first.redelivered);
    first.acknowledgement.released(None);
    let again = next(&mut *source).await;
    assert!(again.redelivered);
    assert_eq!(again.message.headers().get("amqp-redelivered"), Some("true"));
    again.acknowledgement.rejected(None);
    let mut letters = bench.start(&json!({"connection": "rabbit", "queue": dead})).await.unwrap();
    let letter = next(&mut *letters).await;
    assert_eq!(body(&letter), "bad");
    let deaths: serde_json::Value =
        serde_json::from_str(letter.message.headers().get("x-death").unwrap()).unwrap();
    assert_eq!((&deaths[0]["reason"], &deaths[0]["queue"]), (&json!("rejected"), &json!(queue)), "{deaths}");
    letter.acknowledgement.delivered();
}

#[tokio::test]
async fn messages_that_end_in_any_order_end_as_they_should_and_no_other_does() {
    const COUNT: u32 = 100;
    let (bench, outside) = (Bench::new(url()), Outside::new(url()).await);
    let (queue, dead) = (unique("ends"), unique("ends-dead"));
    outside.declare(&dead).await;
    let declare = json!({"dead_letter_exchange": "", "dead_letter_routing_key": dead});
    let config = json!({"connection": "rabbit", "queue": queue, "declare": declare});
    let mut source = bench.start(&config).await.unwrap();
    for n in 0..COUNT {
        outside.publish(&queue, n.to_string().as_bytes(), BasicProperties::default()).await;
    }
    let mut held = Vec::new();
    for _ in 0..COUNT {
        held.push(Some(next(&mut *source).await));
    }
    // 37 has no factor in common with their number: each comes up once. 30 and 31 stay open, and every tenth is rejected.
    for step in 0..COUNT {
        let n = step * 37 % COUNT;
        match n {
            30 | 31 => continue,
            _ if n.is_multiple_of(10) => held[n as usize].take().unwrap().acknowledgement.rejected(None),
            _ => held[n as usize].take().unwrap().acknowledgement.delivered(),
        }
        if step.is_multiple_of(7) {
            // What has ended until here is told.
            tokio::task::yield_now().await;
        }
    }
    eventually("the rejected are dead letters", async || outside.ready(&dead).await == COUNT / 10 - 1).await;
    source.close().await;
    drop(held);
    eventually("the open ones are back", async || outside.ready(&queue).await == 2).await;
    drop(source);
    bench.adapter.finish().await;
    for n in ["30", "31"] {
        let back = outside.get(&queue).await.unwrap();
        assert_eq!((String::from_utf8_lossy(&back.data).as_ref(), back.redelivered), (n, true));
    }
    eventually("nothing else comes back", async || outside.ready(&queue).await == 0).await;
}

#[tokio::test]
async fn a_consumer_that_the_broker_cancels_is_made_again() {
    let (bench, outside, queue) = (Bench::new(url()), Outside::new(url()).await, unique("cancelled"));
    outside.declare(&queue).await;
    let config = json!({"connection": "rabbit", "queue": queue});
    let mut source = bench.start(&config).await.unwrap();
    outside.publish(&queue, b"one", BasicProperties::default()).await;
    next(&mut *source).await.acknowledgement.delivered();
    outside.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let mut said = String::new();
    eventually("the queue is missed", async || match source.next().await {
        Err(error) => {
            said = error.text;
            said.contains("no queue")
        }
        Ok(_) => panic!("there is nothing to give"),
    })
    .await;
    outside.declare(&queue).await;
    outside.publish(&queue, b"two", BasicProperties::default()).await;
    let delivery = next(&mut *source).await;
    assert_eq!(body(&delivery), "two");
    delivery.acknowledgement.delivered();
}

#[tokio::test]
async fn a_message_over_the_limit_stays_until_the_limit_is_raised() {
    let (mut bench, outside, queue) = (Bench::new(url()), Outside::new(url()).await, unique("large"));
    bench.limits.body_bytes = 4;
    let config = json!({"connection": "rabbit", "queue": queue, "declare": {}});
    let mut source = bench.start(&config).await.unwrap();
    outside.publish(&queue, b"large", BasicProperties::default()).await;
    let error = source.next().await.unwrap_err();
    assert!(error.text.contains("a body of 5 bytes is over the limit of 4 (limits.body_bytes)"), "{error}");
    bench.limits.body_bytes = 5;
    let mut source = bench.take_over(&config, source).await.ok().unwrap();
    let delivery = next(&mut *source).await;
    assert_eq!((body(&delivery).as_str(), delivery.redelivered), ("large", false));
    delivery.acknowledgement.delivered();
}

#[tokio::test]
async fn a_reload_that_fails_gives_the_source_back_and_one_that_changes_it_keeps_the_order() {
    let (mut bench, outside, queue) = (Bench::new(url()), Outside::new(url()).await, unique("reload"));
    let config = json!({"connection": "rabbit", "queue": queue, "declare": {}});
    let mut source = bench.start(&config).await.unwrap();
    for n in 0..100 {
        outside.publish(&queue, n.to_string().as_bytes(), BasicProperties::default()).await;
    }
    let mut held = Vec::new();
    for n in 0..10 {
        let delivery = next(&mut *source).await;
        assert_eq!((body(&delivery), delivery.redelivered), (n.to_string(), false));
        held.push(delivery);
    }
    let other = json!({"connection": "rabbit", "queue": queue, "declare": {"max_length": 5}});
    let mut source = bench.take_over(&other, source).await.err().unwrap();
    held.push(next(&mut *source).await);
    assert_eq!(body(&held[10]), "10");
    bench.limits.in_flight = 20;
    let mut source = bench.take_over(&config, source).await.ok().unwrap();
    for n in 11..100 {
        let delivery = next(&mut *source).await;
        assert_eq!((body(&delivery), delivery.redelivered), (n.to_string(), false));
        delivery.acknowledgement.delivered();
    }
    for delivery in held {
        delivery.acknowledgement.delivered();
    }
    source.close().await;
    assert!(source.next().await.unwrap().is_none());
    drop(source);
    eventually("nothing is left", async || outside.ready(&queue).await == 0).await;
}

#[tokio::test]
async fn when_the_old_connection_breaks_after_a_reload_what_waited_on_it_is_not_overtaken() {
    const PREFETCH: u32 = 10;
    let (mut bench, outside, queue) = (Bench::new(url()), Outside::new(url()).await, unique("moved"));
    bench.limits.in_flight = PREFETCH as usize;
    let (relay, config) =
        (Relay::to(url()).await, json!({"connection": "rabbit", "queue": queue, "declare": {}}));
    bench.connect(&json!({"urls": [relay.url()]}));
    let mut source = bench.start(&config).await.unwrap();
    let count = 4 * PREFETCH;
    for n in 0..count {
        outside.publish(&queue, n.to_string().as_bytes(), BasicProperties::default()).await;
    }
    let mut held = VecDeque::from([next(&mut *source).await, next(&mut *source).await]);
    bench.connect(&json!({"urls": [url()]}));
    let mut source = bench.take_over(&config, source).await.ok().unwrap();
    eventually("both have what they take", async || outside.ready(&queue).await == count - 2 * PREFETCH)
        .await;
    drop(relay);
    eventually("the broker has the old ones again", async || outside.ready(&queue).await == count - PREFETCH)
        .await;
    let mut firsts = Vec::new();
    while firsts.len() < count as usize {
        let delivery = match held.pop_front() {
            Some(held) => held,
            None => next(&mut *source).await,
        };
        let body = body(&delivery);
        if !firsts.contains(&body) {
            firsts.push(body);
        }
        delivery.acknowledgement.delivered();
    }
    assert_eq!(firsts, (0..count).map(|n| n.to_string()).collect::<Vec<_>>());
    eventually("nothing is left", async || outside.ready(&queue).await == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_there_is_refused_with_its_first_message() {
    let (bench, outside, queue) = (Bench::new(url()), Outside::new(url()).await, unique("stream"));
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    outside.channel.queue_declare(queue.as_str().into(), options, arguments).await.unwrap();
    let mut source = bench.start(&json!({"connection": "rabbit", "queue": queue})).await.unwrap();
    outside.publish(&queue, b"x", BasicProperties::default()).await;
    let error = source.next().await.unwrap_err();
    assert!(error.text.contains("is a stream"), "{error}");
}

#[tokio::test]
async fn a_binding_that_a_reload_leaves_out_is_undone() {
    let (bench, outside, queue) = (Bench::new(url()), Outside::new(url()).await, unique("bound"));
    let binding = |key: &str| json!({"exchange": "amq.topic", "routing_key": format!("{queue}.{key}")});
    let config = |bindings: serde_json::Value| json!({"connection": "rabbit", "queue": queue, "declare": {}, "bindings": bindings});
    let publish = async |key: &str| {
        let key = format!("{queue}.{key}");
        let sink =
            json!({"connection": "rabbit", "exchange": "amq.topic", "routing_key": key, "mandatory": true});
        bench.open(&sink, SinkUse::Send).await.send(&message(&key)).await
    };
    let mut source = bench.start(&config(json!([binding("a"), binding("b")]))).await.unwrap();
    publish("b").await.unwrap();
    let delivery = next(&mut *source).await;
    let headers = delivery.message.headers();
    assert_eq!(headers.get("amqp-exchange"), Some("amq.topic"));
    assert_eq!(headers.get("amqp-routing-key"), Some(format!("{queue}.b").as_str()));
    delivery.acknowledgement.delivered();
    let mut source = bench.take_over(&config(json!([binding("a")])), source).await.ok().unwrap();
    assert!(publish("b").await.unwrap_err().text().contains("no queue"));
    publish("a").await.unwrap();
    next(&mut *source).await.acknowledgement.delivered();
    outside.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
}
