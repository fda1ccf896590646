//! What can be loaded, and what each file that cannot is told.

use gristmill_core::plugin::{Grant, PluginHost, WantsHeaders, World};
use gristmill_wasm::{Kind, inspect};

use crate::{
    bench::Bench,
    guest::{Guest, router, transformer},
};

#[tokio::test]
async fn a_core_module_and_a_component_load_and_describe_themselves() {
    let bench = Bench::new();
    let guest = Guest { wants: (1, vec!["content-type", "x-a"]), ..transformer() };
    for bytes in [guest.module(), guest.component()] {
        let loaded = bench.load(bytes).await.unwrap();
        assert_eq!(loaded.world(), World::Transformer);
        let description = loaded.description();
        assert_eq!((&*description.name, &*description.version), ("guest", "1.0.0"));
        assert_eq!(description.config_schema["type"], "object");
        assert_eq!(
            description.wants_headers,
            WantsHeaders::Listed(vec!["content-type".into(), "x-a".into()])
        );
        assert!(description.wants_body && loaded.needs().is_empty());
    }
    assert_eq!(bench.load(router().module()).await.unwrap().world(), World::Router);
}

#[tokio::test]
async fn the_same_content_is_loaded_once_also_at_the_same_time() {
    let bench = Bench::new();
    for name in ["one", "two"] {
        bench.put(name, transformer().module());
    }
    assert_eq!(bench.host.names(), ["one", "two"]);
    let (one, two, again) =
        tokio::join!(bench.host.load("one"), bench.host.load("two"), bench.host.load("one"));
    let (one, two, again) = (one.unwrap(), two.unwrap(), again.unwrap());
    assert!(std::sync::Arc::ptr_eq(&one, &two) && std::sync::Arc::ptr_eq(&one, &again));
    assert_eq!(one.digest().len(), 64);
    bench.put("one", router().module());
    assert_ne!(bench.host.load("one").await.unwrap().digest(), two.digest());
}

#[tokio::test]
async fn what_is_not_a_plugin_is_told_why() {
    let bench = Bench::new();
    let text = |wat: &str| wat::parse_str(wat).unwrap();
    let cases: [(&str, Vec<u8>, &str, &str); 7] = [
        ("no wasm", b"\x7fELF but not quite".to_vec(), "plugin_not_wasm", "not Wasm"),
        ("text", b"(module)".to_vec(), "plugin_not_wasm", "text form"),
        ("torn", transformer().module()[..200].to_vec(), "plugin_invalid", "not valid Wasm"),
        ("torn component", transformer().component()[..400].to_vec(), "plugin_invalid", "not valid Wasm"),
        (
            "untyped module",
            text("(module (func (export \"run\")))"),
            "plugin_wrong_contract",
            "no component type",
        ),
        ("no exports", text("(component)"), "plugin_wrong_contract", "exports nothing"),
        (
            "another contract",
            text(
                r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
                   (func (export "transform") (canon lift (core func $i "f"))))"#,
            ),
            "plugin_wrong_contract",
            "does not export `describe`",
        ),
    ];
    for (what, bytes, code, says) in cases {
        let error = bench.load_error(bytes).await;
        assert_eq!(error.code, code, "{what}: {error}");
        assert!(error.text.contains(says), "{what}: {error}");
        assert!(error.text.starts_with("plugin `plugin`") && error.mend.is_some(), "{what}: {error}");
    }
    let error = bench.host.load("plugni").await.err().unwrap();
    assert_eq!((error.code, error.mend.as_deref()), ("plugin_not_found", Some("did you mean `plugin`?")));
}

