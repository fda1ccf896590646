//! The common shape of GitHub's events, from real payloads.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use gristmill_plugin::{
    Message, Transformer,
    serde_json::{Value, json},
    testing,
};
use json_map::JsonMap;

const COMMON_SHAPE: &str = include_str!("../../../examples/github-webhooks/common-shape.json");

macro_rules! sample {
    ($event:literal) => {
        ($event, include_str!(concat!("../../../examples/github-webhooks/samples/", $event, ".json")))
    };
}

#[track_caller]
fn check((event, payload): (&str, &str), expected: Value) {
    let plugin: JsonMap = testing::configure(COMMON_SHAPE).unwrap();
    let outcome = plugin.transform(Message::with_body(payload).with_header("X-GitHub-Event", event)).unwrap();
    let mapped: Value = gristmill_plugin::serde_json::from_slice(outcome.body().unwrap()).unwrap();
    assert_eq!(mapped, expected);
}

#[test]
fn pull_request() {
    check(
        sample!("pull_request"),
        json!({
            "event": "pull_request", "action": "opened", "repository": "Codertocat/Hello-World", "account": "Codertocat", "sender": "Codertocat",
            "subject": { "kind": "pull_request", "number": 2, "title": "Update the README with new information.", "url": "https://github.com/Codertocat/Hello-World/pull/2" },
            "occurred_at": "2019-05-15T15:20:33Z"
        }),
    );
}

#[test]
fn issues() {
    check(
        sample!("issues"),
        json!({
            "event": "issues", "action": "edited", "repository": "Codertocat/Hello-World", "account": "Codertocat", "sender": "Codertocat",
            "subject": { "kind": "issue", "number": 1, "title": "Spelling error in the README file", "url": "https://github.com/Codertocat/Hello-World/issues/1" },
            "occurred_at": "2019-05-15T15:20:18Z"
        }),
    );
}

#[test]
fn issue_comment() {
    check(
        sample!("issue_comment"),
        json!({
            "event": "issue_comment", "action": "created", "repository": "Codertocat/Hello-World", "account": "Codertocat", "sender": "Codertocat",
            "subject": { "kind": "issue", "number": 1, "title": "Spelling error in the README file", "url": "https://github.com/Codertocat/Hello-World/issues/1" },
            "occurred_at": "2019-05-15T15:20:21Z"
        }),
    );
}

#[test]
fn push() {
    check(
        sample!("push"),
        json!({
            "event": "push", "repository": "Codertocat/Hello-World", "account": "Codertocat", "sender": "Codertocat",
            "subject": { "kind": "push", "title": "Adding a .gitignore file", "url": "https://github.com/Codertocat/Hello-World/compare/simple-tag" },
            "occurred_at": "2019-05-15T15:20:41Z"
        }),
    );
}

#[test]
fn release() {
    check(
        sample!("release"),
        json!({
            "event": "release", "action": "published", "repository": "Codertocat/Hello-World", "account": "Codertocat", "sender": "Codertocat",
            "subject": { "kind": "release", "title": "0.0.1", "url": "https://github.com/Codertocat/Hello-World/releases/tag/0.0.1" },
            "occurred_at": "2019-05-15T15:20:53Z"
        }),
    );
}

#[test]
fn check_run() {
    check(
        sample!("check_run"),
        json!({
            "event": "check_run", "action": "created", "repository": "Codertocat/Hello-World", "account": "Codertocat", "sender": "Codertocat",
            "subject": { "kind": "check_run", "title": "Octocoders-linter", "url": "https://github.com/Codertocat/Hello-World/runs/128620228" },
            "occurred_at": "2019-05-15T15:21:12Z"
        }),
    );
}

#[test]
fn workflow_run() {
    check(
        sample!("workflow_run"),
        json!({
            "event": "workflow_run", "action": "completed", "repository": "Codertocat/Hello-World", "account": "Codertocat", "sender": "Codertocat",
            "subject": { "kind": "workflow_run", "number": 36, "title": "Manually triggered workflow", "url": "https://github.com/octo-org/octo-repo/actions/runs/1589141559" },
            "occurred_at": "2021-12-16T19:37:22Z"
        }),
    );
}

