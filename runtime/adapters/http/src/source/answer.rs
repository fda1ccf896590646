//! What a sender is told when the delivery has settled.

use std::time::Duration;

use gristmill_core::{MessageId, Outcome, Reply, Settlement};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::problem::{Body, Problem};
use crate::fields;

/// The answer to a delivery that ended like this.
pub(crate) fn to_outcome(outcome: Outcome, message: &MessageId, release_delay: Duration) -> Response<Body> {
    let Outcome { settlement, dead_lettered, reply, failure } = outcome;
    match settlement {
        Settlement::Delivered => match reply {
            Some(reply) => to_reply(reply, message),
            None if dead_lettered => empty(StatusCode::ACCEPTED),
            None => empty(StatusCode::NO_CONTENT),
        },
        Settlement::Rejected => {
            Problem::of_rejected(failure.as_ref().map(|f| f.class())).about(message).into_response()
        }
        Settlement::Released => {
            let wait = failure.as_ref().and_then(|f| f.wait_at_least()).unwrap_or_default();
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The message could not be processed for now. Send it again later.",
            )
            .retry_after(retry_after_seconds(wait.max(release_delay)))
            .about(message)
            .into_response()
        }
    }
}

/// A wait as `Retry-After` has it: whole seconds, rounded up, at least one (RFC 9110 section 10.2.3).
pub(crate) fn retry_after_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response
}

fn to_reply(reply: Reply, message: &MessageId) -> Response<Body> {
    let status = match reply.status.map(StatusCode::from_u16) {
        None => StatusCode::OK,
        // An informational status is never a final answer (RFC 9110 section 15.2).
        Some(Ok(status)) if !status.is_informational() => status,
        Some(_) => {
            tracing::error!(%message, status = reply.status, "a `reply` step gave a status that HTTP does not have");
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The answer could not be built.")
                .about(message)
                .into_response();
        }
    };
    let has_body =
        !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let mut response = Response::new(if has_body { Full::new(reply.body) } else { Body::default() });
    *response.status_mut() = status;
    for (name, value) in reply.headers.iter() {
        let field = HeaderName::from_bytes(name.as_bytes())
            .ok()
            .filter(|name| !fields::is_connection_field(name))
            .zip(HeaderValue::from_bytes(value.as_bytes()).ok());
        match field {
            Some((name, value)) => {
                response.headers_mut().append(name, value);
            }
            None => tracing::warn!(%message, header = name, "HTTP cannot send this header of the reply"),
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gristmill_core::{ErrorClass, Failure, Headers};
    use http::header;
    use http_body_util::BodyExt as _;

    use super::*;

    fn outcome(settlement: Settlement) -> Outcome {
        Outcome { settlement, dead_lettered: false, reply: None, failure: None }
    }

    fn answer(outcome: Outcome) -> Response<Body> {
        to_outcome(outcome, &MessageId::from("m-1"), Duration::from_millis(1_500))
    }

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[test]
    fn without_a_reply_the_settlement_gives_the_status() {
        assert_eq!(answer(outcome(Settlement::Delivered)).status(), 204);
        let dead_lettered = Outcome { dead_lettered: true, ..outcome(Settlement::Delivered) };
        assert_eq!(answer(dead_lettered).status(), 202);
        let released = answer(outcome(Settlement::Released));
        assert_eq!(released.status(), 503);
        assert_eq!(released.headers()[header::RETRY_AFTER], "2");
        assert_eq!(answer(outcome(Settlement::Rejected)).status(), 422);
    }

    #[test]
    fn the_wait_that_a_sink_asked_for_is_passed_on() {
        let failure = Failure::new(ErrorClass::SinkUnavailable, "").retry_after(Duration::from_secs(90));
        let released = Outcome { failure: Some(Arc::new(failure)), ..outcome(Settlement::Released) };
        assert_eq!(answer(released).headers()[header::RETRY_AFTER], "90");
    }

    #[tokio::test]
    async fn every_class_of_failure_has_a_status_and_tells_nothing() {
        for class in ErrorClass::ALL {
            let failure = Failure::new(class, "secret internals").with_detail("backtrace");
            let response =
                answer(Outcome { failure: Some(Arc::new(failure)), ..outcome(Settlement::Rejected) });
            let status = response.status();
            assert!(status.is_client_error() || status.is_server_error(), "{class}: {status}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
            let text = text(response).await;
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(document["status"], status.as_u16());
            assert_eq!(document["instance"], "urn:gristmill:message:m-1");
            for internal in ["secret", "backtrace", class.name()] {
                assert!(!text.contains(internal), "{text}");
            }
        }
    }

    #[tokio::test]
    async fn a_reply_is_sent_as_it_is_without_what_would_break_the_framing() {
        let mut headers = Headers::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("content-length", "99"),
            ("connection", "close"),
            ("x/y", "no token"),
        ] {
            headers.append(name, value).unwrap();
        }
        let reply = Reply { status: Some(201), headers: headers.clone(), body: "made".into() };
        let response = answer(Outcome { reply: Some(reply), ..outcome(Settlement::Delivered) });
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers().len(), 1);
        assert_eq!(text(response).await, "made");
        for status in [100, 99, 1000] {
            let reply = Reply { status: Some(status), ..Reply::default() };
            let response = answer(Outcome { reply: Some(reply), ..outcome(Settlement::Delivered) });
            assert_eq!(response.status(), 500, "{status}");
        }
    }

    #[test]
    fn a_reply_does_not_hide_that_the_delivery_failed() {
        let reply = Some(Reply::default());
        assert_eq!(answer(Outcome { reply: reply.clone(), ..outcome(Settlement::Rejected) }).status(), 422);
        assert_eq!(answer(Outcome { reply, ..outcome(Settlement::Released) }).status(), 503);
    }
}
