//! TLS, passwords and access lists: how one gets in, and what is said to who does not.

use gristmill_brokers::mosquitto::{Mosquitto, MosquittoOptions};
use gristmill_core::{adapter::SinkUse, source::SourceError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rumqttc_v5::QoS;
use serde_json::{Value as Json, json};

use crate::support::{Client, Runtime, body, next};

/// The PEM of an authority, and that of a certificate for `localhost` with its key.
fn authority() -> (String, (String, String)) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    (authority.pem(), (certificate.pem(), key.serialize_pem()))
}

async fn refusal(url: &str, version: Json, more: Json) -> SourceError {
    let runtime = Runtime::new(url, version, more);
    let started = runtime.prepare(json!({"topics": ["in"]})).await.start().await;
    match started {
        Ok(_) => panic!("it was let in"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn messages_go_over_tls_to_a_broker_that_is_known() {
    let (ca, pair) = authority();
    let broker = Mosquitto::with(&MosquittoOptions { tls: Some(pair), ..MosquittoOptions::default() });
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let more = json!({"tls": {"ca_file": ca_file}});
    let runtime = Runtime::new(&broker.tls_url("localhost"), json!(5), more);
    let mut source = runtime.source(json!({"topics": ["in"]})).await;
    let sink = runtime.sink(json!({"topic": "in"}), SinkUse::Send).await;
    let message = gristmill_core::Message::new("m", gristmill_core::Timestamp::from_millis(0), "over TLS");
    sink.send(gristmill_core::sink::Outgoing::new(&message, &[])).await.unwrap();
    assert_eq!(body(&next(&mut *source).await), "over TLS");

    let (other, _) = authority();
    std::fs::write(&ca_file, other).unwrap();
    let stranger = Runtime::new(&broker.tls_url("localhost"), json!(5), json!({"tls": {"ca_file": ca_file}}));
    let mut source = stranger.source(json!({"topics": ["in"], "client_id": "stranger"})).await;
    let error = source.next().await.unwrap_err();
    assert!(error.text.contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_said_and_the_right_one_lets_in() {
    let user = Some(("miller".to_owned(), "grist".to_owned()));
    let broker = Mosquitto::with(&MosquittoOptions { user, ..MosquittoOptions::default() });
    for version in [json!(5), json!("3.1.1")] {
        for more in [json!({}), json!({"username": "miller", "password": "sand"})] {
            let error = refusal(&broker.url(), version.clone(), more).await;
            assert!(error.text.contains("`username` and `password`"), "{error}");
            assert!(!error.text.contains("sand"));
        }
        let right = json!({"username": "miller", "password": "grist"});
        let runtime = Runtime::new(&broker.url(), version, right);
        runtime.source(json!({"topics": ["in"]})).await;
    }
}

#[tokio::test]
async fn a_topic_that_may_not_be_subscribed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("acl");
    std::fs::write(&list, "topic readwrite open/#\n").unwrap();
    let lines = vec![format!("acl_file {}", list.display())];
    let broker = Mosquitto::with(&MosquittoOptions { lines, ..MosquittoOptions::default() });
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let sink = runtime.sink(json!({"topic": "closed"}), SinkUse::Send).await;
    let message = gristmill_core::Message::new("m", gristmill_core::Timestamp::from_millis(0), "");
    let failure = sink.send(gristmill_core::sink::Outgoing::new(&message, &[])).await.unwrap_err();
    assert!(failure.text().contains("NotAuthorized") && !failure.is_retryable(), "{failure}");
}

#[tokio::test]
async fn a_subscription_that_is_shared_is_served_by_one_of_its_clients() {
    let broker = Mosquitto::start();
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let topics = json!(["$share/mill/in"]);
    let mut one = runtime.source(json!({"topics": topics.clone(), "client_id": "one"})).await;
    let mut two = runtime.source(json!({"topics": topics, "client_id": "two"})).await;
    let sender = Client::new(&broker, &[]).await;
    let mut seen = Vec::new();
    for n in 0..10 {
        sender.publish("in", QoS::AtLeastOnce, n.to_string()).await;
        let delivery = tokio::select! {
            delivery = next(&mut *one) => delivery,
            delivery = next(&mut *two) => delivery,
        };
        seen.push(body(&delivery));
        delivery.acknowledgement.delivered();
    }
    assert_eq!(seen, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
}
