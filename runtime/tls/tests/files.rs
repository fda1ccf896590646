//! From configuration and files to a handshake, in memory: no socket, no clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{fs, path::PathBuf, sync::Arc};

use gristmill_core::config::{Mistakes, Node, Span, SubstitutedPart, Substitution, Value, parse};
use gristmill_tls::{ClientTls, ClientTlsConfig, MAX_FILE_BYTES, ServerTls, ServerTlsConfig, TlsError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use serde_json::{Value as Json, json};

/// An authority, with a folder for its files: `ca.pem`, and what it has issued as `NAME.pem` and `NAME.key`.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        fs::write(self.path(&format!("{name}.pem")), params.signed_by(&key, &self.issuer).unwrap().pem())
            .unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        self
    }

    fn write(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), text).unwrap();
        self
    }

    /// As in a flow file that lies beside the files.
    fn client(&self, tls: &Json) -> Result<ClientConfig, TlsError> {
        let node = Node::from_json(tls, &Span::nowhere("tls"));
        let mut mistakes = Mistakes::new();
        let config: ClientTlsConfig = parse(&node, &mut mistakes).unwrap();
        let checked = ClientTls::check(&config, &node, self.folder.path(), &mut mistakes).unwrap();
        checked.read()?.client_config()
    }

    fn server(&self, tls: &Json) -> Result<ServerConfig, TlsError> {
        let node = Node::from_json(tls, &Span::nowhere("tls"));
        let config: ServerTlsConfig = parse(&node, &mut Mistakes::new()).unwrap();
        ServerTls::new(&config, &node, self.folder.path()).read()?.server_config()
    }
}

/// Lets both sides talk until they agree, or one of them does not.
fn shake_hands(client: ClientConfig, server: ServerConfig) -> Result<(), String> {
    let mut client = ClientConnection::new(Arc::new(client), "server.test".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        let mut bytes = &flight[..];
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        }
        flight.clear();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        let mut bytes = &flight[..];
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_server_is_known_by_its_authority() {
    let (here, other) = (Authority::new().issue("server.test").issue("elsewhere.test"), Authority::new());
    let server = |name: &str| {
        here.server(&json!({"certificate_file": format!("{name}.pem"), "key_file": format!("{name}.key")}))
            .unwrap()
    };
    let trusting = |authority: &Authority| authority.client(&json!({"ca_file": "ca.pem"})).unwrap();
    shake_hands(trusting(&here), server("server.test")).unwrap();
    for (client, name, part) in [
        (trusting(&other), "server.test", "invalid peer certificate"),
        (trusting(&here), "elsewhere.test", "not valid for name"),
    ] {
        let refused = shake_hands(client, server(name)).unwrap_err();
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn a_client_is_let_in_by_its_certificate_alone_when_one_is_wanted() {
    let here = Authority::new().issue("server.test").issue("client.test");
    let other = Authority::new().issue("client.test");
    let server = || {
        here.server(&json!({
            "certificate_file": "server.test.pem", "key_file": "server.test.key", "client_ca_file": "ca.pem",
        }))
        .unwrap()
    };
    let client = |of: Option<&Authority>| {
        let mut tls = json!({"ca_file": "ca.pem"});
        if let Some(of) = of {
            tls["certificate_file"] = json!(of.path("client.test.pem"));
            tls["key_file"] = json!(of.path("client.test.key"));
        }
        here.client(&tls).unwrap()
    };
    shake_hands(client(Some(&here)), server()).unwrap();
    for stranger in [client(None), client(Some(&other))] {
        let refused = shake_hands(stranger, server()).unwrap_err();
        assert!(refused.starts_with("server: "), "{refused}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_without_what_is_in_it() {
    let secret = "c2VjcmV0";
    let here = Authority::new()
        .issue("a")
        .issue("b")
        .write("junk", "junk")
        .write("open", format!("-----BEGIN PRIVATE KEY-----\n{secret}\n"))
        .write("torn", format!("-----BEGIN PRIVATE KEY-----\n{secret}!\n-----END PRIVATE KEY-----\n"))
        .write("not-a-key", format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"))
        .write("not-a-ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .write("large", vec![b' '; MAX_FILE_BYTES as usize + 1]);
    for (certificate, key, ca, part) in [
        ("absent", "a.key", "ca.pem", "cannot read the `certificate_file` of `tls`"),
        (".", "a.key", "ca.pem", "it is not a file"),
        ("large", "a.key", "ca.pem", "larger than 1 MiB"),
        ("junk", "a.key", "ca.pem", "the `certificate_file` of `tls` holds no certificate"),
        ("torn", "a.key", "ca.pem", "the `certificate_file` of `tls` is not good PEM: what stands between"),
        ("a.pem", "junk", "ca.pem", "the `key_file` of `tls` holds no private key"),
        ("a.pem", "a.pem", "ca.pem", "the `key_file` of `tls` holds no private key"),
        ("a.pem", "open", "ca.pem", "the `key_file` of `tls` is not good PEM: a `-----BEGIN"),
        ("a.pem", "torn", "ca.pem", "the `key_file` of `tls` is not good PEM: what stands between"),
        ("a.pem", "not-a-key", "ca.pem", "do not fit"),
        ("a.pem", "b.key", "ca.pem", "do not fit"),
        ("a.pem", "a.key", "junk", "ca_file` of `tls` holds no certificate"),
        ("a.pem", "a.key", "not-a-ca", "ca_file` of `tls` holds a certificate that is none of an authority"),
    ] {
        let server =
            here.server(&json!({"certificate_file": certificate, "key_file": key, "client_ca_file": ca}));
        let client = here.client(&json!({"certificate_file": certificate, "key_file": key, "ca_file": ca}));
        for error in [server.err(), client.err()] {
            let error = error.unwrap_or_else(|| panic!("{part}: taken"));
            assert!(error.text().contains(part), "{part}: {error}");
            assert!(!error.text().contains(secret), "{error}");
        }
    }
}

#[test]
fn half_an_identity_is_a_mistake() {
    for tls in [json!({"key_file": "a.key"}), json!({"certificate_file": "a.pem"})] {
        let node = Node::from_json(&tls, &Span::nowhere("tls"));
        let mut mistakes = Mistakes::new();
        let config: ClientTlsConfig = parse(&node, &mut mistakes).unwrap();
        assert!(ClientTls::check(&config, &node, "".as_ref(), &mut mistakes).is_none());
        assert_eq!(mistakes.into_sorted()[0].code, "missing_key");
    }
}

#[test]
fn a_path_that_was_substituted_is_not_shown() {
    let mut node =
        Node::from_json(&json!({"certificate_file": "hidden", "key_file": "shown"}), &Span::nowhere("tls"));
    let Value::Map(entries) = &mut node.value else { panic!("a map") };
    let part = SubstitutedPart::Value { written: "${env:X}".into(), value: "hidden".into() };
    entries[0].value.substitution = Some(Arc::new(Substitution { parts: vec![part] }));
    let config: ServerTlsConfig = parse(&node, &mut Mistakes::new()).unwrap();
    let checked = ServerTls::new(&config, &node, "".as_ref());
    let Err(error) = checked.read() else { panic!("read") };
    for text in [format!("{checked:?}"), error.to_string()] {
        assert!(!text.contains("hidden"), "{text}");
    }
    assert_eq!(checked.paths(), [PathBuf::from("hidden"), PathBuf::from("shown")]);
}