#[test]
fn star() {
    check(
        sample!("star"),
        json!({
            "event": "star", "action": "created", "repository": "Codertocat/Hello-World", "account": "Codertocat", "sender": "Codertocat",
            "subject": { "kind": "repository", "title": "Codertocat/Hello-World", "url": "https://github.com/Codertocat/Hello-World" },
            "occurred_at": "2019-05-15T15:20:40Z"
        }),
    );
}

#[test]
fn an_event_without_a_repository_is_about_an_organisation_or_an_account() {
    let user = json!({ "login": "octocat", "html_url": "https://github.com/octocat" });
    let about = |kind: &str, login: &str| json!({ "kind": kind, "title": login, "url": format!("https://github.com/{login}") });
    for (event, payload, account, subject, occurred_at) in [
        (
            "organization",
            json!({ "organization": { "login": "Octocoders" }, "sender": user }),
            "Octocoders",
            about("organization", "Octocoders"),
            None,
        ),
        (
            "installation",
            json!({ "installation": { "account": user, "updated_at": 1_525_109_899 }, "sender": user }),
            "octocat",
            about("account", "octocat"),
            None,
        ),
        (
            "sponsorship",
            json!({ "sponsorship": { "sponsorable": user, "created_at": "2019-12-20T19:24:46+00:00" } }),
            "octocat",
            about("account", "octocat"),
            Some("2019-12-20T19:24:46+00:00"),
        ),
        (
            "marketplace_purchase",
            json!({ "marketplace_purchase": { "account": { "login": "octocat" } }, "effective_date": "2017-10-25T00:00:00+00:00" }),
            "octocat",
            about("account", "octocat"),
            Some("2017-10-25T00:00:00+00:00"),
        ),
        ("github_app_authorization", json!({ "sender": user }), "octocat", about("account", "octocat"), None),
    ] {
        let mut expected = json!({ "event": event, "account": account, "subject": subject });
        if let Some(sender) = payload.pointer("/sender/login") {
            expected["sender"] = sender.clone();
        }
        if let Some(at) = occurred_at {
            expected["occurred_at"] = at.into();
        }
        check((event, &payload.to_string()), expected);
    }
}

#[test]
fn an_advisory_is_about_nobody() {
    let advisory = json!({ "ghsa_id": "GHSA-1", "summary": "A hole", "updated_at": "2018-10-03T21:13:54Z" });
    check(
        ("security_advisory", &json!({ "action": "published", "security_advisory": advisory }).to_string()),
        json!({
            "event": "security_advisory", "action": "published",
            "subject": { "kind": "security_advisory", "title": "A hole", "url": "https://github.com/advisories/GHSA-1" },
            "occurred_at": "2018-10-03T21:13:54Z"
        }),
    );
}

#[test]
fn an_event_that_is_about_nothing_is_rejected() {
    let plugin: JsonMap = testing::configure(COMMON_SHAPE).unwrap();
    for payload in ["{}", r#"{"zen":"Design for failure.","hook_id":109948940}"#, "[]", "null"] {
        let message = Message::with_body(payload).with_header("X-GitHub-Event", "ping");
        let failure = plugin.transform(message).unwrap_err();
        assert!(
            failure.reason().starts_with("field `subject`: `first_of`, with its "),
            "{}",
            failure.reason()
        );
    }
}

#[test]
fn an_event_without_its_header_is_rejected() {
    let plugin: JsonMap = testing::configure(COMMON_SHAPE).unwrap();
    let failure = plugin.transform(Message::with_body(sample!("star").1)).unwrap_err();
    assert_eq!(
        failure.reason(),
        "field `event`: the header `x-github-event` holds no value, which is required"
    );
}
