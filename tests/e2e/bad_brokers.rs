//! Brokers that refuse, and what a broker cannot carry. What is said of each is in `golden/brokers.txt`, as `/health/ready` and
//! dead letters have it; a flow beside them runs all the while.

use std::fmt::Write as _;

use gristmill_brokers::{
    free_port,
    mosquitto::{Mosquitto, MosquittoOptions},
    rabbitmq::RabbitMq,
};

use crate::harness::{AmqpClient, Running, Scratch, assert_golden, eventually, golden};

/// The keys of a source or a sink, in YAML.
type Keys = String;

/// What flows are refused for, at a broker: the name of the connection, its keys, and the source.
type Refused = (&'static str, String, Keys);

/// What a flow cannot send: the name, the sink, and the header `x-text` of the request.
type Unsendable = (&'static str, &'static str, Keys, String);

const SOURCE: &str = "{ connection: NAME, queue: there }";

fn amqp(rabbitmq: &RabbitMq, plain_mqtt: u16) -> Vec<Refused> {
    let (url, place) = (rabbitmq.url(), rabbitmq.address());
    let as_user = |user: &str, vhost: &str| {
        format!("{{ urls: [\"{url}\"], user: {user}, password: {user}, vhost: {vhost} }}")
    };
    let at = |url: &str| format!("{{ urls: [\"{url}\"] }}");
    let source = |keys: &str| format!("{{ connection: NAME, {keys} }}");
    vec![
        ("amqp-wrong-password", as_user("stranger", "/"), SOURCE.into()),
        ("amqp-missing-vhost", as_user("guest", "nowhere"), SOURCE.into()),
        ("amqp-vhost-without-permission", as_user("locked-out", "/"), SOURCE.into()),
        ("amqp-queue-without-permission", as_user("reads-nothing", "/"), SOURCE.into()),
        ("amqp-missing-queue", at(&url), source("queue: missing")),
        ("amqp-declared-otherwise", at(&url), source("queue: there, declare: { durable: false }")),
        ("amqp-missing-exchange", at(&url), source("queue: there, bindings: [{ exchange: missing }]")),
        ("amqp-tls-at-a-plain-port", at(&format!("amqps://{place}")), SOURCE.into()),
        ("amqp-unknown-host", at("amqp://broker.invalid"), SOURCE.into()),
        ("amqp-no-broker", at(&format!("amqp://127.0.0.1:{}", free_port().unwrap())), SOURCE.into()),
        ("amqp-another-protocol", at(&format!("amqp://127.0.0.1:{plain_mqtt}")), SOURCE.into()),
    ]
}

fn mqtt(mosquitto: &Mosquitto) -> Vec<Refused> {
    let keys = |url: &str, password: &str| {
        format!("{{ url: \"{url}\", client_id: NAME, username: miller, password: {password} }}")
    };
    let url = mosquitto.url();
    let (tls, none) = (url.replace("mqtt:", "mqtts:"), format!("mqtt://127.0.0.1:{}", free_port().unwrap()));
    let source = |topic: &str| format!("{{ connection: NAME, topics: [{topic}] }}");
    vec![
        ("mqtt-wrong-password", keys(&url, "sand"), source("open/in")),
        ("mqtt-invalid-topic", keys(&url, "grist"), source("\"open/#/in\"")),
        ("mqtt-tls-at-a-plain-port", keys(&tls, "grist"), source("open/in")),
        ("mqtt-unknown-host", keys("mqtt://broker.invalid", "grist"), source("open/in")),
        ("mqtt-no-broker", keys(&none, "grist"), source("open/in")),
    ]
}

fn unsendable() -> Vec<Unsendable> {
    let amqp = |keys: &str| format!("{{ connection: rabbit, {keys} }}");
    let mqtt = |keys: &str| format!("{{ connection: plant, {keys} }}");
    vec![
        ("send-amqp-missing-exchange", "amqp", amqp("exchange: missing, routing_key: a"), "a".into()),
        ("send-amqp-returned", "amqp", amqp("routing_key: missing, mandatory: true"), "a".into()),
        (
            "send-amqp-long-property",
            "amqp",
            amqp("routing_key: there, type: \"${headers['x-text']}\""),
            "a".repeat(256),
        ),
        (
            "send-amqp-long-headers",
            "amqp",
            amqp(
                &"routing_key: there, headers: { a: &, b: &, c: & }".replace('&', "\"${headers['x-text']}\""),
            ),
            "a".repeat(50_000),
        ),
        ("send-mqtt-without-permission", "mqtt", mqtt("topic: closed/out"), "a".into()),
        ("send-mqtt-wildcard", "mqtt", mqtt("topic: \"open/${headers['x-text']}\""), "+/b".into()),
    ]
}

/// What differs from run to run is left out.
fn masked(text: &str, ports: &[u16]) -> String {
    ports.iter().fold(text.to_owned(), |text, port| text.replace(&format!(":{port}"), ":PORT"))
}

/// How a flow is once the runtime has made up its mind.
#[track_caller]
fn settled(running: &Running, file: &str) -> (String, String) {
    eventually(&format!("what is said of {file}"), || {
        let report = running.admin("/health/ready").json();
        let flow = report["flows"].as_array()?.iter().find(|flow| flow["file"] == file)?.clone();
        let because = flow["state"]["because"].as_str()?;
        Some((flow["state"]["is"].as_str()?.to_owned(), because.to_owned()))
    })
}

#[test]
fn what_brokers_refuse_and_cannot_carry_is_said_with_what_to_change_while_another_flow_runs() {
    let rabbitmq = RabbitMq::start();
    for user in ["locked-out", "reads-nothing"] {
        rabbitmq.ctl(&["add_user", user, user]);
    }
    rabbitmq.ctl(&["set_permissions", "reads-nothing", "", "", ""]);
    let client = AmqpClient::connect(&rabbitmq.url());
    client.declare("there");

    let scratch = Scratch::new();
    scratch.save("access", "user miller\ntopic readwrite open/#\n");
    let mosquitto = Mosquitto::with(&MosquittoOptions {
        user: Some(("miller".into(), "grist".into())),
        lines: vec![format!("acl_file {}", scratch.path("access").display())],
        ..MosquittoOptions::default()
    });

    let mut connections = vec![
        ("rabbit", "amqp", format!("{{ urls: [\"{}\"] }}", rabbitmq.url())),
        (
            "plant",
            "mqtt",
            format!("{{ url: \"{}\", client_id: mill, username: miller, password: grist }}", mosquitto.url()),
        ),
    ];
    let mut refused = Vec::new();
    for (adapter, cases) in
        [("amqp", amqp(&rabbitmq, mosquitto.address().port())), ("mqtt", mqtt(&mosquitto))]
    {
        for (name, connection, source) in cases {
            connections.push((name, adapter, connection.replace("NAME", name)));
            let source = source.replace("NAME", name);
            scratch.flow(
                name,
                &format!("flow: {name}\nsource: {{ {adapter}: {source} }}\nsteps: []\non_reject: discard\n"),
            );
            refused.push(name);
        }
    }
    let http = |name: &str, steps: &str| {
        format!("flow: {name}\nsource: {{ http: {{ listen: 127.0.0.1:0, path: /{name} }} }}\nsteps:\n{steps}")
    };
    scratch.flow("good", &http("good", "  - send: { amqp: { connection: rabbit, routing_key: there, mandatory: true } }\n  - send: { mqtt: { connection: plant, topic: open/good } }\non_error: [{ match: [any], retry: {}, then: { reject: {} } }]\n"));
    let unsendable = unsendable();
    for (name, adapter, sink, _) in &unsendable {
        let letter = "on_error: [{ match: [any], then: { dead_letter: { file: { directory: dead, name: \"${headers['x-name']}\" } } } }]\n";
        scratch.flow(name, &(http(name, &format!("  - send: {{ {adapter}: {sink} }}\n")) + letter));
    }
    let written: Vec<(&str, &str, &str)> =
        connections.iter().map(|(name, adapter, keys)| (*name, *adapter, keys.as_str())).collect();
    scratch.connections(&written);
    let running = scratch.run();
    running.is_running("good");

    let mut text = String::new();
    for name in &refused {
        let (state, because) = settled(&running, &format!("flows/{name}.yaml"));
        writeln!(text, "{name}: {state}\n  {because}\n").unwrap();
    }
    for (name, _, _, header) in &unsendable {
        let headers = [format!("x-text: {header}"), format!("x-name: {name}")];
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let mut connection = crate::harness::http::Connection::open(running.address()).unwrap();
        let answer = connection.ask("POST", &format!("/{name}"), &headers, b"body").unwrap();
        assert_eq!(answer.status, 202, "{name}: {}", answer.text());
        let letter: serde_json::Value = serde_json::from_str(&scratch.read(format!("dead/{name}"))).unwrap();
        let error = &letter["error"];
        writeln!(
            text,
            "{name}: {}\n  {}\n",
            error["class"].as_str().unwrap(),
            error["text"].as_str().unwrap()
        )
        .unwrap();
    }
    assert_eq!(running.post("/good", "good").status, 204);
    assert_eq!(client.take("there"), "good");

    let ports: Vec<u16> = connections
        .iter()
        .filter_map(|(_, _, keys)| keys.split("127.0.0.1:").nth(1)?.split('"').next()?.parse().ok())
        .collect();
    assert_golden(&golden().join("brokers.txt"), &masked(&text, &ports));
}
