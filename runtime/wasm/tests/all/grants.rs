//! The capabilities: each does what the contract says within its limits; and WASI, empty, with its clock and its random
//! numbers as the grants have it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gristmill_core::{
    Clock, ErrorClass, Failure, Stopwatch, Timestamp,
    plugin::{Grants, Plugin, PluginHost, PluginSettings},
    testkit::ManualClock,
};
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    bench::{Bench, body_of, fails, message, transform},
    guest::{Guest, transformer},
};

const ALL: Grants = Grants { log: true, clock: true, random: true, metrics: true, state: true };

/// `$body` answers with a new body, `$number` with the eight bytes of a number, as hexadecimal digits.
const ANSWERS: &str = r#"
    (func $body (param $at i32) (param $len i32)
      (i32.store8 (i32.const 88) (i32.const 1))
      (i32.store (i32.const 92) (local.get $at)) (i32.store (i32.const 96) (local.get $len)))
    (func $number (param $n i64) (local $i i32) (local $digit i32)
      (loop $l
        (local.set $digit (i32.wrap_i64 (i64.and (local.get $n) (i64.const 15))))
        (i32.store8 (i32.sub (i32.const 239) (local.get $i)) (i32.add (local.get $digit)
          (select (i32.const 87) (i32.const 48) (i32.gt_u (local.get $digit) (i32.const 9)))))
        (local.set $n (i64.shr_u (local.get $n) (i64.const 4)))
        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 16))))
      (call $body (i32.const 224) (i32.const 16)))"#;

/// Collects what is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .filter(|l| l.contains("gristmill::plugin"))
            .map(str::to_owned)
            .collect()
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn bind(bench: &Bench, guest: &Guest, set: impl FnOnce(&mut PluginSettings)) -> Arc<dyn Plugin> {
    bench
        .bind_with(guest, |s| {
            s.grants = ALL;
            set(s);
        })
        .await
        .unwrap()
}

// === log ===

/// Logs the body with the level `error`, as many times as the length of the id.
fn logs() -> Guest {
    Guest {
        name: "logs".into(),
        wit: "import gristmill:plugin/log@0.1.0;",
        imports: r#"(import "gristmill:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#,
        entry: "(loop $l (call $log (i32.const 4) (local.get $body) (local.get $body_len))
            (br_if $l (local.tee $id_len (i32.sub (local.get $id_len) (i32.const 1))))) (i32.const 64)",
        ..transformer()
    }
}

#[tokio::test]
async fn a_log_line_says_where_it_is_from_and_cannot_look_like_two() {
    let (log, _guard) = Log::start();
    let bench = Bench::new();
    let plugin = bind(&bench, &logs(), |_| {}).await;
    transform(&plugin, "one\ntwo\u{1b}[31m").await.unwrap();
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "one for each letter of the id: {lines:?}");
    for part in [
        "ERROR",
        r"one\ntwo\u{1b}[31m",
        r#"flow="orders""#,
        r#"step="steps[0]""#,
        r#"plugin="logs""#,
        r#"message_id="m-1""#,
    ] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
}

#[tokio::test]
async fn a_guest_that_logs_without_end_fills_neither_log_nor_time() {
    let (log, _guard) = Log::start();
    let bench = Bench::new();
    let endless = Guest {
        entry: "(loop $l (call $log (i32.const 2) (local.get $body) (local.get $body_len)) (br $l)) unreachable",
        ..logs()
    };
    let plugin = bind(&bench, &endless, |s| {
        s.limits.log_lines_per_second = 10;
        s.limits.deadline_ms = 200;
    })
    .await;
    let long: &'static str = "long ".repeat(10_000).leak();
    fails(transform(&plugin, long).await, ErrorClass::PluginTimeout);
    let lines = log.lines();
    // A slow machine may see a second second.
    assert!((10..=31).contains(&lines.len()), "{}", lines.len());
    assert!(lines[0].len() < 9_000 && lines[0].contains("bytes more"), "{}", lines[0].len());
}

// === clock, random ===

