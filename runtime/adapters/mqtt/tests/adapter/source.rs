//! What a source goes through: crashes, restarts, more than it can take, other settings.

use std::time::Duration;

use gristmill_brokers::mosquitto::{Mosquitto, MosquittoOptions};
use gristmill_core::{adapter::Adapter, source::Source, testkit::contract::PATIENCE};
use rumqttc_v5::QoS;
use serde_json::json;

use crate::support::{Client, Runtime, acknowledged, body, eventually, next};

const SOURCE: &str = "mill-tests";

#[tokio::test]
async fn what_was_not_settled_before_a_crash_comes_again_after_it() {
    for version in [json!(5), json!("3.1.1")] {
        let broker = Mosquitto::start();
        let sender = Client::new(&broker, &[]).await;
        let runtime = Runtime::new(&broker.url(), version.clone(), json!({}));
        let mut source = runtime.source(json!({"topics": ["in"]})).await;
        for n in 0..3 {
            sender.publish("in", QoS::AtLeastOnce, n.to_string()).await;
        }
        let held = [next(&mut *source).await, next(&mut *source).await, next(&mut *source).await];
        assert!(!held[0].redelivered);
        // All at once, like a process: nothing settles, nothing is said.
        drop(source);
        drop(held);
        sender.publish("in", QoS::AtLeastOnce, "3").await;

        let later = Runtime::new(&broker.url(), version, json!({}));
        let mut source = later.source(json!({"topics": ["in"]})).await;
        for n in 0..4 {
            let delivery = next(&mut *source).await;
            assert_eq!(body(&delivery), n.to_string());
            assert_eq!(delivery.redelivered, n < 3);
            delivery.acknowledgement.delivered();
        }
        eventually("all are acknowledged", || acknowledged(&broker, SOURCE).len() == 4).await;
    }
}

#[tokio::test]
async fn acknowledgements_are_in_the_order_of_arrival() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let mut source = runtime.source(json!({"topics": ["in"]})).await;
    let mut held = Vec::new();
    for n in 0..5 {
        sender.publish("in", QoS::AtLeastOnce, n.to_string()).await;
        held.push(next(&mut *source).await);
    }
    while let Some(delivery) = held.pop() {
        delivery.acknowledgement.delivered();
    }
    eventually("all are acknowledged", || acknowledged(&broker, SOURCE).len() == 5).await;
    assert_eq!(acknowledged(&broker, SOURCE), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_broker_that_is_restarted_loses_nothing_and_doubles_nothing() {
    for version in [json!(5), json!("3.1.1")] {
        let mut broker = Mosquitto::start();
        let sender = Client::new(&broker, &[]).await;
        let runtime = Runtime::new(&broker.url(), version, json!({}));
        let mut source = runtime.source(json!({"topics": ["in"]})).await;
        let mut held = Vec::new();
        for n in 0..10 {
            sender.publish("in", QoS::AtLeastOnce, n.to_string()).await;
            held.push(next(&mut *source).await);
        }
        broker.stop();
        let error = source.next().await.unwrap_err();
        assert!(error.text.contains("the broker 127.0.0.1"), "{error}");
        // Half of them on a connection that is gone, half on the next.
        for delivery in held.split_off(5) {
            delivery.acknowledgement.delivered();
        }
        broker.start_again();
        for delivery in held {
            delivery.acknowledgement.delivered();
        }
        eventually("all are acknowledged, each once", || acknowledged(&broker, SOURCE).len() == 10).await;
        sender.publish("in", QoS::AtLeastOnce, "last").await;
        assert_eq!(body(&next(&mut *source).await), "last");
    }
}

#[tokio::test]
async fn more_than_a_flow_takes_waits_at_the_broker() {
    let mut options = gristmill_brokers::mosquitto::MosquittoOptions::default();
    options.lines.push("max_inflight_messages 0".into());
    let broker = Mosquitto::with(&options);
    let sender = Client::new(&broker, &[]).await;
    for version in [json!(5), json!("3.1.1")] {
        let mut runtime = Runtime::new(&broker.url(), version, json!({}));
        runtime.limits.in_flight = 4;
        let mut source = runtime.source(json!({"topics": ["in"]})).await;
        for n in 0..50 {
            sender.publish("in", QoS::AtLeastOnce, n.to_string()).await;
        }
        for n in 0..50 {
            let delivery = next(&mut *source).await;
            assert_eq!(body(&delivery), n.to_string());
            delivery.acknowledgement.delivered();
        }
        source.close().await;
        drop(source);
        // Else the next one takes the session before the last acknowledgement is there.
        runtime.adapter.finish().await;
    }
    eventually("all are acknowledged, each once", || acknowledged(&broker, SOURCE).len() == 100).await;
}

#[tokio::test]
async fn of_qos_0_what_is_above_the_buffer_is_dropped() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let mut source = runtime.source(json!({"topics": ["in", "end"], "qos": 1, "buffer_messages": 3})).await;
    for n in 0..10 {
        sender.publish("in", QoS::AtMostOnce, n.to_string()).await;
    }
    // Of the same sender, so that it comes last.
    sender.publish("end", QoS::AtLeastOnce, "end").await;
    eventually("the last has come", || broker.log().contains("'end'")).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "end") {
        let delivery = next(&mut *source).await;
        seen.push(body(&delivery));
        delivery.acknowledgement.delivered();
    }
    assert_eq!(seen.first().map(String::as_str), Some("0"));
    assert!(seen.len() <= 11);
}

