//! Versions, endpoints and flows that come, change and go while messages are in the air.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use gristmill_core::{
    Outcome, Settlement,
    config::Mistakes,
    connection::{ConnectionState, Connections},
    observe::ReloadResult,
    plugin::{Change, PluginError, Transformed},
    testkit::{ScriptedAdapter, ScriptedPlugin},
};
use gristmill_engine::{
    connections::check_connections,
    flow::Registry,
    runtime::{Applied, FlowState},
};
use tokio::time::Instant;

use crate::harness::{Mill, class, delivered, flow, settle_down};

/// Steps that answer with the version and send to a sink.
fn sending_to(sink: &str) -> String {
    format!(
        "limits: {{ drain_ms: 1000 }}\nsteps: [{{ reply: {{ headers: {{ version: '${{flow.version}}' }} }} }}, {{ send: {{ scripted: {{ name: {sink} }} }} }}]\n"
    )
}

/// A flow of any id over any source.
fn named(id: &str, source: &str, rest: &str) -> String {
    format!("flow: {id}\nsource: {{ scripted: {{ name: {source} }} }}\n{rest}")
}

/// With a setting of the source that can change.
fn set(setting: &str, rest: &str) -> String {
    format!("flow: f\nsource: {{ scripted: {{ name: in, setting: {setting} }} }}\n{rest}")
}

fn version_of(outcome: &Outcome) -> String {
    outcome.reply.as_ref().and_then(|reply| reply.headers.get("version")).expect("a reply").to_owned()
}

fn refused(applied: &[Applied]) -> String {
    let refused: Vec<_> = applied.iter().filter(|one| one.result == ReloadResult::Refused).collect();
    assert_eq!(refused.len(), 1, "{applied:?}");
    match &refused[0].problem {
        Some(problem) => problem.clone(),
        None => refused[0].mistakes.iter().map(|m| format!("{} {m}", m.code)).collect::<Vec<_>>().join("; "),
    }
}

