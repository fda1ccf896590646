//! Every limit of the source, reached.

use std::time::Duration;

use bytes::Bytes;
use gristmill_core::limits::FlowLimits;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    Bench, Flow, Trickle, http2_connection, next, post, raw, read_to_end, read_until, request, soon, source,
};

fn small() -> FlowLimits {
    FlowLimits { body_bytes: 100, headers: 20, header_bytes: 2_000, ..FlowLimits::default() }
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_before_it_comes() {
    let bench = Bench::with(small());
    let _source = bench.start(source("/", json!({}))).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n{expect}\r\n");
        let answer = raw(bench.address(), head).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    assert_eq!(bench.refused.all(), ["body_too_large"; 2]);
}

/// Closing on a sender that is still sending would reset the connection and take the answer away from it.
#[tokio::test]
async fn a_sender_that_keeps_sending_still_gets_its_413() {
    let bench = Bench::with(small());
    let _source = bench.start(source("/", json!({}))).await;
    let stream = TcpStream::connect(bench.address()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sending = tokio::spawn(async move {
        writer.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n").await.unwrap();
        let megabyte = vec![b'x'; 1024 * 1024];
        for _ in 0..8 {
            writer.write_all(&megabyte).await.unwrap();
        }
        writer
    });
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        assert!(soon(reader.read_buf(&mut answer)).await.unwrap() > 0, "{answer:?}");
    }
    assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));
    drop(soon(sending).await.unwrap());
}

