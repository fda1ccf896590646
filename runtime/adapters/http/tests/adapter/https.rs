//! A source over TLS: handshakes, client certificates, and files that change under it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use gristmill_core::{Delivery, adapter::Adapter as _};
use http::{Request, Version};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::ClientConfig;
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    authority::Authority,
    support::{Bench, Flow, read_to_end, soon, source},
};

type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client with its own pool of connections.
pub(crate) fn https_client(config: ClientConfig, http2: bool) -> HttpsClient {
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
    let connector =
        if http2 { builder.enable_all_versions().build() } else { builder.enable_http1().build() };
    Client::builder(TokioExecutor::new()).build(connector)
}

pub(crate) fn https_url(bench: &Bench) -> String {
    format!("https://{}/", bench.address())
}

/// The files that the authority has written.
pub(crate) fn server_tls(authority: &Authority) -> Json {
    json!({
        "certificate_file": authority.path("certificate.pem"), "key_file": authority.path("key.pem"),
    })
}

fn over_tls(authority: &Authority, more: Json) -> Json {
    let mut config = source("/", more);
    config["tls"] = server_tls(authority);
    config
}

/// An authority that has written a certificate for this machine.
fn authority() -> Authority {
    let authority = Authority::new();
    authority.write("127.0.0.1");
    authority
}

fn delivers(delivery: Delivery) {
    delivery.acknowledgement.delivered();
}

async fn post(client: &HttpsClient, bench: &Bench) -> Result<(u16, Version), String> {
    let request = Request::post(https_url(bench)).body(Full::from("body")).unwrap();
    let answer = soon(client.request(request)).await.map_err(|error| format!("{error:?}"))?;
    Ok((answer.status().as_u16(), answer.version()))
}

/// A connection whose handshake is done.
async fn connect(config: ClientConfig, bench: &Bench) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(bench.address()).await.unwrap();
    soon(TlsConnector::from(Arc::new(config)).connect("127.0.0.1".try_into().unwrap(), tcp)).await.unwrap()
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_as_the_client_wishes() {
    let (bench, authority) = (Bench::new(), authority());
    let _flow = Flow::run(bench.start(over_tls(&authority, json!({}))).await, delivers);
    for (http2, version) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
        let client = https_client(authority.client_config(None), http2);
        assert_eq!(post(&client, &bench).await.unwrap(), (204, version));
    }
    for (asked, chosen) in [(vec!["http/1.1", "h2"], Some("h2")), (vec![], None)] {
        let mut config = authority.client_config(None);
        config.alpn_protocols = asked.into_iter().map(|name: &str| name.as_bytes().to_vec()).collect();
        let stream = connect(config, &bench).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen.map(str::as_bytes));
    }
}

#[tokio::test]
async fn only_clients_of_the_authority_are_let_in_when_there_is_one() {
    let (bench, authority, other) = (Bench::new(), authority(), authority());
    let mut config = over_tls(&authority, json!({}));
    config["tls"]["client_ca_file"] = json!(authority.path("ca.pem"));
    let _flow = Flow::run(bench.start(config).await, delivers);
    for stranger in [None, Some(&other)] {
        let client = https_client(authority.client_config(stranger), false);
        post(&client, &bench).await.unwrap_err();
    }
    let client = https_client(authority.client_config(Some(&authority)), false);
    assert_eq!(post(&client, &bench).await.unwrap().0, 204);
}

