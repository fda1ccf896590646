//! `send` and `call` against servers that behave and servers that do not.

use std::time::Duration;

use gristmill_core::{ErrorClass, Failure, limits::FlowLimits};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{Act, Bench, Flow, Scripted, answer, message, source, with_substituted};

async fn failure(act: Act, config: serde_json::Value) -> Failure {
    let server = Scripted::start(vec![act]).await;
    let bench = Bench::with(FlowLimits { body_bytes: 100, ..FlowLimits::default() });
    let mut whole = json!({"url": server.url("/path?token=secret"), "timeout_ms": 5_000});
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let failure = bench.sink(whole).await.call(&message(&[], "body")).await.unwrap_err();
    assert!(failure.text().contains("POST http://127.0.0.1"), "{failure}");
    assert!(failure.text().contains("/path"), "{failure}");
    assert!(!failure.text().contains("secret"), "the query may hold a secret: {failure}");
    failure
}

#[tokio::test]
async fn a_message_goes_out_as_the_flow_says() {
    let mut server = Scripted::start(vec![Act::Answer(answer(204, "", ""))]).await;
    let bench = Bench::new();
    let url = format!("http://{}/orders/${{headers.id}}?state=${{headers.state}}", server.address);
    let sink = bench
        .sink(json!({
            "url": url, "method": "PUT",
            "headers": {"x-kind": "order", "Authorization": "Bearer ${headers.token}", "accept": "text/plain"},
            "forward_headers": ["content-type", "x-trace", "accept"],
        }))
        .await;
    let message = message(
        &[
            ("content-type", "application/json"),
            ("id", "a/b"),
            ("state", "new one"),
            ("token", "t-1"),
            ("x-trace", "1"),
            ("x-trace", "2"),
            ("accept", "image/png"),
            ("x-private", "stays here"),
        ],
        "{}",
    );
    sink.send(&message).await.unwrap();
    let request = server.request().await;
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.lines().collect();
    lines[1..].sort_unstable();
    let host = format!("host: {}", server.address);
    let agent = format!("user-agent: gristmill/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        lines,
        [
            "PUT /orders/a%2Fb?state=new%20one HTTP/1.1",
            "accept: text/plain",
            "authorization: Bearer t-1",
            "content-length: 2",
            "content-type: application/json",
            &host,
            &agent,
            "x-kind: order",
            "x-trace: 1",
            "x-trace: 2",
        ]
    );
    assert_eq!(body, "{}");
}

#[tokio::test]
async fn a_get_sends_no_body() {
    let mut server = Scripted::start(vec![Act::Answer(answer(200, "", "x"))]).await;
    let sink = Bench::new().sink(json!({"url": server.url("/"), "method": "GET"})).await;
    sink.send(&message(&[], "body")).await.unwrap();
    let request = server.request().await;
    assert!(request.starts_with("GET / HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"), "{request}");
}

#[tokio::test]
async fn the_answer_of_a_call_is_the_new_message() {
    let server = Scripted::start(vec![
        Act::Answer(answer(
            201,
            "content-type: text/plain\r\nx-id: 7\r\nx-id: 8\r\nset-cookie: a=b\r\n",
            "made",
        )),
        Act::Answer(answer(200, "", "no type")),
        Act::Answer(answer(204, "", "")),
    ])
    .await;
    let sink =
        Bench::new().sink(json!({"url": server.url("/"), "answer_headers": ["content-type", "x-id"]})).await;
    let message = message(&[("content-type", "application/json")], "{}");
    let first = sink.call(&message).await.unwrap();
    assert_eq!(&first.body[..], b"made");
    assert_eq!(
        first.headers.iter().collect::<Vec<_>>(),
        [("http-status", "201"), ("content-type", "text/plain"), ("x-id", "7"), ("x-id", "8")]
    );
    let second = sink.call(&message).await.unwrap();
    assert_eq!(second.headers.get("content-type"), Some("application/octet-stream"));
    let third = sink.call(&message).await.unwrap();
    assert_eq!((third.headers.get("http-status"), third.body.len()), (Some("204"), 0));
}

#[tokio::test]
async fn every_status_has_its_class() {
    for (status, class, retryable) in [
        (400, ErrorClass::SinkRejected, false),
        (401, ErrorClass::SinkRejected, false),
        (404, ErrorClass::SinkRejected, false),
        (409, ErrorClass::SinkRejected, false),
        (301, ErrorClass::SinkRejected, false),
        (304, ErrorClass::SinkRejected, false),
        (408, ErrorClass::SinkUnavailable, true),
        (425, ErrorClass::SinkUnavailable, true),
        (429, ErrorClass::SinkUnavailable, true),
        (500, ErrorClass::SinkUnavailable, true),
        (503, ErrorClass::SinkUnavailable, true),
        (599, ErrorClass::SinkUnavailable, true),
        (700, ErrorClass::SinkRejected, false),
    ] {
        let failure = failure(Act::AnswerAndClose(answer(status, "", "what it says")), json!({})).await;
        assert_eq!((failure.class(), failure.is_retryable()), (class, retryable), "{status}: {failure}");
        assert!(failure.text().contains(&format!("answered {status}")), "{failure}");
        assert!(failure.wait_at_least().is_none());
        if status != 304 {
            assert!(failure.text().ends_with(": what it says"), "{failure}");
        }
    }
}

