//! Who may overtake whom: the order of first attempts, strict lanes, lanes by key, lanes over a reload.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use gristmill_core::{
    ErrorClass, Failure, Message, Settlement,
    plugin::{Change, Transformed},
    testkit::{Offered, ScriptedPlugin, ScriptedSink},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::harness::{Mill, body, delivered, flow, settle_down, text};

/// A source with an order and a flow that reads it.
async fn ordered(rest: &str) -> Mill {
    let mill = Mill::new();
    mill.source().keep_order();
    mill.run(rest).await;
    mill
}

const SEND: &str = "steps: [{ send: { scripted: { name: out } } }]\n";

fn down() -> Failure {
    Failure::new(ErrorClass::SinkUnavailable, "down")
}

fn offer_all(mill: &Mill, bodies: impl IntoIterator<Item = String>) -> Vec<Offered> {
    bodies.into_iter().map(|body| mill.source().offer(body)).collect()
}

async fn all_delivered(offered: Vec<Offered>) {
    for one in offered {
        delivered(&one.outcome().await);
    }
}

#[tokio::test(start_paused = true)]
async fn many_sends_are_under_way_at_once_and_in_order() {
    let mill = ordered(SEND).await;
    let sink = mill.sink("out");
    sink.close();
    let offered = offer_all(&mill, (0..100).map(|n| n.to_string()));
    sink.reached(100).await;
    assert_eq!(sink.bodies(), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    sink.open();
    all_delivered(offered).await;
}

/// What the messages of the random test are.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Left,
    Right,
    Dropped,
    /// Makes three children.
    Split,
    /// Fails once in the middle, and is tried again.
    Flaky,
    /// Is rejected in the middle.
    Bad,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Left, "left"),
    (Kind::Right, "right"),
    (Kind::Dropped, "dropped"),
    (Kind::Split, "split"),
    (Kind::Flaky, "flaky"),
    (Kind::Bad, "bad"),
];

/// Any time up to 50 ms, from the seed and what the message is: the same on every run.
fn some_time(seed: u64, place: u64) -> impl Fn(&Message) -> Duration + Send + Sync + 'static {
    let rng = Mutex::new(StdRng::seed_from_u64(seed ^ (place << 32)));
    move |_| Duration::from_millis(rng.lock().unwrap().random_range(0..50))
}

fn number(message: &str) -> usize {
    message.split_once("\"n\":").and_then(|(_, rest)| rest.split_once(',')).unwrap().0.parse().unwrap()
}

fn numbers(sink: &ScriptedSink) -> Vec<usize> {
    sink.bodies().iter().map(|body| number(body)).collect()
}

#[tokio::test(start_paused = true)]
async fn first_attempts_keep_the_order_of_the_source_whatever_the_schedule() {
    for seed in 0..60 {
        first_attempts_keep_the_order(seed).await;
    }
}

