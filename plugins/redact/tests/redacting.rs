//! What each action does, and what a mistake says.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use gristmill_plugin::{Change, Failure, Message, Outcome, Transformer, testing};
use redact::Redact;

fn run(config: &str, message: Message) -> Result<Change, Failure> {
    let plugin: Redact = testing::configure(config).unwrap_or_else(|error| panic!("{error}"));
    match plugin.transform(message)? {
        Outcome::Change(change) => Ok(change),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(path: &str, action: &str, body: &str, expected: &str) {
    let config = format!("{{\"fields\":[{{\"path\":\"{path}\",\"action\":{action}}}]}}");
    let change = run(&config, Message::with_body(body)).unwrap_or_else(|failure| panic!("{failure:?}"));
    assert_eq!(String::from_utf8(change.body.unwrap()).unwrap(), expected);
}

#[track_caller]
fn check_refused(config: &str, expected: &str) {
    assert_eq!(testing::configure::<Redact>(config).unwrap_err(), expected);
}

#[test]
fn masks_keep_the_last_characters_of_long_values_only() {
    let last4 = r#"{"mask":{"keep_last":4}}"#;
    check(
        "$.card",
        last4,
        r#"{"card":"4111111111111111","n":1.0}"#,
        r#"{"card":"************1111","n":1.0}"#,
    );
    check("$.card", last4, r#"{"card":"1234567"}"#, r#"{"card":"*******"}"#);
    check("$.card", last4, r#"{"card":4111111111111111}"#, r#"{"card":"************1111"}"#);
    check("$.card", r##"{"mask":{"with":"x","length":3}}"##, r#"{"card":"secret"}"#, r##"{"card":"xxx"}"##);
    check("$.name", r#"{"mask":{"with":"é","keep_last":1}}"#, r#"{"name":"Zoë"}"#, r#"{"name":"ééë"}"#);
}

#[test]
fn every_scalar_of_a_container_is_redacted_and_null_stays() {
    check(
        "$.p",
        r#"{"mask":{"length":1}}"#,
        r#"{"p":{"a":[1,true,null,"x"],"b":{}},"q":1}"#,
        r#"{"p":{"a":["*","*",null,"*"],"b":{}},"q":1}"#,
    );
}

#[test]
fn fields_are_removed() {
    check(
        "$..secret",
        r#"{"remove":{}}"#,
        r#"{"a":[{"secret":1,"b":2},{"secret":{"secret":3}}]}"#,
        r#"{"a":[{"b":2},{}]}"#,
    );
    check("$.a[?@ > 1]", r#"{"remove":{}}"#, r#"{"a":[1,2,3,0]}"#, r#"{"a":[1,0]}"#);
    check("$", r#"{"remove":{}}"#, r#"{"a":1}"#, "null");
}

#[test]
fn hashes_are_those_of_the_standards() {
    // FIPS 180-2, appendix B.1; the keyed one as `openssl dgst -sha256 -hmac` gives it.
    check(
        "$.a",
        r#"{"sha256":{}}"#,
        r#"{"a":"abc"}"#,
        r#"{"a":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}"#,
    );
    check(
        "$.a",
        r#"{"hmac_sha256":{"key":"0123456789abcdef"}}"#,
        r#"{"a":"abc"}"#,
        r#"{"a":"bcaa92843247bc258080d2824bddeba4afb1bd61b4688ca65f60a214e1d9759e"}"#,
    );
}

#[test]
fn what_is_not_selected_stays_byte_for_byte() {
    let config = r#"{"fields":[{"path":"$.none","action":{"remove":{}}}]}"#;
    assert_eq!(run(config, Message::with_body(r#"{ "a" : 1 }"#)).unwrap(), Change::new());
    check(
        "$.b",
        r#"{"remove":{}}"#,
        r#"{"a":12345678901234567890.10,"b":1}"#,
        r#"{"a":12345678901234567890.10}"#,
    );
}

#[test]
fn repeated_names_hide_nothing() {
    check("$.a", r#"{"mask":{}}"#, r#"{"a":"x","a":"yy"}"#, r#"{"a":"**"}"#);
}

#[test]
fn headers_are_redacted_and_the_body_is_not_read() {
    let config = r#"{"headers":[{"name":"Authorization","action":{"remove":{}}},{"name":"x-card","action":{"mask":{"keep_last":2}}},{"name":"x-none","action":{"remove":{}}}]}"#;
    let message = Message::with_body("no json")
        .with_header("authorization", "Bearer x")
        .with_header("x-card", "123456")
        .with_header("x-card", "654321");
    let change = run(config, message).unwrap();
    assert_eq!(change.remove_headers, ["authorization"]);
    let expected = [("x-card", "****56"), ("x-card", "****21")];
    assert_eq!(change.set_headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(change.body, None);
}

#[test]
fn what_is_not_json_is_rejected_without_showing_it() {
    let config = r#"{"fields":[{"path":"$.a","action":{"remove":{}}}]}"#;
    let failure = run(config, Message::with_body("secret")).unwrap_err();
    assert_eq!(failure, Failure::reject("the body is not JSON: expected a JSON value at line 1, column 1"));
}

#[test]
fn mistakes_in_the_configuration_are_named_without_the_key() {
    check_refused("{}", "nothing to redact: give `fields` or `headers`");
    check_refused(
        r#"{"fields":[{"path":"$.a","action":{"hmac_sha256":{"key":"short"}}}]}"#,
        "fields[0].action: hmac_sha256.key has 5 bytes, at least 16 are needed",
    );
    check_refused(
        r#"{"headers":[{"name":"a","action":{"mask":{"with":"**"}}}]}"#,
        "headers[0].action: mask.with must be one character",
    );
    check_refused(
        r#"{"headers":[{"name":"a","action":{"mask":{"length":1025}}}]}"#,
        "headers[0].action: mask.length may be 1024 at most",
    );
    let plugin: Redact = testing::configure(
        r#"{"headers":[{"name":"a","action":{"hmac_sha256":{"key":"0123456789abcdef"}}}]}"#,
    )
    .unwrap();
    assert!(!format!("{plugin:?}").contains("0123456789abcdef"));
}