#[tokio::test]
async fn the_flow_can_say_which_status_means_what() {
    let config = json!({"success": [409, "200-204"], "retryable": ["404-405"]});
    let server = Scripted::start(vec![
        Act::Answer(answer(409, "", "")),
        Act::Answer(answer(204, "", "")),
        Act::Answer(answer(205, "", "")),
        Act::Answer(answer(404, "", "")),
        Act::Answer(answer(503, "", "")),
    ])
    .await;
    let mut config = config;
    config["url"] = server.url("/").into();
    let sink = Bench::new().sink(config).await;
    let message = message(&[], "");
    sink.send(&message).await.unwrap();
    sink.send(&message).await.unwrap();
    let mut classes = Vec::new();
    for _ in 0..3 {
        classes.push(sink.send(&message).await.unwrap_err().class());
    }
    use ErrorClass::{SinkRejected, SinkUnavailable};
    assert_eq!(classes, [SinkRejected, SinkUnavailable, SinkRejected]);
}

#[tokio::test]
async fn retry_after_is_honoured_and_capped() {
    let wait = async |headers: &str, status| {
        failure(Act::AnswerAndClose(answer(status, headers, "")), json!({})).await.wait_at_least()
    };
    assert_eq!(wait("retry-after: 7\r\n", 429).await, Some(Duration::from_secs(7)));
    assert_eq!(wait("retry-after: 99999999\r\n", 503).await, Some(Duration::from_secs(3_600)));
    assert_eq!(
        wait("retry-after: Fri, 31 Dec 2100 23:59:59 GMT\r\n", 503).await,
        Some(Duration::from_secs(3_600))
    );
    assert_eq!(wait("retry-after: soon\r\n", 503).await, None);
    // A final status is final, whatever else it says.
    assert_eq!(wait("retry-after: 7\r\n", 400).await, None);
}

#[tokio::test]
async fn what_a_server_says_is_cut_to_one_short_line() {
    let long = format!("line one\r\n\tline\u{1b} two {}", "x".repeat(1_000));
    let failure = failure(Act::AnswerAndClose(answer(500, "", &long)), json!({})).await;
    let (_, said) = failure.text().split_once("Error: ").or(failure.text().split_once("500: ")).unwrap();
    assert!(said.starts_with("line one line two xxx"), "{said}");
    assert_eq!(said.chars().count(), 201);
    assert!(said.ends_with('…'));
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let sink = Bench::new().sink(json!({"url": format!("http://{address}/")})).await;
    let failure = sink.send(&message(&[], "")).await.unwrap_err();
    assert_eq!((failure.class(), failure.is_retryable()), (ErrorClass::SinkUnavailable, true));
    assert!(failure.text().contains("refused"), "{failure}");
}

