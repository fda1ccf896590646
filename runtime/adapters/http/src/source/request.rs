//! One request, from its head to the answer: route, refusals, body, signature, message, settlement.
//!
//! Nothing is accepted before the delivery is handed to the flow; from there on the sender may go away, and the delivery
//! goes on without it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use gristmill_core::{Acknowledgement, Delivery, Headers, Message};
use http::{HeaderValue, Request, Response, StatusCode, Version, header, request::Parts, uri::Authority};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::{
    sync::oneshot,
    time::{error::Elapsed, timeout},
};

use super::{
    answer::{self, retry_after_seconds},
    budget::{Account, Allowance, Hold},
    connection::LINGER,
    endpoint::{Admission, Entrance, Settings},
    problem::{Body, Problem},
    spec::{Route, normal_host},
    table::{Lookup, Table},
};
use crate::{config::Method, fields, gathered::Gathered, id, percent};

/// How often a request looks its route up again when it finds an endpoint that is just being closed. Each time the table
/// is a newer one, so once is nearly always enough.
const MAX_LOOKUPS: usize = 16;

/// How much room is made for a body before any of it has come, in bytes: what a sender claims is not believed further.
const FIRST_RESERVE_BYTES: usize = 64 * 1024;

/// What a request that is being served takes besides its head and its body, in bytes and roughly: so that those without
/// either have an end too.
const REQUEST_BYTES: usize = 1_024;

/// How much of the rest of a body is read and thrown away after its answer, over HTTP/2, in bytes.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;

/// A request that was let in.
struct Admitted<'path> {
    route: Arc<Route>,
    values: Vec<&'path str>,
    settings: Arc<Settings>,
    signature: Option<Vec<u8>>,
    entrance: Entrance,
}

/// Serves one request. `peer` is the address at the other end of the connection, without the port.
pub(super) async fn serve(
    table: &ArcSwap<Table>,
    account: &Arc<Account>,
    peer: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, mut body) = request.into_parts();
    let mut response = handle(table, account, peer, &head, &mut body)
        .await
        .unwrap_or_else(|problem| problem.into_response());
    if head.version >= Version::HTTP_2 && !body.is_end_stream() {
        tokio::spawn(discard(body));
    }
    // The rest of such a body is not read, so the next request could not be found behind it.
    let leaves_body =
        matches!(response.status(), StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT);
    if leaves_body && head.version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads the rest of a body that was answered before it was read, and throws it away, for a while. Otherwise the stream would be
/// reset behind the answer (RFC 9113 section 8.1), and there are clients that give the answer up for that. The window of the
/// connection bounds how much of it is held.
async fn discard(mut body: Incoming) {
    let discarding = async {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(still) = left.checked_sub(length) else { return };
            left = still;
        }
    };
    // Whether it has ended or was cut off: the sender has had its time.
    let _ = timeout(LINGER, discarding).await;
}

async fn handle(
    table: &ArcSwap<Table>,
    account: &Arc<Account>,
    peer: &str,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response<Body>, Problem> {
    let host = host_of(head)?;
    let Admitted { route, values, settings, signature, entrance } =
        match admit(table, host.as_deref(), head, body)? {
            Ok(admitted) => admitted,
            Err(response) => return Ok(response),
        };
    let limits = &settings.context.limits;
    let refused = |problem: Problem, reason| {
        settings.context.observer.refused(reason);
        problem
    };
    let allowance = Allowance {
        listener_bytes: table.load().limits.buffer_bytes,
        largest_request_bytes: limits
            .body_bytes
            .saturating_add(limits.header_bytes)
            .saturating_add(REQUEST_BYTES),
    };
    let mut hold = account.hold();
    if !hold.grow(header_bytes(head) + REQUEST_BYTES, allowance) {
        return Err(refused(try_later(&settings), "buffer"));
    }
    let reading = read(body, limits.body_bytes, &mut hold, allowance);
    let body = match timeout(settings.read_timeout, reading).await {
        Ok(Ok(body)) => body,
        Ok(Err(Unread::NoRoom)) => {
            let mut problem = try_later(&settings);
            // As above: the rest of the body is not read.
            if head.version < Version::HTTP_2 {
                problem = problem.with_header(header::CONNECTION, HeaderValue::from_static("close"));
            }
            return Err(refused(problem, "buffer"));
        }
        Ok(Err(Unread::TooLarge)) => return Err(refused(too_large(), "body_too_large")),
        Ok(Err(Unread::Broken)) => {
            return Err(refused(bad_request("The body of the request is not complete."), "broken_body"));
        }
        Err(Elapsed { .. }) => {
            let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "The body took too long to arrive.");
            return Err(refused(problem, "read_timeout"));
        }
    };
    if let (Some(expected), Some(presented)) = (&settings.signature, &signature)
        && !expected.is_of(&body, presented)
    {
        return Err(refused(unsigned(), "signature"));
    }
    let parameters = route.path.names().zip(values);
    let headers = message_headers(head, host.as_deref(), peer, &settings, parameters)
        .map_err(|(problem, reason)| refused(problem, reason))?;
    let Some(place) = entrance.take_place(limits.in_flight) else {
        return Err(refused(try_later(&settings), "in_flight"));
    };
    // From here on it is the place that bounds what is held.
    drop(hold);

    let now = settings.context.clock.now();
    let id = id::new(now);
    let message = Message::new(id.clone(), now, body).with_headers(headers);
    let (tell, told) = oneshot::channel();
    let acknowledgement = Acknowledgement::new(move |outcome| {
        drop(place);
        // The sender may be gone; the delivery has settled all the same.
        let _ = tell.send(outcome);
    });
    entrance.hand_in(Delivery::new(message, acknowledgement));

    match timeout(settings.answer_timeout, told).await {
        Ok(Ok(outcome)) => Ok(answer::to_outcome(outcome, &id, settings.context.limits.release_delay())),
        Ok(Err(_never_told)) => Err(try_later(&settings).about(&id)),
        Err(Elapsed { .. }) => {
            tracing::debug!(flow = %settings.context.flow, message_id = id.as_str(), "the sender was answered 504 before the delivery settled");
            let detail = "The message was accepted and is still being processed. Whether it succeeds is not known yet.";
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail).about(&id))
        }
    }
}

