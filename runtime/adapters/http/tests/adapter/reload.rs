//! Versions and routes that change, while requests come.

use std::{
    net::TcpListener as BlockingListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use gristmill_core::{Delivery, Reply};
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use crate::support::{
    Bench, Flow, client, http2_client, next, post, read_to_end, read_until, request, soon, source,
    try_request, with_substituted,
};

fn version(n: usize) -> impl Fn(Delivery) + Send + 'static {
    move |delivery| {
        delivery.acknowledgement.replied(Reply { body: n.to_string().into(), ..Reply::default() });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_versions_under_load_refuse_no_request() {
    let bench = Arc::new(Bench::new());
    let config =
        |n: usize| source("/{id}", json!({"methods": ["POST", "PUT"], "read_timeout_ms": 10_000 + n}));
    let mut flow = Flow::run(bench.start(config(0)).await, version(0));
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let kinds = [Some(client()), None, Some(http2_client())];
    let load: Vec<_> = (0..24)
        .map(|n| {
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            let (url, keeps) = (bench.url("/x"), kinds[n % kinds.len()].clone());
            tokio::spawn(async move {
                let mut last = 0;
                while !over.load(Ordering::SeqCst) {
                    // Without a client that keeps its connections, each request has a new one.
                    let client = keeps.clone().unwrap_or_else(client);
                    let request = Request::post(&url).body(Full::from("body")).unwrap();
                    let answer = soon(try_request(&client, request)).await.unwrap();
                    assert_eq!(answer.status, 200, "{answer:?}");
                    let version: usize = answer.text().parse().unwrap();
                    assert!(version >= last, "{version} answered after {last}");
                    last = version;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for n in 1..=100 {
        let prepared = bench.prepare(config(n)).await;
        let old = flow.stop().await;
        let new = soon(prepared.take_over(old)).await.unwrap_or_else(|e| panic!("{}", e.error));
        flow = Flow::run(new, version(n));
        let before = answered.load(Ordering::SeqCst);
        while answered.load(Ordering::SeqCst) < before + 10 {
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Ordering::SeqCst);
    for task in load {
        soon(task).await.unwrap();
    }
}

#[tokio::test]
async fn the_new_settings_count_from_the_next_request_on() {
    let bench = Bench::new();
    let old = bench.start(source("/{id}", json!({"methods": ["POST"]}))).await;
    let signature = json!({"header": "x-signature", "algorithm": "hmac_sha1", "secret": "s"});
    let prepared =
        bench.prepare(source("/{number}", json!({"methods": ["PUT"], "signature": signature}))).await;
    let mut source = prepared.take_over(old).await.unwrap_or_else(|e| panic!("{}", e.error));
    post(&bench.url("/7"), "").await.assert_problem(405);
    request("PUT", &bench.url("/7"), &[], "").await.assert_problem(401);
    let prepared = bench.prepare(crate::support::source("/{number}", json!({}))).await;
    source = prepared.take_over(source).await.unwrap_or_else(|e| panic!("{}", e.error));
    let url = bench.url("/7");
    let sent = tokio::spawn(async move { post(&url, "").await });
    let delivery = next(&mut source).await;
    assert_eq!(delivery.message.headers().get("http-param-number"), Some("7"));
    delivery.acknowledgement.delivered();
    assert_eq!(soon(sent).await.unwrap().status, 204);
}

/// The flow tells the source when that changes, and would not tell it again.
#[tokio::test]
async fn a_paused_endpoint_stays_paused_under_a_new_version() {
    let bench = Bench::new();
    let mut old = bench.start(source("/", json!({}))).await;
    old.pause(Some("a plugin is held back"));
    let prepared = bench.prepare(source("/", json!({}))).await;
    let mut new = prepared.take_over(old).await.unwrap_or_else(|e| panic!("{}", e.error));
    post(&bench.url("/"), "").await.assert_problem(503);
    new.pause(None);
    let _flow = Flow::run(new, version(2));
    assert_eq!(post(&bench.url("/"), "").await.text(), "2");
}

#[tokio::test]
async fn deliveries_of_the_old_version_are_answered_after_the_new_one_took_over() {
    let bench = Bench::new();
    let mut old = bench.start(source("/", json!({}))).await;
    let url = bench.url("/");
    let (url_too, sent) = (url.clone(), tokio::spawn(async move { post(&url, "old").await }));
    let delivery = next(&mut old).await;
    let prepared = bench.prepare(source("/", json!({}))).await;
    let new = prepared.take_over(old).await.unwrap_or_else(|e| panic!("{}", e.error));
    let _flow = Flow::run(new, version(2));
    assert_eq!(post(&url_too, "new").await.text(), "2");
    version(1)(delivery);
    assert_eq!(soon(sent).await.unwrap().text(), "1");
}

#[tokio::test]
async fn taking_over_from_another_route_gives_the_old_source_back() {
    let bench = Bench::new();
    let mut closed = bench.start(source("/", json!({}))).await;
    closed.close().await;
    let prepared = bench.prepare(source("/", json!({}))).await;
    let Err(error) = prepared.take_over(closed).await else { panic!("took over from a closed source") };
    assert!(error.error.text.contains("closed"), "{}", error.error);
    let mut old = error.old;
    assert!(soon(old.next()).await.unwrap().is_none());
}

/// Two flows change places: both new ones start before the old ones close, and no request in between is refused.
#[tokio::test]
async fn two_flows_can_swap_their_paths() {
    let bench = Bench::new();
    let old_a = Flow::run(bench.start(source("/a", json!({}))).await, version(1));
    let old_b = Flow::run(bench.start(source("/b", json!({}))).await, version(2));
    let ask = async |path: &str| post(&bench.url(path), "").await.text().to_owned();
    assert_eq!((ask("/a").await, ask("/b").await), ("1".into(), "2".into()));
    let new_a = Flow::run(bench.start(source("/b", json!({}))).await, version(3));
    let _new_b = Flow::run(bench.start(source("/a", json!({}))).await, version(4));
    assert_eq!((ask("/a").await, ask("/b").await), ("4".into(), "3".into()));
    for old in [old_a, old_b] {
        let mut old = old.stop().await;
        old.close().await;
        assert!(soon(old.next()).await.unwrap().is_none());
    }
    assert_eq!((ask("/a").await, ask("/b").await), ("4".into(), "3".into()));
    // Had the new one failed instead, the old one would be served again.
    let back = Flow::run(bench.start(source("/b", json!({}))).await, version(5));
    assert_eq!(ask("/b").await, "5");
    drop(back.stop().await);
    assert_eq!(ask("/b").await, "3");
    drop(new_a.stop().await);
    post(&bench.url("/b"), "").await.assert_problem(404);
}

#[tokio::test]
async fn a_closed_source_serves_what_it_had_accepted() {
    let bench = Bench::new();
    let mut source = bench.start(source("/", json!({}))).await;
    let address = bench.address();
    // One whose body is still coming, and one that waits in the queue.
    let mut reading = TcpStream::connect(address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    reading.write_all(head).await.unwrap();
    read_until(&mut reading, "100 Continue").await;
    let url = bench.url("/");
    let waiting = tokio::spawn(async move { post(&url, "wait").await });
    let delivery = next(&mut source).await;
    assert_eq!(&delivery.message.body()[..], b"wait");

    source.close().await;
    reading.write_all(b"read").await.unwrap();
    let late = next(&mut source).await;
    assert_eq!(&late.message.body()[..], b"read");
    assert!(soon(source.next()).await.unwrap().is_none(), "nothing more can come");
    late.acknowledgement.delivered();
    delivery.acknowledgement.delivered();
    let answer = read_to_end(reading).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert!(answer.contains("connection: close"), "the last route is gone: {answer}");
    assert_eq!(soon(waiting).await.unwrap().status, 204);
}

#[tokio::test]
async fn with_its_last_route_a_listener_is_gone_and_can_come_back_at_once() {
    let bench = Bench::new();
    let free = BlockingListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let config = || json!({"listen": address.to_string(), "path": "/"});
    for _ in 0..20 {
        let mut source = bench.start(config()).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        read_until(&mut idle, "405").await;
        source.close().await;
        assert!(bench.adapter.bound_address(address).is_none());
        read_to_end(idle).await;
    }
}

#[tokio::test]
async fn what_was_prepared_and_dropped_leaves_nothing() {
    let bench = Bench::new();
    let prepared = bench.prepare(source("/", json!({}))).await;
    let address = bench.address();
    // A client that comes early waits until there is a route.
    let mut early = TcpStream::connect(address).await.unwrap();
    early.write_all(b"POST / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let _flow = Flow::run(prepared.start().await.unwrap(), version(1));
    read_until(&mut early, "200").await;

    let other = Bench::new();
    drop(other.prepare(source("/", json!({}))).await);
    assert!(other.adapter.bound_address("127.0.0.1:0".parse().unwrap()).is_none());
}

#[tokio::test]
async fn a_port_in_use_is_said_with_the_mend() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let bench = Bench::new();
    let result = bench.try_prepare(json!({"listen": address, "path": "/"})).await;
    let Err(error) = result else { panic!("bound twice") };
    assert!(error.text.contains(&address) && error.text.contains("change `listen`"), "{error}");
    assert!(error.text.contains("another process") && error.text.contains("`admin.listen`"), "{error}");
    let config = with_substituted(&json!({"listen": address, "path": "/"}), &address);
    let Err(error) = bench.check_source_node(&config).unwrap().prepare(bench.context()).await else {
        panic!("bound twice")
    };
    assert!(
        error.text.starts_with("cannot listen on ${env:SECRET}: ") && !error.text.contains(&address),
        "{error}"
    );
    let Err(error) = bench.try_prepare(json!({"listen": "192.0.2.1:1", "path": "/"})).await else {
        panic!("bound an address of the documentation")
    };
    assert!(error.text.contains("no such address"), "{error}");
}

#[tokio::test]
async fn a_port_that_this_runtime_itself_holds_is_not_blamed_on_another() {
    let bench = Bench::new();
    let mut source = bench.start(source("/", json!({}))).await;
    let (address, any) = (bench.address(), format!("0.0.0.0:{}", bench.address().port()));
    let config = json!({"listen": any, "path": "/"});
    let Err(error) = bench.try_prepare(config.clone()).await else { panic!("bound twice") };
    assert!(error.text.contains(&format!("cannot listen on {any}")), "{error}");
    assert!(error.text.contains(&format!("flows of this runtime listen on {address}")), "{error}");
    assert!(!error.text.contains("another process"), "{error}");
    // Once that is closed there is room, at once.
    source.close().await;
    drop(source);
    let _source = bench.start(config).await;
    post(&format!("http://{address}/other"), "").await.assert_problem(404);
}

/// As when the file that an address is read from has another one: the endpoint is the same, as far as may be shown.
#[tokio::test]
async fn an_endpoint_can_go_over_to_another_listener() {
    let bench = Bench::new();
    let old = bench.start(source("/{a}", json!({}))).await;
    let (free, config) = {
        let free = BlockingListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        (free, json!({"listen": free.to_string(), "path": "/{b}/{c}"}))
    };
    let prepared = bench.prepare(config).await;
    let mut new = prepared.take_over(old).await.unwrap_or_else(|e| panic!("{}", e.error));
    assert!(bench.adapter.bound_address("127.0.0.1:0".parse().unwrap()).is_none());
    let sent = tokio::spawn(async move { post(&format!("http://{free}/x/y"), "").await });
    let delivery = next(&mut new).await;
    assert_eq!(delivery.message.headers().get("http-param-b"), Some("x"));
    assert_eq!(delivery.message.headers().get("http-param-c"), Some("y"));
    delivery.acknowledgement.delivered();
    assert_eq!(soon(sent).await.unwrap().status, 204);
}
