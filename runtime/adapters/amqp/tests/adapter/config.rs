//! What is said about a configuration before anything runs.

use gristmill_core::{
    adapter::{Adapter as _, SinkUse},
    config::Mistake,
};
use serde_json::{Value as Json, json};

use crate::support::Bench;

fn bench() -> Bench {
    Bench::new("amqp://127.0.0.1")
}

fn said(mistakes: Vec<Mistake>) -> Vec<String> {
    mistakes
        .iter()
        .map(|m| format!("{}: {} -> {}", m.code, m.text, m.mend.as_deref().unwrap_or("-")))
        .collect()
}

#[track_caller]
fn one(config: &Json, found: Vec<String>, part: &str) {
    assert_eq!(found.len(), 1, "{config}: {found:#?}");
    assert!(found[0].contains(part), "{config}: {found:#?}");
}

#[test]
fn mistakes_of_a_connection() {
    for (config, part) in [
        (json!({}), "`urls` is missing"),
        (json!({"urls": []}), "urls"),
        (json!({"urls": ["http://a"]}), "does not begin with `amqp://` or `amqps://`"),
        (json!({"urls": ["rabbit:5672"]}), "does not begin with"),
        (json!({"urls": ["amqp://"]}), "the host is missing"),
        (json!({"urls": ["amqp://u:secret@:5672"]}), "the host is missing"),
        (json!({"urls": ["amqp://a:port"]}), "malformed"),
        (json!({"urls": ["amqp://a?heartbeat=3"]}), "parameters cannot stand in it"),
        (json!({"urls": ["amqp://u:secret@a"], "user": "v", "password": "w"}), "stands in a URL and beside"),
        (json!({"urls": ["amqp://a/b"], "vhost": "c"}), "`vhost` stands in a URL"),
        (json!({"urls": ["amqp://a"], "user": "v"}), "add `password:`"),
        (json!({"urls": ["amqp://a"], "tls": {}}), "write `amqps://`"),
        (json!({"urls": ["amqps://a"], "tls": {"key_file": "k"}}), "write both"),
        (json!({"urls": ["amqps://a"], "authentication": "external"}), "certificate_file"),
        (json!({"urls": ["amqp://a"], "heartbeat": 3}), "did you mean `heartbeat_ms`?"),
        (
            json!({"urls": ["amqp://a"], "reconnect": {"initial_delay_ms": 9_000, "max_delay_ms": 10}}),
            "raise `max_delay_ms`",
        ),
    ] {
        let mut found = said(bench().check_connection(&config).err().unwrap_or_default());
        assert!(!found.concat().contains("secret"), "{found:#?}");
        found.dedup_by(|a, b| a.contains("stands in a URL") && b.contains("stands in a URL"));
        if part == "urls" {
            assert_eq!(found.len(), 1, "{found:#?}");
        } else {
            one(&config, found, part);
        }
    }
    for url in ["amqp://a", "amqps://u:p%40@[::1]:5671/%2fx", "amqp://a:1/", "amqp://u:p@a/vhost"] {
        let connection = bench().check_connection(&json!({"urls": [url]})).unwrap();
        assert!(!format!("{:?}", connection.spec).contains("p@"), "{connection:?}");
    }
}

