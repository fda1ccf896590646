//! `send` over HTTPS: whom it trusts, and as whom it comes.

use std::{net::SocketAddr, sync::Arc};

use gristmill_core::{ErrorClass, sink::SinkContext};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    authority::Authority,
    support::{Bench, answer, message, with_substituted},
};

/// A server for this name that answers every request with 204.
async fn serve(authority: &Authority, name: &str, wants_certificate: bool) -> SocketAddr {
    let (certificate, key) = authority.issue(name);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if wants_certificate {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust us ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let _ = stream.write_all(&answer(204, "", "")).await;
        }
    });
    address
}

#[tokio::test]
async fn a_server_of_a_trusted_authority_is_sent_to_and_no_other() {
    let (authority, other) = (Authority::new(), Authority::new());
    let send = async |address: SocketAddr, trusted: &Authority| {
        let config = json!({
            "url": format!("https://127.0.0.1:{}/", address.port()), "method": "GET",
            "tls": {"ca_file": trusted.path("ca.pem")},
        });
        Bench::new().sink(config).await.send(&message(&[], "")).await
    };
    send(serve(&authority, "127.0.0.1", false).await, &authority).await.unwrap();
    for (address, part) in [
        (serve(&other, "127.0.0.1", false).await, "invalid peer certificate"),
        (serve(&authority, "elsewhere.test", false).await, "not valid for name"),
    ] {
        let failure = send(address, &authority).await.unwrap_err();
        assert_eq!((failure.class(), failure.is_retryable()), (ErrorClass::SinkUnavailable, true));
        assert!(failure.text().contains(part), "{failure}");
    }
}

#[tokio::test]
async fn the_name_in_an_error_of_the_handshake_is_not_shown_when_it_was_substituted() {
    let authority = Authority::new();
    let address = serve(&authority, "elsewhere.test", false).await;
    let config = json!({
        "url": format!("https://localhost:{}/", address.port()), "method": "GET",
        "tls": {"ca_file": authority.path("ca.pem")},
    });
    let bench = Bench::new();
    let sink = bench.open_sink(bench.check_sink_node(&with_substituted(&config, "localhost")).unwrap()).await;
    let failure = sink.send(&message(&[], "")).await.unwrap_err();
    assert!(failure.text().contains("not valid for name"), "{failure}");
    assert!(!failure.text().contains("localhost"), "{failure}");
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_it() {
    let authority = Authority::new();
    let address = serve(&authority, "127.0.0.1", true).await;
    authority.write("client");
    let mut config = json!({
        "url": format!("https://127.0.0.1:{}/", address.port()), "method": "GET",
        "tls": {"ca_file": authority.path("ca.pem")},
    });
    let bench = Bench::new();
    let failure = bench.sink(config.clone()).await.send(&message(&[], "")).await.unwrap_err();
    assert_eq!(failure.class(), ErrorClass::SinkUnavailable, "{failure}");
    config["tls"]["certificate_file"] = json!(authority.path("certificate.pem"));
    config["tls"]["key_file"] = json!(authority.path("key.pem"));
    bench.sink(config).await.send(&message(&[], "")).await.unwrap();
}

#[tokio::test]
async fn files_that_are_not_good_are_said_when_the_flow_is_loaded() {
    let authority = Authority::new();
    authority.write("client");
    std::fs::write(authority.path("junk.pem"), "junk").unwrap();
    let file = |name: &str| authority.path(name);
    for (tls, part) in [
        (json!({"ca_file": file("absent.pem")}), "absent.pem"),
        (json!({"ca_file": file("junk.pem")}), "`ca_file` of `tls` holds no certificate"),
        (
            json!({"ca_file": file("ca.pem"), "certificate_file": file("certificate.pem"), "key_file": file("junk.pem")}),
            "holds no private key",
        ),
    ] {
        let checked = Bench::new().check_sink(&json!({"url": "https://a.test/", "tls": tls})).unwrap();
        let context = SinkContext { flow: "test".into(), body_bytes: 100 };
        let Err(failure) = checked.spec.open(context).await else { panic!("{part}: opened") };
        assert!(failure.text().contains(part), "{failure}");
        assert!(!format!("{checked:?}").contains("PRIVATE KEY"));
    }
}
