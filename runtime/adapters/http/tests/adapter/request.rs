//! From request to message.

use gristmill_core::{Delivery, Reply};
use http::Request;
use http_body_util::Full;
use serde_json::json;

use crate::support::{Bench, Flow, http2_client, next, post, raw, request, soon, source, try_request};

/// Answers with the name of the flow.
fn named(name: &'static str) -> impl Fn(Delivery) + Send + 'static {
    move |delivery| {
        delivery.acknowledgement.replied(Reply { body: name.into(), ..Reply::default() });
    }
}

#[tokio::test]
async fn a_message_has_the_body_the_headers_and_what_the_request_was() {
    let bench = Bench::new();
    let mut source = bench.start(source("/orders/{id}/files/{*rest}", json!({"methods": ["PUT"]}))).await;
    let url = bench.url("/orders/a%2Fb%20%C3%BC/files/x/y.txt?state=new%20one&x");
    let sent = tokio::spawn(async move {
        let headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("X-Custom", "one"),
            ("x-custom", "two ünïcode"),
            ("connection", "x-private, keep-alive"),
            ("x-private", "for the next hop"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("http-method", "FORGED"),
            ("http-param-id", "forged"),
            ("http-remote-addr", "6.6.6.6"),
            ("http-other", "forged"),
            ("authorization", "Bearer not-for-the-flow"),
            ("cookie", "session=not-for-the-flow"),
        ];
        request("PUT", &url, &headers, "the body").await
    });
    let delivery = next(&mut source).await;
    let message = &delivery.message;
    assert_eq!(&message.body()[..], b"the body");
    assert_eq!(message.id().as_str().len(), 26);
    let mut headers: Vec<_> = message.headers().iter().collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("content-type", "text/plain; charset=utf-8"),
            ("http-host", "127.0.0.1"),
            ("http-method", "PUT"),
            ("http-param-id", "a/b ü"),
            ("http-param-rest", "x/y.txt"),
            ("http-path", "/orders/a%2Fb%20%C3%BC/files/x/y.txt"),
            ("http-query", "state=new%20one&x"),
            ("http-remote-addr", "127.0.0.1"),
            ("x-custom", "one"),
            ("x-custom", "two ünïcode"),
        ]
    );
    assert!(!delivery.redelivered);
    delivery.acknowledgement.delivered();
    assert_eq!(soon(sent).await.unwrap().status, 204);
}

#[tokio::test]
async fn the_nearest_route_that_has_the_method_is_served() {
    let bench = Bench::new();
    let mut flows = Vec::new();
    for (name, config) in [
        ("new", source("/orders/new", json!({"methods": ["GET"]}))),
        ("one", source("/orders/{id}", json!({"methods": ["GET", "POST"]}))),
        ("rest", source("/{*rest}", json!({"methods": ["GET", "DELETE"]}))),
        ("lines", source("/orders/{id}/lines", json!({}))),
        ("host", source("/orders/{id}", json!({"methods": ["GET"], "host": "a.test"}))),
        ("slash", source("/orders/", json!({}))),
    ] {
        flows.push(Flow::run(bench.start(config).await, named(name)));
    }
    for (method, path, host, expected) in [
        ("GET", "/orders/new", "b.test", "new"),
        ("GET", "/orders/7", "b.test", "one"),
        ("POST", "/orders/new", "b.test", "one"),
        ("DELETE", "/orders/new", "b.test", "rest"),
        ("GET", "/orders/new/", "b.test", "rest"),
        ("POST", "/orders/new/lines", "b.test", "lines"),
        ("GET", "/a/b/c", "b.test", "rest"),
        ("POST", "/orders/", "b.test", "slash"),
        ("GET", "/orders/7", "a.test", "host"),
        ("GET", "/orders/7", "A.TEST.:99", "host"),
        ("GET", "/orders/new", "a.test", "host"),
        ("POST", "/orders/7", "a.test", "one"),
    ] {
        let answer = request(method, &bench.url(path), &[("host", host)], "").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, expected), "{method} {host} {path}");
    }
    let answer = request("PUT", &bench.url("/orders/new"), &[], "").await;
    answer.assert_problem(405);
    assert_eq!(answer.header("allow"), "GET, POST, DELETE, HEAD, OPTIONS");
    let answer = request("OPTIONS", &bench.url("/orders/7"), &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (204, ""));
    assert_eq!(answer.header("allow"), "GET, POST, DELETE, HEAD, OPTIONS");
    request("POST", &bench.url("/nothing/here/for/post"), &[], "").await.assert_problem(405);
    post(&bench.url("/"), "").await.assert_problem(404);
    request("BREW", &bench.url("/orders/7"), &[], "").await.assert_problem(405);
    let head = request("HEAD", &bench.url("/orders/new"), &[], "").await;
    assert_eq!((head.status.as_u16(), head.text(), head.header("content-length")), (200, "", "3"));
    let star = raw(bench.address(), "OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(star.starts_with("HTTP/1.1 204"), "{star}");
}