#[tokio::test]
async fn the_clock_is_the_runtimes() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(0x1234)));
    let bench = Bench::with(|config| config.clock = clock.clone() as Arc<dyn Clock>);
    let guest = Guest {
        wit: "import gristmill:plugin/clock@0.1.0;",
        imports: r#"(import "gristmill:plugin/clock@0.1.0" "now-ms" (func $now (result i64)))
            (import "gristmill:plugin/clock@0.1.0" "monotonic-ns" (func $monotonic (result i64)))"#,
        items: ANSWERS,
        entry: "(call $number (call $now)) (if (i64.eqz (call $monotonic)) (then unreachable)) (i32.const 64)",
        ..transformer()
    };
    let plugin = bind(&bench, &guest, |_| {}).await;
    assert_eq!(body_of(&plugin, "x").await, "0000000000001234");
    clock.set(Timestamp::from_millis(0xabcd));
    assert_eq!(body_of(&plugin, "x").await, "000000000000abcd");
}

#[tokio::test]
async fn random_bytes_differ_and_end_at_their_limit() {
    let bench = Bench::new();
    let guest = Guest {
        wit: "import gristmill:plugin/random@0.1.0;",
        imports: r#"(import "gristmill:plugin/random@0.1.0" "get-bytes" (func $random (param i32 i32)))"#,
        items: ANSWERS,
        // Eight bytes, or as many as the length of the body times 65,536.
        entry: "(call $random (select (i32.const 8) (i32.mul (local.get $body_len) (i32.const 65536))
              (i32.eq (local.get $body_len) (i32.const 5))) (i32.const 16))
            (call $number (i64.load (i32.load (i32.const 16)))) (i32.const 64)",
        ..transformer()
    };
    let plugin = bind(&bench, &guest, |_| {}).await;
    assert_ne!(body_of(&plugin, "eight").await, body_of(&plugin, "eight").await);
    body_of(&plugin, "1").await;
    let failure = fails(transform(&plugin, "22").await, ErrorClass::PluginTrap);
    assert!(failure.text().contains("asked for 131072 bytes"), "{failure}");
}

// === metrics ===

#[tokio::test]
async fn metrics_reach_the_observer_under_at_most_32_names() {
    let (log, _guard) = Log::start();
    let bench = Bench::new();
    let guest = Guest {
        wit: "import gristmill:plugin/metrics@0.1.0;",
        imports: r#"(import "gristmill:plugin/metrics@0.1.0" "add" (func $add (param i32 i32 i64)))
            (import "gristmill:plugin/metrics@0.1.0" "set-gauge" (func $gauge (param i32 i32 f64)))"#,
        // A name for each letter from the body's first on, and a gauge of the whole body.
        entry: "(local $i i32)
            (loop $l
              (call $add (local.get $body) (i32.const 1) (i64.const 2))
              (i32.store8 (local.get $body) (i32.add (i32.const 1) (i32.load8_u (local.get $body))))
              (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 40))))
            (call $gauge (local.get $body) (local.get $body_len) (f64.const 0.5)) (i32.const 64)",
        ..transformer()
    };
    let plugin = bind(&bench, &guest, |_| {}).await;
    transform(&plugin, "@").await.unwrap();
    let events = bench.observer.take();
    assert_eq!(events.iter().filter(|e| e.starts_with("counter")).count(), 32, "{events:?}");
    assert_eq!((&*events[0], &*events[32]), ("counter @ 2", "call ok"));
    assert_eq!(log.lines().len(), 1, "said once");
    let again = bind(&bench, &guest, |_| {}).await;
    transform(&again, "@").await.unwrap();
    assert_eq!(bench.observer.take().len(), 33, "a new version has no new names");
    transform(&again, "\u{1}").await.unwrap();
    assert!(bench.observer.take().iter().all(|e| !e.contains('\u{1}')));
}

// === state ===

