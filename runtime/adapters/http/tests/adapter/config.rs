//! What is said about a configuration before anything runs.

use serde_json::{Value as Json, json};

use gristmill_core::{
    adapter::Adapter as _,
    config::{Mistake, Node, Span, Value},
};

use crate::support::{Bench, source, with_substituted};

fn said(mistakes: Vec<Mistake>) -> Vec<String> {
    mistakes
        .iter()
        .map(|m| format!("{}: {} -> {}", m.code, m.text, m.mend.as_deref().unwrap_or("-")))
        .collect()
}

fn source_mistakes(config: Json) -> Vec<String> {
    said(Bench::new().check_source(&config).err().unwrap_or_default())
}

fn sink_mistakes(config: Json) -> Vec<String> {
    said(Bench::new().check_sink(&config).err().unwrap_or_default())
}

#[test]
fn every_mistake_of_a_source_is_found_at_once() {
    let found = source_mistakes(json!({
        "listen": "localhost:8080", "path": "orders", "host": "http://x",
        "signature": {"header": "a b", "algorithm": "hmac_sha256", "secret": ""},
    }));
    let mut codes: Vec<&str> = found.iter().map(|text| text.split(':').next().unwrap()).collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        ["empty_secret", "invalid_address", "invalid_header", "invalid_host", "invalid_path"],
        "{found:#?}"
    );
}

#[test]
fn keys_and_words_are_named_with_the_nearest_known_one() {
    for (config, expected) in [
        (
            json!({"listen": "127.0.0.1:1", "path": "/", "method": ["POST"]}),
            "unknown_key: unknown key `method` -> did you mean `methods`?",
        ),
        (
            json!({"listen": "127.0.0.1:1", "path": "/", "methods": ["POTS"]}),
            "unknown_word: `POTS` is not known here -> did you mean `POST`?",
        ),
        (json!({"path": "/"}), "missing_key: `listen` is missing -> add `listen:`"),
        (
            json!({"listen": "127.0.0.1:1", "path": "/", "listener": {"max_conections": 1}}),
            "unknown_key: unknown key `max_conections` -> did you mean `max_connections`?",
        ),
    ] {
        let found = source_mistakes(config);
        assert_eq!(found, [expected]);
    }
    assert!(source_mistakes(json!({"listen": "127.0.0.1:1", "path": "/", "methods": []})).len() == 1);
    assert!(source_mistakes(json!({"listen": "127.0.0.1:1", "path": "/", "read_timeout_ms": 0})).len() == 1);
}

#[test]
fn mistakes_of_a_sink() {
    for (config, part) in [
        (json!({}), "`url` is missing"),
        (json!({"url": "http://a/", "methd": "PUT"}), "did you mean `method`?"),
        (json!({"url": "http://a/", "method": "OPTIONS"}), "hands nothing over"),
        (json!({"url": "http://a/", "headers": {"content-length": "3"}}), "is set by HTTP itself"),
        (json!({"url": "http://a/", "headers": {"x y": "3"}}), "is not a header name"),
        (json!({"url": "http://a/", "headers": {"x": "a\nb"}}), "control character"),
        (json!({"url": "http://a/", "headers": {"x": "a", "X": "b"}}), "in other capitals"),
        (json!({"url": "http://a/", "forward_headers": ["host"]}), "is set by HTTP itself"),
        (json!({"url": "http://a/", "answer_headers": ["transfer-encoding"]}), "is set by HTTP itself"),
        (json!({"url": "http://a/", "success": ["299-200"]}), "ends before it begins"),
        (json!({"url": "http://a/", "success": ["2xx"]}), "success"),
        (json!({"url": "http://a/", "success": [99]}), "success"),
        (json!({"url": "http://a/", "success": []}), "success"),
        (json!({"url": "http://a/", "tls": {"ca_file": "ca.pem"}}), "remove `tls`"),
        (json!({"url": "https://a/", "tls": {"key_file": "key.pem"}}), "write both"),
        (json!({"url": "a"}), "does not begin with"),
        (json!({"url": "http://a/", "timeout_ms": 0}), "timeout_ms"),
    ] {
        let found = sink_mistakes(config.clone());
        assert_eq!(found.len(), 1, "{config}: {found:#?}");
        if !part.ends_with("success") && !part.ends_with("timeout_ms") {
            assert!(found[0].contains(part), "{config}: {found:#?}");
        }
    }
}

