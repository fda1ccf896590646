//! Guests that break every limit, and what their messages get. Other plugins do not notice.

use gristmill_core::{
    ErrorClass, Failure, Message, Stopwatch, Timestamp,
    limits::FlowLimits,
    plugin::{Change, Health, Transformed},
};

use crate::{
    bench::{Bench, fails, message, transform},
    guest::{Guest, router, transformer},
};

/// The answer of a guest to one message.
async fn answer(guest: &Guest) -> Result<Transformed, Failure> {
    let bench = Bench::new();
    let plugin = bench.bind_with(guest, |s| s.limits.memory_mib = 40).await.unwrap();
    transform(&plugin, "x").await
}

async fn fails_with(guest: Guest, class: ErrorClass, says: &str) -> Failure {
    let failure = fails(answer(&guest).await, class);
    assert!(failure.text().contains(says), "{failure}");
    failure
}

fn entry(entry: &'static str) -> Guest {
    Guest { entry, ..transformer() }
}

#[tokio::test]
async fn a_trap_comes_with_the_guests_backtrace() {
    let failure = fails_with(entry("unreachable"), ErrorClass::PluginTrap, "unreachable").await;
    assert!(!failure.is_retryable());
    assert!(failure.details().any(|d| d.contains("!entry")), "{:?}", failure.details().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_loop_ends_at_the_deadline_and_shows_where_it_was() {
    let bench = Bench::new();
    let plugin = bench
        .bind_with(&entry("(loop $l (br $l)) unreachable"), |s| s.limits.deadline_ms = 100)
        .await
        .unwrap();
    let failure = fails(transform(&plugin, "x").await, ErrorClass::PluginTimeout);
    assert!(failure.text().contains("100 ms") && failure.is_retryable(), "{failure}");
    assert!(failure.details().any(|d| d.contains("!entry")));
}

#[tokio::test]
async fn a_loop_leaves_the_thread_to_others() {
    let bench = Bench::new();
    let looping = bench.bind(&entry("(loop $l (br $l)) unreachable")).await;
    let good = bench.bind(&transformer()).await;
    let mut goods = 0;
    let failure = {
        let mut call = std::pin::pin!(transform(&looping, "x"));
        loop {
            tokio::select! {
                biased;
                result = &mut call => break fails(result, ErrorClass::PluginTimeout),
                () = tokio::task::yield_now() => {
                    transform(&good, "x").await.unwrap();
                    goods += 1;
                }
            }
        }
    };
    assert!(failure.text().contains("2000 ms"), "{failure}");
    assert!(goods > 10, "{goods}");
}

#[tokio::test]
async fn memory_ends_at_its_limit() {
    let greedy = "(loop $l (br_if $l (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) unreachable";
    fails_with(entry(greedy), ErrorClass::PluginMemory, "40 MiB (limits.memory_mib)").await;
    let content = "(loop $l (br_if $l (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) (i32.const 64)";
    assert_eq!(answer(&entry(content)).await.unwrap(), Transformed::Change(Change::default()));
    let tables = Guest {
        items: "(table $t 1 funcref)",
        ..entry(
            "(loop $l (br_if $l (i32.ne (i32.const -1) (table.grow $t (ref.null func) (i32.const 100000))))) unreachable",
        )
    };
    fails_with(tables, ErrorClass::PluginMemory, "memory").await;
}

#[tokio::test]
async fn memories_without_pages_count_too() {
    let bench = Bench::new();
    let memories = Guest { items: "(memory 0) (memory 0) (memory 0) (memory 0)", ..transformer() };
    let error = bench.load_error(memories.module()).await;
    assert!(error.text.contains("memory count too high"), "{error}");
}

#[tokio::test]
async fn recursion_ends_with_the_stack() {
    let deep = Guest {
        items: "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))",
        ..entry("(call $deep (i32.const 0))")
    };
    fails_with(deep, ErrorClass::PluginTrap, "call stack exhausted").await;
}

#[tokio::test]
async fn answers_over_a_limit_are_malformed() {
    let headers = "(memory.fill (local.tee $id (call $allocate (i32.const 0) (i32.const 0) (i32.const 8)
            (i32.const 4800000))) (i32.const 0) (i32.const 4800000))
        (i32.store (i32.const 72) (local.get $id)) (i32.store (i32.const 76) (i32.const 300000)) (i32.const 64)";
    fails_with(
        entry(headers),
        ErrorClass::PluginMalformed,
        "300000 headers to set; the limit is 128 (limits.headers)",
    )
    .await;
    let body = "(i32.store8 (i32.const 88) (i32.const 1))
        (i32.store (i32.const 92) (call $allocate (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 9000000)))
        (i32.store (i32.const 96) (i32.const 9000000)) (i32.const 64)";
    fails_with(entry(body), ErrorClass::PluginMalformed, "limits.body_bytes").await;
    let huge = "(i32.store8 (i32.const 88) (i32.const 1))
        (i32.store (i32.const 92) (call $allocate (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 40000000)))
        (i32.store (i32.const 96) (i32.const 40000000)) (i32.const 64)";
    let bench = Bench::new();
    let plugin = bench
        .bind_with(&entry(huge), |s| {
            s.limits.memory_mib = 64;
            s.flow_limits = FlowLimits { body_bytes: 1000, ..FlowLimits::default() };
        })
        .await
        .unwrap();
    let failure = fails(transform(&plugin, "x").await, ErrorClass::PluginMalformed);
    assert!(
        failure.text().contains("too much data"),
        "the host allocates no more than the limits call for: {failure}"
    );
    let emit = "(i32.store8 (i32.const 68) (i32.const 1))
        (i32.store (i32.const 72) (call $allocate (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 280028)))
        (i32.store (i32.const 76) (i32.const 10001)) (i32.const 64)";
    fails_with(entry(emit), ErrorClass::PluginMalformed, "limits.fan_out").await;
    let none = "(i32.store8 (i32.const 68) (i32.const 1)) (i32.const 64)";
    fails_with(entry(none), ErrorClass::PluginMalformed, "empty list").await;
}

