//! From settlement to answer.

use std::{sync::Arc, time::Duration};

use gristmill_core::{ErrorClass, Failure, Headers, Reply, limits::FlowLimits};
use http_body_util::Full;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{Bench, Flow, client, next, post, soon, source, try_request};

#[tokio::test]
async fn the_settlement_is_the_answer() {
    let bench = Bench::new();
    let _flow = Flow::run(bench.start(source("/", json!({}))).await, |delivery| {
        let ack = delivery.acknowledgement;
        let failure = |class| Some(Arc::new(Failure::new(class, "an internal text")));
        match std::str::from_utf8(delivery.message.body()).unwrap() {
            "deliver" => ack.delivered(),
            "dead-letter" => ack.dead_lettered(),
            "reply" => {
                let mut headers = Headers::new();
                headers.append("content-type", "text/plain").unwrap();
                headers.append("x-set", "1").unwrap();
                headers.append("x-set", "2").unwrap();
                ack.replied(Reply { status: Some(201), headers, body: "made".into() });
            }
            "reject" => ack.rejected(failure(ErrorClass::BodyFormat)),
            "trap" => ack.rejected(failure(ErrorClass::PluginTrap)),
            "sink" => ack.rejected(failure(ErrorClass::SinkRejected)),
            "release" => ack.released(failure(ErrorClass::SinkUnavailable)),
            "drop" => drop(ack),
            other => panic!("{other}"),
        }
    });
    let url = bench.url("/");
    let delivered = post(&url, "deliver").await;
    assert_eq!((delivered.status.as_u16(), delivered.text()), (204, ""));
    let dead_lettered = post(&url, "dead-letter").await;
    assert_eq!((dead_lettered.status.as_u16(), dead_lettered.text()), (202, ""));
    let reply = post(&url, "reply").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (201, "made"));
    assert_eq!(reply.headers.get_all("x-set").iter().count(), 2);
    for (body, status) in [("reject", 422), ("trap", 500), ("sink", 502), ("release", 503), ("drop", 503)] {
        let answer = post(&url, body).await;
        answer.assert_problem(status);
        assert!(!answer.text().contains("internal text"), "{answer:?}");
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503);
    }
}

#[tokio::test]
async fn a_delivery_goes_on_after_its_sender_was_answered_504() {
    let bench = Bench::new();
    let mut source = bench.start(source("/", json!({"answer_timeout_ms": 50}))).await;
    let url = bench.url("/");
    let sent = tokio::spawn(async move { post(&url, "slow").await });
    let delivery = next(&mut source).await;
    let answer = soon(sent).await.unwrap();
    answer.assert_problem(504);
    let instance = format!("urn:gristmill:message:{}", delivery.message.id());
    assert!(answer.text().contains(&instance), "{answer:?}");
    delivery.acknowledgement.delivered();
}

#[tokio::test]
async fn a_sender_that_goes_away_cancels_nothing_and_frees_its_place() {
    let bench = Bench::with(FlowLimits { in_flight: 1, ..FlowLimits::default() });
    let mut source = bench.start(source("/", json!({}))).await;
    let mut stream = TcpStream::connect(bench.address()).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody").await.unwrap();
    let delivery = next(&mut source).await;
    drop(stream);
    post(&bench.url("/"), "refused while the first is in flight").await.assert_problem(503);
    assert_eq!(&delivery.message.body()[..], b"body");
    delivery.acknowledgement.delivered();
    let url = bench.url("/");
    let second = tokio::spawn(async move { post(&url, "second").await });
    next(&mut source).await.acknowledgement.delivered();
    assert_eq!(soon(second).await.unwrap().status, 204);
}

#[tokio::test]
async fn a_sender_that_goes_away_in_the_middle_of_its_body_leaves_no_message() {
    let bench = Bench::with(FlowLimits { in_flight: 1, ..FlowLimits::default() });
    let mut source = bench.start(source("/", json!({}))).await;
    let mut stream = TcpStream::connect(bench.address()).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 400\r\n\r\nhalf").await.unwrap();
    drop(stream);
    let url = bench.url("/");
    let whole = tokio::spawn(async move {
        loop {
            // The place of the broken request is free as soon as its end has been seen.
            let answer = post(&url, "whole").await;
            if answer.status != 503 {
                return answer;
            }
        }
    });
    let delivery = next(&mut source).await;
    assert_eq!(&delivery.message.body()[..], b"whole");
    delivery.acknowledgement.delivered();
    assert_eq!(soon(whole).await.unwrap().status, 204);
}

#[tokio::test]
async fn next_loses_nothing_when_it_is_cancelled() {
    let bench = Bench::new();
    let mut source = bench.start(source("/", json!({}))).await;
    let client = client();
    let mut sent = Vec::new();
    for n in 0..200 {
        let (client, url) = (client.clone(), bench.url("/"));
        sent.push(tokio::spawn(async move {
            let request = http::Request::post(url).body(Full::from(n.to_string())).unwrap();
            soon(try_request(&client, request)).await.unwrap().status
        }));
    }
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 200 {
        // Gives up at once, unless a delivery is there.
        let given = tokio::time::timeout(Duration::ZERO, source.next()).await;
        let Ok(delivery) = given else {
            tokio::task::yield_now().await;
            continue;
        };
        let delivery = delivery.unwrap().unwrap();
        assert!(seen.insert(delivery.message.body().clone()));
        delivery.acknowledgement.delivered();
    }
    for sent in sent {
        assert_eq!(soon(sent).await.unwrap(), 204);
    }
}
