//! Flows that cannot start, beside one that can.

use std::{fs, net::TcpListener};

use crate::harness::{Running, Scratch};

const GOOD: &str = "
flow: good
source: { http: { listen: 127.0.0.1:0, path: /good } }
steps:
  - reply: { body: { text: good } }
";

fn assert_good(running: &Running) {
    assert_eq!(running.post("/good", "").text(), "good");
}

#[test]
fn broken_files_are_named_and_the_good_one_runs() {
    let scratch = Scratch::with_flow("good", GOOD);
    let other = |name: &str, text: &str| {
        GOOD.replace("flow: good", &format!("flow: {name}")).replace("/good", &format!("/{name}")) + text
    };
    let cases: [(&str, Vec<u8>, &str); 10] = [
        // A folder, see below.
        ("folder", Vec::new(), "not a plain file"),
        ("yaml", b"flow: yaml\nsource: [\n".to_vec(), "flows/yaml.yaml:"),
        ("empty", Vec::new(), "flows/empty.yaml"),
        ("unknown", other("unknown", "nonsense: true\n").into(), "unknown key `nonsense`"),
        ("misspelt", other("misspelt", "descripton: it\n").into(), "did you mean `description`"),
        ("verb", other("verb", "").replace("reply:", "repply:").into(), "did you mean `reply`"),
        ("no-utf8", b"flow: \xff\n".to_vec(), "not UTF-8"),
        ("large", vec![b'#'; 2 << 20], "larger than"),
        ("plugin", other("plugin", "  - transform: { plugin: nowhere }\n").into(), "`nowhere`"),
        // By name it comes after `good.yaml`, which therefore has the id.
        ("z-duplicate", GOOD.into(), "`good` is also that of flows/good.yaml"),
    ];
    for (name, content, _) in &cases {
        scratch.save(format!("flows/{name}.yaml"), content);
    }
    scratch.remove("flows/folder.yaml");
    fs::create_dir(scratch.path("flows/folder.yaml")).unwrap();
    scratch.save("flows/good.test.yaml", "not a flow");
    let mut running = scratch.run();
    running.is_running("good");
    assert_good(&running);
    let report = running.admin("/health/ready").json();
    let flows = report["flows"].as_array().unwrap();
    assert_eq!(flows.len(), cases.len() + 1, "{report:#}");
    for (name, _, said) in cases {
        let file = format!("flows/{name}.yaml");
        let flow = flows.iter().find(|flow| flow["file"] == file.as_str()).unwrap();
        assert_eq!(flow["state"]["is"], "down", "{flow}");
        assert!(flow["state"]["because"].as_str().unwrap().contains(said), "{said}: {flow}");
    }
    assert!(running.stop().success());
}

#[test]
fn two_flows_cannot_have_one_route() {
    let scratch = Scratch::with_flow("good", GOOD);
    scratch.flow("second", &GOOD.replace("flow: good", "flow: second"));
    let running = scratch.run();
    running.is_running("good");
    assert_good(&running);
    let why = running.admin("/health/ready").json()["flows"][1]["state"]["because"].to_string();
    assert!(why.contains("already taken by the flow `good`"), "{why}");
}

#[test]
fn a_port_in_use_keeps_only_its_flow_down_until_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let scratch = Scratch::with_flow("good", GOOD);
    scratch.flow(
        "waits",
        &GOOD.replace("flow: good", "flow: waits").replace("127.0.0.1:0", &address.to_string()),
    );
    let running = scratch.run();
    running.is_running("good");
    let status = running.becomes("waits", "down");
    let why = status["state"]["because"].as_str().unwrap();
    assert!(why.contains(&address.to_string()) && why.contains("in use"), "{why}");
    assert_eq!(running.admin("/health/ready").status, 503);
    assert_eq!(running.metric("gristmill_flow_up", &["flow=\"waits\""]), 0.0);
    assert_good(&running);
    drop(taken);
    running.is_running("waits");
    assert_eq!(running.admin("/health/ready").status, 200);
    assert_eq!(crate::harness::http::post(address, "/good", b"").unwrap().text(), "good");
}

#[test]
fn a_missing_directory_keeps_only_its_flow_down_until_it_is_there() {
    let scratch = Scratch::with_flow("good", GOOD);
    scratch.flow(
        "reads",
        "
flow: reads
source: { file: { directory: in, settle_ms: 0 } }
steps:
  - send: { file: { directory: out, name: it } }
",
    );
    let running = scratch.run();
    running.is_running("good");
    let status = running.becomes("reads", "down");
    assert!(status["state"]["because"].as_str().unwrap().contains("in"), "{status}");
    assert_good(&running);
    scratch.save("in/file", "content");
    running.is_running("reads");
    crate::harness::eventually("the file", || (scratch.read("out/it") == "content").then_some(()));
}

#[test]
fn what_the_runtime_itself_needs_is_asked_for_at_once() {
    let scratch = Scratch::new();
    let failed = |arguments: &[&str]| {
        let output = scratch.gristmill(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = failed(&["run", "--flows", "flwos"]);
    assert!(said.contains("flwos") && said.contains("--flows"), "{said}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = failed(&["run", "--admin", &address]);
    assert!(said.contains(&address) && said.contains("--admin"), "{said}");
    let said = failed(&["run", "--config", "nowhere.yaml"]);
    assert!(said.contains("nowhere.yaml") && said.contains("--config"), "{said}");
    scratch.save("gristmill.yaml", "admni: { listen: off }\nwatch: { poll_ms: soon }\n");
    let said = failed(&["run"]);
    assert!(said.contains("did you mean `admin`") && said.contains("gristmill.yaml:2:"), "{said}");
}
