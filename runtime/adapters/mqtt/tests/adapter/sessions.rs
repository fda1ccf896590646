//! Another client id or another broker: what the session of before holds is given first, and the session is ended.

use std::time::Duration;

use gristmill_brokers::mosquitto::{Mosquitto, MosquittoOptions};
use gristmill_core::{adapter::Adapter, source::Source};
use rumqttc_v5::QoS;
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Client, Log, Runtime, acknowledged, again_and_again, body, eventually, next};

const BACKLOG: usize = 300;

fn topics(qos: u8) -> Json {
    json!({"topics": ["in"], "qos": qos})
}

/// With few deliveries at once, so that most of what is sent waits with the broker.
fn runtime(url: &str, version: &Json, more: Json) -> Runtime {
    let mut runtime = Runtime::new(url, version.clone(), more);
    runtime.limits.in_flight = 4;
    runtime
}

async fn take_over(runtime: &Runtime, config: Json, old: Box<dyn Source>) -> Box<dyn Source> {
    match runtime.prepare(config).await.take_over(old).await {
        Ok(source) => source,
        Err(refused) => panic!("{}", refused.error),
    }
}

/// The broker knows of the end of a session a moment before the source does.
async fn take_over_by_itself(runtime: &Runtime, config: Json, old: Box<dyn Source>) -> Box<dyn Source> {
    let mut old = Some(old);
    again_and_again(async || match runtime.prepare(config.clone()).await.take_over(old.take()?).await {
        Ok(source) => Some(source),
        Err(refused) => {
            old = Some(refused.old);
            None
        }
    })
    .await
}