#[tokio::test]
async fn answers_that_cannot_be_read_are_malformed() {
    let text = |value: &'static str| {
        // A header whose name is the id and whose value is at 40.
        Guest {
            items: value,
            ..entry("(i32.store (i32.const 16) (local.get $id)) (i32.store (i32.const 20) (local.get $id_len))
                (i32.store (i32.const 24) (i32.const 40)) (i32.store (i32.const 28) (i32.const 2))
                (i32.store (i32.const 72) (i32.const 16)) (i32.store (i32.const 76) (i32.const 1)) (i32.const 64)")
        }
    };
    fails_with(text(r#"(data (i32.const 40) "\ff\fe")"#), ErrorClass::PluginMalformed, "utf-8").await;
    fails_with(
        text(r#"(data (i32.const 40) "a\n")"#),
        ErrorClass::PluginMalformed,
        "invalid header: header `m-1`",
    )
    .await;
    for (unreadable, says) in [
        ("(i32.const -64)", "out of bounds"),
        ("(i32.const 65)", "not aligned"),
        ("(i32.store8 (i32.const 64) (i32.const 7)) (i32.const 64)", "cannot be read"),
        ("(i32.store8 (i32.const 68) (i32.const 7)) (i32.const 64)", "cannot be read"),
        (
            "(i32.store (i32.const 72) (i32.const -8)) (i32.store (i32.const 76) (i32.const 1000)) (i32.const 64)",
            "cannot be read",
        ),
    ] {
        fails_with(entry(unreadable), ErrorClass::PluginMalformed, says).await;
    }
}

#[tokio::test]
async fn a_message_that_does_not_fit_into_the_guest_fails_alone() {
    let bench = Bench::new();
    let plugin = bench.bind_with(&transformer(), |s| s.limits.memory_mib = 1).await.unwrap();
    fails(plugin.transform(&message(vec![0; 2 << 20]), &Stopwatch::unread()).await, ErrorClass::PluginMemory);
    transform(&plugin, "x").await.unwrap();
}

#[tokio::test]
async fn a_flood_of_handles_ends() {
    let guest = Guest {
        wit: "export things: interface { resource thing { constructor(); } }",
        imports: r#"(import "[export]things" "[resource-new]thing" (func $new (param i32) (result i32)))"#,
        items: r#"(func (export "things#[constructor]thing") (result i32) (call $new (i32.const 0)))"#,
        ..entry("(loop $l (drop (call $new (i32.const 0))) (br $l)) unreachable")
    };
    let failure = fails(answer(&guest).await, ErrorClass::PluginTrap);
    assert!(failure.text().contains("handle") || failure.text().contains("resource"), "{failure}");
}

fn with_id(id: &str, body: &'static str) -> Message {
    Message::new(id, Timestamp::from_millis(0), body)
}

/// Traps on messages that begin with `x`.
const TRAPS_ON_X: &str =
    "(if (i32.eq (i32.load8_u (local.get $body)) (i32.const 120)) (then unreachable)) (i32.const 64)";

#[tokio::test(start_paused = true)]
async fn a_plugin_that_keeps_failing_is_held_back_and_comes_back_with_a_probe() {
    let bench = Bench::new();
    let plugin = bench.bind_with(&entry(TRAPS_ON_X), |s| s.limits.quarantine_after = 3).await.unwrap();
    let mut health = plugin.health();
    for id in ["1", "1", "1", "2", "3"] {
        fails(plugin.transform(&with_id(id, "x"), &Stopwatch::unread()).await, ErrorClass::PluginTrap);
    }
    let Health::Quarantined(why) = health.borrow_and_update().clone() else { panic!("not held back") };
    assert!(why.contains("3 messages in a row failed") && why.contains("unreachable"), "{why}");
    let failure = fails(
        plugin.transform(&with_id("4", "good"), &Stopwatch::unread()).await,
        ErrorClass::PluginQuarantined,
    );
    assert!(failure.is_retryable() && failure.class().spares_message());
    health.changed().await.unwrap();
    assert_eq!(*health.borrow_and_update(), Health::Probing);
    fails(plugin.transform(&with_id("5", "x"), &Stopwatch::unread()).await, ErrorClass::PluginTrap);
    assert!(matches!(*health.borrow_and_update(), Health::Quarantined(_)));
    health.changed().await.unwrap();
    plugin.transform(&with_id("4", "good"), &Stopwatch::unread()).await.unwrap();
    assert_eq!(*health.borrow_and_update(), Health::Fit);
    let events = bench.observer.take();
    assert_eq!(events.iter().filter(|e| e.starts_with("quarantined")).count(), 2, "{events:?}");
}

#[tokio::test]
async fn a_router_is_under_the_same_limits() {
    let bench = Bench::new();
    let plugin = bench
        .bind_with(&Guest { entry: "(loop $l (br $l)) unreachable", ..router() }, |s| {
            s.limits.deadline_ms = 20
        })
        .await
        .unwrap();
    fails(plugin.route(&message(""), &Stopwatch::unread()).await, ErrorClass::PluginTimeout);
}
