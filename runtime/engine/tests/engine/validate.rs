//! Every mistake with its place and its mend.
//!
//! Golden files: each `tests/golden/<name>.yaml` has its `<name>.txt`, with one line a mistake: its code, line and column, text
//! and mend; or `ok`. `GRISTMILL_BLESS=1 cargo nextest run -p gristmill-engine golden` writes the `.txt` files anew:
//! read the difference before it is committed. Files that begin with `shape-` are wrong in shape: an editor that has the
//! JSON Schema says so, too.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use gristmill_core::{
    config::{Mistake, Mistakes, Span},
    plugin::{Grant, PluginError, Transformed},
    testkit::{ScriptedAdapter, ScriptedPlugin, ScriptedPlugins},
};
use gristmill_engine::{
    connections::check_connections,
    flow::{FlowFile, Registry, SetContext, check_set, flow_schema, with_connections},
    yaml,
};
use serde_json::json;

use crate::harness::{context, flow};

/// What the golden files name: the plugins `upper` (wants `field`), `names` (a router), `timed` (needs `clock`) and `picky`
/// (refuses its configuration when it is asked), and the sources `mute` (takes no answers), `lossy` (cannot keep what is rejected) and `queue` (has an order).
fn world() -> SetContext {
    let (adapter, plugins) = (ScriptedAdapter::new(), ScriptedPlugins::new());
    adapter.source("mute").take_no_replies();
    adapter.source("lossy").lose_rejected();
    adapter.source("queue").keep_order();
    let transformer = || ScriptedPlugin::transformer(|_| Ok(Transformed::Drop(String::new())));
    let schema = json!({
        "type": "object",
        "properties": { "field": { "type": "string" }, "times": { "type": "integer", "minimum": 1 } },
        "required": ["field"],
        "additionalProperties": false,
    });
    plugins.save("upper", transformer().with_schema(schema));
    plugins.save("timed", transformer().needing([Grant::Clock, Grant::Log]));
    let refusal = PluginError::new("plugin_config_refused", "it refuses: `config.fields[1].path`: no path");
    plugins.save("picky", transformer().with_schema(json!({ "type": "object" })).failing_to_bind(refusal));
    plugins.save("names", ScriptedPlugin::router(|_| Ok(Vec::new())));
    context(&adapter, &plugins)
}

fn golden() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    paths.sort();
    assert!(paths.len() > 10, "the golden files are gone");
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

fn line(mistake: &Mistake) -> String {
    let (code, span, mend) = (mistake.code, &mistake.span, mistake.mend.as_deref().unwrap_or("-"));
    format!("{code} {}:{} {} -> {mend}\n", span.line, span.column, mistake.text)
}

async fn mistakes_of(path: &str, text: &str) -> Vec<Mistake> {
    let file = FlowFile { path: path.into(), text: Ok(text.into()) };
    let mut checked = check_set(vec![file], &world(), &HashMap::new()).await;
    checked.pop().unwrap().result.err().unwrap_or_default()
}

#[tokio::test]
async fn golden_files_say_what_they_said() {
    let bless = std::env::var_os("GRISTMILL_BLESS").is_some();
    let mut different = Vec::new();
    for (path, text) in golden() {
        let found = mistakes_of(stem(&path), &text).await;
        let mut said: String = found.iter().map(line).collect();
        if said.is_empty() {
            said = "ok\n".into();
        }
        let beside = path.with_extension("txt");
        if bless {
            fs::write(&beside, &said).unwrap();
        } else if fs::read_to_string(&beside).unwrap_or_default() != said {
            different.push(format!("{} says now:\n{said}", beside.display()));
        }
        assert!(!said.contains("hunter2"), "a secret is shown: {said}");
        for mistake in &found {
            let (start, end) = (mistake.span.start, mistake.span.end);
            assert!(text.get(start..end).is_some(), "{}: no such place: {mistake}", path.display());
        }
    }
    assert!(
        different.is_empty(),
        "if this is right, run the test with GRISTMILL_BLESS=1\n{}",
        different.join("\n")
    );
}