/// A stream that is reset behind its answer takes the answer away from some clients.
#[tokio::test]
async fn over_http2_the_rest_of_a_refused_body_is_read_and_thrown_away() {
    let bench = Bench::with(small());
    let _source = bench.start(source("/", json!({}))).await;
    let sender = http2_connection(bench.address()).await;
    for length in [Some("2621440"), None] {
        let (chunks, body) = Trickle::new();
        let mut request = Request::post(bench.url("/"));
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let mut sender = sender.clone();
        let answer = tokio::spawn(async move { sender.send_request(request.body(body).unwrap()).await });
        chunks.send(Bytes::from(vec![b'x'; 200])).await.unwrap();
        let answer = soon(answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        // More than the windows of stream and connection hold goes through, to the end of the body.
        for _ in 0..39 {
            soon(chunks.send(Bytes::from(vec![b'x'; 65_536]))).await.expect("the stream was reset");
        }
        chunks.send(Bytes::from(vec![b'x'; 65_536 - 200])).await.unwrap();
        drop(chunks);
        let document = soon(answer.into_body().collect()).await.unwrap().to_bytes();
        assert!(document.starts_with(b"{"), "{document:?}");
    }
    assert_eq!(bench.refused.all(), ["body_too_large"; 2]);
}

#[tokio::test]
async fn a_chunked_body_is_refused_when_it_gets_too_large() {
    let bench = Bench::with(small());
    let mut source = bench.start(source("/", json!({}))).await;
    let address = bench.address();
    let chunks = |n: usize| {
        let mut text =
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_owned();
        for _ in 0..n {
            text.push_str("a\r\n0123456789\r\n");
        }
        text + "0\r\n\r\n"
    };
    let answer = raw(address, chunks(11)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let fits = tokio::spawn(raw(address, chunks(10)));
    let delivery = next(&mut source).await;
    assert_eq!(delivery.message.body(), "0123456789".repeat(10).as_bytes());
    delivery.acknowledgement.delivered();
    assert!(soon(fits).await.unwrap().starts_with("HTTP/1.1 204 "));
    assert_eq!(bench.refused.all(), ["body_too_large"]);
}

#[tokio::test]
async fn too_many_or_too_large_headers_get_431() {
    let bench = Bench::with(small());
    let mut source = bench.start(source("/", json!({}))).await;
    let url = bench.url("/");
    let large = "x".repeat(2_000);
    request("POST", &url, &[("x-large", &large)], "").await.assert_problem(431);
    // What the source adds counts too.
    let many = |n: usize| (0..n).map(|i| format!("x-{i}: v\r\n")).collect::<String>();
    let send = |n| {
        raw(bench.address(), format!("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}\r\n", many(n)))
    };
    for n in [17, 20, 100, 500] {
        let answer = send(n).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{n}: {answer}");
        assert!(answer.contains("application/problem+json"), "{n}: {answer}");
    }
    assert_eq!(bench.refused.all(), ["headers_too_large"; 5]);
    let answer = send(10_000).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let fits = tokio::spawn(send(16));
    let delivery = next(&mut source).await;
    assert_eq!(delivery.message.headers().len(), 20);
    delivery.acknowledgement.delivered();
    assert!(soon(fits).await.unwrap().starts_with("HTTP/1.1 204 "));
    // More than a connection buffers is refused before it is a request.
    let huge = "x".repeat(1_000_000);
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\nx-huge: {huge}\r\n\r\n");
    let answer = raw(bench.address(), head).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let long = format!("POST /{huge} HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = raw(bench.address(), long).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn a_body_that_takes_too_long_gets_408() {
    let bench = Bench::with(FlowLimits { in_flight: 1, ..FlowLimits::default() });
    let _source = bench.start(source("/", json!({"read_timeout_ms": 50}))).await;
    let mut stream = TcpStream::connect(bench.address()).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nslow").await.unwrap();
    let answer = read_to_end(stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(bench.refused.all(), ["read_timeout"]);
}

#[tokio::test]
async fn a_slow_or_silent_head_is_closed_without_a_word() {
    let bench = Bench::new();
    let listener = json!({"header_read_timeout_ms": 50, "keep_alive_ms": 60_000});
    let _flow = Flow::run(bench.start(source("/", json!({"listener": listener}))).await, |delivery| {
        delivery.acknowledgement.delivered();
    });
    assert_eq!(raw(bench.address(), "").await, "");
    assert_eq!(raw(bench.address(), "POST / HTTP/1.1\r\nhost: x\r\nx-slow: ").await, "");
    assert_eq!(raw(bench.address(), "PRI * HTTP/2.0\r\n").await, "");
    // Also when it is not the first request of the connection.
    let request = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let mut stream = TcpStream::connect(bench.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    // Resting is allowed for longer than a head may take.
    tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await.unwrap_err();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream.write_all(b"POST / HT").await.unwrap();
    assert_eq!(read_to_end(stream).await, "");
}

#[tokio::test]
async fn a_connection_that_rests_too_long_is_closed() {
    let bench = Bench::new();
    let _flow =
        Flow::run(bench.start(source("/", json!({"listener": {"keep_alive_ms": 50}}))).await, |delivery| {
            delivery.acknowledgement.delivered();
        });
    let mut stream = TcpStream::connect(bench.address()).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let answer = read_to_end(stream).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
}

#[tokio::test]
async fn over_the_in_flight_limit_and_paused_is_503() {
    let bench = Bench::with(FlowLimits { in_flight: 2, release_delay_ms: 2_500, ..FlowLimits::default() });
    let mut source = bench.start(source("/", json!({}))).await;
    let url = bench.url("/");
    let send = |body: &'static str| {
        let url = url.clone();
        tokio::spawn(async move { post(&url, body).await })
    };
    let (one, two) = (send("1"), send("2"));
    let (first, second) = (next(&mut source).await, next(&mut source).await);
    let refused = post(&url, "3").await;
    refused.assert_problem(503);
    assert_eq!(refused.header("retry-after"), "3");
    first.acknowledgement.delivered();
    second.acknowledgement.delivered();
    assert_eq!(
        (soon(one).await.unwrap().status.as_u16(), soon(two).await.unwrap().status.as_u16()),
        (204, 204)
    );

    source.pause(Some("a plugin is held back"));
    let refused = post(&url, "4").await;
    refused.assert_problem(503);
    assert!(!refused.text().contains("plugin"));
    source.pause(None);
    let five = send("5");
    next(&mut source).await.acknowledgement.delivered();
    assert_eq!(soon(five).await.unwrap().status, 204);
    assert_eq!(bench.refused.all(), ["in_flight", "paused"]);
}

#[tokio::test]
async fn connections_above_the_limit_wait() {
    let bench = Bench::new();
    let _flow =
        Flow::run(bench.start(source("/", json!({"listener": {"max_connections": 1}}))).await, |delivery| {
            delivery.acknowledgement.delivered()
        });
    let request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let mut first = TcpStream::connect(bench.address()).await.unwrap();
    first.write_all(request).await.unwrap();
    read_until(&mut first, "\r\n\r\n").await;
    let mut second = TcpStream::connect(bench.address()).await.unwrap();
    second.write_all(request).await.unwrap();
    tokio::time::timeout(Duration::from_millis(100), second.read_u8()).await.unwrap_err();
    drop(first);
    read_until(&mut second, "HTTP/1.1 204").await;
}

#[tokio::test]
async fn the_largest_limit_that_a_flow_on_a_listener_writes_counts() {
    let bench = Bench::new();
    let config = |path, n| source(path, json!({"listener": {"max_connections": n}}));
    let _one = bench.start(config("/one", 1)).await;
    let mut stream = TcpStream::connect(bench.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, "404").await;
    let mut waiting = TcpStream::connect(bench.address()).await.unwrap();
    waiting.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // One that says nothing changes nothing.
    let _silent = bench.start(source("/silent", json!({}))).await;
    tokio::time::timeout(Duration::from_millis(100), waiting.read_u8()).await.unwrap_err();
    let _two = bench.start(config("/two", 2)).await;
    read_until(&mut waiting, "404").await;
}
