//! The commands that end by themselves. What `validate` says of a folder of mistakes is kept beside it, in
//! `golden/<case>/expected.txt` and `expected.json`, as a person and a tool see it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use gristmill_guests::{Guest, router, transformer};
use serde_json::Value;

use crate::harness::{Scratch, assert_golden, golden, guests};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The plugins that the golden flows name.
fn put_plugins(scratch: &Scratch) {
    let needs_log = Guest {
        wit: "import gristmill:plugin/log@0.1.0;",
        imports: r#"(import "gristmill:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#,
        items: "(func (call $log (i32.const 0) (i32.const 0) (i32.const 0)))",
        ..transformer()
    };
    let needs_currency = Guest {
        schema: r#"{"type":"object","required":["currency"],"additionalProperties":false,
            "properties":{"currency":{"type":"string"},"rate":{"type":"number"}}}"#,
        ..transformer()
    };
    scratch.plugin("stamp", &guests::stamp("stamp"));
    scratch.plugin("needs-log", &needs_log);
    scratch.plugin("needs-currency", &needs_currency);
    scratch.plugin("routes", &router());
    scratch.save("plugins/no-wasm.wasm", "not Wasm at all");
    scratch.save("plugins/other-contract.wasm", b"\0asm\x0d\0\x01\0");
}

/// Both streams and the exit status, with what differs from run to run left out.
fn transcript(scratch: &Scratch, output: &Output) -> String {
    let stream = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let text = format!(
        "{}--- stderr\n{}--- exit {}\n",
        stream(&output.stdout),
        stream(&output.stderr),
        output.status.code().unwrap()
    );
    without_what_differs(scratch, &text)
}

/// With `SCRATCH` for the folder, and `*` for every version of a flow, which changes with every change of the guests.
fn without_what_differs(scratch: &Scratch, text: &str) -> String {
    let text = text.replace(scratch.path("").to_str().unwrap().trim_end_matches('/'), "SCRATCH");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) =
        ["version ", "\"version\": \""].iter().filter_map(|m| rest.find(m).map(|at| at + m.len())).min()
    {
        let (before, after) = rest.split_at(at);
        let digits = after.chars().take_while(char::is_ascii_hexdigit).count();
        out.push_str(before);
        out.push_str(if digits == 12 { "*" } else { &after[..digits] });
        rest = &after[digits..];
    }
    out + rest
}

#[test]
fn validate_says_every_mistake_at_once_with_place_and_mend() {
    let mut cases: Vec<PathBuf> =
        fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for case in cases.iter().filter(|case| case.is_dir()) {
        let scratch = Scratch::new();
        put_plugins(&scratch);
        for entry in fs::read_dir(case).unwrap() {
            let file = entry.unwrap().path();
            if file.ends_with("gristmill.yaml") {
                fs::copy(&file, scratch.path("gristmill.yaml")).unwrap();
            } else if file.extension().is_some_and(|extension| extension == "yaml") {
                fs::copy(&file, scratch.path("flows").join(file.file_name().unwrap())).unwrap();
            }
        }
        let human = scratch.gristmill(&["validate"]);
        let json = scratch.gristmill(&["validate", "--format", "json"]);
        assert_eq!(human.status.code(), json.status.code());
        let document: Value = serde_json::from_slice(&json.stdout).unwrap();
        let good = document["mistakes"].as_array().unwrap().is_empty();
        assert_eq!(json.status.code(), Some(i32::from(!good)), "{}", case.display());
        assert_golden(&case.join("expected.txt"), &transcript(&scratch, &human));
        assert_golden(
            &case.join("expected.json"),
            &without_what_differs(&scratch, &String::from_utf8(json.stdout).unwrap()),
        );
    }
}