#[tokio::test]
async fn http2_is_spoken_without_asking() {
    let bench = Bench::new();
    let _flow = Flow::run(bench.start(source("/{id}", json!({"host": "127.0.0.1"}))).await, |delivery| {
        let headers = delivery.message.headers();
        assert_eq!(headers.get("http-host"), Some("127.0.0.1"));
        let body = format!("{} {}", headers.get("http-param-id").unwrap(), delivery.message.body().len());
        delivery.acknowledgement.replied(Reply { body: body.into(), ..Reply::default() });
    });
    let client = http2_client();
    let requests: Vec<_> = (0..50)
        .map(|n| {
            let (client, url) = (client.clone(), bench.url(&format!("/{n}")));
            tokio::spawn(async move {
                let body = Full::from("x".repeat(100_000));
                soon(try_request(&client, Request::post(url).body(body).unwrap())).await
            })
        })
        .collect();
    for (n, request) in requests.into_iter().enumerate() {
        assert_eq!(request.await.unwrap().unwrap().text(), format!("{n} 100000"));
    }
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let bench = Bench::new();
    let mut source = bench.start(source("/{id}", json!({}))).await;
    for bytes in [
        &b"POST /x HTTP/1.1\r\nconnection: close\r\n\r\n"[..],
        b"POST /x HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: a\r\nx-name: \xff\xfe\r\nconnection: close\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: a\r\nx-name: \xc2\x85\r\nconnection: close\r\n\r\n",
        b"POST /%ff HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"POST /%0d%0a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\nnot hex\r\n",
        b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzz",
        b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: a\r\nbad header: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client\r\n\r\n",
    ] {
        let answer = raw(bench.address(), bytes).await;
        let request = String::from_utf8_lossy(bytes);
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.is_empty(), "{request:?}: {answer:?}");
    }
    // None of them became a message: the next one is this.
    let url = bench.url("/good");
    let good = tokio::spawn(async move { post(&url, "").await });
    let delivery = next(&mut source).await;
    assert_eq!(delivery.message.headers().get("http-param-id"), Some("good"));
    delivery.acknowledgement.delivered();
    assert_eq!(soon(good).await.unwrap().status, 204);
}

#[tokio::test]
async fn a_signed_route_takes_what_is_signed() {
    // The example of GitHub's documentation for webhooks.
    let (secret, body) = ("It's a Secret to Everybody", "Hello, World!");
    let right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let bench = Bench::new();
    let signature = json!({
        "header": "X-Hub-Signature-256", "prefix": "sha256=", "algorithm": "hmac_sha256", "secret": secret,
    });
    let _flow = Flow::run(bench.start(source("/", json!({"signature": signature}))).await, |delivery| {
        assert_eq!(&delivery.message.body()[..], b"Hello, World!");
        delivery.acknowledgement.delivered();
    });
    let url = bench.url("/");
    let header = "x-hub-signature-256";
    assert_eq!(request("POST", &url, &[(header, right)], body).await.status, 204);
    let wrong = right.replace('7', "8");
    let without_prefix = right.trim_start_matches("sha256=");
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[(header, &wrong)], body),
        (&[(header, right)], "Hello, World"),
        (&[(header, without_prefix)], body),
        (&[(header, &right[..40])], body),
        (&[(header, right), (header, right)], body),
        (&[("x-hub-signature", right)], body),
        (&[], ""),
    ];
    for (headers, body) in cases {
        let answer = request("POST", &url, headers, body).await;
        answer.assert_problem(401);
        assert_eq!(answer.header("www-authenticate"), "Signature");
    }
    assert_eq!(bench.refused.all(), ["signature"; 7]);
}