/// Finds the endpoint, checks what can be checked on the head alone, and asks for the entrance. `Ok(Err(_))` is an answer that
/// needs no flow.
fn admit<'path>(
    table: &ArcSwap<Table>,
    host: Option<&str>,
    head: &'path Parts,
    body: &Incoming,
) -> Result<Result<Admitted<'path>, Response<Body>>, Problem> {
    let method = Method::of(&head.method);
    for _ in 0..MAX_LOOKUPS {
        let (found, values) = match table.load().find(host, head.uri.path(), method) {
            Lookup::Found(found, values) => (found, values),
            Lookup::OtherMethods(methods) if method == Some(Method::Options) => {
                let mut response = answer::empty(StatusCode::NO_CONTENT);
                response.headers_mut().insert(header::ALLOW, allow(&methods));
                return Ok(Err(response));
            }
            Lookup::OtherMethods(methods) => {
                let detail = "This resource does not take this method.";
                return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
                    .with_header(header::ALLOW, allow(&methods)));
            }
            Lookup::NotFound if method == Some(Method::Options) && head.uri.path() == "*" => {
                return Ok(Err(answer::empty(StatusCode::NO_CONTENT)));
            }
            Lookup::NotFound => {
                return Err(Problem::new(StatusCode::NOT_FOUND, "There is nothing at this address."));
            }
        };
        let settings = found.endpoint.settings();
        let signature = check_head(head, body, &settings).map_err(|(problem, reason)| {
            settings.context.observer.refused(reason);
            problem
        })?;
        match found.endpoint.admit(settings.context.limits.in_flight) {
            Admission::Open(entrance) => {
                let route = Arc::clone(&found.route);
                return Ok(Ok(Admitted { route, values, settings, signature, entrance }));
            }
            Admission::Paused => {
                settings.context.observer.refused("paused");
                return Err(try_later(&settings));
            }
            Admission::Full => {
                settings.context.observer.refused("in_flight");
                return Err(try_later(&settings));
            }
            Admission::Closed => {}
        }
    }
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This resource is being changed. Send the request again.",
    )
    .retry_after(1))
}

/// What can be refused before the body is read. Gives the signature that is to be checked against it.
fn check_head(
    head: &Parts,
    body: &Incoming,
    settings: &Settings,
) -> Result<Option<Vec<u8>>, (Problem, &'static str)> {
    let limits = &settings.context.limits;
    if head.headers.len() > limits.headers || header_bytes(head) > limits.header_bytes {
        return Err((headers_too_large(), "headers_too_large"));
    }
    if body.size_hint().lower() > limits.body_bytes as u64 {
        return Err((too_large(), "body_too_large"));
    }
    match &settings.signature {
        None => Ok(None),
        Some(expected) => match expected.presented(&head.headers) {
            Some(presented) => Ok(Some(presented)),
            None => Err((unsigned(), "signature")),
        },
    }
}