#[tokio::test]
async fn an_export_of_another_type_is_another_contract() {
    let bench = Bench::new();
    let wat = r#"(component
        (core module $m
            (memory (export "memory") 1)
            (func (export "f") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (export "describe" (func $f)) (export "configure" (func $f)) (export "route" (func $f)))"#;
    let error = bench.load_error(wat::parse_str(wat).unwrap()).await;
    assert_eq!(error.code, "plugin_wrong_contract", "{error}");
    assert!(error.text.contains("`configure` is not of the contract's type"), "{error}");
}

#[tokio::test]
async fn code_that_someone_else_has_compiled_is_refused() {
    let bench = Bench::new();
    let engine = wasmtime::Engine::default();
    let code = engine.precompile_component(&transformer().component()).unwrap();
    assert_eq!(bench.load_error(code).await.code, "plugin_precompiled");
}

#[tokio::test]
async fn imports_that_the_host_does_not_have_are_named() {
    let bench = Bench::new();
    let guest = Guest {
        wit: "import other:host/calls@1.0.0;",
        imports: r#"(import "other:host/calls@1.0.0" "call" (func $call))"#,
        items: "(func (call $call))",
        ..transformer()
    };
    let error = bench.load_error(guest.module()).await;
    assert_eq!(error.code, "plugin_unknown_import");
    assert!(error.text.contains("`other:host/calls@1.0.0`"), "{error}");
    assert!(error.mend.unwrap().contains("log, clock, random, metrics, state"));
}

#[tokio::test]
async fn the_grants_that_are_missing_are_named_with_the_line_to_add() {
    let bench = Bench::new();
    let guest = Guest {
        wit: "import gristmill:plugin/log@0.1.0; import gristmill:plugin/clock@0.1.0;",
        imports: r#"(import "gristmill:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
                    (import "gristmill:plugin/clock@0.1.0" "now-ms" (func $now (result i64)))"#,
        items: "(func (call $log (i32.const 0) (i32.const 0) (i32.const 0)) (drop (call $now)))",
        ..transformer()
    };
    let loaded = bench.load(guest.module()).await.unwrap();
    assert_eq!(loaded.needs().iter().copied().collect::<Vec<_>>(), [Grant::Log, Grant::Clock]);
    let error = loaded.bind(bench.settings()).await.err().unwrap();
    assert_eq!(error.code, "plugin_needs_grant");
    assert_eq!(error.mend.as_deref(), Some("add `grants: { log: true, clock: true }` to the step"));
    let mut settings = bench.settings();
    settings.grants.log = true;
    let error = loaded.bind(settings.clone()).await.err().unwrap();
    assert_eq!(error.mend.as_deref(), Some("add `grants: { clock: true }` to the step"));
    settings.grants.clock = true;
    loaded.bind(settings).await.unwrap();
}

#[tokio::test]
async fn a_description_that_cannot_be_had_is_told_why() {
    let bench = Bench::with(|config| config.describe_timeout_ms = 50);
    let with_import = |describe| Guest {
        wit: "import gristmill:plugin/clock@0.1.0;",
        imports: r#"(import "gristmill:plugin/clock@0.1.0" "now-ms" (func $now (result i64)))"#,
        describe,
        ..transformer()
    };
    for (guest, code, says) in [
        (Guest { describe: "unreachable", ..transformer() }, "plugin_describe_failed", "unreachable"),
        (
            Guest { describe: "(loop $l (br $l)) (i32.const 0)", ..transformer() },
            "plugin_describe_failed",
            "50 ms",
        ),
        (with_import("(drop (call $now)) (i32.const 256)"), "plugin_describe_failed", "now-ms"),
        (Guest { describe: "(i32.const -4)", ..transformer() }, "plugin_describe_failed", "cannot be read"),
        (Guest { schema: "{", ..transformer() }, "plugin_description_invalid", "not JSON"),
        (Guest { schema: r#"{"type":1}"#, ..transformer() }, "plugin_description_invalid", "JSON Schema"),
        (Guest { version: "new", ..transformer() }, "plugin_description_invalid", "version"),
        (Guest { wants: (1, vec!["X-A"]), ..transformer() }, "plugin_description_invalid", "lower-case"),
    ] {
        let error = bench.load_error(guest.module()).await;
        assert_eq!(error.code, code, "{error}");
        assert!(error.text.contains(says), "{says}: {error}");
    }
}

#[tokio::test]
async fn what_compiles_for_too_long_is_refused_and_others_do_not_wait_for_it() {
    let bench = Bench::with(|config| config.compile_timeout_ms = 0);
    for guest in [transformer(), router()] {
        let error = bench.load_error(guest.module()).await;
        assert_eq!(error.code, "plugin_compile_timeout", "{error}");
    }
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_refused_by_schema_and_by_plugin() {
    let bench = Bench::new();
    let error =
        bench.bind_with(&transformer(), |s| s.config = serde_json::json!({ "a": 1 })).await.err().unwrap();
    assert_eq!(error.code, "plugin_config_invalid");
    let refuses = Guest {
        configure: "(i32.store8 (i32.const 64) (i32.const 1)) (i32.store (i32.const 68) (local.get $config))
            (i32.store (i32.const 72) (local.get $config_len)) (i32.const 64)",
        ..transformer()
    };
    let error = bench.bind_with(&refuses, |_| {}).await.err().unwrap();
    assert_eq!(error.code, "plugin_config_refused");
    assert!(error.text.ends_with("refuses its configuration: {}"), "{error}");
    let secret = bench
        .bind_with(&Guest { schema: r#"{"type":"object"}"#, ..refuses.clone() }, |s| {
            s.config = serde_json::json!({ "token": "hunter2 \"x\"" });
            s.secrets = vec!["hunter2 \"x\"".into()];
        })
        .await
        .err()
        .unwrap();
    assert!(secret.text.ends_with(r#"{"token":"[redacted]"}"#), "{secret}");
    let traps = Guest { configure: "unreachable", ..transformer() };
    let error = bench.bind_with(&traps, |_| {}).await.err().unwrap();
    assert_eq!(error.code, "plugin_trap");
    let large = Guest { pages: 17 * 16, ..transformer() };
    let error = bench.bind_with(&large, |_| {}).await.err().unwrap();
    assert_eq!(error.code, "plugin_memory");
    assert!(error.mend.unwrap().contains("memory_mib"));
}

#[tokio::test]
async fn inspection_shows_all_that_can_be_known() {
    let bench = Bench::new();
    let guest = Guest {
        wit: "import gristmill:plugin/random@0.1.0;",
        imports: r#"(import "gristmill:plugin/random@0.1.0" "get-bytes" (func $random (param i32 i32)))"#,
        items: "(func (call $random (i32.const 0) (i32.const 64)))",
        ..router()
    };
    bench.put("plugin", guest.module());
    let inspection = inspect(&bench.dir.path().join("plugin.wasm")).await.unwrap();
    assert_eq!((inspection.kind, inspection.world), (Kind::CoreModule, World::Router));
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["needs"], serde_json::json!(["random"]));
    assert_eq!(json["description"]["name"], "guest");
    assert!(json["imports"].as_array().unwrap().iter().any(|i| i == "gristmill:plugin/random@0.1.0"));
    let error = inspect(&bench.dir.path().join("missing.wasm")).await.unwrap_err();
    assert_eq!(error.code, "plugin_not_found");
}
