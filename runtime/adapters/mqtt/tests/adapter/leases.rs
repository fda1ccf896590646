//! Two flows of one runtime that want one client id: neither gets or loses what is the other's.

use gristmill_brokers::mosquitto::{Mosquitto, MosquittoOptions};
use gristmill_core::{
    adapter::Adapter,
    source::{Source, SourceError},
};
use rumqttc_v5::QoS;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;

use crate::{
    sessions::{has_session, is_ended, numbers, settle},
    support::{Client, Runtime, again_and_again, eventually, next},
};

/// Of a flow that has its own topic.
fn config(topic: &str, client_id: &str) -> Json {
    json!({"topics": [topic], "client_id": client_id})
}

fn runtime(broker: &Mosquitto) -> Runtime {
    let mut runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    runtime.limits.in_flight = 4;
    runtime
}

async fn start(runtime: &Runtime, flow: &str, client_id: &str) -> Result<Box<dyn Source>, SourceError> {
    runtime.prepare_of(flow, config(flow, client_id)).await.start().await
}

/// The flow goes on with another client id; or else as it was, and why.
async fn change(
    runtime: &Runtime,
    flow: &str,
    client_id: &str,
    source: &mut Option<Box<dyn Source>>,
) -> Result<(), SourceError> {
    let prepared = runtime.prepare_of(flow, config(flow, client_id)).await;
    let (now, changed) = match prepared.take_over(source.take().unwrap()).await {
        Ok(now) => (now, Ok(())),
        Err(refused) => (refused.old, Err(refused.error)),
    };
    *source = Some(now);
    changed
}

async fn change_by_itself(
    runtime: &Runtime,
    flow: &str,
    client_id: &str,
    source: &mut Option<Box<dyn Source>>,
) {
    again_and_again(async || change(runtime, flow, client_id, source).await.ok()).await;
}

async fn start_by_itself(runtime: &Runtime, flow: &str, client_id: &str) -> Box<dyn Source> {
    again_and_again(async || start(runtime, flow, client_id).await.ok()).await
}

fn is_up(runtime: &Runtime, flow: &str) -> bool {
    let role = format!("source {flow}");
    runtime.adapter.connection_states().iter().any(|state| *state.role == *role && state.is_up)
}

async fn publish(sender: &Client, topic: &str, range: std::ops::Range<usize>) {
    for number in numbers(range) {
        sender.publish(topic, QoS::AtLeastOnce, number).await;
    }
}

#[tokio::test]
async fn two_flows_that_swap_their_client_ids_are_refused_and_can_do_it_in_steps() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = runtime(&broker);
    let mut one = Some(start(&runtime, "one", "ida").await.unwrap());
    let mut two = Some(start(&runtime, "two", "idb").await.unwrap());
    publish(&sender, "one", 0..40).await;
    publish(&sender, "two", 100..140).await;
    for (flow, id, source, other) in [("one", "idb", &mut one, "two"), ("two", "ida", &mut two, "one")] {
        let refused = change(&runtime, flow, id, source).await.unwrap_err();
        let says = |text: &str| refused.text.contains(text);
        assert!(
            says(&format!("`{id}` is the client of the flow `{other}`")) && says("tried again by itself"),
            "{refused}"
        );
    }
    assert_eq!(broker.log().matches("as ida (p").count(), 1, "no one was thrown out");
    assert_eq!(broker.log().matches("as idb (p").count(), 1, "no one was thrown out");
    assert_eq!(settle(&mut **one.as_mut().unwrap(), 40).await, numbers(0..40));
    assert_eq!(settle(&mut **two.as_mut().unwrap(), 40).await, numbers(100..140));

    // Out of the way first.
    change(&runtime, "one", "idc", &mut one).await.unwrap();
    publish(&sender, "two", 140..150).await;
    let refused = change(&runtime, "two", "ida", &mut two).await.unwrap_err();
    assert!(refused.text.contains("empties the session of this one"), "{refused}");
    change_by_itself(&runtime, "two", "ida", &mut two).await;
    assert_eq!(settle(&mut **two.as_mut().unwrap(), 10).await, numbers(140..150));
    publish(&sender, "one", 40..50).await;
    change_by_itself(&runtime, "one", "idb", &mut one).await;
    publish(&sender, "one", 50..60).await;
    publish(&sender, "two", 150..160).await;
    assert_eq!(settle(&mut *one.unwrap(), 20).await, numbers(40..60));
    assert_eq!(settle(&mut *two.unwrap(), 10).await, numbers(150..160));
}

#[tokio::test]
async fn a_client_id_whose_session_another_flow_still_empties_is_not_taken() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = runtime(&broker);
    let mut one = Some(start(&runtime, "one", "idt").await.unwrap());
    publish(&sender, "one", 0..40).await;
    change(&runtime, "one", "later", &mut one).await.unwrap();
    let Err(refused) = start(&runtime, "two", "idt").await else { panic!("two have one client id") };
    assert!(
        refused.text.contains("`idt` is still the client of the flow `one`")
            && refused.text.contains("tried again by itself"),
        "{refused}"
    );
    publish(&sender, "one", 40..50).await;
    let mut one = one.unwrap();
    assert_eq!(settle(&mut *one, 50).await, numbers(0..50));
    let mut two = start_by_itself(&runtime, "two", "idt").await;
    publish(&sender, "two", 100..110).await;
    assert_eq!(settle(&mut *two, 10).await, numbers(100..110));
    assert_eq!(broker.log().matches("as idt (p").count(), 3, "one, its end, and two");
}

