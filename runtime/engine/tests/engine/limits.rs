//! When the source is asked and when not: the in-flight limit, releases, plugins that are held back, sources in trouble.

use std::{sync::Arc, time::Duration};

use gristmill_core::{
    ErrorClass, Failure, Settlement,
    plugin::{Health, Transformed},
    testkit::ScriptedPlugin,
};
use gristmill_engine::runtime::FlowState;
use tokio::time::Instant;

use crate::harness::{Mill, delivered, settle_down, text};

#[tokio::test(start_paused = true)]
async fn above_the_limit_the_source_is_not_asked() {
    let mill =
        Mill::running("limits: { in_flight: 2 }\nsteps: [{ send: { scripted: { name: out } } }]\n").await;
    mill.sink("out").close();
    let offered: Vec<_> = (0..5).map(|n| mill.source().offer_once(format!("{n}"))).collect();
    mill.sink("out").reached(2).await;
    settle_down().await;
    assert_eq!((mill.sink("out").sent().len(), mill.source().waiting()), (2, 3));
    assert_eq!(mill.status("f").in_flight, 2);
    mill.sink("out").open();
    for one in offered {
        delivered(&one.outcome().await);
    }
    assert_eq!(mill.status("f").in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_released_is_offered_again_after_its_delay() {
    let mill =
        Mill::running("limits: { release_delay_ms: 700 }\nsteps: [{ send: { scripted: { name: out } } }]\n")
            .await;
    let down = || Err(Failure::new(ErrorClass::SinkUnavailable, "down"));
    mill.sink("out").answer([down(), down()]);
    let began = Instant::now();
    let again = mill.source().offer("x");
    mill.sink("out").reached(1).await;
    let other = mill.source().offer_once("y");
    mill.sink("out").reached(2).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "a release keeps no one else waiting");
    assert_eq!(other.settlement().await, Settlement::Released);
    delivered(&again.outcome().await);
    assert_eq!(began.elapsed(), Duration::from_millis(700));
    assert_eq!(mill.sink("out").bodies(), ["x", "y", "x"]);
}

fn held_back(why: &str) -> Health {
    Health::Quarantined(why.into())
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_held_back_pauses_the_source_and_a_probe_brings_it_back() {
    let mill = Mill::new();
    let plugin = ScriptedPlugin::transformer(|_| Ok(Transformed::Change(Default::default())));
    let health = plugin.health();
    mill.plugins.save("p", plugin);
    mill.run("steps: [{ transform: { plugin: p } }, { send: { scripted: { name: out } } }]\n").await;
    delivered(&mill.outcome("before").await);
    let mut paused = mill.source().paused();
    paused.mark_unchanged();

    health.send_replace(held_back("it trapped 5 times"));
    paused.changed().await.unwrap();
    assert_eq!(paused.borrow_and_update().as_deref(), Some("a plugin is held back: it trapped 5 times"));
    mill.runtime
        .wait_for("f", |state| matches!(state, FlowState::Paused(why) if why.contains("5 times")))
        .await;
    mill.sink("out").close();
    let offered: Vec<_> = (0..3).map(|n| mill.source().offer_once(format!("{n}"))).collect();
    settle_down().await;
    assert_eq!(mill.source().waiting(), 3, "messages wait while a plugin is held back");

    health.send_replace(Health::Probing);
    mill.sink("out").reached(2).await;
    settle_down().await;
    assert_eq!(mill.source().waiting(), 2, "one message probes at a time");
    assert_eq!(*paused.borrow_and_update(), None);

    health.send_replace(Health::Fit);
    mill.sink("out").reached(4).await;
    mill.sink("out").open();
    for one in offered {
        delivered(&one.outcome().await);
    }
    assert_eq!(mill.state("f"), FlowState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_was_held_back_before_the_start_pauses_the_source_at_once() {
    let mill = Mill::new();
    let plugin = ScriptedPlugin::transformer(|_| Ok(Transformed::Change(Default::default())));
    let health = plugin.health();
    health.send_replace(held_back("since long"));
    mill.plugins.save("p", plugin);
    let offered = mill.source().offer_once("x");
    mill.run("steps: [{ transform: { plugin: p } }]\n").await;
    mill.runtime.wait_for("f", |state| matches!(state, FlowState::Paused(_))).await;
    assert_eq!(mill.source().waiting(), 1);
    assert!(mill.source().paused().borrow().is_some());
    // A version that takes the source over is told as well.
    mill.load(&[(
        "f.yaml",
        "flow: f\nsource: { scripted: { name: in, setting: new } }\nsteps: [{ transform: { plugin: p } }]\n",
    )])
    .await;
    assert!(mill.source().paused().borrow().is_some());
    // And one without the plugin goes on.
    mill.run("steps: []\n").await;
    delivered(&offered.outcome().await);
    assert_eq!(*mill.source().paused().borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn a_source_in_trouble_is_shown_and_asked_again() {
    let mill = Mill::running("steps: []\n").await;
    mill.source().fail_once("the disk is gone");
    let degraded = |state: &FlowState| *state == FlowState::Degraded("the disk is gone".into());
    mill.runtime.wait_for("f", degraded).await;
    let began = Instant::now();
    delivered(&mill.outcome("x").await);
    assert_eq!(began.elapsed(), Duration::from_secs(1), "asked again after a second");
    assert_eq!(mill.state("f"), FlowState::Running);
    // Without a message it is fit again when it has not failed for a while.
    mill.source().fail_once("the disk is gone");
    mill.runtime.wait_for("f", degraded).await;
    mill.runtime.wait_for("f", |state| *state == FlowState::Running).await;
    assert_eq!(began.elapsed(), Duration::from_secs(1 + 1 + 10));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_takes_its_flow_down_and_it_is_started_again() {
    let mill = Mill::running("steps: [{ send: { scripted: { name: out } } }]\n").await;
    mill.sink("out").close();
    let held = mill.source().offer_once("held");
    mill.sink("out").reached(1).await;
    mill.source().panic_once();
    settle_down().await;
    assert!(matches!(mill.state("f"), FlowState::Down(_)));
    assert!(mill.runtime.wants_retry());
    mill.run("steps: [{ send: { scripted: { name: out } } }]\n").await;
    assert!(!mill.runtime.wants_retry());
    assert_eq!(mill.state("f"), FlowState::Running);
    mill.sink("out").open();
    delivered(&held.outcome().await);
    delivered(&mill.outcome("next").await);
}

#[tokio::test(start_paused = true)]
async fn many_messages_leave_nothing_behind() {
    let mill = Mill::new();
    let witness = Arc::new(());
    let held = Arc::clone(&witness);
    mill.plugins.save(
        "p",
        ScriptedPlugin::transformer(move |message| {
            let _held = &held;
            Ok(Transformed::Drop(text(message)))
        }),
    );
    mill.run("limits: { in_flight: 7 }\nparallel: { by: message.text, lanes: 3 }\nsteps: [{ transform: { plugin: p } }]\n")
        .await;
    let offered: Vec<_> = (0..1_000).map(|n| mill.source().offer_once(format!("{}", n % 10))).collect();
    for one in offered {
        delivered(&one.outcome().await);
    }
    assert_eq!(mill.runtime.shutdown().await, 0);
    assert!(mill.runtime.status().is_empty());
    settle_down().await;
    mill.plugins.save("p", ScriptedPlugin::router(|_| Ok(Vec::new())));
    assert_eq!(Arc::strong_count(&witness), 1, "a version is kept after it has ended");
}
