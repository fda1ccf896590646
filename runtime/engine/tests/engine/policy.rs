//! `on_error`: retries, dead letters, and what becomes of what no rule matches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gristmill_core::{
    ErrorClass, Failure, Message, Settlement, plugin::Transformed, testkit::ScriptedPlugin,
};
use gristmill_engine::dead_letter::StoredBody;
use tokio::time::Instant;

use crate::harness::{Mill, body, class, delivered, failing, ids, splitter, text};

const DEAD: &str = "then: { dead_letter: { scripted: { name: dead } } }";
const EXACT: &str = "initial_delay_ms: 100, multiplier: 2, max_delay_ms: 300, jitter: 0";

fn unavailable() -> Failure {
    Failure::new(ErrorClass::SinkUnavailable, "down")
}

fn refused() -> Failure {
    Failure::new(ErrorClass::SinkRejected, "refused")
}

/// A flow that sends to `out`, with these rules.
async fn sending(rules: &[&str]) -> Mill {
    let rules: Vec<String> = rules.iter().map(|rule| format!("  - {{ {rule} }}\n")).collect();
    Mill::running(&format!(
        "steps: [{{ send: {{ scripted: {{ name: out }} }} }}]\non_error:\n{}",
        rules.concat()
    ))
    .await
}

#[tokio::test(start_paused = true)]
async fn the_first_rule_that_matches_decides() {
    let mill = sending(&[
        "match: [sink_rejected, timeout], then: { discard: {} }",
        "match: [any], then: { reject: {} }",
    ])
    .await;
    mill.sink("out").answer([
        Err(refused()),
        Err(Failure::new(ErrorClass::Timeout, "slow")),
        Err(unavailable()),
    ]);
    let mut settlements = Vec::new();
    for _ in 0..3 {
        settlements.push(mill.outcome("x").await.settlement);
    }
    assert_eq!(settlements, [Settlement::Delivered, Settlement::Delivered, Settlement::Rejected]);
}