#[tokio::test(start_paused = true)]
async fn the_endpoint_is_not_touched_when_its_settings_are_the_same() {
    let mill = Mill::running(&sending_to("out")).await;
    let first = mill.version();
    mill.run(&sending_to("other")).await;
    assert_ne!(mill.version(), first);
    delivered(&mill.outcome("x").await);
    assert_eq!(mill.source().events(), ["prepare", "start"]);
    assert_eq!(mill.sink("other").bodies(), ["x"]);
    let again = mill.load(&[("f.yaml", &flow(&sending_to("other")))]).await;
    assert_eq!(again[0].result, ReloadResult::Unchanged);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_finished_by_the_version_that_accepted_it() {
    let mill = Mill::running(&sending_to("out")).await;
    let first = mill.version();
    mill.sink("out").close();
    let held = mill.source().offer_once("old");
    mill.sink("out").reached(1).await;
    mill.run(&sending_to("other")).await;
    assert_eq!(version_of(&mill.outcome("new").await), mill.version());
    mill.sink("out").open();
    assert_eq!(version_of(&held.outcome().await), first);
    assert_eq!(mill.sink("out").bodies(), ["old"]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_has_nothing_to_do_keeps_no_version() {
    let answering = |with: &str| {
        format!(
            "limits: {{ drain_ms: 1000 }}\nsteps: [{{ reply: {{ body: {{ text: {with} }}, headers: {{ version: '${{flow.version}}' }} }} }}]\n"
        )
    };
    let mill = Mill::new();
    // In one lane and without waiting: what such a delivery was carried with is there for the next.
    mill.source().keep_order();
    mill.run(&answering("one")).await;
    assert_eq!(version_of(&mill.outcome("x").await), mill.version());
    settle_down().await;
    let began = Instant::now();
    mill.run(&answering("two")).await;
    settle_down().await;
    assert_eq!(mill.seen.count("version gone"), 1, "nothing uses it any more");
    assert!(began.elapsed() < Duration::from_millis(100), "long before the drain limit");
    assert_eq!(version_of(&mill.outcome("y").await), mill.version());
}

#[tokio::test(start_paused = true)]
async fn other_settings_of_the_source_are_taken_over_in_place() {
    let mill = Mill::new();
    mill.load(&[("f.yaml", &set("one", &sending_to("out")))]).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("old");
    mill.sink("out").reached(1).await;
    mill.load(&[("f.yaml", &set("two", &sending_to("other")))]).await;
    assert_eq!(mill.source().events(), ["prepare one", "start one", "prepare two", "take_over two"]);
    delivered(&mill.outcome("new").await);
    mill.sink("out").open();
    delivered(&held.outcome().await);
}

#[tokio::test(start_paused = true)]
async fn a_refused_take_over_keeps_the_version_that_runs() {
    let mill = Mill::new();
    mill.load(&[("f.yaml", &set("one", &sending_to("out")))]).await;
    let first = mill.version();
    mill.source().refuse_take_over_once("the broker has other plans");
    let applied = mill.load(&[("f.yaml", &set("two", &sending_to("other")))]).await;
    assert_eq!(refused(&applied), "the broker has other plans");
    assert_eq!(applied[0].version.as_deref(), Some(first.as_str()), "the version that runs on");
    let status = mill.status("f");
    assert_eq!(
        (status.state, status.refused.as_deref()),
        (FlowState::Running, Some("the broker has other plans"))
    );
    assert_eq!(version_of(&mill.outcome("x").await), first);
    // Saved again, it is taken, and the refusal is forgotten.
    mill.load(&[("f.yaml", &set("two", &sending_to("other")))]).await;
    assert_eq!(mill.status("f").refused, None);
    delivered(&mill.outcome("x").await);
    assert_eq!(mill.sink("other").sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_take_over_that_never_ends_is_given_up_and_the_source_started_afresh() {
    let mill = Mill::new();
    mill.load(&[("f.yaml", &set("one", &sending_to("out")))]).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("old");
    mill.sink("out").reached(1).await;
    mill.source().hang_taking_over_once();
    let two = set("two", &sending_to("other"));
    let applied = mill.load(&[("f.yaml", &two)]).await;
    assert!(refused(&applied).contains("limits.prepare_ms"), "{applied:?}");
    assert!(matches!(mill.state("f"), FlowState::Down(_)), "{:?}", mill.state("f"));
    assert!(mill.runtime.wants_retry(), "the same files are applied again by and by");
    let again = mill.load(&[("f.yaml", &two)]).await;
    assert_eq!(again[0].result, ReloadResult::Applied, "{again:?}");
    delivered(&mill.outcome("new").await);
    mill.sink("out").open();
    delivered(&held.outcome().await);
}

fn connections(text: &str) -> Arc<Connections> {
    let node = gristmill_engine::yaml::parse("gristmill.yaml", text).unwrap();
    let registry = Registry::new().with(ScriptedAdapter::new());
    let mut mistakes = Mistakes::new();
    let connections = check_connections(&node, &registry, Path::new("."), &mut mistakes);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    Arc::new(connections)
}

#[tokio::test(start_paused = true)]
async fn a_flow_whose_connection_is_not_up_says_so_and_the_others_run() {
    let mill = Mill::new();
    mill.runtime
        .set_connections(connections("here: { scripted: { host: a } }\nthere: { scripted: { host: a } }\n"));
    let flow = |id: &str, connection: &str| {
        named(
            id,
            id,
            &format!("steps: [{{ send: {{ scripted: {{ name: out, connection: {connection} }} }} }}]\n"),
        )
    };
    let (a, b) = (flow("a", "here"), flow("b", "there"));
    mill.load(&[("a.yaml", &a), ("b.yaml", &b)]).await;
    let state = |name: &str, is_up, problem: Option<&str>| ConnectionState {
        name: name.into(),
        role: "publishing".into(),
        is_up,
        problem: problem.map(Into::into),
        blocked: None,
        connects: 0,
        blocks: 0,
    };
    let states = || mill.runtime.status().into_iter().map(|flow| flow.state).collect::<Vec<_>>();
    mill.adapter
        .set_connection_states(vec![state("here", false, Some("refused")), state("there", true, None)]);
    assert_eq!(states(), [FlowState::Degraded("refused (publishing)".into()), FlowState::Running]);
    // Not tried yet: nothing is known against it.
    mill.adapter.set_connection_states(vec![state("here", false, None), state("there", true, None)]);
    assert_eq!(states(), [FlowState::Running, FlowState::Running]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_was_refused_for_what_may_pass_is_tried_again() {
    let mill = Mill::new();
    mill.run("steps: []\n").await;
    let (first, second) = (mill.version(), set("other", "steps: []\n"));
    mill.source().refuse_once("the broker is away");
    mill.load(&[("f.yaml", &second)]).await;
    assert!(mill.version() == first && mill.runtime.wants_retry());
    mill.load(&[("f.yaml", &second)]).await;
    assert!(mill.version() != first && !mill.runtime.wants_retry());
    // A mistake does not pass.
    mill.load(&[("f.yaml", "flow: f\n")]).await;
    assert!(!mill.runtime.wants_retry());
}

#[tokio::test(start_paused = true)]
async fn a_changed_connection_is_taken_over_in_place_by_the_flows_that_name_it() {
    let with = |source: &str, sink: &str| {
        format!(
            "flow: f\nsource: {{ scripted: {{ name: in, {source} }} }}\nsteps: [{{ send: {{ scripted: {{ name: out, {sink} }} }} }}]\n"
        )
    };
    let mill = Mill::new();
    let (here, there) = ("connection: here", "connection: there");
    mill.runtime
        .set_connections(connections("here: { scripted: { host: a } }\nthere: { scripted: { host: a } }\n"));
    mill.load(&[("f.yaml", &with(here, there))]).await;
    assert_eq!(mill.load(&[("f.yaml", &with(here, there))]).await[0].result, ReloadResult::Unchanged);
    // That of the sink: another version at the same endpoint.
    let first = mill.version();
    mill.runtime
        .set_connections(connections("here: { scripted: { host: a } }\nthere: { scripted: { host: b } }\n"));
    mill.load(&[("f.yaml", &with(here, there))]).await;
    assert_ne!(mill.version(), first);
    assert_eq!(mill.source().events(), ["prepare", "start"]);
    // That of the source.
    mill.runtime
        .set_connections(connections("here: { scripted: { host: c } }\nthere: { scripted: { host: b } }\n"));
    mill.load(&[("f.yaml", &with(here, there))]).await;
    assert_eq!(mill.source().events(), ["prepare", "start", "prepare", "take_over"]);
    delivered(&mill.outcome("x").await);
    // One that is gone is a mistake, and what runs goes on.
    mill.runtime.set_connections(connections("here: { scripted: { host: c } }\n"));
    let applied = mill.load(&[("f.yaml", &with(here, there))]).await;
    assert!(refused(&applied).starts_with("unknown_connection f.yaml:3:"), "{applied:?}");
    delivered(&mill.outcome("x").await);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_news_once() {
    let mill = Mill::new();
    let (good, broken) = (set("one", &sending_to("out")), "flow: b\nsource: {}\nsteps: []\n");
    for is_news in [true, false] {
        let applied = mill.load(&[("b.yaml", broken), ("f.yaml", &good)]).await;
        assert_eq!((applied[0].result, applied[0].is_news), (ReloadResult::Refused, is_news));
        assert_eq!(mill.status("b").file.to_str(), Some("b.yaml"), "it is known by the id in its file");
    }
    mill.source().refuse_take_over_once("no");
    let two = set("two", &sending_to("out"));
    assert!(mill.load(&[("f.yaml", &two)]).await.iter().any(|one| one.problem.is_some() && one.is_news));
    mill.source().refuse_take_over_once("no");
    assert!(mill.load(&[("f.yaml", &two)]).await.iter().any(|one| one.problem.is_some() && !one.is_news));
    assert_eq!(mill.seen.count("reload refused"), 2);
}

#[tokio::test(start_paused = true)]
async fn another_endpoint_is_started_before_the_old_one_is_closed() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("old");
    mill.sink("out").reached(1).await;
    mill.load(&[("f.yaml", &named("f", "elsewhere", &sending_to("other")))]).await;
    assert_eq!(mill.adapter.source("elsewhere").events(), ["prepare", "start"]);
    settle_down().await;
    assert_eq!(mill.source().events(), ["prepare", "start", "close"]);
    delivered(&mill.adapter.source("elsewhere").offer_once("new").outcome().await);
    mill.sink("out").open();
    delivered(&held.outcome().await);
}

#[tokio::test(start_paused = true)]
async fn what_an_old_endpoint_cannot_finish_is_offered_to_the_new_one() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("old");
    mill.sink("out").reached(1).await;
    mill.load(&[("f.yaml", &named("f", "elsewhere", &sending_to("other")))]).await;
    let began = Instant::now();
    let outcome = held.outcome().await;
    delivered(&outcome);
    assert_eq!((version_of(&outcome), began.elapsed()), (mill.version(), Duration::from_secs(1)));
    assert_eq!(mill.sink("other").bodies(), ["old"]);
    assert_eq!(mill.seen.settled(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_ready_keeps_the_version_that_runs() {
    let mill = Mill::new();
    mill.plugins.save("p", ScriptedPlugin::transformer(|_| Ok(Transformed::Change(Change::default()))));
    mill.load(&[("f.yaml", &set("one", "steps: [{ transform: { plugin: p } }]\n"))]).await;
    let first = mill.version();

    mill.source().refuse_once("the port is in use");
    let applied = mill.load(&[("f.yaml", &set("two", "steps: []\n"))]).await;
    assert_eq!(refused(&applied), "the port is in use");

    mill.source().hang_once();
    let began = Instant::now();
    let applied = mill.load(&[("f.yaml", &set("two", "limits: { prepare_ms: 3000 }\nsteps: []\n"))]).await;
    assert_eq!(refused(&applied), "it was not ready within 3000 ms (limits.prepare_ms)");
    assert_eq!(began.elapsed(), Duration::from_secs(3));

    let broken = ScriptedPlugin::transformer(|_| Ok(Transformed::Change(Change::default())))
        .with_digest("1")
        .failing_to_bind(PluginError::new("plugin_trap", "it trapped while it was configured"));
    mill.plugins.save("p", broken);
    let applied = mill.load(&[("f.yaml", &set("one", "steps: [{ transform: { plugin: p } }]\n"))]).await;
    assert!(refused(&applied).contains("it trapped while it was configured"), "{applied:?}");

    let applied = mill.load(&[("f.yaml", &set("one", "steps: [{ transfrom: { plugin: p } }]\n"))]).await;
    assert!(refused(&applied).contains("unknown_step f.yaml:3:11: unknown step `transfrom`"), "{applied:?}");
    assert!(mill.status("f").refused.unwrap().contains("did you mean `transform`?"));

    assert_eq!((mill.version(), mill.state("f")), (first, FlowState::Running));
    assert!(!mill.runtime.wants_retry());
    delivered(&mill.outcome("x").await);
    assert_eq!(mill.seen.count("reload refused"), 4);
}

#[tokio::test(start_paused = true)]
async fn another_plugin_makes_another_version() {
    let mill = Mill::new();
    let save = |digest: &str| {
        let plugin = ScriptedPlugin::transformer(|_| Ok(Transformed::Change(Change::default())));
        mill.plugins.save("p", plugin.with_digest(digest));
    };
    let text = flow("steps: [{ choice: [{ otherwise: [{ transform: { plugin: p } }] }] }]\n");
    save("1");
    mill.load(&[("f.yaml", &text)]).await;
    let first = mill.version();
    assert_eq!(mill.load(&[("f.yaml", &text)]).await[0].result, ReloadResult::Unchanged);
    save("2");
    assert_eq!(mill.load(&[("f.yaml", &text)]).await[0].result, ReloadResult::Applied);
    assert_ne!(mill.version(), first);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_drain_limit_is_offered_to_the_new_version_once() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held: Vec<_> = (0..3).map(|n| mill.source().offer_once(format!("{n}"))).collect();
    mill.sink("out").reached(3).await;
    mill.run(&sending_to("other")).await;
    let began = Instant::now();
    for one in held {
        let outcome = one.outcome().await;
        delivered(&outcome);
        assert_eq!(version_of(&outcome), mill.version());
    }
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    let mut bodies = mill.sink("other").bodies();
    bodies.sort();
    assert_eq!(bodies, ["0", "1", "2"]);
    assert_eq!((mill.seen.settled(), mill.seen.count("settled delivered")), (3, 3));
    mill.sink("out").open();
    settle_down().await;
    assert_eq!((mill.sink("out").sent().len(), mill.status("f").in_flight), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_is_removed_finishes_what_it_has_accepted() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("x");
    mill.sink("out").reached(1).await;
    let applied = mill.load(&[]).await;
    assert_eq!(applied[0].result, ReloadResult::Removed);
    assert!(mill.runtime.status().is_empty());
    settle_down().await;
    assert_eq!(mill.source().events(), ["prepare", "start", "close"]);
    let later = mill.source().offer("later");
    mill.sink("out").open();
    delivered(&held.outcome().await);
    // Nothing reads the source until there is a flow for it again.
    settle_down().await;
    assert_eq!(mill.source().waiting(), 1);
    mill.run(&sending_to("out")).await;
    delivered(&later.outcome().await);
}

#[tokio::test(start_paused = true)]
async fn what_a_removed_flow_cannot_finish_is_released() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("x");
    mill.sink("out").reached(1).await;
    mill.load(&[]).await;
    let began = Instant::now();
    let outcome = held.outcome().await;
    assert_eq!((outcome.settlement, class(&outcome)), (Settlement::Released, "drained"));
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert_eq!(mill.seen.count("settled released"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_old_version_that_still_drains_when_its_flow_is_removed_loses_nothing() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("x");
    mill.sink("out").reached(1).await;
    mill.run(&sending_to("other")).await;
    mill.load(&[]).await;
    let outcome = held.outcome().await;
    assert_eq!((outcome.settlement, class(&outcome)), (Settlement::Released, "drained"));
    assert_eq!(mill.runtime.shutdown().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_comes_back_while_it_drains_loses_nothing() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held = mill.source().offer("x");
    mill.sink("out").reached(1).await;
    mill.load(&[]).await;
    mill.run(&sending_to("other")).await;
    delivered(&mill.outcome("y").await);
    // Released at the drain limit of the old one, it is offered to the one that is there now.
    delivered(&held.outcome().await);
    let mut bodies = mill.sink("other").bodies();
    bodies.sort();
    assert_eq!(bodies, ["x", "y"]);
}

#[tokio::test(start_paused = true)]
async fn a_flow_can_get_another_id_in_its_file() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("x");
    mill.sink("out").reached(1).await;
    // As long as the new one does not run, the old one does.
    mill.source().refuse_once("not yet");
    let applied = mill.load(&[("f.yaml", &named("g", "in", &sending_to("other")))]).await;
    assert!(applied.iter().all(|one| one.result == ReloadResult::Refused), "{applied:?}");
    assert_eq!(mill.state("f"), FlowState::Running);
    assert!(mill.status("f").refused.unwrap().contains("`g`"));
    assert_eq!(mill.state("g"), FlowState::Down("not yet".into()));
    assert!(mill.runtime.wants_retry());
    // Named once more, and at last all is well.
    mill.source().refuse_once("not yet");
    mill.load(&[("f.yaml", &named("h", "in", &sending_to("other")))]).await;
    let flows =
        || mill.runtime.status().iter().map(|s| s.flow.as_deref().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(flows(), ["f", "h"]);
    let applied = mill.load(&[("f.yaml", &named("h", "in", &sending_to("other")))]).await;
    let results: BTreeMap<_, _> =
        applied.iter().map(|one| (one.flow.as_deref().unwrap(), one.result)).collect();
    assert_eq!(results, BTreeMap::from([("f", ReloadResult::Removed), ("h", ReloadResult::Applied)]));
    assert_eq!(flows(), ["h"]);
    delivered(&mill.outcome("y").await);
    mill.sink("out").open();
    delivered(&held.outcome().await);
}

#[tokio::test(start_paused = true)]
async fn a_file_can_be_renamed() {
    let mill = Mill::running("steps: []\n").await;
    let applied = mill.load(&[("moved.yaml", &flow("steps: []\n"))]).await;
    assert_eq!(applied.len(), 1);
    assert_eq!(applied[0].result, ReloadResult::Unchanged);
    assert_eq!(mill.status("f").file, std::path::Path::new("moved.yaml"));
    assert_eq!(mill.source().events(), ["prepare", "start"]);
}

#[tokio::test(start_paused = true)]
async fn an_id_belongs_to_the_flow_that_has_it() {
    let mill = Mill::new();
    let (ours, theirs) = (flow("steps: []\n"), named("f", "elsewhere", "steps: []\n"));
    mill.load(&[("m.yaml", &ours)]).await;
    let applied = mill.load(&[("a.yaml", &theirs), ("m.yaml", &ours)]).await;
    assert_eq!(
        refused(&applied),
        "duplicate_flow a.yaml:1:7: the flow id `f` is also that of m.yaml (give one of the two another id)"
    );
    // Nor does it lose its id by a mistake in its file.
    let applied = mill.load(&[("a.yaml", &theirs), ("m.yaml", "flow: f\nsteps: []\n")]).await;
    assert!(applied.iter().all(|one| one.result == ReloadResult::Refused), "{applied:?}");
    delivered(&mill.outcome("x").await);
    assert!(mill.adapter.source("elsewhere").events().is_empty());
    // When it goes, the other may have it.
    mill.load(&[("a.yaml", &theirs)]).await;
    delivered(&mill.adapter.source("elsewhere").offer_once("x").outcome().await);
}

#[tokio::test(start_paused = true)]
async fn two_flows_cannot_have_one_source() {
    let mill = Mill::new();
    let (first, second) = (named("first", "in", "steps: []\n"), named("second", "in", "steps: []\n"));
    let applied = mill.load(&[("b.yaml", &second), ("a.yaml", &first)]).await;
    assert_eq!(
        refused(&applied),
        "duplicate_claim b.yaml:2:9: `scripted in` is already taken by the flow `first` in a.yaml (change the source of one of the two)"
    );
    assert_eq!(mill.runtime.status().len(), 2);
    // What runs keeps its source even when its file is broken.
    let applied = mill.load(&[("b.yaml", &second), ("a.yaml", "flow: first\n")]).await;
    let problem = applied.iter().find_map(|one| one.problem.clone()).unwrap();
    assert!(problem.contains("held by the flow `first`"), "{problem}");
    assert_eq!((mill.state("first"), mill.source().events().len()), (FlowState::Running, 3));
    assert!(mill.runtime.wants_retry(), "it can start as soon as the other has gone");
    mill.load(&[("b.yaml", &second)]).await;
    assert_eq!(mill.state("second"), FlowState::Running);
    delivered(&mill.outcome("x").await);
}

/// A flow whose source shares a stage on these terms.
fn sharing(id: &str, terms: &str) -> String {
    format!("flow: {id}\nsource: {{ scripted: {{ name: {id}, terms: {terms} }} }}\nsteps: []\n")
}

#[tokio::test(start_paused = true)]
async fn flows_share_on_the_same_terms_or_not_at_all() {
    let mill = Mill::new();
    let applied = mill.load(&[("a.yaml", &sharing("a", "dark")), ("b.yaml", &sharing("b", "bright"))]).await;
    assert_eq!(
        refused(&applied),
        "conflicting_source b.yaml:2:9: the stage is wanted `bright` here and `dark` there; the other is the flow `a` in a.yaml (change the source of one of the two)"
    );
    mill.load(&[("a.yaml", &sharing("a", "dark")), ("b.yaml", &sharing("b", "dark"))]).await;
    assert_eq!((mill.state("a"), mill.state("b")), (FlowState::Running, FlowState::Running));

    // What runs keeps its terms even when its file is broken.
    let applied = mill.load(&[("a.yaml", &sharing("a", "bright")), ("b.yaml", "flow: b\n")]).await;
    let problem = applied.iter().find_map(|one| one.problem.clone()).unwrap();
    assert!(problem.contains("by the flow `b`, or in conflict with it"), "{problem}");
    delivered(&mill.adapter.source("a").offer_once("x").outcome().await);

    // All together can go over to other terms.
    let applied =
        mill.load(&[("a.yaml", &sharing("a", "bright")), ("b.yaml", &sharing("b", "bright"))]).await;
    assert!(applied.iter().all(|one| one.result == ReloadResult::Applied), "{applied:?}");
    assert_eq!(mill.adapter.source("b").events(), ["prepare", "start", "prepare", "take_over"]);
}

#[tokio::test(start_paused = true)]
async fn the_content_of_a_configuration_file_is_part_of_the_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
    let text = format!(
        "flow: f\nsource: {{ scripted: {{ name: in, file: '{}' }} }}\n\
         steps: [{{ send: {{ scripted: {{ name: out, file: '{}' }} }} }}]\n",
        path("source.pem").display(),
        path("sink.pem").display(),
    );
    let mill = Mill::new();
    let load = async || mill.load(&[("f.yaml", &text)]).await[0].result;
    write("source.pem", "1");
    assert_eq!(load().await, ReloadResult::Applied);
    assert_eq!(load().await, ReloadResult::Unchanged);
    write("source.pem", "2");
    assert_eq!(load().await, ReloadResult::Applied);
    assert_eq!(mill.source().events(), ["prepare", "start", "prepare", "take_over"]);
    // That of a sink leaves the endpoint alone; also one that comes into being.
    write("sink.pem", "1");
    assert_eq!(load().await, ReloadResult::Applied);
    assert_eq!(load().await, ReloadResult::Unchanged);
    assert_eq!(mill.source().events().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn two_flows_can_change_places_in_one_go() {
    let mill = Mill::new();
    let files =
        |a: &str, b: &str| [named("a", a, &sending_to("from-a")), named("b", b, &sending_to("from-b"))];
    let [a, b] = files("x", "y");
    mill.load(&[("a.yaml", &a), ("b.yaml", &b)]).await;
    let [a, b] = files("y", "x");
    // As long as one cannot move, neither does.
    mill.adapter.source("y").refuse_once("not yet");
    let applied = mill.load(&[("a.yaml", &a), ("b.yaml", &b)]).await;
    assert_eq!(applied[0].problem.as_deref(), Some("not yet"));
    assert!(applied[1].problem.as_deref().unwrap().contains("held by the flow `a`"), "{applied:?}");
    delivered(&mill.adapter.source("x").offer_once("1").outcome().await);
    assert_eq!(mill.sink("from-a").bodies(), ["1"]);

    let applied = mill.load(&[("a.yaml", &a), ("b.yaml", &b)]).await;
    assert!(applied.iter().all(|one| one.result == ReloadResult::Applied), "{applied:?}");
    settle_down().await;
    delivered(&mill.adapter.source("x").offer_once("2").outcome().await);
    delivered(&mill.adapter.source("y").offer_once("3").outcome().await);
    assert_eq!(
        (mill.sink("from-a").bodies(), mill.sink("from-b").bodies()),
        (vec!["1".into(), "3".into()], vec!["2".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_cannot_start_is_down_and_comes_up_when_it_can() {
    let mill = Mill::new();
    mill.source().refuse_once("the folder does not exist");
    let files = [("f.yaml", flow("steps: []\n")), ("g.yaml", named("g", "other", "steps: []\n"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    mill.load(&files).await;
    assert_eq!(mill.state("f"), FlowState::Down("the folder does not exist".into()));
    assert_eq!(mill.state("g"), FlowState::Running, "the others run");
    assert!(mill.runtime.wants_retry());
    let (runtime, waiting) = (Arc::clone(&mill.runtime), mill.source().offer_once("x"));
    let up = tokio::spawn(async move { runtime.wait_for("f", |state| *state == FlowState::Running).await });
    settle_down().await;
    assert!(!up.is_finished());
    mill.load(&files).await;
    up.await.unwrap();
    assert!(!mill.runtime.wants_retry());
    delivered(&waiting.outcome().await);
    assert_eq!(mill.adapter.source("other").events(), ["prepare", "start"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_no_flow_is_shown_until_it_is_one() {
    let mill = Mill::new();
    let applied = mill.load(&[("f.yaml", "flow: f\nsteps: [")]).await;
    assert_eq!((applied[0].result, applied[0].flow.clone()), (ReloadResult::Refused, None));
    let status = mill.runtime.status();
    assert!(matches!(&status[0].state, FlowState::Down(why) if why.contains("f.yaml:3:1")), "{status:?}");
    assert!(!mill.runtime.wants_retry(), "it does not mend itself");
    mill.run("steps: []\n").await;
    assert_eq!(mill.runtime.status().len(), 1);
    assert_eq!(mill.state("f"), FlowState::Running);
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_what_was_accepted_and_says_what_it_could_not() {
    let mill = Mill::new();
    let files = [named("a", "a", &sending_to("a")), named("b", "b", &sending_to("b"))];
    mill.load(&[("a.yaml", &files[0]), ("b.yaml", &files[1])]).await;
    for name in ["a", "b"] {
        mill.sink(name).close();
    }
    let (slow, stuck) = (mill.adapter.source("a").offer_once("x"), mill.adapter.source("b").offer_once("y"));
    mill.sink("a").reached(1).await;
    mill.sink("b").reached(1).await;
    let runtime = Arc::clone(&mill.runtime);
    let down = tokio::spawn(async move { runtime.shutdown().await });
    settle_down().await;
    mill.sink("a").open();
    delivered(&slow.outcome().await);
    assert!(!down.is_finished());
    assert_eq!(down.await.unwrap(), 1);
    assert_eq!(stuck.outcome().await.settlement, Settlement::Released);
    assert_eq!((mill.seen.count("accepted"), mill.seen.settled()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn at_a_shutdown_the_source_stays_until_the_versions_of_before_have_finished() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("x");
    mill.sink("out").reached(1).await;
    mill.run(&sending_to("other")).await;
    let runtime = Arc::clone(&mill.runtime);
    let down = tokio::spawn(async move { runtime.shutdown().await });
    settle_down().await;
    assert_eq!(
        (mill.source().ended(), down.is_finished()),
        (0, false),
        "what is acknowledged now has to arrive"
    );
    mill.sink("out").open();
    delivered(&held.outcome().await);
    assert_eq!(down.await.unwrap(), 0);
    assert_eq!(mill.source().ended(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_source_of_a_removed_flow_stays_until_the_versions_of_before_have_finished() {
    let mill = Mill::running(&sending_to("out")).await;
    mill.sink("out").close();
    let held = mill.source().offer_once("x");
    mill.sink("out").reached(1).await;
    mill.run(&sending_to("other")).await;
    mill.load(&[]).await;
    settle_down().await;
    assert_eq!(mill.source().ended(), 0, "what is acknowledged now has to arrive");
    mill.sink("out").open();
    delivered(&held.outcome().await);
    assert_eq!(mill.runtime.shutdown().await, 0);
    assert_eq!(mill.source().ended(), 1);
}

/// Every 7 ms another version: other steps, other settings of the source, another plugin, lanes that come and go, a
/// broken file, now and then no flow at all; sinks that now and then take longer than the drain may.
#[tokio::test(start_paused = true)]
async fn two_hundred_reloads_under_load_lose_nothing() {
    for ordered in [false, true] {
        reloads_under_load(ordered).await;
    }
}

async fn reloads_under_load(ordered: bool) {
    const RELOADS: usize = 200;
    let mill = Mill::new();
    if ordered {
        mill.source().keep_order();
    }
    let save = |digest: usize| {
        let plugin = ScriptedPlugin::transformer(|_| Ok(Transformed::Change(Change::default())));
        mill.plugins.save("p", plugin.with_digest(digest.to_string()));
    };
    for name in ["s0", "s1", "s2"] {
        let mut calls = 0_u64;
        let takes = std::sync::Mutex::new(move || {
            calls += 1;
            Duration::from_millis(if calls.is_multiple_of(97) { 300 } else { calls % 11 })
        });
        mill.sink(name).take_time(move |_| (takes.lock().unwrap())());
    }
    save(0);
    let version = |n: usize| {
        let order = ["", "order: strict\n", ""][n / 13 % 3];
        let lanes = ["", "parallel: { by: message.id, lanes: 4 }\n"]
            [usize::from(n / 29 % 2 == 1 || !ordered && !order.is_empty())];
        set(
            &format!("s{}", n / 5 % 4),
            &format!(
                "{order}{lanes}limits: {{ drain_ms: 50, in_flight: 32, release_delay_ms: 20 }}
steps:
  - transform: {{ plugin: p }}
  - reply: {{ headers: {{ version: '${{flow.version}}', number: '{n}' }} }}
  - send: {{ scripted: {{ name: s{} }} }}
",
                n % 3
            ),
        )
    };
    mill.load(&[("f.yaml", &version(0))]).await;
    let mut offered = Vec::new();
    let mut versions = BTreeMap::from([(mill.version(), 0)]);
    for n in 1..=RELOADS {
        for _ in 0..4 {
            offered.push(mill.source().offer("x"));
        }
        tokio::time::sleep(Duration::from_millis(7)).await;
        match n % 10 {
            3 => drop(mill.load(&[("f.yaml", "flow: f\nsteps: [nonsense]\n")]).await),
            7 => {
                mill.source().refuse_take_over_once("not now");
                mill.source().refuse_once("not now");
                mill.load(&[("f.yaml", &version(n + 5))]).await;
            }
            9 if n % 50 == 49 => drop(mill.load(&[]).await),
            _ => {
                save(n / 4);
                let applied = mill.load(&[("f.yaml", &version(n))]).await;
                assert_ne!(applied[0].result, ReloadResult::Removed);
            }
        }
        if let Some(version) = mill.runtime.status().first().and_then(|status| status.version.clone()) {
            versions.insert(version.to_string(), n);
        }
    }
    // What was left of a refusal does not count.
    for n in [0, 1] {
        mill.load(&[("f.yaml", &version(n))]).await;
        versions.insert(mill.version(), n);
    }
    let count = offered.len();
    for one in offered {
        let outcome = one.outcome().await;
        delivered(&outcome);
        let version = version_of(&outcome);
        assert!(versions.contains_key(&version), "an unknown version answered");
    }
    assert!(count == 4 * RELOADS && versions.len() > RELOADS / 2, "{} versions", versions.len());
    assert_eq!((mill.status("f").in_flight, mill.source().waiting()), (0, 0));
    assert_eq!(mill.seen.count("accepted"), mill.seen.settled());
    assert_eq!(mill.runtime.shutdown().await, 0);
}
