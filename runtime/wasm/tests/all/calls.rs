//! Messages in and out, and the life of instances.

use std::sync::Arc;

use gristmill_core::{
    ErrorClass, Message, Stopwatch,
    plugin::{Change, Health, Plugin, Transformed},
};

use crate::{
    bench::{Bench, body_of, fails, message, transform},
    guest::{Guest, router, transformer},
};

/// Does what the first letter of the body says.
const BY_LETTER: &str = "
    (local $letter i32) (local $list i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (local.set $letter (i32.load8_u (local.get $body)))
    ;; c: the number of calls so far, as a digit
    (if (i32.eq (local.get $letter) (i32.const 99)) (then
      (i32.store8 (i32.const 48) (i32.add (i32.const 48) (global.get $count)))
      (call $body (i32.const 48) (i32.const 1))))
    ;; i: the id
    (if (i32.eq (local.get $letter) (i32.const 105)) (then (call $body (local.get $id) (local.get $id_len))))
    ;; h: sets the headers that came
    (if (i32.eq (local.get $letter) (i32.const 104)) (then
      (i32.store (i32.const 72) (local.get $headers)) (i32.store (i32.const 76) (local.get $headers_len))))
    ;; r: rejects, and t: retries, with the body as the text
    (if (i32.or (i32.eq (local.get $letter) (i32.const 114)) (i32.eq (local.get $letter) (i32.const 116))) (then
      (i32.store8 (i32.const 64) (i32.const 1))
      (i32.store8 (i32.const 68) (i32.eq (local.get $letter) (i32.const 116)))
      (i32.store (i32.const 72) (local.get $body)) (i32.store (i32.const 76) (local.get $body_len))))
    ;; d: drops
    (if (i32.eq (local.get $letter) (i32.const 100)) (then
      (i32.store8 (i32.const 68) (i32.const 2))
      (i32.store (i32.const 72) (local.get $body)) (i32.store (i32.const 76) (local.get $body_len))))
    ;; e: emits two, the first unchanged, the second with a body
    (if (i32.eq (local.get $letter) (i32.const 101)) (then
      (local.set $list (call $allocate (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 56)))
      (memory.fill (local.get $list) (i32.const 0) (i32.const 56))
      (i32.store8 offset=44 (local.get $list) (i32.const 1))
      (i32.store offset=48 (local.get $list) (local.get $body))
      (i32.store offset=52 (local.get $list) (local.get $body_len))
      (i32.store8 (i32.const 68) (i32.const 1))
      (i32.store (i32.const 72) (local.get $list)) (i32.store (i32.const 76) (i32.const 2))))
    ;; l: loops
    (if (i32.eq (local.get $letter) (i32.const 108)) (then (loop $l (br $l))))
    ;; x: traps
    (if (i32.eq (local.get $letter) (i32.const 120)) (then unreachable))
    (i32.const 64)";

const SETS_BODY: &str = "
    (global $count (mut i32) (i32.const 0))
    (func $body (param $at i32) (param $len i32)
      (i32.store8 (i32.const 88) (i32.const 1))
      (i32.store (i32.const 92) (local.get $at)) (i32.store (i32.const 96) (local.get $len)))";

fn by_letter() -> Guest {
    Guest { items: SETS_BODY, entry: BY_LETTER, ..transformer() }
}

fn with_headers(body: &'static str) -> Message {
    let mut message = message(body);
    for (name, value) in [("content-type", "text/plain"), ("x-a", "1"), ("x-b", "2"), ("x-a", "3")] {
        message.headers_mut().append(name, value).unwrap();
    }
    message
}

#[tokio::test]
async fn every_outcome_comes_through() {
    let bench = Bench::new();
    let plugin = bench.bind(&by_letter()).await;
    assert_eq!(transform(&plugin, "nothing").await.unwrap(), Transformed::Change(Change::default()));
    assert_eq!(body_of(&plugin, "id").await, "m-1");
    assert_eq!(transform(&plugin, "drop").await.unwrap(), Transformed::Drop("drop".into()));
    let second = Change { body: Some("emit".into()), ..Change::default() };
    assert_eq!(transform(&plugin, "emit").await.unwrap(), Transformed::Emit(vec![Change::default(), second]));
    let failure = fails(transform(&plugin, "reject").await, ErrorClass::PluginRejected);
    assert_eq!((failure.text(), failure.is_retryable()), ("reject", false));
    let failure = fails(transform(&plugin, "try again").await, ErrorClass::PluginRetry);
    assert_eq!((failure.text(), failure.is_retryable()), ("try again", true));
    assert_eq!(
        bench.observer.take().join(" "),
        "call ok call ok call ok call ok call plugin_rejected call plugin_retry"
    );
    assert!(
        fails(plugin.route(&message(""), &Stopwatch::unread()).await, ErrorClass::Internal)
            .text()
            .contains("transformer")
    );
}

#[tokio::test]
async fn only_the_headers_that_were_asked_for_go_in() {
    let bench = Bench::new();
    for (wants, expected) in [
        ((0, vec![]), vec![]),
        ((1, vec!["x-a", "absent"]), vec![("x-a", "1"), ("x-a", "3")]),
        ((2, vec![]), vec![("content-type", "text/plain"), ("x-a", "1"), ("x-b", "2"), ("x-a", "3")]),
    ] {
        let plugin = bench.bind(&Guest { wants, ..by_letter() }).await;
        let Transformed::Change(change) =
            plugin.transform(&with_headers("headers"), &Stopwatch::unread()).await.unwrap()
        else {
            panic!("not a change")
        };
        let expected: Vec<_> = expected.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        assert_eq!(change.set_headers, expected);
    }
}

#[tokio::test]
async fn the_body_goes_in_only_if_it_was_asked_for() {
    let bench = Bench::new();
    let echo = "(call $body (local.get $body) (local.get $body_len)) (i32.const 64)";
    for (wants_body, expected) in [(true, "the body"), (false, "")] {
        let plugin = bench.bind(&Guest { wants_body, items: SETS_BODY, entry: echo, ..transformer() }).await;
        assert_eq!(body_of(&plugin, "the body").await, expected);
    }
    let plugin = bench.bind(&Guest { items: SETS_BODY, entry: echo, ..transformer() }).await;
    let large: Vec<u8> = (0..4 * 1024 * 1024).map(|i: u32| i.to_le_bytes()[1]).collect();
    let Transformed::Change(change) =
        plugin.transform(&message(large.clone()), &Stopwatch::unread()).await.unwrap()
    else {
        panic!("not a change")
    };
    assert_eq!(change.body.unwrap(), large);
}

#[tokio::test]
async fn a_router_names_routes() {
    let bench = Bench::new();
    let route = "(local $list i32)
        (local.set $list (call $allocate (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 8)))
        (i32.store (local.get $list) (local.get $body)) (i32.store offset=4 (local.get $list) (local.get $body_len))
        (i32.store (i32.const 68) (local.get $list)) (i32.store (i32.const 72) (i32.const 1))
        (i32.const 64)";
    let plugin = bench.bind(&Guest { entry: route, ..router() }).await;
    assert_eq!(plugin.route(&message("large"), &Stopwatch::unread()).await.unwrap(), ["large"]);
    let failure = fails(plugin.route(&message(""), &Stopwatch::unread()).await, ErrorClass::PluginMalformed);
    assert!(failure.text().contains("cannot be a name"));
    let plugin = bench.bind(&router()).await;
    assert!(plugin.route(&message(""), &Stopwatch::unread()).await.unwrap().is_empty());
    assert!(fails(transform(&plugin, "").await, ErrorClass::Internal).text().contains("router"));
}

#[tokio::test]
async fn an_instance_lives_until_it_is_retired_or_fails() {
    let bench = Bench::new();
    let plugin = bench.bind_with(&by_letter(), |s| s.limits.calls_per_instance = 3).await.unwrap();
    for expected in ["1", "2", "3", "1"] {
        assert_eq!(body_of(&plugin, "count").await, expected);
    }
    fails(transform(&plugin, "reject").await, ErrorClass::PluginRejected);
    assert_eq!(body_of(&plugin, "count").await, "3", "a message's failure is not the instance's");
    assert_eq!(body_of(&plugin, "count").await, "1");
    fails(transform(&plugin, "x").await, ErrorClass::PluginTrap);
    assert_eq!(body_of(&plugin, "count").await, "1", "a trap leaves an instance dead");
    let plugin = bench.bind_with(&by_letter(), |s| s.limits.calls_per_instance = 1).await.unwrap();
    for _ in 0..3 {
        assert_eq!(body_of(&plugin, "count").await, "1");
    }
}

#[tokio::test]
async fn a_call_that_is_cancelled_throws_its_instance_away() {
    let bench = Bench::new();
    let plugin = bench.bind_with(&by_letter(), |s| s.limits.instances = Some(1)).await.unwrap();
    assert_eq!(body_of(&plugin, "count").await, "1");
    tokio::select! {
        biased;
        result = transform(&plugin, "loop") => panic!("{result:?}"),
        // Reached when the guest gives the thread away for the first time.
        () = std::future::ready(()) => {}
    }
    assert_eq!(body_of(&plugin, "count").await, "1");
    assert_eq!(bench.observer.take(), ["call ok", "call ok"]);
    assert_eq!(*plugin.health().borrow(), Health::Fit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_at_the_same_time_share_the_instances_that_there_are() {
    let bench = Bench::new();
    let guest = Guest {
        // Long enough for calls to overlap.
        entry: "(local $i i32) (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (loop $l (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 300000))))
            (i32.store (i32.const 48) (global.get $count)) (call $body (i32.const 48) (i32.const 4)) (i32.const 64)",
        items: SETS_BODY,
        ..transformer()
    };
    let plugin = bench.bind_with(&guest, |s| s.limits.instances = Some(3)).await.unwrap();
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let plugin: Arc<dyn Plugin> = plugin.clone();
            tokio::spawn(async move {
                match plugin.transform(&message("x"), &Stopwatch::unread()).await.unwrap() {
                    Transformed::Change(change) => {
                        change.body.unwrap()[..4].try_into().map(u32::from_le_bytes).unwrap()
                    }
                    other => panic!("{other:?}"),
                }
            })
        })
        .collect();
    let mut firsts = 0;
    for call in calls {
        firsts += usize::from(call.await.unwrap() == 1);
    }
    assert!((1..=3).contains(&firsts), "{firsts} instances were made");
}