#[test]
fn a_bad_name_of_a_header_is_shown_where_and_as_it_is_written() {
    let mut config = Node::from_json(
        &json!({
            "url": "http://a/", "forward_headers": ["Transfer-Encoding"],
            "headers": {"X Order": "1", "Host": "b", "X-A": "1", "x-a": "2", "X-Value": "a\nb"},
        }),
        &Span::nowhere("value"),
    );
    // Keys stand elsewhere than their values.
    if let Value::Map(entries) = &mut config.value
        && let Some(Value::Map(headers)) =
            entries.iter_mut().find(|e| e.key == "headers").map(|e| &mut e.value.value)
    {
        headers.iter_mut().for_each(|header| header.key_span = Span::nowhere("name"));
    }
    let found: Vec<String> =
        Bench::new().check_sink_node(&config).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "name:1:1: `Host` is set by HTTP itself (leave it out: it is the host of `url`)",
            "name:1:1: `X Order` is not a header name \
             (a name has letters, digits and `-`, and no space or colon: `x-order-id`)",
            "name:1:1: `x-a` is there twice, in other capitals (keep one of them)",
            "value:1:1: `Transfer-Encoding` is set by HTTP itself \
             (leave it out: each connection has its own, which HTTP sends where it is needed)",
            "value:1:1: the value of `X-Value` holds a control character \
             (take the character out; a text from a file often ends in a line break)",
        ]
    );
}

#[test]
fn what_matches_the_same_requests_has_the_same_claims() {
    let bench = Bench::new();
    let claims = |config: Json| bench.check_source(&config).unwrap().claims();
    let one =
        claims(json!({"listen": "127.0.0.1:1", "path": "/orders/{id}", "methods": ["POST", "GET", "POST"]}));
    assert_eq!(one.len(), 2);
    let same =
        claims(json!({"listen": "127.0.0.1:1", "path": "/orders/{number}", "methods": ["GET", "POST"]}));
    assert_eq!(one, same);
    for other in [
        json!({"listen": "127.0.0.1:2", "path": "/orders/{id}"}),
        json!({"listen": "127.0.0.1:1", "path": "/orders/{id}/"}),
        json!({"listen": "127.0.0.1:1", "path": "/orders/{id}", "host": "a.test"}),
        json!({"listen": "127.0.0.1:1", "path": "/orders/new"}),
        json!({"listen": "127.0.0.1:1", "path": "/orders/{*id}"}),
        json!({"listen": "127.0.0.1:1", "path": "/orders/{id}", "methods": ["PUT"]}),
    ] {
        assert!(claims(other.clone()).iter().all(|claim| !one.contains(claim)), "{other}");
    }
    assert_eq!(
        claims(json!({"listen": "127.0.0.1:1", "path": "/", "host": "A.test."})),
        claims(json!({"listen": "127.0.0.1:1", "path": "/", "host": "a.TEST"}))
    );
}