#[tokio::test]
async fn connections_that_break_are_unavailable() {
    for act in [
        Act::AnswerAndClose(vec![]),
        Act::AnswerAndReset(vec![]),
        Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf".to_vec()),
        Act::AnswerAndReset(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf".to_vec()),
        Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhalf".to_vec()),
        Act::AnswerAndClose(b"SMTP ready\r\n\r\n".to_vec()),
    ] {
        let failure = failure(act, json!({})).await;
        assert_eq!(
            (failure.class(), failure.is_retryable()),
            (ErrorClass::SinkUnavailable, true),
            "{failure}"
        );
    }
}

/// The status is the confirmation; what breaks after it takes nothing back.
#[tokio::test]
async fn a_send_is_confirmed_by_the_status() {
    let broken = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf".to_vec();
    let server = Scripted::start(vec![Act::AnswerAndClose(broken)]).await;
    let sink = Bench::new().sink(json!({"url": server.url("/")})).await;
    sink.send(&message(&[], "")).await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_or_half_times_out() {
    let half = Act::Answer(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf".to_vec());
    for act in [Act::Silence, half] {
        let failure = failure(act, json!({"timeout_ms": 100})).await;
        assert_eq!((failure.class(), failure.is_retryable()), (ErrorClass::Timeout, true), "{failure}");
        assert!(failure.text().contains("100 ms"), "{failure}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_a_limit() {
    let large = "x".repeat(101);
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n65\r\n{large}\r\n");
    for act in [
        Act::Answer(answer(200, "", &large)),
        Act::Answer(chunked.into_bytes()),
        Act::Answer(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n".to_vec()),
    ] {
        let failure = failure(act, json!({})).await;
        assert_eq!((failure.class(), failure.is_retryable()), (ErrorClass::Limit, false), "{failure}");
    }
}

#[tokio::test]
async fn an_answer_that_no_message_can_carry_is_refused() {
    let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-type: \xff\xfe\r\n\r\n".to_vec();
    assert_eq!(failure(Act::Answer(bytes), json!({})).await.class(), ErrorClass::SinkRejected);
}

#[tokio::test]
async fn connections_are_shared_by_sinks_and_versions() {
    let server = Scripted::start((0..6).map(|_| Act::Answer(answer(200, "", "x"))).collect()).await;
    let bench = Bench::new();
    // A version opens its sinks before the one before it closes its own.
    let mut versions = Vec::new();
    for _version in 0..2 {
        for path in ["/a", "/b", "/c"] {
            let sink = bench.sink(json!({"url": server.url(path)})).await;
            sink.send(&message(&[], "")).await.unwrap();
            versions.push(sink);
        }
    }
    assert_eq!(*server.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_message_that_makes_no_good_request_is_rejected_and_says_why() {
    let bench = Bench::new();
    let sink = bench
        .sink(json!({
            "url": "http://127.0.0.1:1/${headers.id}", "encode_url": false, "headers": {"x-name": "${headers.name}"},
        }))
        .await;
    for (headers, part) in
        [([("id", "../admin"), ("name", "x")], "`..` segment"), ([("id", ""), ("name", "x")], "empty text")]
    {
        let failure = sink.send(&message(&headers, "")).await.unwrap_err();
        assert_eq!((failure.class(), failure.is_retryable()), (ErrorClass::SinkRejected, false));
        assert!(failure.text().contains(part), "{failure}");
    }
    let good = message(&[("id", "1"), ("name", "x")], "");
    let mut texts = sink.render(&good);
    let at = texts.iter().position(|text| text == "x").unwrap();
    texts[at] = "a\r\nx-smuggled: 1".into();
    let outgoing = gristmill_core::sink::Outgoing::new(&good, &texts);
    let failure = sink.sink.send(outgoing).await.unwrap_err();
    assert!(failure.text().contains("`x-name` cannot be sent"), "{failure}");
}

#[tokio::test]
async fn both_ends_speak_http2_to_each_other() {
    let bench = Bench::new();
    let _flow = Flow::run(bench.start(source("/{id}", json!({}))).await, |delivery| {
        delivery.acknowledgement.replied(gristmill_core::Reply {
            body: delivery.message.body().clone(),
            ..gristmill_core::Reply::default()
        });
    });
    let sink = bench.sink(json!({"url": bench.url("/${headers.id}"), "http2": true})).await;
    let answer = sink.call(&message(&[("id", "7")], "over HTTP/2")).await.unwrap();
    assert_eq!(&answer.body[..], b"over HTTP/2");
}

#[tokio::test]
async fn what_was_substituted_in_a_url_is_not_shown() {
    let bench = Bench::new();
    let said = answer(500, "", "no route to HUNTER2, hunter2/x, 127.0.0.1 or other");
    let server = Scripted::start(vec![Act::AnswerAndClose(said.clone()), Act::AnswerAndClose(said)]).await;
    let port = server.address.port();
    let fail = async |url: String, secret: &str| {
        let checked = bench.check_sink_node(&with_substituted(&json!({"url": url}), secret)).unwrap();
        assert!(!format!("{checked:?}").contains(secret), "{checked:?}");
        let sink = bench.open_sink(checked).await;
        sink.send(&message(&[], "")).await.unwrap_err().text().to_owned()
    };
    let path = format!("http://127.0.0.1:{port}/hunter2/x?y=hunter2");
    assert_eq!(
        fail(path, "hunter2").await,
        format!(
            "POST http://127.0.0.1:{port}/${{env:SECRET}}/x answered 500 Internal Server Error: \
             no route to HUNTER2, [redacted]/x, 127.0.0.1 or other"
        )
    );
    assert_eq!(
        fail(format!("http://127.0.0.1:{port}/x"), "127.0.0.1").await,
        format!(
            "POST http://${{env:SECRET}}:{port}/x answered 500 Internal Server Error: \
             no route to HUNTER2, hunter2/x, [redacted] or other"
        )
    );
    let whole = fail("http://127.0.0.1:1/".into(), "http://127.0.0.1:1/").await;
    assert!(whole.starts_with("POST ${env:SECRET}: ") && !whole.contains("127.0.0.1"), "{whole}");
}