#[tokio::test]
async fn files_that_are_not_good_are_said_before_anything_listens() {
    let (bench, authority) = (Bench::new(), authority());
    let (_, stranger) = authority.issue("127.0.0.1");
    for (name, text) in [("junk.pem", "junk".to_owned()), ("other.pem", stranger.serialize_pem())] {
        std::fs::write(authority.path(name), text).unwrap();
    }
    for (key, name, part) in [
        ("certificate_file", "absent.pem", "absent.pem"),
        ("certificate_file", "junk.pem", "`certificate_file` of `tls` holds no certificate"),
        ("key_file", "junk.pem", "`key_file` of `tls` holds no private key"),
        ("key_file", "other.pem", "do not fit"),
        ("client_ca_file", "junk.pem", "`client_ca_file` of `tls` holds no certificate"),
    ] {
        let mut config = over_tls(&authority, json!({}));
        config["tls"][key] = json!(authority.path(name));
        let spec = bench.check_source(&config).unwrap();
        assert!(!format!("{spec:?}").contains("PRIVATE KEY"));
        let Err(error) = spec.prepare(bench.context()).await else { panic!("{part}: prepared") };
        assert!(error.text.contains(part), "{error}");
        assert!(bench.adapter.bound_address("127.0.0.1:0".parse().unwrap()).is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_certificate_is_there_for_new_connections_and_fails_no_request() {
    let (bench, authority) = (Arc::new(Bench::new()), authority());
    let files = bench.check_source(&over_tls(&authority, json!({}))).unwrap().configuration_files();
    assert_eq!(files, ["certificate.pem", "key.pem"].map(|name| authority.path(name)));
    let mut flow = Flow::run(bench.start(over_tls(&authority, json!({}))).await, delivers);
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..8)
        .map(|n| {
            let (over, answered, bench) = (Arc::clone(&over), Arc::clone(&answered), Arc::clone(&bench));
            let config = authority.client_config(None);
            let client = move || https_client(config.clone(), n % 4 < 2);
            // Half of them keep their connections, for the others each request has a new one.
            let keeps = (n % 2 == 0).then(&client);
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let client = keeps.clone().unwrap_or_else(&client);
                    assert_eq!(post(&client, &bench).await.unwrap().0, 204);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let shown = async || {
        let stream = connect(authority.client_config(None), &bench).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let mut last = shown().await;
    for _ in 0..20 {
        authority.write("127.0.0.1");
        let prepared = bench.prepare(over_tls(&authority, json!({}))).await;
        assert_eq!(shown().await, last, "what is prepared only shows nothing");
        let old = flow.stop().await;
        let new = soon(prepared.take_over(old)).await.unwrap_or_else(|e| panic!("{}", e.error));
        flow = Flow::run(new, delivers);
        let now = shown().await;
        assert_ne!(now, last);
        last = now;
        let before = answered.load(Ordering::SeqCst);
        while answered.load(Ordering::SeqCst) < before + 8 {
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Ordering::SeqCst);
    for task in load {
        soon(task).await.unwrap();
    }
}

/// The engine sees to it that all flows of an address go over together.
#[tokio::test]
async fn a_listener_can_go_over_to_tls() {
    let (bench, authority) = (Bench::new(), authority());
    let old = bench.start(source("/", json!({}))).await;
    let prepared = bench.prepare(over_tls(&authority, json!({}))).await;
    let new = prepared.take_over(old).await.unwrap_or_else(|e| panic!("{}", e.error));
    let _flow = Flow::run(new, delivers);
    let client = https_client(authority.client_config(None), false);
    assert_eq!(post(&client, &bench).await.unwrap().0, 204);
}

#[tokio::test]
async fn what_is_no_tls_is_closed_in_order_and_harms_nobody() {
    let (bench, authority) = (Bench::new(), authority());
    let _flow = Flow::run(bench.start(over_tls(&authority, json!({}))).await, delivers);
    for text in ["POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody", "junk, and some more of it"] {
        let mut stream = TcpStream::connect(bench.address()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        soon(stream.read_to_end(&mut said)).await.expect("the connection ends, and is not reset");
        // An alert (RFC 8446 section 6), and no word of HTTP.
        assert!(said.is_empty() || said[0] == 21, "{said:?}");
    }
    let client = https_client(authority.client_config(None), false);
    assert_eq!(post(&client, &bench).await.unwrap().0, 204);
}

#[tokio::test]
async fn a_slow_handshake_is_cut_and_counts_as_a_connection_until_then() {
    let (bench, authority) = (Bench::new(), authority());
    let listener = json!({"header_read_timeout_ms": 200, "max_connections": 1});
    let config = over_tls(&authority, json!({"listener": listener}));
    let _flow = Flow::run(bench.start(config).await, delivers);
    for begun in [&b""[..], &[22, 3, 1, 2, 0, 1]] {
        let began = tokio::time::Instant::now();
        let mut slow = TcpStream::connect(bench.address()).await.unwrap();
        slow.write_all(begun).await.unwrap();
        // There is one place, so this waits until the slow one has lost it.
        let client = https_client(authority.client_config(None), false);
        assert_eq!(post(&client, &bench).await.unwrap().0, 204);
        assert!(began.elapsed() >= Duration::from_millis(200), "let in beside the slow one");
        assert_eq!(read_to_end(slow).await, "");
    }
}

#[tokio::test]
async fn the_head_of_a_request_has_its_own_time_after_the_handshake() {
    let (bench, authority) = (Bench::new(), authority());
    let config = over_tls(&authority, json!({"listener": {"header_read_timeout_ms": 50}}));
    let _flow = Flow::run(bench.start(config).await, delivers);
    let mut stream = connect(authority.client_config(None), &bench).await;
    stream.write_all(b"POST / HT").await.unwrap();
    let mut said = Vec::new();
    // Closed without a word, also of TLS.
    let _ = soon(stream.read_to_end(&mut said)).await;
    assert!(said.is_empty(), "{said:?}");
}

#[tokio::test]
async fn a_listener_that_goes_does_not_wait_for_handshakes() {
    let (bench, authority) = (Bench::new(), authority());
    let mut source = bench.start(over_tls(&authority, json!({}))).await;
    let hanging = TcpStream::connect(bench.address()).await.unwrap();
    // Accepted in this order, so the one before has been accepted too.
    drop(connect(authority.client_config(None), &bench).await);
    source.close().await;
    assert_eq!(read_to_end(hanging).await, "");
    soon(bench.adapter.finish()).await;
}

#[test]
fn flows_on_one_address_share_its_tls() {
    let (bench, authority) = (Bench::new(), authority());
    let conflict = |one: &Json, other: &Json| {
        let [one, other] = [one, other].map(|config| bench.check_source(config).unwrap());
        one.conflict(&*other)
    };
    let (plain, tls) = (source("/", json!({})), over_tls(&authority, json!({})));
    let mut elsewhere = plain.clone();
    elsewhere["listen"] = json!("127.0.0.1:1");
    let mut other_path = tls.clone();
    other_path["path"] = json!("/other");
    let mut mutual = tls.clone();
    mutual["tls"]["client_ca_file"] = json!("ca.pem");
    for other in [&plain, &mutual] {
        let text = conflict(&tls, other).unwrap();
        assert_eq!(text, "flows that listen on 127.0.0.1:0 have the same `tls`, and this one has another");
        assert_eq!(conflict(other, &tls), Some(text));
    }
    for other in [&tls, &elsewhere, &other_path] {
        assert_eq!(conflict(&tls, other), None);
    }
}