/// What names and values of the request's headers take together, in bytes.
fn header_bytes(head: &Parts) -> usize {
    head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// The host that is asked for, without its port. `None` only in HTTP/1.0.
fn host_of(head: &Parts) -> Result<Option<String>, Problem> {
    let mut fields = head.headers.get_all(header::HOST).iter();
    let authority = match (head.uri.authority(), fields.next(), fields.next()) {
        (_, _, Some(_)) => return Err(bad_request("A request has one `Host` header.")),
        (Some(authority), ..) => Some(authority.clone()),
        (None, Some(field), None) if field.is_empty() => None,
        (None, Some(field), None) => Some(
            Authority::try_from(field.as_bytes())
                .map_err(|_| bad_request("The `Host` header of the request is malformed."))?,
        ),
        (None, None, None) if head.version == Version::HTTP_11 => {
            return Err(bad_request("A request has a `Host` header."));
        }
        (None, None, None) => None,
    };
    Ok(authority.map(|authority| normal_host(authority.host())))
}

/// Why a body was not read to its end.
enum Unread {
    TooLarge,
    Broken,
    /// The connection or the listener holds all that it may.
    NoRoom,
}

async fn read(
    body: &mut Incoming,
    limit: usize,
    hold: &mut Hold,
    allowance: Allowance,
) -> Result<Bytes, Unread> {
    let mut all = Gathered::default();
    while let Some(frame) = body.frame().await {
        // Trailers are dropped: the message's headers are those that came before the body.
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if data.len() > limit - all.len() {
            return Err(Unread::TooLarge);
        }
        if !hold.grow(data.len(), allowance) {
            return Err(Unread::NoRoom);
        }
        let claimed = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        all.append(data, claimed.min(FIRST_RESERVE_BYTES));
    }
    Ok(all.into_bytes())
}

/// The headers of the message: what the sender sent, without what belongs to the connection, and what the request was.
fn message_headers<'h>(
    head: &Parts,
    host: Option<&str>,
    peer: &str,
    settings: &Settings,
    parameters: impl Iterator<Item = (&'h str, &'h str)>,
) -> Result<Headers, (Problem, &'static str)> {
    let malformed = |detail| (bad_request(detail), "bad_request");
    let options = fields::connection_options(&head.headers);
    let mut headers = Headers::new();
    for (name, value) in &head.headers {
        if fields::is_connection_field(name)
            || name.as_str().starts_with(fields::RESERVED_PREFIX)
            || (fields::is_credential(name) && !settings.keep_credentials)
            || options.iter().any(|option| option.eq_ignore_ascii_case(name.as_str()))
        {
            continue;
        }
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| malformed("A header of the request is not UTF-8."))?;
        headers
            .append(name.as_str(), value)
            .map_err(|_| malformed("A header of the request holds what no message may carry."))?;
    }
    let mut set = |name: &str, value: &str| {
        headers
            .append(name, value)
            .map_err(|_| malformed("The address of the request holds what no message may carry."))
    };
    set(fields::METHOD, head.method.as_str())?;
    set(fields::PATH, head.uri.path())?;
    if let Some(query) = head.uri.query() {
        set(fields::QUERY, query)?;
    }
    if let Some(host) = host {
        set(fields::HOST, host)?;
    }
    set(fields::REMOTE_ADDRESS, peer)?;
    for (name, value) in parameters {
        let value =
            percent::decode(value).ok_or_else(|| malformed("The path of the request is not UTF-8."))?;
        set(&format!("{}{name}", fields::PARAMETER_PREFIX), &value)?;
    }
    if headers.len() > settings.context.limits.headers {
        return Err((headers_too_large(), "headers_too_large"));
    }
    Ok(headers)
}

fn allow(methods: &[Method]) -> HeaderValue {
    let mut names: Vec<&str> = methods.iter().map(|method| method.name()).collect();
    if methods.contains(&Method::Get) && !methods.contains(&Method::Head) {
        names.push(Method::Head.name());
    }
    if !methods.contains(&Method::Options) {
        names.push(Method::Options.name());
    }
    // Names of methods are tokens, so this cannot fail.
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn bad_request(detail: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "The body of the request is larger than this resource takes.")
}

fn headers_too_large() -> Problem {
    let detail = "The request has more headers, or larger ones, than this resource takes.";
    Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
}

/// RFC 9110 section 15.5.2 wants a challenge with every 401.
fn unsigned() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "The request is not signed, or not with the right signature.")
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Signature"))
}

fn try_later(settings: &Settings) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This resource takes no more requests for now. Send it again later.",
    )
    .retry_after(retry_after_seconds(settings.context.limits.release_delay()))
}