#[tokio::test]
async fn a_topic_that_is_dropped_is_unsubscribed_on_the_same_session() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let source = runtime.source(json!({"topics": ["a", "b"]})).await;
    let prepared = runtime.prepare(json!({"topics": ["b", "c"]})).await;
    let mut source = prepared.take_over(source).await.ok().unwrap();
    for topic in ["a", "b", "c"] {
        sender.publish(topic, QoS::AtLeastOnce, topic).await;
    }
    for topic in ["b", "c"] {
        assert_eq!(body(&next(&mut *source).await), topic);
    }
    assert_eq!(broker.log().matches(&format!("as {SOURCE} ")).count(), 1, "it connected once");
    assert!(broker.log().contains(&format!("Received UNSUBSCRIBE from {SOURCE}")));
}

#[tokio::test]
async fn a_topic_that_was_taken_out_while_no_runtime_ran_is_unsubscribed() {
    for version in [json!(5), json!("3.1.1")] {
        let broker = Mosquitto::start();
        let sender = Client::new(&broker, &[]).await;
        let runtime = Runtime::new(&broker.url(), version, json!({}));
        drop(runtime.source(json!({"topics": ["a", "b"]})).await);
        eventually("it is gone", || broker.log().contains(&format!("Received DISCONNECT from {SOURCE}")))
            .await;
        // Another client of that time would have known nothing of it.
        let mut source = runtime.source(json!({"topics": ["b"]})).await;
        eventually("it is unsubscribed", || broker.log().contains(&format!("Sending UNSUBACK to {SOURCE}")))
            .await;
        for topic in ["a", "b"] {
            sender.publish(topic, QoS::AtLeastOnce, topic).await;
        }
        assert_eq!(body(&next(&mut *source).await), "b");
        drop(source);
        let later = runtime.source(json!({"topics": ["b"]})).await;
        drop(later);
        runtime.adapter.finish().await;
        assert_eq!(broker.log().matches("Received UNSUBSCRIBE").count(), 1, "it is known to be unsubscribed");
    }
}

#[tokio::test]
async fn a_session_of_another_client_is_not_taken_for_that_of_before() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    // What an earlier process has left under the other id: a session that has subscribed something else.
    let earlier = Runtime::new(&broker.url(), json!(5), json!({"client_id": "other"}));
    drop(earlier.source(json!({"topics": ["else"]})).await);
    earlier.adapter.finish().await;
    let mut runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let source = runtime.source(json!({"topics": ["in"]})).await;
    runtime.connect(&broker.url(), json!(5), json!({"client_id": "other"}));
    let mut source = runtime.prepare(json!({"topics": ["in"]})).await.take_over(source).await.ok().unwrap();
    sender.publish("in", QoS::AtLeastOnce, "1").await;
    assert_eq!(body(&next(&mut *source).await), "1");
}

