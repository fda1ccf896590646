//! What each key of the configuration does, and what a mistake says.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use content_router::ContentRouter;
use gristmill_plugin::{Failure, Message, Router, testing};

fn message(body: &str) -> Message {
    Message::with_body(body)
        .with_header("x-kind", "order")
        .with_header("x-size", "12")
        .with_header("x-kind", "big")
}

#[track_caller]
fn check(config: &str, body: &str, expected: &[&str]) {
    let router: ContentRouter = testing::configure_router(config).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(router.route(message(body)).unwrap_or_else(|failure| panic!("{failure:?}")), expected);
}

/// Whether one condition holds.
#[track_caller]
fn check_condition(condition: &str, body: &str, expected: bool) {
    let routes: &[&str] = if expected { &["yes"] } else { &[] };
    check(&format!("{{\"rules\":[{{\"route\":\"yes\",\"when\":[{condition}]}}]}}"), body, routes);
}

#[track_caller]
fn check_refused(config: &str, expected: &str) {
    assert_eq!(testing::configure_router::<ContentRouter>(config).unwrap_err(), expected);
}

const RULES: &str = r#""rules":[
    {"route":"large","when":[{"path":"$.total","above":1000},{"header":"X-Kind","equals":"order"}]},
    {"route":"foreign","when":[{"path":"$.country","none_of":["CH","LI"]}]},
    {"route":"large","when":[{"path":"$.vip","equals":true}]}
]"#;

#[test]
fn the_first_match_or_all_matches_count() {
    let body = r#"{"total":1000.01,"country":"DE","vip":true}"#;
    check(&format!("{{{RULES}}}"), body, &["large"]);
    check(&format!("{{{RULES},\"mode\":\"all_matches\"}}"), body, &["large", "foreign"]);
    check(&format!("{{{RULES}}}"), r#"{"total":1,"country":"CH"}"#, &[]);
    check(&format!("{{{RULES},\"default\":\"other\"}}"), r#"{"total":1000,"country":"CH"}"#, &["other"]);
}

#[test]
fn paths_are_tested() {
    check_condition(r#"{"path":"$.a"}"#, r#"{"a":0}"#, true);
    check_condition(r#"{"path":"$.a"}"#, r#"{"a":null}"#, false);
    check_condition(r#"{"path":"$.a","exists":false}"#, r#"{"a":null}"#, true);
    check_condition(r#"{"path":"$.a","equals":1}"#, r#"{"a":1.0}"#, true);
    check_condition(r#"{"path":"$.a","equals":1}"#, r#"{"a":"1"}"#, false);
    check_condition(r#"{"path":"$.a","equals":{"b":[1,2]}}"#, r#"{"a":{"b":[1,2]}}"#, true);
    check_condition(r#"{"path":"$.a","one_of":["x","y"]}"#, r#"{"a":"y"}"#, true);
    check_condition(r#"{"path":"$.a","none_of":["x"]}"#, r#"{}"#, true);
    check_condition(r#"{"path":"$.a[*].b","equals":2}"#, r#"{"a":[{"b":1},{"b":2}]}"#, true);
    check_condition(r#"{"path":"$[?@.n > 3]"}"#, r#"[{"n":1},{"n":4}]"#, true);
    check_condition(r#"{"path":"$.a","starts_with":"ord-"}"#, r#"{"a":"ord-1"}"#, true);
    check_condition(r#"{"path":"$.a","starts_with":"1"}"#, r#"{"a":12}"#, true);
    check_condition(r#"{"path":"$.a","at_least":9007199254740993}"#, r#"{"a":9007199254740993}"#, true);
    check_condition(r#"{"path":"$.a","above":9007199254740992}"#, r#"{"a":9007199254740993}"#, true);
    check_condition(r#"{"path":"$.a","below":0}"#, r#"{"a":-1e-3}"#, true);
    check_condition(r#"{"path":"$.a","at_most":5}"#, r#"{"a":"4"}"#, false);
}

#[test]
fn headers_are_tested_as_text_without_looking_at_the_body() {
    check_condition(r#"{"header":"X-Kind","equals":"big"}"#, "no json", true);
    check_condition(r#"{"header":"x-size","equals":12}"#, "no json", true);
    check_condition(r#"{"header":"x-size","at_least":12}"#, "no json", true);
    check_condition(r#"{"header":"x-kind","at_least":0}"#, "no json", false);
    check_condition(r#"{"header":"x-none","exists":false}"#, "no json", true);
    check_condition(r#"{"header":"x-kind","starts_with":"ord"}"#, "no json", true);
}

#[test]
fn a_rule_over_the_body_needs_json() {
    let router: ContentRouter = testing::configure_router(&format!("{{{RULES}}}")).unwrap();
    let expected = "a rule reads the body, which is not JSON: expected a JSON value at line 1, column 1";
    assert_eq!(router.route(message("oops")), Err(Failure::reject(expected)));
}

#[test]
fn mistakes_in_the_configuration_are_named() {
    check_refused(r#"{"rules":[]}"#, "rules: there is none; a message needs a way to go");
    check_refused(
        r#"{"rules":[{"route":"a","when":[]}]}"#,
        "rules[0].when: no condition; for a route that is always taken use `default`",
    );
    check_refused(r#"{"rules":[{"route":"a","when":[{}]}]}"#, "rules[0].when[0]: give either path or header");
    check_refused(
        r#"{"rules":[{"route":"a","when":[{"path":"$.a","above":1,"below":3}]}]}"#,
        "rules[0].when[0]: one test each; for two, write two conditions on the same path",
    );
    check_refused(
        r#"{"rules":[{"route":"a","when":[{"path":"a"}]}]}"#,
        "config.rules[0].when[0].path: `a` is not JSONPath (RFC 9535): expected `$` at column 1",
    );
}