#[test]
fn the_schema_accepts_what_is_valid_and_refuses_what_is_wrong_in_shape() {
    let schema = flow_schema(&Registry::new().with(ScriptedAdapter::new()));
    assert!(jsonschema::meta::is_valid(&schema), "the schema itself is wrong");
    let validator = jsonschema::validator_for(&schema).unwrap();
    let (mut good, mut bad) = (0, 0);
    for (path, text) in golden() {
        let Ok(node) = yaml::parse(stem(&path), &text) else { continue };
        let errors: Vec<String> =
            validator.iter_errors(&node.to_json()).map(|e| format!("{}: {e}", e.instance_path())).collect();
        if stem(&path).starts_with("shape-") {
            assert!(!errors.is_empty(), "{} is accepted by the schema", path.display());
            bad += 1;
        } else {
            assert!(errors.is_empty(), "{} is refused by the schema: {errors:#?}", path.display());
            good += 1;
        }
    }
    assert!(good > 3 && bad > 3);
}

#[test]
fn the_schema_refuses_every_single_mistake_of_shape() {
    let schema = flow_schema(&Registry::new().with(ScriptedAdapter::new()));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let accepts = |rest: &str| {
        let node = yaml::parse("f.yaml", &flow(rest)).unwrap();
        validator.is_valid(&node.to_json())
    };
    let step = |step: &str| accepts(&format!("steps: [{step}]\n"));
    for good in [
        "choice: [{ when: x, steps: [] }, { otherwise: [{ filter: { keep: x } }] }]",
        "route: { plugin: p, branches: { a: [{ log: { text: x } }] }, otherwise: [] }",
        "send: { scripted: { name: out } }",
        "reply: {}",
    ] {
        assert!(step(&format!("{{ {good} }}")), "{good}");
    }
    for bad in [
        "{ nonsense: {} }",
        "{ send: { scripted: { name: out } }, log: { text: x } }",
        "{ send: { nonsense: {} } }",
        "{ send: {} }",
        "{ send: { scripted: { nam: out } } }",
        "{ choice: [{ when: x, steps: [{ nonsense: {} }] }] }",
        "{ choice: [{ otherwise: [{ nonsense: {} }] }] }",
        "{ choice: [{ when: x }] }",
        "{ route: { plugin: p, branches: { a: [{ nonsense: {} }] } } }",
        "{ route: { plugin: p, branches: {}, otherwise: [{ nonsense: {} }] } }",
        "{ transform: { plugin: p, limits: { deadline_ms: 0 } } }",
        "{ reply: { status: 99 } }",
        "send",
    ] {
        assert!(!step(bad), "{bad}");
    }
    for (good, rest) in [
        (true, "steps: []\non_error: [{ match: [any], then: { dead_letter: { scripted: { name: x } } } }]\n"),
        (false, "steps: []\non_error: [{ match: [any], then: { dead_letter: { nonsense: {} } } }]\n"),
        (false, "steps: []\non_error: [{ match: [nonsense], then: { reject: {} } }]\n"),
        (false, "steps: []\non_error: [{ match: [any], then: { reject: {}, release: {} } }]\n"),
        (false, "steps: []\norder: total\n"),
        (false, "steps: []\nlimits: { in_flight: 0 }\n"),
        (false, "step: []\n"),
    ] {
        assert_eq!(accepts(rest), good, "{rest}");
    }
}

#[test]
fn the_schema_of_a_configuration_knows_the_connections() {
    let base = json!({ "type": "object", "properties": { "connections": { "type": "object", "x-connections": true } } });
    let schema = with_connections(base, &Registry::new().with(ScriptedAdapter::new()));
    assert!(jsonschema::meta::is_valid(&schema), "the schema itself is wrong");
    let validator = jsonschema::validator_for(&schema).unwrap();
    let accepts = |connections: serde_json::Value| validator.is_valid(&json!({ "connections": connections }));
    assert!(accepts(json!({})) && accepts(json!({ "bus": { "scripted": { "host": "a" } } })));
    assert!(!accepts(json!({ "bus": { "scripted": { "hots": "a" } } })));
    assert!(!accepts(json!({ "bus": { "nonsense": {} } })));
    assert!(!accepts(json!({ "The Bus": { "scripted": { "host": "a" } } })));
}

#[test]
fn every_mistake_in_connections_is_found() {
    let text = "The Bus: { scripted: { host: a } }\nb: { scriptd: {} }\nc: { scripted: { hots: a } }\nd: 1\n";
    let registry = Registry::new().with(ScriptedAdapter::new());
    let mut mistakes = Mistakes::new();
    let node = yaml::parse("gristmill.yaml", text).unwrap();
    check_connections(&node, &registry, Path::new("."), &mut mistakes);
    let said: String = mistakes.into_sorted().iter().map(line).collect();
    assert_eq!(
        said,
        "invalid_id 1:1 a connection's name is 1 to 64 lower-case letters, digits, `-` and `_` -> e.g. `orders-broker`\n\
         unknown_adapter 2:6 unknown connection `scriptd` -> did you mean `scripted`?\n\
         missing_key 3:16 `host` is missing -> add `host:`\n\
         unknown_key 3:18 unknown key `hots` -> did you mean `host`?\n\
         wrong_shape 4:4 a connection is a map with one key, the adapter, and this is a whole number -> write one of `scripted`\n"
    );
}