#[test]
fn mistakes_of_a_source() {
    let with = |more: Json| {
        let mut config = json!({"connection": "rabbit", "queue": "q"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    for (config, part) in [
        (json!({"queue": "q"}), "`connection` is missing"),
        (json!({"connection": "rabit", "queue": "q"}), "did you mean `rabbit`?"),
        (json!({"connection": "rabbit"}), "`queue` is missing"),
        (with(json!({"queue": "ü".repeat(200)})), "255 bytes"),
        (with(json!({"queue": "amq.x", "declare": {}})), "the broker's own"),
        (with(json!({"declare": {"type": "stream"}})), "a stream cannot be a source"),
        (with(json!({"declare": {"type": "quorom"}})), "did you mean `quorum`?"),
        (with(json!({"declare": {"type": "quorum", "durable": false}})), "always durable"),
        (with(json!({"declare": {"type": "quorum", "exclusive": true}})), "cannot be exclusive"),
        (with(json!({"declare": {"type": "quorum", "max_priority": 3}})), "no priorities"),
        (with(json!({"declare": {"delivery_limit": 3}})), "only a quorum queue"),
        (with(json!({"declare": {"type": "quorum", "delivery_limit": 3}})), "add `dead_letter_exchange`"),
        (with(json!({"declare": {"overflow": "drop_head"}})), "no limit at which"),
        (with(json!({"declare": {"dead_letter_routing_key": "x"}})), "add `dead_letter_exchange`"),
        (with(json!({"declare": {"arguments": {"x-max-length": 3}}})), "write `max_length` beside"),
        (with(json!({"bindings": [{"exchnge": "x", "exchange": "y"}]})), "did you mean `exchange`?"),
        (with(json!({"prefetch": 3})), "unknown key `prefetch`"),
    ] {
        let found = said(bench().check_source(&config).err().unwrap_or_default());
        one(&config, found, part);
    }
}

#[test]
fn mistakes_of_a_sink() {
    let with = |more: Json| {
        let mut config = json!({"connection": "rabbit", "exchange": "e", "routing_key": "k"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    for (config, usage, part) in [
        (json!({"connection": "rabbit"}), SinkUse::Send, "`routing_key` is missing"),
        (with(json!({"connection": "other"})), SinkUse::Send, "there is no connection `other`"),
        (with(json!({"exchange": "${headers.x}"})), SinkUse::Send, "an exchange is fixed"),
        (with(json!({"exchange": "", "routing_key": ""})), SinkUse::Send, "names the queue"),
        (with(json!({"mandatory_channels": 4})), SinkUse::Send, "`mandatory: true`"),
        (with(json!({"mandatory": false})), SinkUse::DeadLetter, "reaches no queue"),
        (with(json!({"headers": {"a b": "x"}})), SinkUse::Send, "no name of a header"),
        (with(json!({"forward_headers": ["a*b"]})), SinkUse::Send, "not at its end"),
        (with(json!({"answer_headers": ["A"]})), SinkUse::Call, "lower case"),
        (with(json!({"correlation_id": "x"})), SinkUse::Call, "of its own"),
        (with(json!({"priority": 256})), SinkUse::Send, "256"),
        (with(json!({"persistant": true})), SinkUse::Send, "did you mean `persistent`?"),
    ] {
        let found = said(bench().check_sink(&config, usage).err().unwrap_or_default());
        one(&config, found, part);
    }
}

#[test]
fn what_cannot_be_shared_is_a_conflict_and_what_can_is_none() {
    let bench = bench();
    let source = |more: Json| {
        let mut config = json!({"connection": "rabbit", "queue": "q"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bench.check_source(&config).unwrap()
    };
    let plain = source(json!({}));
    assert_eq!(plain.conflict(&*source(json!({}))), None);
    assert_eq!(plain.conflict(&*source(json!({"queue": "other", "exclusive": true}))), None);
    assert!(plain.conflict(&*source(json!({"exclusive": true}))).unwrap().contains("for itself"));
    let (one, other) = (source(json!({"declare": {}})), source(json!({"declare": {"durable": false}})));
    assert!(one.conflict(&*other).unwrap().contains("different properties"));
    assert_eq!(plain.identity(), source(json!({"exclusive": true, "declare": {}})).identity());
    assert_ne!(plain.identity(), source(json!({"queue": "other"})).identity());
}

#[test]
fn only_a_dead_letter_exchange_keeps_what_is_rejected() {
    let bench = bench();
    let keeps = |declare: Json| {
        let config = json!({"connection": "rabbit", "queue": "q", "declare": declare});
        bench.check_source(&config).unwrap().keeps_rejected()
    };
    assert!(!keeps(json!({})) && keeps(json!({"dead_letter_exchange": "dlx"})));
}

#[test]
fn every_key_is_explained_in_the_schema() {
    fn unexplained(schema: &Json, path: &str, found: &mut Vec<String>) {
        if let Some(properties) = schema.get("properties").and_then(Json::as_object) {
            for (key, property) in properties {
                if property.get("description").is_none() {
                    found.push(format!("{path}/{key}"));
                }
            }
        }
        match schema {
            Json::Object(map) => {
                map.iter().for_each(|(key, value)| unexplained(value, &format!("{path}/{key}"), found));
            }
            Json::Array(items) => items.iter().for_each(|item| unexplained(item, path, found)),
            _ => {}
        }
    }
    let adapter = bench().adapter;
    for schema in [adapter.source_schema(), adapter.sink_schema(), adapter.connection_schema()] {
        let mut found = Vec::new();
        unexplained(&schema.unwrap(), "", &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }
}