#[test]
fn validate_takes_files_and_folders() {
    let scratch = Scratch::new();
    let golden = golden();
    let good = golden.join("duplicates/first.yaml");
    let run = |path: &Path| scratch.gristmill(&["validate", path.to_str().unwrap()]);
    assert_eq!(run(&good).status.code(), Some(0));
    assert_eq!(run(&golden.join("duplicates")).status.code(), Some(1));
    assert_eq!(run(&golden.join("duplicates/nowhere.yaml")).status.code(), Some(1));
    let empty = scratch.gristmill(&["validate"]);
    assert_eq!(empty.status.code(), Some(1));
    assert!(String::from_utf8(empty.stderr).unwrap().contains("gristmill new flow"));
    let mistake = |arguments: &[&str]| -> Value {
        let output = scratch.gristmill(&[&["validate", "--format", "json"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mistake = document["mistakes"][0].clone();
        assert!(mistake["text"].is_string() && document["mistakes"][1].is_null(), "{document:#}");
        mistake
    };
    assert_eq!(mistake(&[])["code"], "no_flows");
    assert_eq!(mistake(&["--flows", "nowhere"])["code"], "unreadable_folder");
    assert_eq!(mistake(&["--config", "nowhere.yaml"])["code"], "unreadable_file");
    let missing = mistake(&["nowhere.yaml"]);
    assert_eq!(
        (&missing["code"], &missing["mend"]),
        (&"unreadable_file".into(), &"name a file that is there".into())
    );
    std::os::unix::fs::symlink("nowhere", scratch.path("flows/linked.YAML")).unwrap();
    assert_eq!(mistake(&[])["file"], "flows/linked.YAML");
    scratch.remove("flows/linked.YAML");
    scratch.save("gristmill.yaml", "flwos: elsewhere\n");
    let config = scratch.gristmill(&["validate", "--format", "json", good.to_str().unwrap()]);
    assert_eq!(config.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&config.stdout).unwrap();
    assert_eq!(document["mistakes"][0]["code"], "unknown_key", "{document:#}");
    assert_eq!(
        (&document["mistakes"][0]["line"], &document["mistakes"][0]["column"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn inspect_shows_what_a_plugin_is_and_needs() {
    let scratch = Scratch::new();
    put_plugins(&scratch);
    let shown = scratch.gristmill(&["plugin", "inspect", "plugins/needs-log.wasm"]);
    assert!(shown.status.success());
    let text = String::from_utf8(shown.stdout).unwrap();
    for part in [
        "guest 1.0.0: A guest of the tests.",
        "a transformer",
        "`transform:`",
        "grants: { log: true }",
        "gristmill:plugin/log@0.1.0",
        "\"additionalProperties\": false",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let shown = scratch.gristmill(&["plugin", "inspect", "--format", "json", "plugins/needs-currency.wasm"]);
    let document: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(document["description"]["config_schema"]["required"][0], "currency", "{document:#}");
    assert_eq!(document["needs"], serde_json::json!([]));
    assert_eq!(document["digest"].as_str().unwrap().len(), 64);
    for (file, said) in [("plugins/no-wasm.wasm", "not Wasm"), ("nowhere.wasm", "nowhere.wasm")] {
        let refused = scratch.gristmill(&["plugin", "inspect", file]);
        assert_eq!(refused.status.code(), Some(1));
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn what_cannot_be_inspected_is_a_document_too() {
    let scratch = Scratch::new();
    put_plugins(&scratch);
    for (file, said) in [("plugins/no-wasm.wasm", "not Wasm"), ("nowhere.wasm", "nowhere.wasm")] {
        let refused = scratch.gristmill(&["plugin", "inspect", "--format", "json", file]);
        assert_eq!(refused.status.code(), Some(1));
        let document: Value = serde_json::from_slice(&refused.stdout).unwrap();
        assert!(document["error"].as_str().unwrap().contains(said), "{document}");
    }
}

/// A YAML file as JSON.
fn as_json(file: &Path) -> Value {
    let text = fs::read_to_string(file).unwrap();
    gristmill_engine::yaml::parse(&file.display().to_string(), &text).ok().unwrap().to_json()
}

#[track_caller]
fn assert_fits(validator: &jsonschema::Validator, file: &Path) {
    let json = as_json(file);
    let errors: Vec<String> =
        validator.iter_errors(&json).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{}: {errors:#?}", file.display());
}

#[test]
fn the_schemas_are_schemas_and_what_is_here_fits_them() {
    let scratch = Scratch::new();
    let schema = |arguments: &[&str]| -> Value {
        let output = scratch.gristmill(arguments);
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let flows = schema(&["schema"]);
    assert_eq!(flows["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(jsonschema::meta::is_valid(&flows));
    let validator = jsonschema::validator_for(&flows).unwrap();
    let mut seen = 0;
    for entry in fs::read_dir(repository().join("flows")).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".yaml") && !name.ends_with(".test.yaml") {
            assert_fits(&validator, &file);
            seen += 1;
        }
    }
    assert!(seen > 0, "no flow was looked at");
    assert!(scratch.gristmill(&["new", "flow", "hello"]).status.success());
    assert_fits(&validator, &scratch.path("flows/hello.yaml"));
    for bad in ["keys/keys.yaml", "values/missing.yaml"] {
        assert!(!validator.is_valid(&as_json(&golden().join(bad))), "{bad} fits the schema");
    }
    let config = schema(&["schema", "--config"]);
    assert!(jsonschema::meta::is_valid(&config));
    assert_fits(&jsonschema::validator_for(&config).unwrap(), &scratch.path("gristmill.yaml"));
}

#[test]
fn a_new_flow_runs_at_once() {
    let scratch = Scratch::new();
    assert!(scratch.gristmill(&["new", "flow", "hello"]).status.success());
    let valid = scratch.gristmill(&["validate"]);
    assert!(valid.status.success(), "{}", transcript(&scratch, &valid));
    // The port that it is written with may be in use on this machine.
    let flow = scratch.read("flows/hello.yaml");
    assert!(flow.contains("127.0.0.1:8080"));
    let second = scratch.gristmill(&["new", "flow", "second"]);
    assert!(String::from_utf8(second.stdout).unwrap().contains("127.0.0.1:8081/second"));
    assert!(scratch.read("flows/second.yaml").contains("listen: 127.0.0.1:8081\n"));
    scratch.remove("flows/second.yaml");
    scratch.flow("hello", &flow.replace("127.0.0.1:8080", "127.0.0.1:0"));
    let running = scratch.run();
    running.is_running("hello");
    let answer = running.post("/hello", r#"{"name":"Ada"}"#);
    assert_eq!((answer.status, answer.json()["greeting"].as_str()), (200, Some("Hello, Ada!")));
    assert_eq!(running.post("/hello", "{}").status, 202, "what is no greeting is a dead letter");
    assert_eq!(scratch.read("out/hello/greetings.jsonl"), "{\"greeting\":\"Hello, Ada!\"}\n");
    assert_eq!(scratch.letters("dead/hello").len(), 1);
}

#[test]
fn new_writes_over_nothing_and_takes_only_names() {
    let scratch = Scratch::new();
    let failed = |arguments: &[&str]| {
        let output = scratch.gristmill(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(scratch.gristmill(&["new", "flow", "hello"]).status.success());
    let before = scratch.read("flows/hello.yaml");
    assert!(failed(&["new", "flow", "hello"]).contains("is there already"));
    assert_eq!(scratch.read("flows/hello.yaml"), before);
    assert!(failed(&["new", "flow", "../out"]).contains("is no name"));
    assert!(failed(&["new", "plugin", "Not A Name"]).contains("Not A Name"));
    assert!(failed(&["new", "plugin", "../out"]).contains("../out"));
    for what in ["flow", "plugin"] {
        assert!(failed(&["new", what, ""]).contains("lower-case letter"));
    }
    fs::create_dir(scratch.path("there")).unwrap();
    assert!(failed(&["new", "plugin", "there"]).contains("is there already"));
}

#[test]
fn a_new_plugin_builds_and_passes_its_test_at_once() {
    let scratch = Scratch::new();
    let new = scratch.gristmill(&["new", "plugin", "my-plugin"]);
    assert!(new.status.success() && String::from_utf8(new.stdout).unwrap().contains("/my_plugin.wasm"));
    let folder = scratch.path("my-plugin");
    // The versions that this workspace has, so that nothing need be fetched.
    fs::copy(repository().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--quiet"])
        .current_dir(&folder)
        // The same as that of the template's own test, so that what it depends on is built once.
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-plugin"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", transcript(&scratch, &output));
}

#[test]
fn every_command_can_be_learnt_from_its_help() {
    let scratch = Scratch::new();
    let help = |arguments: &[&str]| {
        let output = scratch.gristmill(&[arguments, &["--help"]].concat());
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // Of each, a word that must be there, and its example.
    let commands: [(&[&str], &str, &str); 9] = [
        (&[], "Commands:", "gristmill new flow hello"),
        (&["run"], "Exit codes:", "gristmill run --flows"),
        (&["validate"], "Exit codes:", "gristmill validate --format json"),
        (&["plugin"], "Commands:", "gristmill plugin inspect plugins/"),
        (&["plugin", "inspect"], "Exit codes:", "gristmill plugin inspect plugins/"),
        (&["schema"], "--config", "gristmill schema >"),
        (&["new"], "Commands:", "gristmill new plugin "),
        (&["new", "flow"], "<NAME>", "gristmill new flow orders"),
        (&["new", "plugin"], "<NAME>", "gristmill new plugin normaliser"),
    ];
    for (command, part, example) in commands {
        let text = help(command);
        for part in ["Usage: gristmill", part, example] {
            assert!(text.contains(part), "{command:?}, {part}: {text}");
        }
        assert!(text.lines().next().unwrap().ends_with('.') || text.lines().count() > 8, "{text}");
    }
    assert_eq!(scratch.gristmill(&["rnu"]).status.code(), Some(2));
    assert_eq!(scratch.gristmill(&[]).status.code(), Some(2));
}