#[tokio::test]
async fn two_clients_of_one_id_are_told_so_and_come_back_later_each_time() {
    for version in [json!(5), json!("3.1.1")] {
        let broker = Mosquitto::start();
        let more = json!({"reconnect": {"initial_delay_ms": 20, "max_delay_ms": 60_000}});
        let one = Runtime::new(&broker.url(), version.clone(), more.clone());
        let two = Runtime::new(&broker.url(), version, more);
        let mut first = one.source(json!({"topics": ["in"]})).await;
        let mut second = two.source(json!({"topics": ["in"]})).await;
        let told = async |source: &mut dyn Source| loop {
            match source.next().await {
                Err(error) if error.text.contains("the same client id") => return,
                // As the engine, which asks again later.
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let both = async { tokio::join!(told(&mut *first), told(&mut *second)) };
        tokio::time::timeout(PATIENCE, both).await.expect("it is not said");
        // Of waits that double from at least 10 ms, no more than a dozen fit into the patience of a test.
        let connects = broker.log().matches(&format!("as {SOURCE} ")).count();
        assert!(connects <= 24, "{connects}");
    }
}

#[tokio::test]
async fn the_will_is_published_when_a_client_is_lost_and_not_when_it_says_good_bye() {
    for version in [json!(5), json!("3.1.1")] {
        let broker = Mosquitto::start();
        let mut listener = Client::new(&broker, &["gone", "in"]).await;
        // A network that can be cut.
        let network = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (url, address) = (format!("mqtt://{}", network.local_addr().unwrap()), broker.address());
        let cable = tokio::spawn(async move {
            let (mut near, _) = network.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(address).await.unwrap();
            let _cut = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
        let will = json!({"will": {"topic": "gone", "payload": "lost", "qos": 1}});
        let polite = Runtime::new(&broker.url(), version.clone(), will.clone());
        drop(polite.source(json!({"topics": ["in"], "client_id": "polite"})).await);
        polite.adapter.finish().await;
        let lost = Runtime::new(&url, version, will);
        let _source = lost.source(json!({"topics": ["in"]})).await;
        cable.abort();
        assert_eq!(listener.next().await.payload, "lost");
        listener.publish("in", QoS::AtLeastOnce, "end").await;
        assert_eq!(listener.next().await.payload, "end", "one will");
    }
}

#[tokio::test]
async fn settings_that_the_broker_does_not_take_leave_the_source_as_it_was() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let mut runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let mut source = runtime.source(json!({"topics": ["a"]})).await;
    sender.publish("a", QoS::AtLeastOnce, "1").await;
    let held = next(&mut *source).await;
    runtime.connect("mqtt://127.0.0.1:1", json!(5), json!({}));
    let refused = runtime.prepare(json!({"topics": ["b"]})).await.take_over(source).await;
    let Err(refused) = refused else { panic!("a broker that is not there was taken") };
    assert!(refused.error.text.contains("127.0.0.1:1 cannot be reached"), "{}", refused.error.text);
    let mut source = refused.old;
    held.acknowledgement.delivered();
    sender.publish("a", QoS::AtLeastOnce, "2").await;
    let delivery = next(&mut *source).await;
    assert_eq!(body(&delivery), "2");
    delivery.acknowledgement.delivered();
    eventually("both are acknowledged", || acknowledged(&broker, SOURCE).len() == 2).await;
}

#[tokio::test]
async fn a_rejected_message_is_acknowledged_and_does_not_come_again() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let mut source = runtime.source(json!({"topics": ["in"]})).await;
    sender.publish("in", QoS::AtLeastOnce, "1").await;
    next(&mut *source).await.acknowledgement.rejected(None);
    eventually("it is acknowledged", || acknowledged(&broker, SOURCE).len() == 1).await;
}

#[tokio::test]
async fn a_source_starts_though_its_broker_is_away_and_says_why_nothing_comes() {
    let mut broker = Mosquitto::start();
    broker.stop();
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let mut source = runtime.source(json!({"topics": ["in"]})).await;
    let error = source.next().await.unwrap_err();
    assert!(error.text.contains("cannot be reached"), "{error}");
    broker.start_again();
    eventually("it has subscribed", || broker.log().contains(&format!("Sending SUBACK to {SOURCE}"))).await;
    Client::new(&broker, &[]).await.publish("in", QoS::AtLeastOnce, "1").await;
    assert_eq!(body(&next(&mut *source).await), "1");
}

#[tokio::test]
async fn a_flow_that_is_gone_leaves_no_session_and_a_process_that_ends_leaves_it() {
    for version in [json!(5), json!("3.1.1")] {
        for retires in [false, true] {
            let broker = Mosquitto::start();
            let runtime = Runtime::new(&broker.url(), version.clone(), json!({}));
            let mut source = runtime.source(json!({"topics": ["in"]})).await;
            if retires {
                source.retire();
            }
            source.close().await;
            assert!(source.next().await.unwrap().is_none());
            drop(source);
            runtime.adapter.finish().await;
            Client::new(&broker, &[]).await.publish("in", QoS::AtLeastOnce, "meanwhile").await;
            let later = Runtime::new(&broker.url(), version.clone(), json!({}));
            let mut source = later.source(json!({"topics": ["in"]})).await;
            Client::new(&broker, &[]).await.publish("in", QoS::AtLeastOnce, "later").await;
            let expected = if retires { "later" } else { "meanwhile" };
            assert_eq!(body(&next(&mut *source).await), expected);
        }
    }
}

/// What a session has kept comes faster than the flow takes it: from 3.1.1 without a limit, and from Mosquitto 2.0 with a limit
/// that it passes over once a session goes on.
#[tokio::test]
async fn what_a_broker_sends_too_fast_waits_there_and_comes_once_over_one_connection() {
    const BACKLOG: usize = 500;
    for version in [json!(5), json!("3.1.1")] {
        let lines = vec!["max_inflight_messages 0".to_owned()];
        let broker = Mosquitto::with(&MosquittoOptions { lines, ..MosquittoOptions::default() });
        let runtime = Runtime::new(&broker.url(), version.clone(), json!({}));
        let mut source = runtime.source(json!({"topics": ["in"]})).await;
        source.close().await;
        drop(source);
        runtime.adapter.finish().await;
        let sender = Client::new(&broker, &[]).await;
        for number in 0..BACKLOG {
            sender.publish("in", QoS::AtLeastOnce, number.to_string()).await;
        }
        let mut runtime = Runtime::new(&broker.url(), version, json!({}));
        runtime.limits.in_flight = 4;
        let mut source = runtime.source(json!({"topics": ["in"]})).await;
        for number in 0..BACKLOG {
            let delivery = next(&mut *source).await;
            assert_eq!(body(&delivery), number.to_string());
            delivery.acknowledgement.delivered();
        }
        eventually("all are acknowledged", || acknowledged(&broker, SOURCE).len() == BACKLOG).await;
        assert_eq!(broker.log().matches(&format!("as {SOURCE} ")).count(), 2, "it connected once more");
    }
}

#[tokio::test]
async fn a_message_over_a_limit_is_acknowledged_and_counted_and_those_after_it_come() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let mut runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    runtime.limits.body_bytes = 10;
    let mut source = runtime.source(json!({"topics": ["in"]})).await;
    sender.publish("in", QoS::AtLeastOnce, "more than ten bytes").await;
    sender.publish("in", QoS::AtLeastOnce, "ten bytes.").await;
    let delivery = next(&mut *source).await;
    assert_eq!(body(&delivery), "ten bytes.");
    delivery.acknowledgement.delivered();
    eventually("both are acknowledged", || acknowledged(&broker, SOURCE).len() == 2).await;
    assert_eq!(runtime.refused.reasons(), ["too_large"]);
}

#[tokio::test]
async fn an_answer_to_a_subscription_that_waits_behind_a_backlog_is_not_late() {
    let broker = Mosquitto::with(&MosquittoOptions {
        lines: vec!["max_inflight_messages 0".to_owned()],
        ..MosquittoOptions::default()
    });
    let more = json!({"connect_timeout_ms": 500});
    let mut runtime = Runtime::new(&broker.url(), json!("3.1.1"), more);
    runtime.limits.in_flight = 1;
    drop(runtime.source(json!({"topics": ["in"]})).await);
    runtime.adapter.finish().await;
    let sender = Client::new(&broker, &[]).await;
    for number in 0..20 {
        sender.publish("in", QoS::AtLeastOnce, number.to_string()).await;
    }
    let mut later = Runtime::new(&broker.url(), json!("3.1.1"), json!({"connect_timeout_ms": 500}));
    later.limits.in_flight = 1;
    let mut source = later.source(json!({"topics": ["in"]})).await;
    for number in 0..20 {
        let delivery = next(&mut *source).await;
        assert_eq!(body(&delivery), number.to_string());
        // A flow that takes its time: longer than the broker may take.
        if number == 0 {
            tokio::time::sleep(Duration::from_millis(1_000)).await;
        }
        delivery.acknowledgement.delivered();
    }
    eventually("all are acknowledged", || acknowledged(&broker, SOURCE).len() == 20).await;
    assert_eq!(broker.log().matches(&format!("as {SOURCE} ")).count(), 2, "it connected once more");
}
