//! Every block marked `yaml` of the pages under `docs/` is validated by the real binary. A block that is only a part of a
//! flow, or of a sink, is completed before. A block that is meant to be refused is marked `yaml refused`.

use std::{fs, path::Path};

use gristmill_core::{
    ErrorClass,
    config::schema_of,
    limits::{FlowLimits, PluginLimits},
};
use gristmill_guests::{Guest, router, transformer};

use crate::harness::Scratch;

/// What the examples take from the environment.
const VARIABLES: [&str; 6] = [
    "API_KEY",
    "API_TOKEN",
    "BROKER_PASSWORD",
    "GITHUB_WEBHOOK_SECRET",
    "MQTT_PASSWORD",
    "RABBITMQ_PASSWORD",
];

fn page(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The blocks that are marked with exactly this.
fn blocks<'p>(page: &'p str, mark: &str) -> Vec<&'p str> {
    let open = format!("\n```{mark}\n");
    page.split(open.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default()).collect()
}

/// A flow file of which this block is a part.
fn completed(block: &str) -> String {
    let has =
        |key: &str| block.lines().any(|line| line.strip_prefix(key).is_some_and(|r| r.starts_with(':')));
    let indented = |by: &str| block.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    let first = block.lines().find(|line| !line.trim_start().starts_with('#')).unwrap_or_default();
    let block = match first {
        list if list.trim_start().starts_with("- ") => format!("steps:\n{}", indented("  ")),
        part if part.starts_with("url:") => {
            format!("steps:\n  - send:\n      http:\n{}", indented("        "))
        }
        _ => format!("{block}\n"),
    };
    let mut flow = String::new();
    for (key, value) in [
        ("flow", "flow: example\n"),
        ("source", "source: { http: { listen: 127.0.0.1:8080, path: /example } }\n"),
        ("steps", "steps: []\n"),
    ] {
        if !has(key) && !block.starts_with(&format!("{key}:")) {
            flow.push_str(value);
        }
    }
    flow + &block
}

/// Whether the flow, or what stands in the configuration file, is valid, and what was said.
fn validated(scratch: &Scratch) -> (bool, String) {
    let mut command = scratch.command();
    for name in VARIABLES {
        command.env(name, "0123456789abcdef");
    }
    let output = command.arg("validate").output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_flows_of_the_pages_are_valid() {
    let scratch = Scratch::new();
    // What stands under `config` is for the tests of each plugin, which run the examples of its own page.
    let takes_anything = |guest| Guest { schema: r#"{"type":"object"}"#, ..guest };
    for name in ["json-map", "order-stamp"] {
        scratch.plugin(name, &takes_anything(transformer()));
    }
    scratch.plugin("content-router", &takes_anything(router()));
    scratch.save("secrets/webhook", "0123456789abcdef\n");
    let (mut valid, mut wrong) = (0, String::new());
    for name in ["flows.md", "adapters/amqp.md", "adapters/file.md", "adapters/http.md", "adapters/mqtt.md"] {
        let page = page(name);
        for block in blocks(&page, "yaml") {
            // The flows that follow on the page name the connections of this one.
            if block.lines().any(|line| line == "connections:") {
                scratch.save("gristmill.yaml", block);
                scratch.flow("example", &completed(""));
            } else {
                scratch.flow("example", &completed(block));
            }
            let (good, said) = validated(&scratch);
            if !good {
                wrong += &format!("docs/{name} has an example that is refused:\n{block}\n{said}\n");
            }
            valid += 1;
        }
        for block in blocks(&page, "yaml refused") {
            scratch.flow("example", &completed(block));
            if validated(&scratch).0 {
                wrong += &format!("docs/{name} has an example that should be refused:\n{block}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(valid > 25, "{valid} examples");
}

#[test]
fn the_configurations_of_the_pages_are_valid() {
    let scratch = Scratch::with_flow("example", &completed(""));
    let page = page("operating.md");
    let blocks = blocks(&page, "yaml");
    assert!(!blocks.is_empty(), "there is no example of a configuration");
    for block in blocks {
        scratch.save("gristmill.yaml", block);
        let (good, said) = validated(&scratch);
        assert!(good, "docs/operating.md has an example that is refused:\n{block}\n{said}");
    }
}

/// A class or a limit that is added has its line in the page.
#[test]
fn the_page_of_flows_has_every_class_and_every_limit() {
    let page = page("flows.md");
    let classes = ErrorClass::ALL.iter().map(|class| class.name().to_owned());
    let limits = [schema_of::<FlowLimits>(), schema_of::<PluginLimits>()];
    let limits = limits.iter().flat_map(|schema| schema["properties"].as_object().unwrap().keys().cloned());
    for name in classes.chain(limits) {
        assert!(page.contains(&format!("\n| `{name}` |")), "`{name}` has no line in docs/flows.md");
    }
}
