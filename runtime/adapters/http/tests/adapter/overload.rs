//! Senders that begin and do not go on: they hold up themselves and nobody else.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use gristmill_core::limits::FlowLimits;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http2::SendRequest,
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::{Bench, Flow, http2_connection, post, request, soon, source};

/// A body of which no more than this comes, and no end, unless it is `whole`.
struct Part {
    data: Option<Bytes>,
    whole: bool,
}

impl Body for Part {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.data.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None if self.whole => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole && self.data.is_none()
    }
}

/// Sends a request without waiting for its answer.
fn begin(
    sender: &SendRequest<Part>,
    bench: &Bench,
    header: (&str, &str),
    data: &'static [u8],
    whole: bool,
) -> JoinHandle<hyper::Result<Response<Incoming>>> {
    let data = (!data.is_empty()).then(|| Bytes::from_static(data));
    let request =
        Request::post(bench.url("/")).header(header.0, header.1).body(Part { data, whole }).unwrap();
    let mut sender = sender.clone();
    tokio::spawn(async move { sender.send_request(request).await })
}

#[tokio::test]
async fn requests_whose_body_does_not_come_take_no_place() {
    let bench = Bench::with(FlowLimits { in_flight: 4, ..FlowLimits::default() });
    let signature = json!({"header": "x-signature", "algorithm": "hmac_sha1", "secret": "Jefe"});
    // RFC 2202 section 3, test case 2.
    let (right, body) = ("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79", "what do ya want for nothing?");
    let _flow = Flow::run(bench.start(source("/", json!({"signature": signature}))).await, |delivery| {
        delivery.acknowledgement.delivered();
    });
    let sender = http2_connection(bench.address()).await;
    let stuck: Vec<_> = (0..32).map(|_| begin(&sender, &bench, ("x-signature", "00"), b"", false)).collect();
    // The connection serves its requests in order, so the others have begun when this one is answered.
    let last = soon(begin(&sender, &bench, ("x-signature", right), body.as_bytes(), true)).await.unwrap();
    assert_eq!(last.unwrap().status(), 204);
    assert_eq!(request("POST", &bench.url("/"), &[("x-signature", right)], body).await.status, 204);
    assert!(stuck.iter().all(|request| !request.is_finished()));
    assert!(bench.refused.all().is_empty());
}

#[tokio::test]
async fn a_connection_holds_no_more_than_its_share_and_leaves_the_others_theirs() {
    static BODY: [u8; 60_000] = [b'x'; 60_000];
    let bench =
        Bench::with(FlowLimits { body_bytes: BODY.len(), header_bytes: 2_000, ..FlowLimits::default() });
    let listener = json!({"buffer_bytes": 65_536});
    let _flow = Flow::run(bench.start(source("/", json!({"listener": listener}))).await, |delivery| {
        delivery.acknowledgement.delivered();
    });
    let sender = http2_connection(bench.address()).await;
    let stuck = begin(&sender, &bench, ("x-n", "1"), &BODY, false);
    let small = soon(begin(&sender, &bench, ("x-n", "2"), b"x", true)).await.unwrap().unwrap();
    assert_eq!(small.status(), 204);
    let large = soon(begin(&sender, &bench, ("x-n", "3"), &BODY, true)).await.unwrap().unwrap();
    assert_eq!(large.status(), 503);
    assert!(large.headers().contains_key("retry-after"));
    assert!(!stuck.is_finished());
    assert_eq!(post(&bench.url("/"), "small").await.status, 204);
    assert_eq!(bench.refused.all(), ["buffer"]);
}
