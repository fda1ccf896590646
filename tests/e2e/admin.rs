//! Health and metrics, as a monitoring system asks for them.

use crate::harness::{
    Scratch, guests,
    http::{self, Backend, Connection},
};

const GRINDS: &str = "
flow: grinds
source: { http: { listen: 127.0.0.1:0, path: /grinds } }
steps:
  - transform: { plugin: stamp }
  - choice:
      - when: body.kind == 'drop'
        steps:
          - filter: { keep: 'false' }
      - when: body.kind == 'fail'
        steps:
          - filter: { keep: body.missing }
      - when: body.kind == 'letter'
        steps:
          - choice:
              - when: 'false'
                steps:
                  - log: { text: never }
      - otherwise: []
on_error:
  - match: [no_branch]
    then: { dead_letter: { file: { directory: dead } } }
";

#[test]
fn metrics_count_what_happens() {
    let scratch = Scratch::with_flow("grinds", GRINDS);
    scratch.plugin("stamp", &guests::stamp("x"));
    let running = scratch.run();
    let version = running.is_running("grinds");
    for (kind, status) in [("good", 204), ("good", 204), ("drop", 204), ("fail", 422), ("letter", 202)] {
        let answer = running.post("/grinds", format!(r#"{{"kind":"{kind}"}}"#));
        assert_eq!(answer.status, status, "{kind}");
    }
    let (flow, of_version) = ("flow=\"grinds\"", format!("version=\"{version}\""));
    let count = |name: &str, label: &str| running.metric(name, &[flow, label]);
    assert_eq!(count("gristmill_accepted_total", &of_version), 5.0);
    for (outcome, times) in [("delivered", 3.0), ("rejected", 1.0), ("dead_lettered", 1.0), ("released", 0.0)]
    {
        let labels = [flow, &of_version, &format!("outcome=\"{outcome}\"")];
        assert_eq!(running.metric("gristmill_deliveries_total", &labels), times, "{outcome}");
    }
    assert_eq!(count("gristmill_delivery_duration_seconds_count", ""), 5.0);
    assert_eq!(count("gristmill_step_duration_seconds_count", "step=\"steps[0]\""), 5.0);
    assert_eq!(count("gristmill_plugin_call_duration_seconds_count", "plugin=\"stamp\""), 5.0);
    assert_eq!(count("gristmill_step_dropped_total", ""), 1.0);
    assert_eq!(count("gristmill_step_failures_total", "class=\"no_branch\""), 1.0);
    assert_eq!(count("gristmill_step_failures_total", "class=\"expression\""), 1.0);
    assert_eq!(count("gristmill_plugin_failures_total", ""), 0.0);
    assert_eq!(count("gristmill_reloads_total", "result=\"applied\""), 1.0);
    assert_eq!(count("gristmill_flow_up", ""), 1.0);
    assert_eq!(count("gristmill_in_flight", ""), 0.0);
    let metrics = running.admin("/metrics");
    assert!(
        metrics.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0")
    );
    assert!(metrics.text().ends_with("# EOF\n"));
}

#[test]
fn what_is_on_its_way_is_counted() {
    let backend = Backend::new();
    let flow = format!(
        "
flow: asks
source: {{ http: {{ listen: 127.0.0.1:0, path: /asks }} }}
steps:
  - send: {{ http: {{ url: \"{}\" }} }}
",
        backend.url()
    );
    let scratch = Scratch::with_flow("asks", &flow);
    let running = scratch.run();
    running.is_running("asks");
    let address = running.address();
    let sent = std::thread::spawn(move || http::post(address, "/asks", b"").unwrap());
    let held = backend.next();
    assert_eq!(running.metric("gristmill_in_flight", &["flow=\"asks\""]), 1.0);
    assert_eq!(running.status("asks")["in_flight"], 1);
    held.answer("");
    assert_eq!(sent.join().unwrap().status, 204);
    assert_eq!(running.metric("gristmill_in_flight", &["flow=\"asks\""]), 0.0);
}

#[test]
fn ready_says_which_flow_is_not_and_why() {
    let scratch = Scratch::with_flow("grinds", GRINDS);
    scratch.plugin("stamp", &guests::stamp("x"));
    scratch.flow("broken", "flow: broken\nsource: { http: {} }\nsteps: []\n");
    let running = scratch.run();
    running.is_running("grinds");
    let ready = running.admin("/health/ready");
    assert_eq!(ready.status, 503);
    let report = ready.json();
    assert_eq!((report["ready"].as_bool(), report["draining"].as_bool()), (Some(false), Some(false)));
    let flows = report["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 2, "{report}");
    let broken = flows.iter().find(|flow| flow["file"] == "flows/broken.yaml").unwrap();
    assert_eq!(broken["state"]["is"], "down");
    assert!(broken["state"]["because"].as_str().unwrap().contains("flows/broken.yaml:2:"), "{broken}");
    assert_eq!(running.admin("/health/ready?flow=grinds").status, 200);
    assert_eq!(running.admin("/health/ready?flow=nobody").status, 404);
    assert_eq!(running.admin("/health/live").text(), "live\n");
}

#[test]
fn only_what_is_known_is_answered() {
    let scratch = Scratch::new();
    let running = scratch.run();
    assert_eq!(running.admin("/").status, 404);
    assert_eq!(http::post(running.admin_address(), "/metrics", b"").unwrap().status, 405);
    let mut kept = Connection::open(running.admin_address()).unwrap();
    for _ in 0..3 {
        assert_eq!(
            kept.ask("GET", "/health/ready", &[], b"").unwrap().json()["flows"],
            serde_json::json!([])
        );
    }
}