/// Takes and settles so many.
pub(crate) async fn settle(source: &mut dyn Source, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    for _ in 0..count {
        let delivery = next(source).await;
        seen.push(body(&delivery));
        delivery.acknowledgement.delivered();
    }
    seen
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Whether the broker keeps a session of this client: it says so to one that comes with 3.1.1 and wants to go on.
pub(crate) async fn has_session(broker: &Mosquitto, client_id: &str) -> bool {
    let mut tcp = TcpStream::connect(broker.address()).await.unwrap();
    let length = u8::try_from(client_id.len()).unwrap();
    let mut connect = vec![0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 60, 0, length];
    connect.extend_from_slice(client_id.as_bytes());
    tcp.write_all(&connect).await.unwrap();
    let mut answer = [0; 4];
    tcp.read_exact(&mut answer).await.unwrap();
    assert_eq!((answer[0], answer[3]), (0x20, 0), "it is let in");
    tcp.write_all(&[0xe0, 0]).await.unwrap();
    answer[2] == 1
}

/// Waits until the broker has ended the session of this client: its last connection began without a session, and has taken leave. That
/// of one before is no sign: who only leaves a session for a while says good bye too.
pub(crate) async fn is_ended(broker: &Mosquitto, client_id: &str) {
    let connected = format!("as {client_id} (p");
    let good_bye = format!("Received DISCONNECT from {client_id}");
    eventually("the session is ended", || {
        let log = broker.log();
        let Some(last) = log.rfind(&connected) else { return false };
        let mut lines = log[last..].lines();
        lines.next().is_some_and(|line| line.contains(", c1,")) && lines.any(|line| line.contains(&good_bye))
    })
    .await;
    assert!(!has_session(broker, client_id).await, "the broker still has the session of {client_id}");
}

#[tokio::test]
async fn another_client_id_loses_nothing_and_leaves_no_session() {
    for (version, qos) in [(json!(5), 1), (json!("3.1.1"), 1), (json!(5), 2), (json!("3.1.1"), 2)] {
        let broker = Mosquitto::start();
        let sender = Client::new(&broker, &[]).await;
        let mut runtime = runtime(&broker.url(), &version, json!({}));
        let source = runtime.source(topics(qos)).await;
        for number in numbers(0..BACKLOG) {
            sender.publish("in", QoS::ExactlyOnce, number).await;
        }
        runtime.connect(&broker.url(), version.clone(), json!({"client_id": "later"}));
        let mut source = take_over(&runtime, topics(qos), source).await;
        eventually("it is unsubscribed", || broker.log().contains("Sending UNSUBACK to mill-tests")).await;
        // What comes from now on is for the session in its place.
        for number in numbers(BACKLOG..BACKLOG + 10) {
            sender.publish("in", QoS::ExactlyOnce, number).await;
        }
        assert_eq!(settle(&mut *source, BACKLOG + 10).await, numbers(0..BACKLOG + 10), "{version} {qos}");
        is_ended(&broker, "mill-tests").await;
        eventually("all are acknowledged", || acknowledged(&broker, "later-tests").len() == 10).await;
        assert_eq!(acknowledged(&broker, "mill-tests").len(), BACKLOG);
        source.close().await;
        assert!(source.next().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn another_client_id_of_the_source_and_another_connection_are_the_same_source() {
    let runtime = Runtime::new("mqtt://127.0.0.1:1", json!(5), json!({}));
    let one = runtime.source_spec(json!({"topics": ["a"]}));
    let two = runtime.source_spec(json!({"topics": ["a"], "client_id": "own"}));
    assert_eq!(one.identity(), two.identity());
    assert_eq!(one.origin(), "mqtt plant");
}

#[tokio::test]
async fn what_is_unsettled_when_the_client_id_changes_counts_with_the_session_it_came_from() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let mut runtime = runtime(&broker.url(), &json!(5), json!({}));
    let mut source = runtime.source(topics(1)).await;
    for number in numbers(0..3) {
        sender.publish("in", QoS::AtLeastOnce, number).await;
    }
    let held = [next(&mut *source).await, next(&mut *source).await];
    runtime.connect(&broker.url(), json!(5), json!({"client_id": "later"}));
    let mut source = take_over(&runtime, topics(1), source).await;
    let [delivered, released] = held;
    delivered.acknowledgement.delivered();
    released.acknowledgement.released(None);
    let mut rest = settle(&mut *source, 2).await;
    rest.sort_unstable();
    assert_eq!(rest, ["1", "2"], "a released one is offered again");
    is_ended(&broker, "mill-tests").await;
    sender.publish("in", QoS::AtLeastOnce, "3").await;
    assert_eq!(settle(&mut *source, 1).await, ["3"]);
}

#[tokio::test]
async fn another_broker_gets_the_source_when_that_of_before_is_empty() {
    for version in [json!(5), json!("3.1.1")] {
        let (old, new) = (Mosquitto::start(), Mosquitto::start());
        let (to_old, to_new) = (Client::new(&old, &[]).await, Client::new(&new, &[]).await);
        let mut runtime = runtime(&old.url(), &version, json!({}));
        let source = runtime.source(topics(1)).await;
        for number in numbers(0..20) {
            to_old.publish("in", QoS::AtLeastOnce, number).await;
        }
        runtime.connect(&new.url(), version.clone(), json!({}));
        let mut source = take_over(&runtime, topics(1), source).await;
        for number in numbers(20..40) {
            to_new.publish("in", QoS::AtLeastOnce, number).await;
        }
        assert_eq!(settle(&mut *source, 40).await, numbers(0..40));
        is_ended(&old, "mill-tests").await;
        eventually("all are acknowledged", || acknowledged(&new, "mill-tests").len() == 20).await;
    }
}

/// From `mqtt://` to `mqtts://`, or from a name to an address: the session is the same.
#[tokio::test]
async fn another_address_of_the_same_broker_goes_on_with_the_same_session() {
    for version in [json!(5), json!("3.1.1")] {
        let port = gristmill_brokers::free_port().unwrap();
        let lines = vec![format!("listener {port} 127.0.0.1")];
        let broker = Mosquitto::with(&MosquittoOptions { lines, ..MosquittoOptions::default() });
        let sender = Client::new(&broker, &[]).await;
        let mut runtime = runtime(&broker.url(), &version, json!({}));
        let mut source = runtime.source(topics(1)).await;
        for number in numbers(0..20) {
            sender.publish("in", QoS::AtLeastOnce, number).await;
        }
        let held = next(&mut *source).await;
        runtime.connect(&format!("mqtt://127.0.0.1:{port}"), version.clone(), json!({}));
        let mut source = take_over(&runtime, topics(1), source).await;
        held.acknowledgement.delivered();
        assert_eq!(settle(&mut *source, 19).await, numbers(1..20), "nothing comes twice");
        eventually("all are acknowledged", || acknowledged(&broker, "mill-tests").len() == 20).await;
        sender.publish("in", QoS::AtLeastOnce, "20").await;
        assert_eq!(settle(&mut *source, 1).await, ["20"]);
        assert!(!broker.log().contains("UNSUBSCRIBE from mill-tests"), "it stays subscribed");
    }
}

#[tokio::test]
async fn a_broker_of_before_that_is_away_is_left_behind_after_a_while() {
    for client_id in ["mill", "later"] {
        let (mut old, new) = (Mosquitto::start(), Mosquitto::start());
        let mut runtime = runtime(&old.url(), &json!(5), json!({}));
        runtime.limits.prepare_ms = 2_000;
        let mut source = runtime.source(topics(1)).await;
        Client::new(&old, &[]).await.publish("in", QoS::AtLeastOnce, "taken").await;
        let taken = next(&mut *source).await;
        old.stop();
        runtime.connect(&new.url(), json!(5), json!({"client_id": client_id}));
        let mut source = take_over(&runtime, topics(1), source).await;
        Client::new(&new, &[]).await.publish("in", QoS::AtLeastOnce, "new").await;
        assert_eq!(settle(&mut *source, 1).await, ["new"]);
        taken.acknowledgement.delivered();

        // What was left there comes when the old connection is put back, and its session is in the note until then.
        old.start_again();
        runtime.connect(&old.url(), json!(5), json!({}));
        let mut source = take_over(&runtime, topics(1), source).await;
        assert_eq!(settle(&mut *source, 1).await, ["taken"]);
        is_ended(&new, &format!("{client_id}-tests")).await;
    }
}

#[tokio::test]
async fn a_broker_of_before_that_comes_back_in_time_is_emptied() {
    let (mut old, new) = (Mosquitto::start(), Mosquitto::start());
    let mut runtime = runtime(&old.url(), &json!(5), json!({}));
    let source = runtime.source(topics(1)).await;
    let sender = Client::new(&old, &[]).await;
    for number in numbers(0..20) {
        sender.publish("in", QoS::AtLeastOnce, number).await;
    }
    old.stop();
    runtime.connect(&new.url(), json!(5), json!({"client_id": "later"}));
    let mut source = take_over(&runtime, topics(1), source).await;
    Client::new(&new, &[]).await.publish("in", QoS::AtLeastOnce, "20").await;
    old.start_again();
    assert_eq!(settle(&mut *source, 21).await, numbers(0..21));
    is_ended(&old, "mill-tests").await;
}

#[tokio::test]
async fn a_broker_that_was_never_there_is_not_waited_for() {
    let new = Mosquitto::start();
    let mut runtime = runtime("mqtt://127.0.0.1:1", &json!(5), json!({}));
    runtime.limits.prepare_ms = 3_600_000;
    let source = runtime.source(topics(1)).await;
    runtime.connect(&new.url(), json!(5), json!({"client_id": "later"}));
    let mut source = take_over(&runtime, topics(1), source).await;
    Client::new(&new, &[]).await.publish("in", QoS::AtLeastOnce, "new").await;
    assert_eq!(settle(&mut *source, 1).await, ["new"]);
}

#[tokio::test]
async fn a_session_that_is_still_emptied_is_not_taken_back() {
    let broker = Mosquitto::start();
    let mut runtime = runtime(&broker.url(), &json!(5), json!({}));
    let mut source = runtime.source(topics(1)).await;
    Client::new(&broker, &[]).await.publish("in", QoS::AtLeastOnce, "held").await;
    let held = next(&mut *source).await;
    runtime.connect(&broker.url(), json!(5), json!({"client_id": "later"}));
    let source = take_over(&runtime, topics(1), source).await;
    runtime.connect(&broker.url(), json!(5), json!({}));
    let refused = runtime.prepare(topics(1)).await.take_over(source).await;
    let Err(refused) = refused else { panic!("it is taken back") };
    let text = &refused.error.text;
    assert!(text.contains("is still being emptied") && text.contains("tried again by itself"), "{text}");
    held.acknowledgement.delivered();
    is_ended(&broker, "mill-tests").await;
    let _source = take_over_by_itself(&runtime, topics(1), refused.old).await;
    is_ended(&broker, "later-tests").await;
}

#[tokio::test]
async fn a_session_in_vain_is_not_left_at_the_broker() {
    let broker = Mosquitto::start();
    let port = gristmill_brokers::free_port().unwrap();
    let lines = vec![format!("listener {port} 127.0.0.1"), "max_qos 0".to_owned()];
    let other = Mosquitto::with(&MosquittoOptions { lines, ..MosquittoOptions::default() });
    let mut runtime = runtime(&broker.url(), &json!(5), json!({}));
    let source = runtime.source(topics(1)).await;
    runtime.connect(&format!("mqtt://127.0.0.1:{port}"), json!(5), json!({"client_id": "later"}));
    let refused = runtime.prepare(topics(1)).await.take_over(source).await;
    let Err(refused) = refused else { panic!("QoS 0 is enough") };
    assert!(refused.error.text.contains("only QoS 0 is granted"), "{}", refused.error);
    is_ended(&other, "later-tests").await;
    let mut source = refused.old;
    Client::new(&broker, &[]).await.publish("in", QoS::AtLeastOnce, "1").await;
    assert_eq!(settle(&mut *source, 1).await, ["1"]);
}

#[tokio::test]
async fn a_runtime_that_stops_while_it_empties_a_session_leaves_it_as_it_is() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let mut runtime = runtime(&broker.url(), &json!(5), json!({}));
    let source = runtime.source(topics(1)).await;
    for number in numbers(0..40) {
        sender.publish("in", QoS::AtLeastOnce, number).await;
    }
    runtime.connect(&broker.url(), json!(5), json!({"client_id": "later"}));
    let mut source = take_over(&runtime, topics(1), source).await;
    assert_eq!(settle(&mut *source, 5).await, numbers(0..5));
    eventually("they are acknowledged", || acknowledged(&broker, "mill-tests").len() == 5).await;
    drop(source);
    runtime.adapter.finish().await;
    assert!(runtime.noted().contains("mill-tests") && runtime.noted().contains("later-tests"));
    // The old connection is put back, and then the new one.
    runtime.connect(&broker.url(), json!(5), json!({}));
    let mut source = runtime.source(topics(1)).await;
    assert_eq!(settle(&mut *source, 35).await, numbers(5..40));
    runtime.connect(&broker.url(), json!(5), json!({"client_id": "later"}));
    let source = take_over_by_itself(&runtime, topics(1), source).await;
    is_ended(&broker, "mill-tests").await;
    eventually("it is noted", || !runtime.noted().contains("mill-tests")).await;
    drop(source);
}

#[tokio::test]
async fn a_client_id_that_was_changed_while_no_runtime_ran_loses_nothing_and_leaves_no_session() {
    for (version, qos) in [(json!(5), 1), (json!("3.1.1"), 1), (json!(5), 2)] {
        let broker = Mosquitto::start();
        let sender = Client::new(&broker, &[]).await;
        let mut runtime = runtime(&broker.url(), &version, json!({}));
        drop(runtime.source(topics(qos)).await);
        runtime.adapter.finish().await;
        for number in numbers(0..100) {
            sender.publish("in", QoS::ExactlyOnce, number).await;
        }
        runtime.connect(&broker.url(), version.clone(), json!({"client_id": "later"}));
        let mut source = runtime.source(topics(qos)).await;
        eventually("it is unsubscribed", || broker.log().contains("Sending UNSUBACK to mill-tests")).await;
        for number in numbers(100..110) {
            sender.publish("in", QoS::ExactlyOnce, number).await;
        }
        assert_eq!(settle(&mut *source, 110).await, numbers(0..110), "{version} {qos}");
        eventually("it is ended", || !runtime.noted().contains("mill-tests")).await;
        assert!(!has_session(&broker, "mill-tests").await);
        let log = broker.log();
        let (subscribed, unsubscribed) =
            (log.find("Sending SUBACK to later-tests"), log.find("UNSUBSCRIBE from mill-tests"));
        assert!(subscribed.unwrap() < unsubscribed.unwrap(), "nothing falls between the two");
    }
}

#[tokio::test]
async fn what_an_earlier_run_has_left_waits_for_a_broker_that_is_away() {
    let mut broker = Mosquitto::start();
    let mut runtime = runtime(&broker.url(), &json!(5), json!({}));
    runtime.limits.prepare_ms = 100;
    drop(runtime.source(topics(1)).await);
    runtime.adapter.finish().await;
    Client::new(&broker, &[]).await.publish("in", QoS::AtLeastOnce, "0").await;
    broker.stop();
    runtime.connect(&broker.url(), json!(5), json!({"client_id": "later"}));
    let mut source = runtime.source(topics(1)).await;
    for _ in 0..3 {
        let down = source.next().await.unwrap_err();
        assert!(down.text.contains("cannot be reached"), "{down}");
        // Longer than a session is waited for that others do not wait for.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.start_again();
    assert_eq!(settle(&mut *source, 1).await, ["0"]);
    eventually("it is ended", || !runtime.noted().contains("mill-tests")).await;
    assert!(!has_session(&broker, "mill-tests").await);
}

#[tokio::test]
async fn what_an_earlier_run_has_left_is_not_taken_from_the_flow_that_has_it_now() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = runtime(&broker.url(), &json!(5), json!({}));
    let start = async |flow: &str, client_id: &str| {
        let config = json!({"topics": [flow], "client_id": client_id});
        runtime.prepare_of(flow, config).await.start().await.unwrap()
    };
    for runs in [true, false] {
        let (before, later) = (format!("before-{runs}"), format!("later-{runs}"));
        drop(start("one", &before).await);
        runtime.adapter.finish().await;
        let mut two = Some(start("two", &before).await);
        if !runs {
            two = None;
            runtime.adapter.finish().await;
            sender.publish("two", QoS::AtLeastOnce, "of two").await;
        }
        let (log, _logs) = Log::begin();
        let mut one = start("one", &later).await;
        let said = log.lines("it is not emptied");
        assert!(said.len() == 1 && said[0].contains("the flow `two`"), "{said:?}");
        sender.publish("one", QoS::AtLeastOnce, "of one").await;
        assert_eq!(settle(&mut *one, 1).await, ["of one"]);
        let mut two = match two {
            Some(two) => {
                sender.publish("two", QoS::AtLeastOnce, "of two").await;
                two
            }
            None => start("two", &before).await,
        };
        // The session has still the topic of the other flow.
        let seen = settle(&mut *two, 2).await;
        assert!(seen.contains(&"of two".to_owned()), "{seen:?}");
        assert!(!broker.log().contains(&format!("UNSUBSCRIBE from {before}")));
        drop((one, two));
        runtime.adapter.finish().await;
    }
}

/// A flow that is removed while a session is emptied ends both.
#[tokio::test]
async fn a_flow_that_is_gone_leaves_no_session_of_before() {
    let broker = Mosquitto::start();
    let mut runtime = runtime(&broker.url(), &json!(5), json!({}));
    let mut source = runtime.source(topics(1)).await;
    Client::new(&broker, &[]).await.publish("in", QoS::AtLeastOnce, "held").await;
    let held = next(&mut *source).await;
    runtime.connect(&broker.url(), json!(5), json!({"client_id": "later"}));
    let mut source = take_over(&runtime, topics(1), source).await;
    source.retire();
    source.close().await;
    assert!(source.next().await.unwrap().is_none());
    held.acknowledgement.delivered();
    let finish = tokio::time::timeout(Duration::from_secs(20), runtime.adapter.finish());
    eventually("it is acknowledged", || acknowledged(&broker, "mill-tests").len() == 1).await;
    finish.await.unwrap();
    drop(source);
    for client in ["mill-tests", "later-tests"] {
        is_ended(&broker, client).await;
    }
}