async fn first_attempts_keep_the_order(seed: u64) {
    let mill = Mill::new();
    mill.source().keep_order();
    let same = || ScriptedPlugin::transformer(|_| Ok(Transformed::Change(Change::default())));
    mill.plugins.save("slow", same().taking(some_time(seed, 1)));
    let failed = Mutex::new(HashSet::new());
    mill.plugins.save(
        "flaky",
        ScriptedPlugin::transformer(move |message| {
            let is = |kind: &str| text(message).contains(kind);
            if is("flaky") && failed.lock().unwrap().insert(message.id().clone()) {
                return Err(Failure::new(ErrorClass::PluginRetry, "once"));
            }
            if is("bad") {
                return Err(Failure::new(ErrorClass::PluginRejected, "bad"));
            }
            Ok(Transformed::Change(Change::default()))
        })
        .taking(some_time(seed, 2)),
    );
    mill.plugins.save(
        "split",
        ScriptedPlugin::transformer(|message| {
            let children = if text(message).contains("split") { 3 } else { 1 };
            Ok(Transformed::Emit((0..children).map(|_| Change::default()).collect()))
        }),
    );
    mill.plugins.save(
        "route",
        ScriptedPlugin::router(|message| {
            Ok(if number(&text(message)).is_multiple_of(3) {
                vec!["x".into(), "y".into()]
            } else {
                vec!["y".into()]
            })
        }),
    );
    for (place, name) in ["left", "right", "x", "y", "out"].into_iter().enumerate() {
        mill.sink(name).take_time(some_time(seed, 10 + place as u64));
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let in_flight = rng.random_range(1..40);
    mill.run(&format!(
        "limits: {{ in_flight: {in_flight} }}
steps:
  - transform: {{ plugin: slow }}
  - filter: {{ keep: body.kind != 'dropped' }}
  - choice:
      - when: body.kind == 'left'
        steps: [{{ transform: {{ plugin: slow }} }}, {{ send: {{ scripted: {{ name: left }} }} }}, {{ transform: {{ plugin: slow }} }}]
      - when: body.kind == 'right'
        steps: [{{ send: {{ scripted: {{ name: right }} }} }}]
      - otherwise: []
  - transform: {{ plugin: flaky }}
  - route:
      plugin: route
      branches:
        x: [{{ transform: {{ plugin: slow }} }}, {{ send: {{ scripted: {{ name: x }} }} }}]
        y: [{{ send: {{ scripted: {{ name: y }} }} }}]
  - transform: {{ plugin: split }}
  - transform: {{ plugin: slow }}
  - send: {{ scripted: {{ name: out }} }}
on_error: [{{ match: [plugin_retry], retry: {{ initial_delay_ms: 200 }}, then: {{ reject: {{}} }} }}]
"
    ))
    .await;
    let kinds: Vec<(Kind, &str)> = (0..80).map(|_| KINDS[rng.random_range(0..KINDS.len())]).collect();
    let bodies = kinds.iter().enumerate().map(|(n, (_, name))| format!("{{\"n\":{n},\"kind\":\"{name}\"}}"));
    for (offered, (kind, _)) in offer_all(&mill, bodies).into_iter().zip(&kinds) {
        let expected = if *kind == Kind::Bad { Settlement::Rejected } else { Settlement::Delivered };
        assert_eq!(offered.settlement().await, expected);
    }
    let expected = |wanted: &dyn Fn(usize, Kind) -> usize| -> Vec<usize> {
        kinds.iter().enumerate().flat_map(|(n, (kind, _))| vec![n; wanted(n, *kind)]).collect()
    };
    let goes_on = |kind| !matches!(kind, Kind::Dropped | Kind::Bad);
    let shown = format!("seed {seed}, in flight {in_flight}");
    assert_eq!(numbers(&mill.sink("left")), expected(&|_, kind| (kind == Kind::Left).into()), "{shown}");
    assert_eq!(numbers(&mill.sink("right")), expected(&|_, kind| (kind == Kind::Right).into()), "{shown}");
    assert_eq!(
        numbers(&mill.sink("x")),
        expected(&|n, kind| (goes_on(kind) && n.is_multiple_of(3)).into()),
        "{shown}"
    );
    assert_eq!(numbers(&mill.sink("y")), expected(&|_, kind| goes_on(kind).into()), "{shown}");
    let children = |_, kind| match kind {
        Kind::Split => 3,
        kind => goes_on(kind).into(),
    };
    assert_eq!(numbers(&mill.sink("out")), expected(&children), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_does_not_hold_up_the_step_but_what_comes_after_it() {
    let mill = ordered(
        "steps: [{ send: { scripted: { name: out } } }, { send: { scripted: { name: after } } }]
on_error: [{ match: [any], retry: { initial_delay_ms: 1000, jitter: 0 }, then: { reject: {} } }]
",
    )
    .await;
    mill.sink("out").answer([Err(down())]);
    let offered = offer_all(&mill, ["a".into(), "b".into()]);
    mill.sink("out").reached(2).await;
    settle_down().await;
    assert!(mill.sink("after").sent().is_empty());
    all_delivered(offered).await;
    assert_eq!(mill.sink("out").bodies(), ["a", "b", "a"]);
    assert_eq!(mill.sink("after").bodies(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn strict_keeps_one_unsettled_delivery_and_a_retry_blocks() {
    let mill = ordered(&format!(
        "order: strict\n{SEND}on_error: [{{ match: [any], retry: {{ initial_delay_ms: 1000, jitter: 0 }}, then: {{ reject: {{}} }} }}]\n"
    ))
    .await;
    let sink = mill.sink("out");
    sink.answer([Err(down()), Err(down())]);
    sink.close();
    let offered = offer_all(&mill, (0..3).map(|n| n.to_string()));
    sink.reached(1).await;
    settle_down().await;
    assert_eq!(sink.sent().len(), 1, "a second one was begun before the first had settled");
    sink.open();
    all_delivered(offered).await;
    assert_eq!(sink.bodies(), ["0", "0", "0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn strict_blocks_its_lane_with_what_is_released() {
    let mill = ordered(&format!("order: strict\nlimits: {{ release_delay_ms: 500 }}\n{SEND}")).await;
    mill.sink("out").answer([Err(down()), Err(down())]);
    let began = Instant::now();
    let offered = offer_all(&mill, (0..3).map(|n| n.to_string()));
    all_delivered(offered).await;
    assert_eq!(mill.sink("out").bodies(), ["0", "0", "0", "1", "2"]);
    assert_eq!(began.elapsed(), Duration::from_millis(2 * 500));
    assert_eq!(mill.seen.count("accepted"), 3, "it is not given back to its source");
}

#[tokio::test(start_paused = true)]
async fn strict_holds_its_lane_over_a_panic() {
    let mill = Mill::new();
    mill.source().keep_order();
    let panicked = Mutex::new(false);
    mill.plugins.save(
        "p",
        ScriptedPlugin::transformer(move |_| {
            let again = std::mem::replace(&mut *panicked.lock().unwrap_or_else(|e| e.into_inner()), true);
            assert!(again, "once");
            Ok(Transformed::Change(Change::default()))
        }),
    );
    mill.run("order: strict\nsteps: [{ transform: { plugin: p } }, { send: { scripted: { name: out } } }]\n")
        .await;
    all_delivered(offer_all(&mill, ["a".into(), "b".into()])).await;
    assert_eq!(mill.sink("out").bodies(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_that_is_tried_again_does_not_hold_up_its_step() {
    let mill = Mill::new();
    mill.source().keep_order();
    let called = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::clone(&called);
    mill.plugins.save(
        "p",
        ScriptedPlugin::transformer(move |message| {
            let is_first = {
                let mut calls = calls.lock().unwrap();
                calls.push(text(message).to_owned());
                calls.len() == 1
            };
            assert!(!is_first, "once");
            Ok(Transformed::Change(Change::default()))
        }),
    );
    mill.run(
        "steps: [{ transform: { plugin: p } }, { send: { scripted: { name: out } } }]
on_error: [{ match: [internal], retry: { initial_delay_ms: 1000, jitter: 0 }, then: { reject: {} } }]
",
    )
    .await;
    all_delivered(offer_all(&mill, ["a".into(), "b".into()])).await;
    assert_eq!(*called.lock().unwrap(), ["a", "b", "a"]);
    assert_eq!(mill.sink("out").bodies(), ["a", "b"]);
}

/// Lanes by the first letter of the body; `a…` goes to the sink `a`, all else to `b`.
fn by_letter(order: &str, lanes: usize) -> String {
    format!(
        "order: {order}
parallel: {{ by: 'message.text.startsWith(\"a\")', lanes: {lanes} }}
steps:
  - choice:
      - when: message.text.startsWith(\"a\")
        steps: [{{ send: {{ scripted: {{ name: a }} }} }}]
      - otherwise: [{{ send: {{ scripted: {{ name: b }} }} }}]
"
    )
}

#[tokio::test(start_paused = true)]
async fn lanes_run_side_by_side() {
    // So many lanes that the two keys share none.
    let mill = Mill::running(&by_letter("strict", 1024)).await;
    mill.sink("a").close();
    let blocked = offer_all(&mill, ["a1".into(), "a2".into()]);
    let free = offer_all(&mill, ["b1".into(), "b2".into(), "b3".into()]);
    all_delivered(free).await;
    assert_eq!(mill.sink("a").bodies(), ["a1"]);
    mill.sink("a").open();
    all_delivered(blocked).await;
    assert_eq!(mill.sink("a").bodies(), ["a1", "a2"]);
}

#[tokio::test(start_paused = true)]
async fn order_holds_per_key_whatever_the_schedule() {
    for (seed, order) in (0..20).zip(["source", "strict"].into_iter().cycle()) {
        let mill = Mill::new();
        let same = ScriptedPlugin::transformer(|_| Ok(Transformed::Change(Change::default())));
        mill.plugins.save("slow", same.taking(some_time(seed, 1)));
        mill.sink("out").take_time(some_time(seed, 2));
        mill.run(&format!(
            "order: {order}
parallel: {{ by: body.key, lanes: 4 }}
steps: [{{ transform: {{ plugin: slow }} }}, {{ send: {{ scripted: {{ name: out }} }} }}]
"
        ))
        .await;
        let mut rng = StdRng::seed_from_u64(seed);
        let keys: Vec<u32> = (0..120).map(|_| rng.random_range(0..9)).collect();
        let bodies = keys.iter().enumerate().map(|(n, key)| format!("{{\"n\":{n},\"key\":\"k{key}\"}}"));
        all_delivered(offer_all(&mill, bodies).into_iter().collect()).await;
        let mut seen: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for n in numbers(&mill.sink("out")) {
            seen.entry(keys[n]).or_default().push(n);
        }
        for (key, seen) in seen {
            assert!(seen.is_sorted(), "seed {seed}, order {order}, key {key}: {seen:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_without_a_key_never_runs_without_a_lane() {
    let mill = Mill::running(&format!(
        "order: strict
parallel: {{ by: body.key, lanes: 4 }}
limits: {{ release_delay_ms: 100 }}
{SEND}on_error: [{{ match: [any], then: {{ release: {{}} }} }}]
"
    ))
    .await;
    let mut offered = mill.source().offer("{\"no\":\"key\"}");
    delivered(&mill.outcome("{\"key\":1}").await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(offered.is_pending());
    assert_eq!(mill.sink("out").bodies(), ["{\"key\":1}"]);
    // A version that can tell its key takes it.
    mill.run(&format!("order: strict\nparallel: {{ by: body.no, lanes: 4 }}\n{SEND}")).await;
    delivered(&offered.outcome().await);
}

#[tokio::test(start_paused = true)]
async fn a_lane_passes_to_the_new_version_once_the_old_one_has_settled() {
    for order in ["source", "strict"] {
        let mill = ordered(&format!("order: {order}\n{SEND}")).await;
        mill.sink("out").close();
        let old = offer_all(&mill, ["a".into(), "b".into()]);
        mill.sink("out").reached(1).await;
        mill.run(&format!("order: {order}\nsteps: [{{ send: {{ scripted: {{ name: new }} }} }}]\n")).await;
        let new = offer_all(&mill, ["c".into()]);
        settle_down().await;
        assert!(mill.sink("new").sent().is_empty(), "the new version overtook the old one");
        mill.sink("out").open();
        all_delivered(old).await;
        all_delivered(new).await;
        let both = [mill.sink("out").bodies(), mill.sink("new").bodies()].concat();
        assert_eq!(both, ["a", "b", "c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn other_lanes_wait_for_what_is_in_the_old_ones_and_come_back_without_waiting() {
    let mill = Mill::running(&by_letter("source", 2)).await;
    mill.sink("a").close();
    let held = offer_all(&mill, ["a1".into()]);
    mill.sink("a").reached(1).await;
    mill.run(&by_letter("source", 3)).await;
    let waiting = offer_all(&mill, ["b1".into()]);
    settle_down().await;
    assert_eq!(mill.source().waiting(), 1, "taken while other lanes were in use");
    // The lanes of before are the ones in use.
    mill.run(&by_letter("strict", 2)).await;
    settle_down().await;
    assert_eq!(mill.source().waiting(), 1);
    mill.run(&by_letter("source", 2)).await;
    all_delivered(waiting).await;
    mill.sink("a").open();
    all_delivered(held).await;
    assert_eq!(mill.status("f").in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_drain_limit_keeps_its_order_in_the_new_version() {
    for order in ["source", "strict"] {
        let limits = "limits: { drain_ms: 1000 }\n";
        let mill = ordered(&format!("order: {order}\n{limits}{SEND}")).await;
        mill.sink("out").close();
        let old = offer_all(&mill, (0..20).map(|n| n.to_string()));
        mill.sink("out").reached(1).await;
        mill.run(&format!("order: {order}\n{limits}steps: [{{ send: {{ scripted: {{ name: new }} }} }}]\n"))
            .await;
        let new = offer_all(&mill, (20..25).map(|n| n.to_string()));
        all_delivered(old).await;
        all_delivered(new).await;
        assert_eq!(mill.sink("new").bodies(), (0..25).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(mill.seen.settled(), 25);
    }
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_gives_up_its_order_waits_for_nothing() {
    let mill = Mill::running(&by_letter("source", 2)).await;
    mill.sink("a").close();
    let held = offer_all(&mill, ["a1".into()]);
    mill.sink("a").reached(1).await;
    mill.load(&[("f.yaml", &flow("steps: [{ send: { scripted: { name: free } } }]\n"))]).await;
    delivered(&mill.outcome("a2").await);
    mill.sink("a").open();
    all_delivered(held).await;
}

#[tokio::test(start_paused = true)]
async fn children_hold_the_step_for_the_next_message_until_the_last_of_them() {
    let mill = Mill::new();
    mill.source().keep_order();
    mill.plugins.save(
        "split",
        ScriptedPlugin::transformer(|message| {
            Ok(Transformed::Emit(text(message).split(',').map(body).collect()))
        }),
    );
    mill.run("steps: [{ transform: { plugin: split } }, { send: { scripted: { name: out } } }]\n").await;
    mill.sink("out").close();
    let offered = offer_all(&mill, ["a,b".into(), "c".into()]);
    mill.sink("out").reached(1).await;
    settle_down().await;
    assert_eq!(mill.sink("out").bodies(), ["a"]);
    mill.sink("out").open();
    all_delivered(offered).await;
    assert_eq!(mill.sink("out").bodies(), ["a", "b", "c"]);
}

/// On real threads and without time: who waits in a lane, or for room, and is not woken, would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_one_is_left_asleep() {
    for (order, lanes, in_flight) in
        [("source", 1, 3), ("strict", 1, 8), ("source", 4, 64), ("strict", 4, 64)]
    {
        let mill = Mill::new();
        mill.source().keep_order();
        mill.run(&format!(
            "order: {order}
parallel: {{ by: message.text, lanes: {lanes} }}
limits: {{ in_flight: {in_flight} }}
steps: [{{ choice: [{{ otherwise: [{{ send: {{ scripted: {{ name: first }} }} }}] }}] }}, {{ send: {{ scripted: {{ name: out }} }} }}]
"
        ))
        .await;
        all_delivered(offer_all(&mill, (0..2_000).map(|n| (n % 7).to_string()))).await;
        if lanes == 1 {
            assert_eq!(ids_in_order(&mill.sink("out")), (0..2_000).collect::<Vec<_>>());
        }
    }
}

/// The numbers of the messages of a source.
fn ids_in_order(sink: &ScriptedSink) -> Vec<usize> {
    sink.sent().iter().map(|message| message.id().as_str().trim_start_matches('m').parse().unwrap()).collect()
}

/// At a stop, a version that was replaced may reach its drain limit before the version that has what came later.
#[tokio::test(start_paused = true)]
async fn what_follows_a_delivery_that_is_given_back_at_a_stop_does_not_come_out_before_it() {
    for order in ["source", "strict"] {
        let version = |drain_ms: u64| format!("order: {order}\nlimits: {{ drain_ms: {drain_ms} }}\n{SEND}");
        let mill = ordered(&version(1_000)).await;
        mill.sink("out").close();
        let first = mill.source().offer_once("a");
        mill.sink("out").reached(1).await;
        mill.run(&version(5_000)).await;
        let second = mill.source().offer_once("b");
        settle_down().await;
        let runtime = Arc::clone(&mill.runtime);
        let down = tokio::spawn(async move { runtime.shutdown().await });
        assert_eq!(first.outcome().await.settlement, Settlement::Released, "{order}");
        mill.sink("out").open();
        assert_eq!(second.outcome().await.settlement, Settlement::Released, "{order}");
        down.await.unwrap();
        assert_eq!(mill.sink("out").bodies(), ["a"], "{order}");
    }
}

/// How often another task has its turn while so many messages pass.
async fn turns_of_another(mill: &Mill, messages: usize) -> usize {
    let offered = offer_all(mill, (0..messages).map(|n| n.to_string()));
    let turns = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            *counter.lock().unwrap() += 1;
            tokio::task::yield_now().await;
        }
    });
    while mill.seen.settled() < messages {
        tokio::task::yield_now().await;
    }
    other.abort();
    all_delivered(offered).await;
    *turns.lock().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_never_waits_leaves_others_their_turn() {
    let mill = ordered("limits: { in_flight: 1000 }\nsteps: [{ set: { headers: { a: b } } }]\n").await;
    let turns = turns_of_another(&mill, 640).await;
    assert!(turns >= 640 / 128, "{turns} turns");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_takes_long_leaves_others_their_turn_after_few_messages() {
    let mill = Mill::new();
    mill.source().keep_order();
    let slow = ScriptedPlugin::transformer(|_| {
        // Time of the processor, which the clock of a test does not make.
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_micros(400) {
            std::hint::spin_loop();
        }
        Ok(Transformed::Change(Change::default()))
    });
    mill.plugins.save("slow", slow);
    mill.run("steps: [{ transform: { plugin: slow } }]\n").await;
    let turns = turns_of_another(&mill, 40).await;
    assert!(turns >= 40 / 5, "{turns} turns");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_waits_holds_up_neither_the_endpoint_nor_a_reload() {
    let mill = ordered(SEND).await;
    mill.sink("out").close();
    let held = offer_all(&mill, ["1".to_owned(), "2".to_owned()]);
    settle_down().await;
    let first = mill.version();
    mill.run(&format!("description: another\n{SEND}")).await;
    assert_ne!(mill.version(), first);
    mill.sink("out").open();
    all_delivered(held).await;
    assert_eq!(mill.sink("out").bodies(), ["1", "2"]);
}
