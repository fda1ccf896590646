//! TLS, passwords and access lists: how one gets in, and what is said to who does not.

use gristmill_brokers::mosquitto::{Mosquitto, MosquittoOptions};
use gristmill_core::{
    Failure,
    adapter::{Adapter, SinkUse},
    sink::SinkContext,
    source::SourceError,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rumqttc_v5::QoS;
use serde_json::{Value as Json, json};

use crate::support::{Client, Log, Runtime, body, eventually, next};

/// Who gives out certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Else it would have the name of those it certifies, as one that certifies itself.
        params.distinguished_name.push(DnType::CommonName, "Authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// The PEM of a certificate for this name, with its key.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// The PEM of an authority, and that of a certificate for `localhost` with its key.
fn authority() -> (String, (String, String)) {
    let authority = Authority::new();
    (authority.0.pem(), authority.issue("localhost"))
}

async fn refusal(url: &str, version: Json, more: Json) -> SourceError {
    let runtime = Runtime::new(url, version, more);
    let started = runtime.prepare(json!({"topics": ["in"]})).await.start().await;
    match started {
        Ok(_) => panic!("it was let in"),
        Err(error) => error,
    }
}

/// Why a sink cannot be opened.
async fn sink_refusal(url: &str, more: Json) -> Option<Failure> {
    let runtime = Runtime::new(url, json!(5), more);
    let spec = runtime.check_sink(json!({"topic": "out"}), SinkUse::Send).spec;
    let opened = spec.open(SinkContext { flow: "tests".into(), body_bytes: 1 << 20 }).await;
    let states = runtime.adapter.connection_states();
    let problems: Vec<_> = states.iter().filter_map(|state| state.problem.clone()).collect();
    match opened {
        Ok(_) => {
            // One that is open is shown from then on, with what is in its way.
            assert_eq!((states.len(), problems.len()), (1, usize::from(!states[0].is_up)));
            None
        }
        Err(failure) => Some(failure),
    }
}

#[tokio::test]
async fn a_sink_whose_client_is_not_let_in_is_not_opened_and_one_whose_broker_is_away_is() {
    let user = Some(("miller".to_owned(), "grist".to_owned()));
    let mut broker = Mosquitto::with(&MosquittoOptions { user, ..MosquittoOptions::default() });
    let wrong = json!({"username": "miller", "password": "sand"});
    let failure = sink_refusal(&broker.url(), wrong).await.unwrap();
    assert!(
        failure.text().contains("connection `plant`") && failure.text().contains("`password`"),
        "{failure}"
    );
    assert!(sink_refusal(&broker.url(), json!({"username": "miller", "password": "grist"})).await.is_none());
    broker.stop();
    assert!(sink_refusal(&broker.url(), json!({})).await.is_none());
}

/// A flow that is down is tried again and again, each time with another client, and what is said is what is compared.
#[tokio::test]
async fn what_is_in_the_way_of_a_sink_has_one_text_and_is_logged_once() {
    let user = Some(("miller".to_owned(), "grist".to_owned()));
    let mut broker = Mosquitto::with(&MosquittoOptions { user, ..MosquittoOptions::default() });
    let (log, _logs) = Log::begin();
    let mut runtime =
        Runtime::new(&broker.url(), json!(5), json!({"username": "miller", "password": "sand"}));
    let open = async |runtime: &Runtime| {
        let spec = runtime.check_sink(json!({"topic": "out"}), SinkUse::Send).spec;
        spec.open(SinkContext { flow: "tests".into(), body_bytes: 1 << 20 }).await
    };
    let mut texts = Vec::new();
    for _ in 0..3 {
        let Err(failure) = open(&runtime).await else { panic!("it was let in") };
        texts.push(failure.text().to_owned());
    }
    texts.dedup();
    assert!(texts.len() == 1 && texts[0].contains("does not let `mill-sinks-…` in"), "{texts:?}");
    assert_eq!(log.lines("WARN").len(), 1, "{:?}", log.lines("WARN"));

    broker.stop();
    for _ in 0..3 {
        open(&runtime).await.unwrap();
    }
    let lines = log.lines("cannot be reached");
    assert!(lines.len() == 1 && lines[0].contains("client=\"mill-sinks-"), "{lines:?}");

    // What is in the way again after it was out of the way is news.
    broker.start_again();
    runtime.connect(&broker.url(), json!(5), json!({"username": "miller", "password": "grist"}));
    let sink = open(&runtime).await.unwrap();
    eventually("it is connected", || runtime.adapter.connection_states().iter().any(|state| state.is_up))
        .await;
    broker.stop();
    eventually("it is said", || log.lines("cannot be reached").len() == 2).await;
    drop(sink);
}

#[tokio::test]
async fn one_side_with_tls_and_the_other_without_is_said() {
    let (_, pair) = authority();
    let broker = Mosquitto::with(&MosquittoOptions { tls: Some(pair), ..MosquittoOptions::default() });
    let tls_port = broker.tls_url("localhost").rsplit(':').next().unwrap().to_owned();
    for (url, said) in [
        (format!("mqtt://localhost:{tls_port}"), "wants `mqtts://`"),
        (format!("mqtts://localhost:{}", broker.address().port()), "write `mqtt://`"),
    ] {
        for version in [json!(5), json!("3.1.1")] {
            let runtime = Runtime::new(&url, version, json!({}));
            let mut source = runtime.source(json!({"topics": ["in"]})).await;
            let error = source.next().await.unwrap_err();
            assert!(error.text.contains(said) && error.text.contains("connection `plant`"), "{url}: {error}");
        }
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
    let started = stranger.prepare(json!({"topics": ["in"], "client_id": "stranger"})).await.start().await;
    let Err(error) = started else { panic!("a broker that is not known was trusted") };
    assert!(error.text.contains("certificate") && error.text.contains("`ca_file`"), "{error}");
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
async fn a_client_certificate_lets_in_where_one_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let authority = Authority::new();
    let (server, client, stranger) =
        (authority.issue("localhost"), authority.issue("mill"), Authority::new().issue("mill"));
    let ca = file("ca.pem", &authority.0.pem());
    let port = gristmill_brokers::free_port().unwrap();
    let lines = vec![
        format!("listener {port} 127.0.0.1"),
        format!("cafile {ca}"),
        format!("certfile {}", file("server.pem", &server.0)),
        format!("keyfile {}", file("server.key", &server.1)),
        "require_certificate true".to_owned(),
    ];
    let _broker = Mosquitto::with(&MosquittoOptions { lines, ..MosquittoOptions::default() });
    let url = format!("mqtts://localhost:{port}");
    let tls = |name: &str, pair: &(String, String)| {
        let (certificate, key) =
            (file(&format!("{name}.pem"), &pair.0), file(&format!("{name}.key"), &pair.1));
        json!({"tls": {"ca_file": ca, "certificate_file": certificate, "key_file": key}})
    };
    let known = Runtime::new(&url, json!(5), tls("client", &client));
    let mut source = known.source(json!({"topics": ["in"]})).await;
    let sink = known.sink(json!({"topic": "in"}), SinkUse::Send).await;
    let message = gristmill_core::Message::new("m", gristmill_core::Timestamp::from_millis(0), "known");
    sink.send(gristmill_core::sink::Outgoing::new(&message, &[])).await.unwrap();
    assert_eq!(body(&next(&mut *source).await), "known");
    for (more, said) in [
        (tls("stranger", &stranger), "does the broker take the certificate under `tls`"),
        (json!({"tls": {"ca_file": ca}}), "set `certificate_file` and `key_file`"),
    ] {
        let error = refusal(&url, json!(5), more.clone()).await;
        assert!(error.text.contains(said), "{error}");
        let failure = sink_refusal(&url, more).await.unwrap();
        assert!(failure.text().contains(said), "{failure}");
    }
}

#[tokio::test]
async fn a_topic_that_may_not_be_subscribed_is_named() {
    // An access list in a file does not restrict subscriptions; this plugin of the broker does.
    let plugins = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let plugin = plugins.map(|it| it.path().join("mosquitto_dynamic_security.so")).find(|it| it.is_file());
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({
        "defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true, "subscribe": false, "unsubscribe": true},
        "roles": [{"rolename": "open", "acls": [{"acltype": "subscribePattern", "topic": "open/#", "allow": true}]}],
        "groups": [{"groupname": "all", "roles": [{"rolename": "open"}]}],
        "clients": [], "anonymousGroup": "all"
    });
    let file = folder.path().join("rules.json");
    std::fs::write(&file, rules.to_string()).unwrap();
    let plugin = plugin.expect("Debian's package of Mosquitto has its plugin for dynamic security");
    let lines =
        vec![format!("plugin {}", plugin.display()), format!("plugin_opt_config_file {}", file.display())];
    let broker = Mosquitto::with(&MosquittoOptions { lines, ..MosquittoOptions::default() });
    for version in [json!(5), json!("3.1.1")] {
        let runtime = Runtime::new(&broker.url(), version, json!({}));
        let topics = json!({"topics": ["open/a", "closed/b"]});
        let Err(error) = runtime.prepare(topics.clone()).await.start().await else {
            panic!("it is subscribed")
        };
        assert!(
            error.text.contains("subscribe to `closed/b`") && error.text.contains("access list"),
            "{error}"
        );
        assert!(!error.text.contains("open/a"), "{error}");
        // A flow that runs goes on without it.
        let source = runtime.source(json!({"topics": ["open/a"]})).await;
        let refused = runtime.prepare(topics).await.take_over(source).await;
        let Err(refused) = refused else { panic!("it is subscribed") };
        assert!(refused.error.text.contains("`closed/b`"), "{}", refused.error.text);
        let mut source = refused.old;
        Client::new(&broker, &[]).await.publish("open/a", QoS::AtLeastOnce, "1").await;
        let delivery = next(&mut *source).await;
        assert_eq!(body(&delivery), "1");
        delivery.acknowledgement.delivered();
        source.close().await;
    }
    let port = gristmill_brokers::free_port().unwrap();
    let lines = vec![format!("listener {port} 127.0.0.1"), "max_qos 0".to_owned()];
    let _broker = Mosquitto::with(&MosquittoOptions { lines, ..MosquittoOptions::default() });
    let error = refusal(&format!("mqtt://127.0.0.1:{port}"), json!(5), json!({})).await;
    assert!(error.text.contains("`in` (only QoS 0 is granted)"), "{error}");
}

#[tokio::test]
async fn a_topic_that_may_not_be_published_to_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("acl");
    std::fs::write(&list, "topic readwrite open/#\n").unwrap();
    let lines = vec![format!("acl_file {}", list.display())];
    let broker = Mosquitto::with(&MosquittoOptions { lines, ..MosquittoOptions::default() });
    let runtime = Runtime::new(&broker.url(), json!(5), json!({}));
    let sink = runtime.sink(json!({"topic": "closed"}), SinkUse::Send).await;
    let message = gristmill_core::Message::new("m", gristmill_core::Timestamp::from_millis(0), "");
    let failure = sink.send(gristmill_core::sink::Outgoing::new(&message, &[])).await.unwrap_err();
    assert!(failure.text().contains("not authorized (0x87)") && !failure.is_retryable(), "{failure}");
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
