//! Brokers that are spoken to in TLS: a broker in clear behind a listener that takes the TLS off.

use std::{fs, path::Path, sync::Arc};

use gristmill_brokers::rabbitmq::RabbitMq;
use gristmill_core::adapter::SinkUse;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{Bench, Outside, message, unique};

/// Listens with a certificate for `localhost`, which is written to `ca.pem` in the folder. Gives the port.
async fn tls_in_front(broker: &str, folder: &Path) -> u16 {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.join("ca.pem"), made.cert.pem()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = broker.trim_start_matches("amqp://").to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, broker) = (acceptor.clone(), broker.clone());
            tokio::spawn(async move {
                // One whose handshake fails has said what it wanted to say.
                if let Ok(mut client) = acceptor.accept(client).await {
                    let mut server = TcpStream::connect(broker).await.unwrap();
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_broker_with_a_certificate_of_an_authority_that_is_named_is_trusted_and_another_is_not() {
    let url = RabbitMq::shared().url();
    let folder = tempfile::tempdir().unwrap();
    let port = tls_in_front(url, folder.path()).await;
    let queue = unique("tls");
    let outside = Outside::new(url).await;
    outside.declare(&queue).await;
    let secure = format!("amqps://localhost:{port}");
    let bench = Bench::with(json!({"urls": [secure], "tls": {"ca_file": folder.path().join("ca.pem")}}));
    let config = json!({"connection": "rabbit", "routing_key": queue});
    bench.open(&config, SinkUse::Send).await.send(&message("secret")).await.unwrap();
    assert_eq!(outside.ready(&queue).await, 1);

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.path().join("other.pem"), other.cert.pem()).unwrap();
    let bench = Bench::with(json!({"urls": [secure], "tls": {"ca_file": folder.path().join("other.pem")}}));
    let failure = bench.open(&config, SinkUse::Send).await.send(&message("secret")).await.unwrap_err();
    assert!(failure.is_retryable() && failure.text().contains("certificate"), "{failure}");

    // In clear to a port for TLS.
    let bench =
        Bench::with(json!({"urls": [format!("amqp://localhost:{port}")], "connect_timeout_ms": 2_000}));
    let failure = bench.open(&config, SinkUse::Send).await.send(&message("secret")).await.unwrap_err();
    assert!(failure.is_retryable() && failure.text().contains("wants `amqps://`"), "{failure}");
}