/// The runtime removes a flow when what is new has started.
#[tokio::test]
async fn a_flow_waits_for_the_client_id_of_one_that_is_removed() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = runtime(&broker);
    let mut one = start(&runtime, "one", "idu").await.unwrap();
    publish(&sender, "one", 0..1).await;
    let held = next(&mut *one).await;
    let mut two = start(&runtime, "two", "idu").await.unwrap();
    let down = two.next().await.unwrap_err();
    assert!(down.text.contains("`idu` is the client of the flow `one`"), "{down}");
    one.retire();
    one.close().await;
    assert!(one.next().await.unwrap().is_none());
    assert!(!is_up(&runtime, "two"));
    held.acknowledgement.delivered();
    drop(one);
    eventually("it takes its client", || is_up(&runtime, "two")).await;
    eventually("it subscribes", || broker.log().matches("Sending SUBACK to idu").count() == 2).await;
    let mut seen = Vec::new();
    for number in 0..30 {
        publish(&sender, "two", number..number + 1).await;
        seen.extend(settle(&mut *two, 1).await);
    }
    assert_eq!(seen, numbers(0..30));
    let log = broker.log();
    assert_eq!(log.matches("as idu (p").count(), 3, "one, its end, and two");
    assert!(!log.contains("already connected"), "no one was thrown out");
}

#[tokio::test]
async fn a_flow_that_waits_for_a_client_id_ends_nothing_when_it_is_removed_or_changed() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = runtime(&broker);
    let mut one = start(&runtime, "one", "idu").await.unwrap();
    let mut removed = start(&runtime, "removed", "idu").await.unwrap();
    removed.retire();
    removed.close().await;
    assert!(removed.next().await.unwrap().is_none());
    drop(removed);
    let mut changed = Some(start(&runtime, "changed", "idu").await.unwrap());
    change(&runtime, "changed", "own", &mut changed).await.unwrap();
    publish(&sender, "one", 0..5).await;
    publish(&sender, "changed", 100..105).await;
    assert_eq!(settle(&mut *one, 5).await, numbers(0..5));
    assert_eq!(settle(&mut *changed.unwrap(), 5).await, numbers(100..105));
    assert_eq!(broker.log().matches("as idu (p").count(), 1);
}

#[tokio::test]
async fn a_flow_that_is_removed_and_put_back_waits_for_the_end_of_its_own_session() {
    let broker = Mosquitto::start();
    let sender = Client::new(&broker, &[]).await;
    let runtime = runtime(&broker);
    let mut before = start(&runtime, "one", "ida").await.unwrap();
    publish(&sender, "one", 0..1).await;
    let held = next(&mut *before).await;
    before.retire();
    before.close().await;
    drop(before);
    let mut now = start(&runtime, "one", "ida").await.unwrap();
    // Whether it has settled by then: the session is ended, and then made anew.
    drop(held);
    eventually("it subscribes", || broker.log().matches("Sending SUBACK to ida").count() == 2).await;
    publish(&sender, "one", 1..10).await;
    assert_eq!(settle(&mut *now, 9).await, numbers(1..10));
}

#[tokio::test]
async fn a_client_id_is_free_again_when_who_wanted_it_was_refused_or_cancelled() {
    let user = Some(("miller".to_owned(), "grist".to_owned()));
    let broker = Mosquitto::with(&MosquittoOptions { user, ..MosquittoOptions::default() });
    let mut runtime =
        Runtime::new(&broker.url(), json!(5), json!({"username": "miller", "password": "sand"}));
    assert!(start(&runtime, "one", "ida").await.is_err());
    let good = json!({"username": "miller", "password": "grist"});
    runtime.connect(&broker.url(), json!(5), good.clone());
    let two = start_by_itself(&runtime, "two", "ida").await;

    // A take-over that is dropped while its broker says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("mqtt://{}", silent.local_addr().unwrap());
    runtime.connect(&silent_url, json!(5), json!({"connect_timeout_ms": 60_000}));
    let prepared = runtime.prepare_of("two", config("two", "idb")).await;
    let taking_over = tokio::spawn(prepared.take_over(two));
    let _connected = silent.accept().await.unwrap();
    taking_over.abort();
    assert!(taking_over.await.is_err_and(|error| error.is_cancelled()));
    runtime.connect(&broker.url(), json!(5), good);
    let _three = start_by_itself(&runtime, "three", "ida").await;
    let _four = start_by_itself(&runtime, "four", "idb").await;
}

/// Two brokers may know two clients of one name; or one broker has two addresses, and they are one client.
#[tokio::test]
async fn a_session_is_not_ended_while_another_flow_has_its_client_id_at_another_address() {
    let (broker, other) = (Mosquitto::start(), Mosquitto::start());
    let mut runtime = runtime(&broker);
    let mut one = start(&runtime, "one", "same").await.unwrap();
    runtime.connect(&other.url(), json!(5), json!({}));
    let mut two = start(&runtime, "two", "same").await.unwrap();
    one.retire();
    one.close().await;
    drop(one);
    eventually("it says good-bye", || broker.log().contains("Received DISCONNECT from same")).await;
    assert!(has_session(&broker, "same").await);
    two.retire();
    two.close().await;
    drop(two);
    is_ended(&other, "same").await;
}
