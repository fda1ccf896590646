//! Hostile plugins, beside a good one that must not notice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gristmill_guests::{Guest, router, transformer};

use crate::harness::{Running, Scratch, guests};

const GOOD: &str = "
flow: good
source: { http: { listen: 127.0.0.1:0, path: /good } }
steps:
  - transform: { plugin: good, limits: { deadline_ms: 20000, call_timeout_ms: 20000 } }
  - reply: { body: { text: \"${headers['x-plugin']}\" } }
";

/// A flow `<name>` over the plugin `<name>`, with what else its step says.
fn flow(name: &str, with: &str) -> String {
    format!(
        "
flow: {name}
source: {{ http: {{ listen: 127.0.0.1:0, path: /{name} }} }}
steps:
  - transform:
      plugin: {name}
      limits: {{ deadline_ms: 2000, call_timeout_ms: 3000, memory_mib: 16, log_lines_per_second: 10 }}
      {with}
on_error:
  - match: [any]
    then: {{ dead_letter: {{ file: {{ directory: dead/{name} }} }} }}
"
    )
}

fn with_good() -> Scratch {
    let scratch = Scratch::with_flow("good", GOOD);
    scratch.plugin("good", &guests::stamp("good"));
    scratch
}

fn assert_good(running: &Running) {
    assert_eq!(running.post("/good", "").text(), "good");
}

fn needs_log() -> Guest {
    Guest {
        wit: "import gristmill:plugin/log@0.1.0;",
        imports: r#"(import "gristmill:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#,
        entry: "(loop $l (call $log (i32.const 2) (local.get $body) (local.get $body_len)) (br $l)) unreachable",
        ..transformer()
    }
}

#[test]
fn plugins_that_do_not_fit_keep_only_their_flow_down() {
    let scratch = with_good();
    let foreign = Guest {
        wit: "import other:host/calls@1.0.0;",
        imports: r#"(import "other:host/calls@1.0.0" "call" (func $call))"#,
        items: "(func (call $call))",
        ..transformer()
    };
    let strict = Guest {
        schema: r#"{"type":"object","properties":{"currency":{"type":"string"}},"required":["currency"],"additionalProperties":false}"#,
        ..transformer()
    };
    let refuses = Guest {
        configure: "(i32.store8 (i32.const 64) (i32.const 1)) (i32.store (i32.const 68) (local.get $config))
            (i32.store (i32.const 72) (local.get $config_len)) (i32.const 64)",
        ..transformer()
    };
    let cases: [(&str, Vec<u8>, &str, &str); 9] = [
        ("no-wasm", b"\x7fELF but not quite".to_vec(), "", "not Wasm"),
        ("torn", transformer().module()[..200].to_vec(), "", "not valid Wasm"),
        ("untyped", b"\0asm\x01\0\0\0".to_vec(), "", "no component type"),
        ("foreign", foreign.module(), "", "`other:host/calls@1.0.0`"),
        ("routes", router().module(), "", "`routes` is a router"),
        ("ungranted", needs_log().module(), "", "needs `log`, which is not granted"),
        ("strict", strict.module(), "config: { curency: EUR }", "`currency` is missing"),
        ("refuses", refuses.module(), "", "refuses its configuration"),
        ("silent", Guest { describe: "unreachable", ..transformer() }.module(), "", "describe"),
    ];
    for (name, content, with, _) in &cases {
        scratch.save(format!("plugins/{name}.wasm"), content);
        scratch.flow(name, &flow(name, with));
    }
    let mut running = scratch.run();
    running.is_running("good");
    assert_good(&running);
    let report = running.admin("/health/ready").json();
    for (name, _, _, said) in cases {
        let file = format!("flows/{name}.yaml");
        let flows = report["flows"].as_array().unwrap();
        let flow = flows.iter().find(|flow| flow["file"] == file.as_str()).unwrap();
        assert_eq!(flow["state"]["is"], "down", "{flow}");
        assert!(flow["state"]["because"].as_str().unwrap().contains(said), "{said}: {flow}");
    }
    // The line that the mistake asks for mends it.
    let mark = running.mark();
    scratch.flow("ungranted", &flow("ungranted", "grants: { log: true }"));
    running.runs_after(mark, "ungranted");
    assert!(running.stop().success());
}

/// A guest's misdeed, what its step is granted, and the class of the failure that its message gets.
fn misdeeds() -> Vec<(&'static str, Guest, &'static str, &'static str)> {
    let header = |value: &'static str| {
        Guest {
        items: value,
        ..guests::entry(
            "(i32.store (i32.const 16) (local.get $id)) (i32.store (i32.const 20) (local.get $id_len))
            (i32.store (i32.const 24) (i32.const 40)) (i32.store (i32.const 28) (i32.const 2))
            (i32.store (i32.const 72) (i32.const 16)) (i32.store (i32.const 76) (i32.const 1)) (i32.const 64)",
        )
    }
    };
    let sleeps = Guest {
        wit: "import wasi:clocks/monotonic-clock@0.2.3; import wasi:io/poll@0.2.3;",
        imports: r#"(import "wasi:clocks/monotonic-clock@0.2.3" "subscribe-duration" (func $timer (param i64) (result i32)))
            (import "wasi:io/poll@0.2.3" "[method]pollable.block" (func $block (param i32)))"#,
        entry: "(call $block (call $timer (i64.const 3600000000000))) (i32.const 64)",
        ..transformer()
    };
    let recursion = Guest {
        items: "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))",
        ..guests::entry("(call $deep (i32.const 0))")
    };
    vec![
        ("traps", guests::traps(), "", "plugin_trap"),
        ("recursion", recursion, "", "plugin_trap"),
        ("loops", guests::entry("(loop $l (br $l)) unreachable"), "", "plugin_timeout"),
        ("sleeps", sleeps, "grants: { clock: true }", "plugin_timeout"),
        ("logs", needs_log(), "grants: { log: true }", "plugin_timeout"),
        (
            "allocates",
            guests::entry("(loop $l (br_if $l (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) unreachable"),
            "",
            "plugin_memory",
        ),
        (
            "headers",
            guests::entry(
                "(memory.fill (local.tee $id (call $allocate (i32.const 0) (i32.const 0) (i32.const 8)
                    (i32.const 4800000))) (i32.const 0) (i32.const 4800000))
                (i32.store (i32.const 72) (local.get $id)) (i32.store (i32.const 76) (i32.const 300000)) (i32.const 64)",
            ),
            "",
            "plugin_malformed",
        ),
        (
            "body",
            guests::entry(
                "(i32.store8 (i32.const 88) (i32.const 1))
                (i32.store (i32.const 92) (call $allocate (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 9000000)))
                (i32.store (i32.const 96) (i32.const 9000000)) (i32.const 64)",
            ),
            "",
            "plugin_malformed",
        ),
        ("no-utf8", header(r#"(data (i32.const 40) "\ff\fe")"#), "", "plugin_malformed"),
        ("no-header", header(r#"(data (i32.const 40) "a\n")"#), "", "plugin_malformed"),
        ("wild", guests::entry("(i32.const -64)"), "", "plugin_malformed"),
    ]
}

#[test]
fn each_misdeed_is_the_failure_of_its_message_alone() {
    let scratch = with_good();
    let misdeeds = misdeeds();
    for (name, guest, with, _) in &misdeeds {
        scratch.plugin(name, guest);
        scratch.flow(name, &flow(name, with));
    }
    let mut running = scratch.run();
    running.is_running("good");
    for (name, ..) in &misdeeds {
        running.is_running(name);
    }
    let (stop, goods) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // Notices if the others are disturbed: the good flow is asked all the time.
        let neighbour = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_good(&running);
                goods.fetch_add(1, Ordering::Relaxed);
            }
        });
        let senders: Vec<_> = misdeeds
            .iter()
            .map(|(name, ..)| (name, format!("/{name}"), &running))
            .map(|(name, path, running)| (name, scope.spawn(move || running.post(&path, "evil").status)))
            .collect();
        for (name, sender) in senders {
            assert_eq!(sender.join().unwrap(), 202, "{name}");
        }
        stop.store(true, Ordering::Relaxed);
        neighbour.join().unwrap();
    });
    assert!(goods.into_inner() > 5, "the good flow was hardly served");
    for (name, _, _, class) in &misdeeds {
        let letters = scratch.letters(&format!("dead/{name}"));
        assert_eq!(letters.len(), 1, "{name}");
        let letter = &letters[0];
        assert_eq!(letter["error"]["class"], *class, "{letter:#}");
        assert_eq!(letter["error"]["step"], "steps[0]");
        assert_eq!(letter["message"]["body"]["text"], "evil", "nothing of the message is lost");
        assert_eq!(running.metric("gristmill_plugin_failures_total", &[&format!("flow=\"{name}\"")]), 1.0);
    }
    let backtrace = scratch.letters("dead/traps")[0]["error"]["details"].to_string();
    assert!(backtrace.contains("!entry"), "{backtrace}");
    // A slow machine may see a few seconds more.
    let logged = running.count(|line| line["target"] == "gristmill::plugin" && line["flow"] == "logs");
    assert!((1..=81).contains(&logged), "{logged} lines of one plugin");
    assert_good(&running);
    assert!(running.stop().success());
}