#[tokio::test]
async fn a_flow_has_an_end() {
    let steps = "  - log: { text: x }\n".repeat(1_200);
    let found = mistakes_of("f.yaml", &flow(&format!("steps:\n{steps}"))).await;
    assert_eq!(
        found.iter().map(line).collect::<String>(),
        "too_many_steps 1004:5 a flow has at most 1000 steps -> split the flow in two\n"
    );
    let mut nested = String::from("[]");
    for _ in 0..20 {
        nested = format!("[{{ choice: [{{ otherwise: {nested} }}] }}]");
    }
    let found = mistakes_of("f.yaml", &flow(&format!("steps: {nested}\n"))).await;
    assert_eq!(found.iter().map(|m| m.code).collect::<Vec<_>>(), ["nested_too_deep"]);
}

#[tokio::test]
async fn all_files_of_a_set_are_checked_and_what_they_share_is_found() {
    let files = [
        ("c.yaml", "flow: c\nsource: { scripted: { name: one } }\nsteps: []\n"),
        ("a.yaml", "flow: a\nsource: { scripted: { name: one } }\nsteps: []\n"),
        ("b.yaml", "flow: a\nsource: { scripted: { name: one } }\nsteps: []\n"),
        ("d.yaml", "flow: d\n"),
        ("f.yaml", "flow: f\nsource: { scripted: { name: on* } }\nsteps: []\n"),
        // One with other mistakes takes nothing from the others, and hears all that is wrong with it.
        ("0.yaml", "flow: a\nsource: { scripted: { name: one } }\nsteps: []\nstep: []\n"),
        // Two with other mistakes hear of each other, so that mending those does not bring up the next.
        ("x.yaml", "flow: x\nsource: { scripted: { name: two } }\nsteps: []\nstep: []\n"),
        ("y.yaml", "flow: y\nsource: { scripted: { name: two } }\nsteps: []\nstep: []\n"),
    ];
    let mut files = crate::harness::flow_files(&files);
    let unreadable = Mistake::new("unreadable_file", &Span::nowhere("e.yaml"), "permission denied");
    files.push(FlowFile { path: "e.yaml".into(), text: Err(unreadable) });
    let checked = check_set(files, &world(), &HashMap::new()).await;
    let said: Vec<String> = checked
        .iter()
        .map(|file| match &file.result {
            Ok(flow) => format!("{} is {}", file.path.display(), flow.id),
            Err(mistakes) => mistakes.iter().map(|m| format!("{} {}; ", m.code, m.span)).collect(),
        })
        .collect();
    assert_eq!(
        said,
        [
            "duplicate_flow 0.yaml:1:7; duplicate_claim 0.yaml:2:9; unknown_key 0.yaml:4:1; ",
            "a.yaml is a",
            "duplicate_flow b.yaml:1:7; duplicate_claim b.yaml:2:9; ",
            "duplicate_claim c.yaml:2:9; ",
            "missing_key d.yaml:1:1; missing_key d.yaml:1:1; ",
            "unreadable_file e.yaml:1:1; ",
            "conflicting_source f.yaml:2:9; ",
            "unknown_key x.yaml:4:1; ",
            "duplicate_claim y.yaml:2:9; unknown_key y.yaml:4:1; ",
        ]
    );
}

#[tokio::test]
async fn a_version_is_of_what_was_written_and_of_its_plugins() {
    let version = async |text: &str| {
        let file = FlowFile { path: "f.yaml".into(), text: Ok(Arc::from(text)) };
        let mut checked = check_set(vec![file], &world(), &HashMap::new()).await;
        checked.pop().unwrap().result.unwrap().version
    };
    let one = version(&flow("steps: []\n")).await;
    assert_eq!(version(&flow("steps: [] # a comment\n")).await, one);
    assert_ne!(version(&flow("steps: []\ndescription: other\n")).await, one);
    assert!(one.len() == 12 && one.bytes().all(|b| b.is_ascii_hexdigit()));
}
