//! What is said about a configuration before anything runs.

use std::path::Path;

use gristmill_core::{
    adapter::{Adapter, Checker, SinkUse},
    config::Mistakes,
    limits::FlowLimits,
    testkit::contract::config_node,
};
use gristmill_mqtt::MqttAdapter;
use serde_json::{Value as Json, json};

use crate::support::Runtime;

fn codes(check: impl FnOnce(&mut Checker<'_>)) -> Vec<&'static str> {
    let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
    check(&mut Checker::new(&mut mistakes, Path::new("."), &limits));
    mistakes.iter().map(|mistake| mistake.code).collect()
}

fn connection(config: Json) -> Vec<&'static str> {
    codes(|checker| {
        MqttAdapter::new().check_connection(&config_node(&config), checker);
    })
}

/// With the connection `plant` of this version.
fn flow(version: Json, check: impl FnOnce(&MqttAdapter, &mut Checker<'_>)) -> Vec<&'static str> {
    let runtime = Runtime::new("mqtt://127.0.0.1:1", version, json!({}));
    let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
    let mut checker =
        Checker::new(&mut mistakes, Path::new("."), &limits).with_connections(&runtime.connections);
    check(&runtime.adapter, &mut checker);
    mistakes.iter().map(|mistake| mistake.code).collect()
}

fn source(version: Json, config: Json) -> Vec<&'static str> {
    flow(version, |adapter, checker| {
        adapter.check_source(&config_node(&config), checker);
    })
}

fn sink(version: Json, usage: SinkUse, config: Json) -> Vec<&'static str> {
    flow(version, |adapter, checker| {
        adapter.check_sink(&config_node(&config), usage, checker);
    })
}

#[test]
fn every_mistake_of_a_connection_is_found() {
    let good = json!({"url": "mqtts://broker", "client_id": "mill", "tls": {}, "version": 5});
    assert_eq!(connection(good), [""; 0]);
    assert_eq!(connection(json!({"url": "tcp://broker", "client_id": "mill"})), ["invalid_url"]);
    assert_eq!(connection(json!({"url": "mqtt://broker"})), ["missing_key"]);
    assert_eq!(connection(json!({"url": "mqtt://b", "client_id": "m", "version": "4"})).len(), 1);
    let all = json!({
        "url": "mqtt://broker", "client_id": "mill\n", "version": "3.1.1", "tls": {}, "password": "p",
        "will": {"topic": "a/#"}, "session_expiry_s": 1, "receive_maximum": 1
    });
    let mut found = connection(all);
    found.sort_unstable();
    let expected =
        ["invalid_topic", "invalid_value", "missing_key", "unused_key", "unused_key", "unused_tls"];
    assert_eq!(found, expected);
}

#[test]
fn who_writes_a_version_that_is_none_is_told_of_both() {
    let both = "known here: `5`, `3.1.1`";
    for (version, mend) in
        [(json!("4"), both), (json!(4), both), (json!("3.1"), both), (json!("5"), "write it without quotes")]
    {
        let config = json!({"url": "mqtt://b", "client_id": "m", "version": version});
        let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
        let mut checker = Checker::new(&mut mistakes, Path::new("."), &limits);
        let _rest = MqttAdapter::new().check_connection(&config_node(&config), &mut checker);
        let said: Vec<_> = mistakes.iter().map(|mistake| mistake.mend.clone().unwrap_or_default()).collect();
        assert_eq!(said, [mend], "{version}");
    }
}

#[test]
fn every_mistake_of_a_source_is_found() {
    let good = json!({"connection": "plant", "topics": ["a/+", "$share/g/b/#"], "retained": "never"});
    assert_eq!(source(json!(5), good.clone()), [""; 0]);
    assert_eq!(source(json!("3.1.1"), good), ["unused_key"]);
    assert_eq!(source(json!(5), json!({"connection": "plan", "topics": ["a"]})), ["unknown_connection"]);
    let topics = json!({"connection": "plant", "topics": ["a#", "b", "b"]});
    assert_eq!(source(json!(5), topics), ["invalid_topic", "duplicate_topic"]);
    assert_eq!(source(json!(5), json!({"connection": "plant", "topics": []})).len(), 1);
}

#[test]
fn every_mistake_of_a_sink_is_found() {
    let good = json!({"connection": "plant", "topic": "a/${headers.x}", "content_type": "text/plain"});
    assert_eq!(sink(json!(5), SinkUse::Call, good.clone()), [""; 0]);
    assert_eq!(sink(json!("3.1.1"), SinkUse::Call, good), ["unused_key", "no_answers"]);
    for topic in ["a/#", "a/${headers.x}/+", ""] {
        let config = json!({"connection": "plant", "topic": topic});
        assert_eq!(sink(json!(5), SinkUse::Send, config), ["invalid_topic"], "{topic}");
    }
    let unsafe_one = json!({"connection": "plant", "topic": "dead", "qos": 0});
    assert_eq!(sink(json!(5), SinkUse::DeadLetter, unsafe_one), ["unconfirmed_dead_letter"]);
    let reserved = json!({"connection": "plant", "topic": "a", "forward_headers": ["mqtt-topic", "A B"]});
    assert_eq!(sink(json!(5), SinkUse::Send, reserved), ["invalid_header", "invalid_header"]);
    let stars = json!({"connection": "plant", "topic": "a", "forward_headers": ["*", "order-*", "a*b"]});
    assert_eq!(sink(json!(5), SinkUse::Send, stars), ["invalid_header"]);
}

#[test]
fn two_sources_of_one_client_id_have_one_claim() {
    let runtime = Runtime::new("mqtt://127.0.0.1:1", json!(5), json!({}));
    let spec = |config| runtime.source_spec(config);
    let one = spec(json!({"topics": ["a"], "client_id": "same"}));
    let two = spec(json!({"topics": ["b"], "client_id": "same"}));
    assert_eq!(one.claims(), two.claims());
    // That of the flow `tests`.
    let default = spec(json!({"topics": ["b"]}));
    assert_eq!(default.claims(), spec(json!({"topics": ["a"], "client_id": "mill-tests"})).claims());
    assert_ne!(default.claims(), one.claims());
    assert_eq!(default.claims()[0].to_string(), "the MQTT client id mill-tests on the connection plant");
}
