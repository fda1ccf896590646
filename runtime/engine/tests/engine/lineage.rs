//! One delivery of many branches, and faults in the midst of it: the source hears once, after the last branch, and hears
//! the worst.

use gristmill_core::{
    ErrorClass, Failure, Settlement, plugin::Transformed, sink::Answer, testkit::ScriptedPlugin,
};

use crate::harness::{Mill, body, class, delivered, settle_down, splitter, text};

fn ok() -> Result<Answer, Failure> {
    Ok(Answer::default())
}

fn rejected() -> Result<Answer, Failure> {
    Err(Failure::new(ErrorClass::SinkRejected, "refused"))
}

fn released() -> Result<Answer, Failure> {
    Err(Failure::new(ErrorClass::SinkUnavailable, "down"))
}

/// A flow that splits at commas and sends each part.
async fn splitting() -> Mill {
    let mill = Mill::new();
    mill.plugins.save("split", splitter());
    mill.run("steps: [{ transform: { plugin: split } }, { send: { scripted: { name: out } } }]\n").await;
    mill
}

#[tokio::test(start_paused = true)]
async fn the_worst_child_wins_and_the_source_hears_after_the_last() {
    for (answers, worst) in [
        ([ok(), ok(), ok()], Settlement::Delivered),
        ([ok(), rejected(), ok()], Settlement::Rejected),
        ([released(), ok(), rejected()], Settlement::Released),
        ([rejected(), released(), ok()], Settlement::Released),
    ] {
        let mill = splitting().await;
        let sink = mill.sink("out");
        sink.answer(answers);
        sink.close();
        let mut offered = mill.source().offer_once("a,b,c");
        sink.reached(1).await;
        settle_down().await;
        assert!(offered.is_pending());
        sink.open();
        assert_eq!(offered.outcome().await.settlement, worst);
        assert_eq!(sink.bodies(), ["a", "b", "c"], "a failure of one child does not stop the others");
        assert_eq!(mill.seen.settled(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn children_of_children_count_too() {
    let mill = Mill::new();
    mill.plugins.save("split", splitter());
    mill.plugins.save(
        "halves",
        ScriptedPlugin::transformer(|message| {
            let parts = text(message);
            Ok(Transformed::Emit(parts.split('|').map(body).collect()))
        }),
    );
    mill.run("steps: [{ transform: { plugin: halves } }, { transform: { plugin: split } }, { send: { scripted: { name: out } } }]\n")
        .await;
    mill.sink("out").answer([ok(), ok(), rejected(), ok()]);
    assert_eq!(mill.outcome("a,b|c,d").await.settlement, Settlement::Rejected);
    assert_eq!(mill.sink("out").bodies(), ["a", "b", "c", "d"]);
    assert_eq!(crate::harness::ids(&mill.sink("out")), ["m0/0/0", "m0/0/1", "m0/1/0", "m0/1/1"]);
}

/// Routes to `a` and `b`, which send to sinks of those names, then sends to `out`.
async fn routing(in_a: &str) -> Mill {
    let mill = Mill::new();
    mill.plugins.save("both", ScriptedPlugin::router(|_| Ok(vec!["a".into(), "b".into()])));
    mill.plugins.save("split", splitter());
    mill.run(&format!(
        "steps:
  - route:
      plugin: both
      branches:
        a: [{in_a}{{ send: {{ scripted: {{ name: a }} }} }}]
        b: [{{ send: {{ scripted: {{ name: b }} }} }}]
  - send: {{ scripted: {{ name: out }} }}
"
    ))
    .await;
    mill
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_fails_stops_what_comes_after_it() {
    for (answer, settlement) in [(rejected(), Settlement::Rejected), (released(), Settlement::Released)] {
        let mill = routing("").await;
        mill.sink("a").answer([answer]);
        assert_eq!(mill.outcome("x").await.settlement, settlement);
        assert!(mill.sink("b").sent().is_empty() && mill.sink("out").sent().is_empty());
    }
    let mill = routing("").await;
    mill.sink("b").answer([rejected()]);
    assert_eq!(mill.outcome("x").await.settlement, Settlement::Rejected);
    assert!(mill.sink("out").sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn children_of_a_branch_stay_in_it() {
    let mill = routing("{ transform: { plugin: split } }, ").await;
    delivered(&mill.outcome("x,y").await);
    assert_eq!(mill.sink("a").bodies(), ["x", "y"]);
    assert_eq!(mill.sink("b").bodies(), ["x,y"]);
    assert_eq!(mill.sink("out").bodies(), ["x,y"]);
}

#[tokio::test(start_paused = true)]
async fn a_drop_ends_its_own_branch_only() {
    let mill = routing("{ filter: { keep: 'false && true' } }, ").await;
    delivered(&mill.outcome("x").await);
    assert!(mill.sink("a").sent().is_empty());
    assert_eq!((mill.sink("b").sent().len(), mill.sink("out").sent().len()), (1, 1));
}

/// A plugin that panics on `bad`.
fn panicking() -> ScriptedPlugin {
    ScriptedPlugin::transformer(|message| {
        assert_ne!(text(message), "bad", "a fault");
        Ok(Transformed::Change(body("fine")))
    })
}

#[tokio::test(start_paused = true)]
async fn a_panic_releases_its_delivery_and_disturbs_no_other() {
    let mill = Mill::new();
    mill.plugins.save("p", panicking());
    mill.run("steps: [{ send: { scripted: { name: first } } }, { transform: { plugin: p } }]\n").await;
    mill.sink("first").close();
    let beside = mill.source().offer_once("good");
    let bad = mill.source().offer_once("bad");
    mill.sink("first").reached(2).await;
    mill.sink("first").open();
    let outcome = bad.outcome().await;
    assert_eq!((outcome.settlement, class(&outcome)), (Settlement::Released, "internal"));
    assert!(outcome.failure.unwrap().text().contains("a fault"));
    delivered(&beside.outcome().await);
    delivered(&mill.outcome("good").await);
    assert_eq!(mill.status("f").in_flight, 0);
    assert_eq!((mill.seen.count("accepted"), mill.seen.settled()), (3, 3), "a panic is counted, too");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_makes_a_step_panic_can_be_dead_lettered() {
    let mill = Mill::new();
    mill.plugins.save("p", panicking());
    mill.run(
        "steps: [{ transform: { plugin: p } }]
on_error: [{ match: [any], then: { dead_letter: { scripted: { name: dead } } } }]
",
    )
    .await;
    assert_eq!(mill.outcome("bad").await.name(), "dead_lettered");
    assert_eq!(mill.dead_letter().error.class, "internal");
}
