//! What a sink publishes, what it refuses, and what comes of a broker that goes away; `call`.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::BytesMut;
use gristmill_brokers::mosquitto::{Mosquitto, MosquittoOptions};
use gristmill_core::{
    ErrorClass, Failure, Message, Timestamp,
    adapter::SinkUse,
    sink::{Answer, Outgoing, Sink},
};
use rumqttc_v5::{
    PublishOptions, PublishProperties, QoS,
    mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet, PubAck},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::support::{Client, Runtime};

fn message(body: &str) -> Message {
    Message::new("m", Timestamp::from_millis(0), body.to_owned())
}

async fn send(sink: &Arc<dyn Sink>, body: &str, texts: &[&str]) -> Result<(), Failure> {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    sink.send(Outgoing::new(&message(body), &texts)).await
}

#[tokio::test]
async fn a_message_goes_out_with_all_that_was_configured() {
    let broker = Mosquitto::start();
    let mut listener = Client::new(&broker, &["plant/#"]).await;
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let config = json!({
        "topic": "plant/${headers.line}/state", "qos": 2, "message_expiry_s": 60,
        "response_topic": "answers/${headers.line}", "forward_correlation": true,
        "user_properties": {"Written": "yes", "line": "${headers.line}"}, "forward_headers": ["trace-*", "line"]
    });
    let sink = runtime.sink(config, SinkUse::Send).await;
    let mut message = message("body");
    for (name, value) in [
        ("content-type", "text/plain"),
        ("trace-id", "t"),
        ("line", "of the message"),
        ("mqtt-correlation-data-base64", "AP8="),
    ] {
        message.headers_mut().append(name, value).unwrap();
    }
    let texts = ["plant/7/state", "answers/7", "seven"].map(str::to_owned);
    sink.send(Outgoing::new(&message, &texts)).await.unwrap();
    let received = listener.next().await;
    assert_eq!((&received.topic[..], &received.payload[..]), (&b"plant/7/state"[..], &b"body"[..]));
    let properties = received.properties.unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(properties.response_topic.as_deref(), Some("answers/7"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"\0\xff"[..]));
    assert!(properties.message_expiry_interval.is_some_and(|seconds| (1..=60).contains(&seconds)));
    let user = [("trace-id", "t"), ("Written", "yes"), ("line", "seven")];
    assert_eq!(properties.user_properties, user.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn a_retained_message_is_there_for_who_comes_later() {
    let broker = Mosquitto::start();
    let runtime = Runtime::new(&broker.url(), json!("3.1.1"), json!({}));
    let sink = runtime.sink(json!({"topic": "state", "retain": true}), SinkUse::Send).await;
    send(&sink, "on", &[]).await.unwrap();
    let mut late = Client::new(&broker, &["state"]).await;
    let received = late.next().await;
    assert!(received.retain && received.payload == "on");
}

#[tokio::test]
async fn a_dead_letter_that_no_one_gets_is_not_written() {
    let broker = Mosquitto::start();
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    // With QoS 2 Mosquitto looks for subscribers only after it has answered.
    let config = |retain: bool| json!({"topic": "dead", "qos": 1, "retain": retain});
    let letters = runtime.sink(config(false), SinkUse::DeadLetter).await;
    let failure = send(&letters, "letter", &[]).await.unwrap_err();
    assert!(failure.text().contains("no one has subscribed") && failure.is_retryable(), "{failure}");
    // Other messages are published to whom it may concern, and what is retained is kept.
    send(&runtime.sink(config(false), SinkUse::Send).await, "news", &[]).await.unwrap();
    send(&runtime.sink(config(true), SinkUse::DeadLetter).await, "kept", &[]).await.unwrap();
    let _listener = Client::new(&broker, &["dead"]).await;
    send(&letters, "letter", &[]).await.unwrap();
}

#[tokio::test]
async fn no_wildcard_and_no_topic_of_the_broker_comes_in_from_data() {
    let broker = Mosquitto::start();
    let mut listener = Client::new(&broker, &["#"]).await;
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let sink = runtime.sink(json!({"topic": "${headers.topic}"}), SinkUse::Send).await;
    let long = "a".repeat(65_536);
    for topic in ["plant/#", "+/a", "a\0b", "a\nb", "", "$SYS/broker", "$share/g/a", &long] {
        let failure = send(&sink, "forged", &[topic]).await.unwrap_err();
        assert_eq!(failure.class(), ErrorClass::SinkRejected, "{topic:?}");
        assert!(!failure.is_retryable() && failure.text().len() < 300, "{failure}");
    }
    send(&sink, "good", &["plant/a"]).await.unwrap();
    assert_eq!(listener.next().await.payload, "good");
}

#[tokio::test]
async fn a_broker_that_is_away_is_a_failure_that_can_be_tried_again() {
    let mut broker = Mosquitto::start();
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let sink = runtime.sink(json!({"topic": "out"}), SinkUse::Send).await;
    send(&sink, "1", &[]).await.unwrap();
    broker.stop();
    let failure = send(&sink, "2", &[]).await.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::SinkUnavailable, "{failure}");
    assert!(failure.is_retryable());
    broker.start_again();
    while send(&sink, "2", &[]).await.is_err() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_restarted_while_messages_go_in_and_out_loses_none() {
    for version in [json!(5), json!("3.1.1")] {
        let mut broker = Mosquitto::start();
        let runtime = Runtime::new(&broker.url(), version.clone(), json!({}));
        let mut source = runtime.source(json!({"topics": ["work"]})).await;
        let sink = runtime.sink(json!({"topic": "work"}), SinkUse::Send).await;
        let sending = tokio::spawn(async move {
            for n in 0..500 {
                // At least once: what failed is sent again.
                while send(&sink, &n.to_string(), &[]).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        let taking = tokio::spawn(async move {
            let mut first = Vec::new();
            while first.len() < 500 {
                let delivery = crate::support::next(&mut *source).await;
                let body = crate::support::body(&delivery);
                if !first.contains(&body) {
                    first.push(body);
                }
                delivery.acknowledgement.delivered();
            }
            first
        });
        for _ in 0..3 {
            let before = broker.log().len();
            crate::support::eventually("there is traffic", || {
                sending.is_finished() || broker.log().len() > before + 10_000
            })
            .await;
            broker.restart();
        }
        sending.await.unwrap();
        let first = taking.await.unwrap();
        assert_eq!(first, (0..500).map(|n| n.to_string()).collect::<Vec<_>>(), "{version}");
    }
}

#[tokio::test]
async fn a_broker_that_stands_still_is_known_to_be_lost() {
    let broker = Mosquitto::start();
    let runtime = Runtime::new(&broker.url(), json!(5), json!({"keep_alive_s": 1}));
    let sink = runtime.sink(json!({"topic": "out", "timeout_ms": 60_000}), SinkUse::Send).await;
    send(&sink, "1", &[]).await.unwrap();
    broker.freeze();
    let failure = send(&sink, "2", &[]).await.unwrap_err();
    assert!(failure.text().contains("silent for 1 s"), "{failure}");
    broker.thaw();
    while send(&sink, "3", &[]).await.is_err() {}
}

/// Answers each request with its body in capitals.
async fn answer_calls(mut server: Client) {
    while let Some(request) = server.received.recv().await {
        let properties = request.properties.unwrap();
        let answer = PublishProperties {
            correlation_data: properties.correlation_data,
            user_properties: vec![("status".into(), "done".into())],
            ..PublishProperties::default()
        };
        let body = request.payload.to_ascii_uppercase();
        let options = PublishOptions::new(QoS::AtLeastOnce).properties(answer);
        server.client.publish(properties.response_topic.unwrap(), body, options).await.unwrap();
    }
}

async fn call(sink: &Arc<dyn Sink>, body: &str) -> Result<Answer, Failure> {
    sink.call(Outgoing::new(&message(body), &[])).await
}

#[tokio::test]
async fn a_call_has_its_own_answer() {
    let mut broker = Mosquitto::start();
    tokio::spawn(answer_calls(Client::new(&broker, &["requests"]).await));
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let sink = runtime.sink(json!({"topic": "requests", "timeout_ms": 3_000}), SinkUse::Call).await;
    let mut calls = Vec::new();
    for n in 0..20 {
        let sink = Arc::clone(&sink);
        calls.push(tokio::spawn(async move { (n, call(&sink, &format!("call {n}")).await) }));
    }
    for called in calls {
        let (n, answer) = called.await.unwrap();
        let answer = answer.unwrap();
        assert_eq!(answer.body, format!("CALL {n}"));
        assert_eq!(answer.headers.get("status"), Some("done"));
        assert_eq!(answer.headers.get("content-type"), Some("application/octet-stream"));
    }
    broker.restart();
    // Who answers has subscribed anew; that the answers are subscribed anew is what is tested.
    tokio::spawn(answer_calls(Client::new(&broker, &["requests"]).await));
    while call(&sink, "again").await.is_err() {}
}

#[tokio::test]
async fn a_call_without_an_answer_ends_in_time() {
    let broker = Mosquitto::start();
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let sink = runtime.sink(json!({"topic": "requests", "timeout_ms": 200}), SinkUse::Call).await;
    let failure = call(&sink, "anyone?").await.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::Timeout, "{failure}");
    let text = failure.text();
    assert!(
        text.contains("connection `plant`") && text.contains("no answer within 200 ms (`timeout_ms`)"),
        "{failure}"
    );
}

/// With 3.1.1, Mosquitto throws out a client that has more than 20 messages of QoS 2 under way.
#[tokio::test]
async fn many_messages_of_qos_2_go_out_over_one_connection() {
    for version in [json!(5), json!("3.1.1")] {
        let broker = Mosquitto::start();
        let mut listener = Client::new(&broker, &["out"]).await;
        let runtime = Runtime::new(&broker.url(), version, json!({}));
        let sink = runtime.sink(json!({"topic": "out", "qos": 2}), SinkUse::Send).await;
        let sends = (0..300).map(|number| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move { send(&sink, &number.to_string(), &["out"]).await })
        });
        for sent in sends.collect::<Vec<_>>() {
            sent.await.unwrap().unwrap();
        }
        let mut seen = HashSet::new();
        while seen.len() < 300 {
            seen.insert(listener.next().await.payload);
        }
        assert_eq!(broker.log().matches(" as mill-sinks-").count(), 1, "it connected once");
    }
}

/// Mosquitto says no to a message (`message_size_limit`) or says how large packets may be (`max_packet_size`).
#[tokio::test]
async fn a_message_that_is_too_large_for_the_broker_is_rejected_and_the_others_go_on() {
    for (line, said) in
        [("message_size_limit 1000", "which has 50"), ("max_packet_size 1000", "at most 1000 bytes")]
    {
        for qos in [1, 2] {
            // Without a limit to its queue, Mosquitto ends the connection of whoever it refuses something.
            let lines = vec![line.to_owned(), "max_queued_messages 1000".to_owned()];
            let options = MosquittoOptions { lines, ..MosquittoOptions::default() };
            let broker = Mosquitto::with(&options);
            let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
            let sink = runtime.sink(json!({"topic": "out", "qos": qos}), SinkUse::Send).await;
            let large = "x".repeat(5_000);
            let (before, refused, after) =
                tokio::join!(send(&sink, "1", &[]), send(&sink, &large, &[]), send(&sink, "2", &[]));
            assert!(before.is_ok() && after.is_ok(), "{line} {qos}: {before:?} {after:?}\n{}", broker.log());
            let failure = refused.unwrap_err();
            assert_eq!(failure.class(), ErrorClass::SinkRejected, "{failure}");
            assert!(
                failure.text().contains(said) && failure.text().contains(line.split(' ').next().unwrap()),
                "{failure}"
            );
            assert_eq!(broker.log().matches(" as mill-sinks-").count(), 1, "it connected once");
        }
    }
}

/// A broker that says nothing of its limit beforehand, and ends the connection of who goes over it.
async fn strict_broker(limit: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut read = BytesMut::new();
            'connection: loop {
                while let Ok(packet) = Packet::read(&mut read, None) {
                    let mut answer = BytesMut::new();
                    match packet {
                        Packet::Connect(..) => {
                            let code = ConnectReturnCode::Success;
                            let welcome = ConnAck { session_present: false, code, properties: None };
                            Packet::ConnAck(welcome).write(&mut answer, None).unwrap();
                        }
                        Packet::Publish(publish) if publish.payload.len() > limit => {
                            tcp.write_all(&[0xe0, 2, 0x95, 0]).await.unwrap();
                            break 'connection;
                        }
                        // All it has to confirm comes behind what it does not take.
                        Packet::Publish(publish) if publish.payload == "end" => {
                            Packet::PubAck(PubAck::new(publish.pkid, None)).write(&mut answer, None).unwrap();
                        }
                        _ => {}
                    }
                    tcp.write_all(&answer).await.unwrap();
                }
                if tcp.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    break;
                }
            }
        }
    });
    url
}

#[tokio::test]
async fn when_a_broker_ends_the_connection_over_a_size_only_the_largest_message_is_rejected() {
    let url = strict_broker(1_000).await;
    let runtime = Runtime::new(&url, json!(5), json!({}));
    let sink = runtime.sink(json!({"topic": "out"}), SinkUse::Send).await;
    let bodies = [10, 1_500, 2_000, 20].map(|size| "x".repeat(size));
    let (small, large, largest, late) = tokio::join!(
        send(&sink, &bodies[0], &[]),
        send(&sink, &bodies[1], &[]),
        send(&sink, &bodies[2], &[]),
        send(&sink, &bodies[3], &[]),
    );
    let failure = largest.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::SinkRejected, "{failure}");
    for other in [small, large, late] {
        let failure = other.unwrap_err();
        assert_eq!(failure.class(), ErrorClass::SinkUnavailable, "{failure}");
        assert!(failure.text().contains("packet too large (0x95)"), "{failure}");
    }
    // Tried again, the other one is the largest.
    loop {
        let failure = send(&sink, &bodies[1], &[]).await.unwrap_err();
        if failure.class() == ErrorClass::SinkRejected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while send(&sink, "end", &[]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
