//! A plugin that fails on everything is held back, its sender is asked to come back, and it comes back itself: when it is
//! mended, or when a probe succeeds.

use crate::harness::{Running, Scratch, eventually, guests};

fn flow(quarantine_ms: u64) -> String {
    format!(
        "
flow: grinds
source: {{ http: {{ listen: 127.0.0.1:0, path: /grinds }} }}
steps:
  - transform: {{ plugin: mill, limits: {{ quarantine_after: 3, quarantine_ms: {quarantine_ms} }} }}
on_error:
  - match: [plugin_trap]
    then: {{ dead_letter: {{ file: {{ directory: dead }} }} }}
"
    )
}

/// Three messages on which it traps: from then on it is held back, and the messages after that are spared.
fn bring_down(scratch: &Scratch, running: &Running) {
    running.is_running("grinds");
    for _ in 0..3 {
        assert_eq!(running.post("/grinds", "x").status, 202);
    }
    let status = running.becomes("grinds", "paused");
    let why = status["state"]["because"].as_str().unwrap();
    assert!(why.contains("held back") && why.contains("3 messages in a row"), "{why}");
    assert_eq!(scratch.letters("dead").len(), 3);
    assert!(scratch.letters("dead").iter().all(|letter| letter["error"]["class"] == "plugin_trap"));
}

fn is_quarantined(running: &Running) -> bool {
    running.metric("gristmill_plugin_quarantined", &["flow=\"grinds\"", "plugin=\"mill\""]) == 1.0
}

#[test]
fn a_plugin_that_always_fails_pauses_its_flow_until_it_is_mended() {
    let scratch = Scratch::with_flow("grinds", &flow(3_600_000));
    scratch.plugin("mill", &guests::traps());
    let running = scratch.run();
    bring_down(&scratch, &running);
    assert!(is_quarantined(&running));
    assert_eq!(running.admin("/health/ready").status, 503);
    assert_eq!(running.metric("gristmill_flow_up", &["flow=\"grinds\""]), 0.0);
    for _ in 0..5 {
        let answer = running.post("/grinds", "spared");
        assert_eq!(answer.status, 503);
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!(wait >= 1);
        assert!(!answer.text().contains("plugin"), "{}", answer.text());
    }
    assert_eq!(scratch.letters("dead").len(), 3, "no message more was burnt");

    let mark = running.mark();
    scratch.plugin("mill", &guests::stamp("mended"));
    running.runs_after(mark, "grinds");
    running.becomes("grinds", "running");
    assert_eq!(running.post("/grinds", "good").status, 204);
    assert_eq!(running.admin("/health/ready").status, 200);
    eventually("the old version to be gone", || (!is_quarantined(&running)).then_some(()));
}

#[test]
fn a_plugin_comes_back_by_itself_with_a_good_probe() {
    let scratch = Scratch::with_flow("grinds", &flow(100));
    scratch.plugin("mill", &guests::traps_on_x());
    let running = scratch.run();
    running.is_running("grinds");
    for _ in 0..3 {
        assert_eq!(running.post("/grinds", "x").status, 202);
    }
    // Held back now; after 100 ms one message may probe, and this one is good.
    eventually("a probe", || (running.post("/grinds", "good").status == 204).then_some(()));
    assert!(!is_quarantined(&running));
    running.becomes("grinds", "running");
    assert_eq!(running.post("/grinds", "good").status, 204);
    assert_eq!(scratch.letters("dead").len(), 3);
}