#[test]
fn the_endpoint_stays_the_same_when_only_settings_change() {
    let bench = Bench::new();
    let identity = |more: Json| bench.check_source(&source("/a/{x}", more)).unwrap().identity();
    let one = identity(json!({}));
    assert_eq!(
        one,
        identity(json!({"methods": ["PUT"], "read_timeout_ms": 5, "listener": {"keep_alive_ms": 1}}))
    );
    assert_ne!(one, identity(json!({"host": "a.test"})));
    assert_ne!(one, bench.check_source(&source("/b", json!({}))).unwrap().identity());
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
    let adapter = Bench::new().adapter;
    for schema in [adapter.source_schema().unwrap(), adapter.sink_schema().unwrap()] {
        let mut found = Vec::new();
        unexplained(&schema, "", &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn limits_of_a_listener_have_their_defaults_in_the_schema_and_are_checked() {
    let schema = Bench::new().adapter.source_schema().unwrap();
    let limits = schema["$defs"]["ListenerConfig"]["properties"].as_object().unwrap();
    let defaults: Vec<_> =
        limits.iter().map(|(key, limit)| (key.as_str(), limit["default"].clone())).collect();
    assert_eq!(
        defaults,
        [
            ("max_connections", json!(4_096)),
            ("header_read_timeout_ms", json!(10_000)),
            ("keep_alive_ms", json!(75_000)),
            ("buffer_bytes", json!(536_870_912)),
        ]
    );
    for (value, part) in [(json!(0), "0"), (json!("many"), "a whole number")] {
        let found = source_mistakes(source("/", json!({"listener": {"max_connections": value}})));
        assert!(found.len() == 1 && found[0].contains(part), "{found:#?}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let bench = Bench::new();
    let signature = json!({"header": "x-signature", "algorithm": "hmac_sha1", "secret": "hunter2"});
    let spec = bench.check_source(&source("/", json!({"signature": signature}))).unwrap();
    assert!(!format!("{spec:?}").contains("hunter2"));
}

#[test]
fn flows_whose_addresses_include_each_other_conflict() {
    let bench = Bench::new();
    let check = |listen: &str| bench.check_source(&json!({"listen": listen, "path": "/"})).unwrap();
    let conflict = |one: &str, other: &str| check(one).conflict(&*check(other));
    assert_eq!(
        conflict("127.0.0.1:8080", "0.0.0.0:8080").unwrap(),
        "this flow listens on 127.0.0.1:8080 and another on 0.0.0.0:8080, and one of the two includes the other: \
         write the same `listen` in both, or take another port"
    );
    assert!(conflict("0.0.0.0:8080", "127.0.0.1:8080").is_some());
    assert!(conflict("[::]:8080", "127.0.0.1:8080").is_some());
    assert_eq!(conflict("0.0.0.0:8080", "127.0.0.1:8081"), None);
    assert_eq!(conflict("0.0.0.0:8080", "0.0.0.0:8080"), None);
    assert_eq!(conflict("0.0.0.0:0", "127.0.0.1:0"), None);
}

#[test]
fn a_claim_is_shown_as_a_person_writes_it() {
    let shown = |more: Json| -> Vec<String> {
        let spec = Bench::new().check_source(&source("/echo/{id}/{*rest}", more)).unwrap();
        spec.claims().iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        shown(json!({"listen": "127.0.0.1:18080", "methods": ["PUT", "GET"]})),
        ["GET 127.0.0.1:18080/echo/{id}/{*rest}", "PUT 127.0.0.1:18080/echo/{id}/{*rest}"]
    );
    assert_eq!(
        shown(json!({"listen": "127.0.0.1:18080", "host": "Files.example.com"})),
        ["POST files.example.com/echo/{id}/{*rest} on 127.0.0.1:18080"]
    );
}

#[test]
fn what_was_substituted_is_shown_nowhere() {
    let bench = Bench::new();
    for (secret, config, identity, claim) in [
        (
            "hunter2",
            json!({"listen": "127.0.0.1:1", "path": "/a/hunter2/{id}"}),
            "http 127.0.0.1:1 */a/${env:SECRET}/{id}",
            "POST 127.0.0.1:1/a/${env:SECRET}/{id}",
        ),
        (
            "127.0.0.7",
            json!({"listen": "127.0.0.7:1", "path": "/a/{id}"}),
            "http ${env:SECRET}:1 */a/{}",
            "POST ${env:SECRET}:1/a/{id}",
        ),
        (
            "hunter2",
            json!({"listen": "127.0.0.1:1", "path": "/", "host": "hunter2.test"}),
            "http 127.0.0.1:1 ${env:SECRET}.test/",
            "POST ${env:SECRET}.test/ on 127.0.0.1:1",
        ),
    ] {
        let spec = bench.check_source_node(&with_substituted(&config, secret)).unwrap();
        assert_eq!(spec.identity(), identity);
        assert_eq!(spec.claims().iter().map(ToString::to_string).collect::<Vec<_>>(), [claim]);
        assert!(!format!("{spec:?}").contains(secret), "{spec:?}");
        // What it is shown as makes it no other route.
        assert_eq!(spec.claims(), bench.check_source(&config).unwrap().claims());
    }
    let overlapping = json!({"listen": "127.0.0.7:1", "path": "/"});
    let one = bench.check_source_node(&with_substituted(&overlapping, "127.0.0.7")).unwrap();
    let other = bench.check_source(&json!({"listen": "0.0.0.0:1", "path": "/"})).unwrap();
    for text in [one.conflict(&*other).unwrap(), other.conflict(&*one).unwrap()] {
        assert!(text.contains("${env:SECRET}:1") && !text.contains("127.0.0.7"), "{text}");
    }
    for config in [
        json!({"listen": "127.0.0.1:1", "path": "/a b/hunter2"}),
        json!({"listen": "127.0.0.1:1", "path": "hunter2"}),
        json!({"listen": "127.0.0.1:1", "path": "/{hunter2}x"}),
        json!({"listen": "hunter2", "path": "/"}),
        json!({"listen": "127.0.0.1:1", "path": "/", "host": "hunter2/"}),
    ] {
        let found = said(bench.check_source_node(&with_substituted(&config, "hunter2")).unwrap_err());
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(!found[0].contains("hunter2"), "{found:#?}");
    }
}