#[tokio::test(start_paused = true)]
async fn what_no_rule_matches_follows_its_own_retry_decision() {
    let mill = sending(&["match: [limit], then: { discard: {} }"]).await;
    mill.sink("out").answer([Err(unavailable()), Err(refused()), Err(unavailable().permanent())]);
    for expected in [Settlement::Released, Settlement::Rejected, Settlement::Rejected] {
        assert_eq!(mill.outcome("x").await.settlement, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_starts_at_the_failed_step_with_the_message_as_on_entry_to_it() {
    let mill = Mill::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    mill.plugins.save(
        "once",
        ScriptedPlugin::transformer(move |message| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(Transformed::Change(body(&format!("{}+", text(message)))))
        }),
    );
    mill.run(&format!(
        "steps:
  - transform: {{ plugin: once }}
  - send: {{ scripted: {{ name: before }} }}
  - choice: [{{ otherwise: [{{ set: {{ body: {{ text: '${{message.text}}!' }} }} }}, {{ send: {{ scripted: {{ name: out }} }} }}] }}]
  - send: {{ scripted: {{ name: after }} }}
on_error: [{{ match: [sink_unavailable], retry: {{ {EXACT} }}, then: {{ reject: {{}} }} }}]
"
    ))
    .await;
    mill.sink("out").answer([Err(unavailable()), Err(unavailable())]);
    let began = Instant::now();
    delivered(&mill.outcome("x").await);
    assert_eq!(began.elapsed(), Duration::from_millis(100 + 200));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(mill.sink("before").bodies(), ["x+"]);
    assert_eq!(mill.sink("out").bodies(), ["x+!", "x+!", "x+!"]);
    assert_eq!(mill.sink("after").bodies(), ["x+!"]);
}

#[tokio::test(start_paused = true)]
async fn waits_grow_to_the_longest_and_end_with_the_attempts() {
    let mill =
        sending(&[&format!("match: [any], retry: {{ max_attempts: 5, {EXACT} }}, then: {{ reject: {{}} }}")])
            .await;
    mill.sink("out").answer((0..5).map(|_| Err(unavailable())));
    let began = Instant::now();
    assert_eq!(mill.outcome("x").await.settlement, Settlement::Rejected);
    assert_eq!(began.elapsed(), Duration::from_millis(100 + 200 + 300 + 300));
    assert_eq!(mill.sink("out").sent().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn no_wait_stays_no_wait_over_many_attempts() {
    let rule = "match: [any], retry: { max_attempts: 400, initial_delay_ms: 0, multiplier: 100 }, then: { reject: {} }";
    let mill = sending(&[rule]).await;
    mill.sink("out").answer((0..399).map(|_| Err(unavailable())));
    let began = Instant::now();
    delivered(&mill.outcome("x").await);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_help_is_tried_again_only_when_it_is_named() {
    for (names, attempts) in
        [("any", 1), ("sink_rejected", 3), ("any, sink_rejected", 3), ("any, timeout", 1)]
    {
        let rule =
            format!("match: [{names}], retry: {{ max_attempts: 3, {EXACT} }}, then: {{ reject: {{}} }}");
        let mill = sending(&[&rule]).await;
        mill.sink("out").answer((0..3).map(|_| Err(refused())));
        assert_eq!(mill.outcome("x").await.settlement, Settlement::Rejected);
        assert_eq!(mill.sink("out").sent().len(), attempts, "match: [{names}]");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sinks_own_wait_is_honoured() {
    let mill = sending(&[&format!("match: [any], retry: {{ {EXACT} }}, then: {{ reject: {{}} }}")]).await;
    let asked = Duration::from_secs(7);
    mill.sink("out").answer([Err(refused().retry_after(asked)), Err(unavailable())]);
    let began = Instant::now();
    delivered(&mill.outcome("x").await);
    assert_eq!(began.elapsed(), asked + Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_holds_what_is_needed_to_send_the_message_again() {
    let mill = Mill::running(&format!(
        "steps:
  - set: {{ headers: {{ a: '1' }}, body: {{ text: changed }} }}
  - reply: {{ status: 201 }}
  - send: {{ scripted: {{ name: out }} }}
on_error:
  - match: [any]
    retry: {{ max_attempts: 2, {EXACT} }}
    then: {{ dead_letter: {{ scripted: {{ name: dead, text: '${{message.id}}.json' }} }} }}
"
    ))
    .await;
    mill.sink("out").answer([Err(unavailable()), Err(unavailable().with_detail("the evidence"))]);
    let outcome = mill.outcome("as the source gave it").await;
    assert_eq!(outcome.name(), "dead_lettered");
    assert_eq!(mill.sink("dead").texts(), ["m0.json"]);
    let letter = mill.dead_letter();
    assert_eq!((letter.envelope, letter.flow.as_str(), letter.origin.as_str()), (1, "f", "scripted in"));
    assert_eq!((letter.version, letter.time.as_str()), (mill.version(), "2026-01-31T12:00:00.000Z"));
    assert_eq!((letter.error.class.as_str(), letter.error.text.as_str()), ("sink_unavailable", "down"));
    assert_eq!((letter.error.step.as_str(), letter.error.attempts), ("steps[2]", 2));
    assert_eq!(letter.error.details, ["the evidence"]);
    assert_eq!((letter.message.id.as_str(), letter.message.headers.len()), ("m0", 0));
    assert_eq!(letter.message.body, StoredBody::Text("as the source gave it".into()));
    assert_eq!(letter.child, None);
    assert_eq!(
        mill.sink("dead").sent()[0].content_type(),
        Some("application/vnd.gristmill.dead-letter+json")
    );
}

#[tokio::test(start_paused = true)]
async fn the_dead_letter_of_a_child_says_which_and_where_it_resumes() {
    let mill = Mill::new();
    mill.plugins.save("split", splitter());
    mill.run(&format!(
        "steps:
  - transform: {{ plugin: split }}
  - set: {{ headers: {{ a: '1' }} }}
  - send: {{ scripted: {{ name: out, text: '${{message.id}}' }} }}
on_error: [{{ match: [any], {DEAD} }}]
"
    ))
    .await;
    mill.sink("out").answer([Ok(Default::default()), Err(refused())]);
    assert_eq!(mill.outcome("a,b,c").await.name(), "dead_lettered");
    assert_eq!(mill.sink("out").texts(), ["m0/0", "m0/1", "m0/2"], "the others go on");
    assert_eq!(ids(&mill.sink("dead")), ["m0/1"]);
    let letter = mill.dead_letter();
    assert_eq!((letter.message.id.as_str(), letter.message.body), ("m0", StoredBody::Text("a,b,c".into())));
    let child = letter.child.unwrap();
    assert_eq!(child.resume_at, "steps[2]");
    let message = Message::try_from(child.message).unwrap();
    assert_eq!((message.id().as_str(), text(&message).as_str()), ("m0/1", "b"));
    assert_eq!(message.headers().get("a"), Some("1"), "as it was on entry to the step");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_written_releases() {
    for text in ["", ", text: '${headers.none}'"] {
        let mill = sending(&[&format!(
            "match: [any], then: {{ dead_letter: {{ scripted: {{ name: dead{text} }} }} }}"
        )])
        .await;
        mill.sink("out").answer([Err(refused())]);
        mill.sink("dead").answer([Err(unavailable())]);
        let outcome = mill.outcome("x").await;
        assert_eq!((outcome.settlement, class(&outcome)), (Settlement::Released, "sink_rejected"));
        assert!(!outcome.dead_lettered);
    }
}

#[tokio::test(start_paused = true)]
async fn discard_reject_and_release_do_what_they_say() {
    for (then, expected) in [
        ("discard", Settlement::Delivered),
        ("reject", Settlement::Rejected),
        ("release", Settlement::Released),
    ] {
        for failure in [refused(), unavailable()] {
            let mill = sending(&[&format!("match: [any], then: {{ {then}: {{}} }}")]).await;
            mill.sink("out").answer([Err(failure)]);
            assert_eq!(mill.outcome("x").await.settlement, expected, "{then}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_held_back_burns_no_messages() {
    for class in [ErrorClass::PluginQuarantined, ErrorClass::Drained] {
        let mill = Mill::new();
        mill.plugins.save("held", failing(Failure::new(class, "held back")));
        let names = format!("any, {}", class.name());
        mill.run(&format!(
            "steps: [{{ transform: {{ plugin: held }} }}]\non_error: [{{ match: [{names}], retry: {{}}, {DEAD} }}]\n"
        ))
        .await;
        assert_eq!(mill.outcome("x").await.settlement, Settlement::Released);
        assert!(mill.sink("dead").sent().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_the_source_cannot_keep_is_discarded_when_the_flow_says_so() {
    let mill = Mill::new();
    mill.source().lose_rejected();
    mill.run("steps: [{ send: { scripted: { name: out } } }]\non_reject: discard\n").await;
    mill.sink("out").answer([Err(refused()), Err(unavailable())]);
    delivered(&mill.outcome("x").await);
    assert_eq!(mill.outcome("x").await.settlement, Settlement::Released, "only rejections are discarded");
}

#[tokio::test(start_paused = true)]
async fn a_message_without_a_key_follows_the_rules() {
    let mill = Mill::running(&format!(
        "parallel: {{ by: body.key, lanes: 4 }}
steps: [{{ send: {{ scripted: {{ name: out }} }} }}]
on_error: [{{ match: [expression, body_format], {DEAD} }}]
"
    ))
    .await;
    assert_eq!(mill.outcome("{\"no\":1}").await.name(), "dead_lettered");
    assert_eq!(mill.dead_letter().error.step, "parallel.by");
    assert!(mill.sink("out").sent().is_empty());
}