fn counts() -> Guest {
    Guest {
        wit: "import gristmill:plugin/state@0.1.0;",
        imports: r#"(import "gristmill:plugin/state@0.1.0" "increment" (func $increment (param i32 i32 i64 i32)))
            (import "gristmill:plugin/state@0.1.0" "get" (func $get (param i32 i32 i32)))
            (import "gristmill:plugin/state@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))
            (import "gristmill:plugin/state@0.1.0" "delete" (func $delete (param i32 i32)))"#,
        items: ANSWERS,
        // Adds 1 to the key that the body is, and answers with what is then kept under it; or with the error's text.
        entry: "(call $increment (local.get $body) (local.get $body_len) (i64.const 1) (i32.const 16))
            (if (i32.load8_u (i32.const 16))
              (then (call $body (i32.load (i32.const 28)) (i32.load (i32.const 32))))
              (else (call $get (local.get $body) (local.get $body_len) (i32.const 16))
                (call $body (i32.load (i32.const 20)) (i32.load (i32.const 24)))))
            (i32.const 64)",
        ..transformer()
    }
}

#[tokio::test]
async fn state_is_shared_among_instances_and_survives_retirement_and_rebinding() {
    let bench = Bench::new();
    let plugin = bind(&bench, &counts(), |s| s.limits.calls_per_instance = 1).await;
    assert_eq!(body_of(&plugin, "key").await, "1");
    assert_eq!(body_of(&plugin, "key").await, "2");
    let again = bind(&bench, &counts(), |_| {}).await;
    assert_eq!(body_of(&again, "key").await, "3");
    drop((plugin, again));
    // Another content of the same name: the next version of the plugin.
    let next = Guest { version: "2.0.0", ..counts() };
    assert_eq!(body_of(&bind(&bench, &next, |_| {}).await, "key").await, "4");
    let elsewhere = bind(&bench, &counts(), |s| s.scope.step = "steps[1]".into()).await;
    assert_eq!(body_of(&elsewhere, "key").await, "1");
}

#[tokio::test]
async fn state_over_its_limits_is_an_error_that_the_guest_sees() {
    let bench = Bench::new();
    let plugin = bind(&bench, &counts(), |s| s.limits.state_keys = 2).await;
    for key in ["a", "b", "a"] {
        body_of(&plugin, key).await;
    }
    assert!(body_of(&plugin, "c").await.contains("limit of 2 keys"));
    assert!(body_of(&plugin, "k".repeat(300).leak()).await.contains("300 bytes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn increments_at_the_same_time_are_all_counted() {
    let bench = Bench::new();
    let plugin = bind(&bench, &counts(), |s| s.limits.instances = Some(4)).await;
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let plugin = plugin.clone();
            tokio::spawn(
                async move { plugin.transform(&message("key"), &Stopwatch::unread()).await.unwrap() },
            )
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(body_of(&plugin, "key").await, "101");
}

// === WASI ===

/// A guest that knows WASI's clocks and random numbers.
fn clocks(entry: &'static str) -> Guest {
    Guest {
        wit: "import wasi:clocks/monotonic-clock@0.2.3; import wasi:clocks/wall-clock@0.2.3;
            import wasi:io/poll@0.2.3; import wasi:random/random@0.2.3;",
        imports: r#"(import "wasi:clocks/monotonic-clock@0.2.3" "now" (func $monotonic (result i64)))
            (import "wasi:clocks/monotonic-clock@0.2.3" "subscribe-duration" (func $timer (param i64) (result i32)))
            (import "wasi:clocks/wall-clock@0.2.3" "now" (func $wall (param i32)))
            (import "wasi:io/poll@0.2.3" "[method]pollable.block" (func $block (param i32)))
            (import "wasi:random/random@0.2.3" "get-random-u64" (func $random (result i64)))"#,
        items: ANSWERS,
        entry,
        ..transformer()
    }
}

/// A guest that knows WASI's stderr.
fn talks(entry: &'static str) -> Guest {
    Guest {
        wit: "import wasi:cli/stderr@0.2.3; import wasi:cli/exit@0.2.3; import wasi:io/streams@0.2.3;",
        imports: r#"(import "wasi:cli/stderr@0.2.3" "get-stderr" (func $stderr (result i32)))
            (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-write-and-flush"
              (func $write (param i32 i32 i32 i32)))
            (import "wasi:cli/exit@0.2.3" "exit" (func $exit (param i32)))"#,
        entry,
        ..transformer()
    }
}

async fn bind_wasi(bench: &Bench, guest: Guest, grants: Grants) -> Arc<dyn Plugin> {
    bench.bind_with(&guest, |s| s.grants = grants).await.unwrap()
}

#[tokio::test]
async fn wasi_has_neither_clock_nor_chance_until_granted() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(5_000)));
    let bench = Bench::with(|config| config.clock = clock as Arc<dyn Clock>);
    let none = Grants::default();
    let wall = clocks("(call $wall (i32.const 16)) (call $number (i64.load (i32.const 16))) (i32.const 64)");
    let monotonic = clocks("(call $number (call $monotonic)) (i32.const 64)");
    let random = clocks("(call $number (call $random)) (i32.const 64)");
    assert_eq!(body_of(&bind_wasi(&bench, wall.clone(), none).await, "x").await, "0000000000000000");
    assert_eq!(body_of(&bind_wasi(&bench, wall, ALL).await, "x").await, "0000000000000005");
    assert_eq!(body_of(&bind_wasi(&bench, monotonic.clone(), none).await, "x").await, "0000000000000000");
    assert_ne!(body_of(&bind_wasi(&bench, monotonic, ALL).await, "x").await, "0000000000000000");
    let seeded = bind_wasi(&bench, random.clone(), none).await;
    let first = body_of(&seeded, "x").await;
    assert_eq!(body_of(&bind_wasi(&bench, random.clone(), none).await, "x").await, first);
    assert_ne!(body_of(&seeded, "x").await, first, "constant, but not always the same number");
    let granted = bind_wasi(&bench, random, ALL).await;
    assert_ne!(
        body_of(&granted, "x").await,
        body_of(&bind_wasi(&bench, clocks("(call $number (call $random)) (i32.const 64)"), ALL).await, "x")
            .await
    );
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_sleeps_in_a_host_call_is_late_by_the_wall() {
    let bench = Bench::new();
    let sleeps = clocks("(call $block (call $timer (i64.const 3600000000000))) (i32.const 64)");
    for grants in [Grants::default(), ALL] {
        let plugin = bind_wasi(&bench, sleeps.clone(), grants).await;
        let start = tokio::time::Instant::now();
        let failure = fails(transform(&plugin, "x").await, ErrorClass::PluginTimeout);
        assert!(
            failure.text().contains("20000 ms in all") && failure.text().contains("waits in a host call"),
            "{failure}"
        );
        assert!(start.elapsed() < Duration::from_secs(21));
    }
    let naps = clocks("(call $block (call $timer (i64.const 1000000000))) (i32.const 64)");
    let plugin = bind_wasi(&bench, naps, ALL).await;
    transform(&plugin, "x").await.unwrap();
}

#[tokio::test]
async fn a_flood_of_wasi_handles_ends() {
    let bench = Bench::new();
    let floods = clocks("(loop $l (drop (call $timer (i64.const 1))) (br $l)) unreachable");
    let failure = fails(transform(&bind_wasi(&bench, floods, ALL).await, "x").await, ErrorClass::PluginTrap);
    assert!(failure.text().contains("host call") || failure.text().contains("handle"), "{failure}");
}

async fn stderr_guest(bench: &Bench, entry: &'static str) -> Result<(), Failure> {
    let plugin = bind_wasi(bench, talks(entry), Grants::default()).await;
    transform(&plugin, "last words\nof a guest").await.map(drop)
}

#[tokio::test]
async fn stderr_is_log_lines_and_its_end_explains_a_trap() {
    let (log, _guard) = Log::start();
    let bench = Bench::new();
    let failed = stderr_guest(
        &bench,
        "(call $write (call $stderr) (local.get $body) (local.get $body_len) (i32.const 16)) unreachable",
    )
    .await;
    let failure = fails(failed, ErrorClass::PluginTrap);
    assert!(failure.details().any(|d| d.contains("stderr of the plugin:\nlast words\nof a guest")));
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains("last words") && lines[0].contains("m-1"));
    assert!(lines[1].contains("of a guest"), "a line without an end is not lost");
    stderr_guest(
        &bench,
        "(call $write (call $stderr) (local.get $body) (local.get $body_len) (i32.const 16)) (i32.const 64)",
    )
    .await
    .unwrap();
    assert_eq!(log.lines().len(), 4);
}

#[tokio::test]
async fn a_guest_that_ends_itself_ends_its_call() {
    let bench = Bench::new();
    let failure =
        fails(stderr_guest(&bench, "(call $exit (i32.const 1)) unreachable").await, ErrorClass::PluginTrap);
    assert!(failure.text().contains("exit code 1"), "{failure}");
}

#[tokio::test]
async fn wasi_asks_for_no_grant_and_answers_while_a_plugin_describes_itself() {
    let bench = Bench::new();
    let describe =
        "(drop (call $random)) (drop (call $monotonic)) (call $wall (i32.const 16)) (i32.const 256)";
    bench.put("wasi", Guest { describe, ..clocks("(i32.const 64)") }.module());
    assert!(bench.host.load("wasi").await.unwrap().needs().is_empty());
}
