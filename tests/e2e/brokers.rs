//! Flows at real brokers, while messages pass: what a reload does to a session, a consumer, an order, and what it must
//! not do.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use gristmill_brokers::{
    mosquitto::{Mosquitto, MosquittoOptions},
    rabbitmq::RabbitMq,
};

use crate::harness::{AmqpClient, MqttClient, Running, Scratch, eventually, guests, says};

/// How often the flow is saved, and how often its plugin.
const RELOADS: usize = 15;

/// How many messages have to pass between two changes.
const BETWEEN: u64 = 5;

/// How many messages of a lane may be under way.
const AHEAD: u64 = 20;

/// What MQTT asks of who connects.
const USER: (&str, &str) = ("miller", "grist");

/// The way into a flow and out of it again.
struct Lane {
    feed: Box<dyn FnMut(&str) + Send>,
    take: Box<dyn FnMut() -> String + Send>,
}

/// A kind of broker with what is written about it.
struct Bench {
    adapter: &'static str,
    /// The keys of a connection that lets in, in YAML.
    connection: String,
    /// Others to the same broker, with the setting that makes the difference.
    changed: Vec<(&'static str, String)>,
    /// The connection with a wrong password, and what is said then.
    refused: (String, &'static str),
    /// The source of a flow, but for its connection.
    source: fn(flow: &str) -> String,
    sink: fn(flow: &str) -> String,
    /// The header that says whether the broker had sent the message before.
    again: &'static str,
    /// Whether a change of connection gives what is in flight back to the broker, which sends it again; it takes up the
    /// deliveries that are still in the flow then.
    hands_back: bool,
    /// How many network connections two flows with one connection have in all.
    links: f64,
    lane: Box<dyn Fn(&str) -> Lane>,
    _broker: Option<Mosquitto>,
}

/// Names at the shared broker are this process's own.
fn queue(flow: &str, end: &str) -> String {
    format!("e2e-{}-{flow}-{end}", std::process::id())
}

fn amqp() -> Bench {
    let url = RabbitMq::shared().url();
    let connection = |user: &str, more: &str| {
        format!(
            "{{ urls: [\"{url}\"], user: {user}, password: guest, reconnect: {{ initial_delay_ms: 50 }}{more} }}"
        )
    };
    Bench {
        adapter: "amqp",
        connection: connection("guest", ""),
        changed: vec![
            ("heartbeat_ms", connection("guest", ", heartbeat_ms: 20000")),
            ("connect_timeout_ms", connection("guest", ", connect_timeout_ms: 9000")),
        ],
        refused: (connection("stranger", ""), "correct `user` and `password`"),
        source: |flow| format!("queue: {}, declare: {{}}", queue(flow, "in")),
        sink: |flow| format!("routing_key: {}", queue(flow, "out")),
        again: "amqp-redelivered",
        hands_back: false,
        links: 2.0,
        lane: Box::new(move |flow| {
            let (sender, receiver) = (AmqpClient::connect(url), AmqpClient::connect(url));
            let (to, from) = (queue(flow, "in"), queue(flow, "out"));
            sender.declare(&to);
            receiver.declare(&from);
            Lane {
                feed: Box::new(move |body| sender.publish(&to, body)),
                take: Box::new(move || receiver.take(&from)),
            }
        }),
        _broker: None,
    }
}

fn mqtt() -> Bench {
    let user = Some((USER.0.to_owned(), USER.1.to_owned()));
    let broker = Mosquitto::with(&MosquittoOptions { user, ..MosquittoOptions::default() });
    let (url, address) = (broker.url(), broker.address());
    let connection = |password: &str, more: &str| {
        format!("{{ url: \"{url}\", client_id: mill, username: miller, password: {password}{more} }}")
    };
    Bench {
        adapter: "mqtt",
        connection: connection("grist", ""),
        changed: vec![
            ("keep_alive_s", connection("grist", ", keep_alive_s: 20")),
            ("connect_timeout_ms", connection("grist", ", connect_timeout_ms: 9000")),
        ],
        refused: (connection("sand", ""), "`username` and `password`"),
        source: |flow| format!("topics: [{flow}/in]"),
        sink: |flow| format!("topic: {flow}/out"),
        again: "mqtt-dup",
        hands_back: true,
        links: 3.0,
        lane: Box::new(move |flow| {
            let connect = |end| MqttClient::connect_as(address, &format!("{flow}-{end}"), USER);
            let (mut sender, mut receiver) = (connect("sender"), connect("receiver"));
            receiver.subscribe(&format!("{flow}/out"));
            let to = format!("{flow}/in");
            Lane {
                feed: Box::new(move |body| sender.publish(&to, body)),
                take: Box::new(move || receiver.take()),
            }
        }),
        _broker: Some(broker),
    }
}

impl Bench {
    /// A flow that says of each message whether the broker had sent it before.
    fn flow(&self, flow: &str, connection: &str, steps: &str) -> String {
        let (adapter, again) = (self.adapter, self.again);
        let (source, sink) = ((self.source)(flow), (self.sink)(flow));
        format!(
            "
flow: {flow}
limits: {{ in_flight: 1000 }}
source: {{ {adapter}: {{ connection: {connection}, {source} }} }}
steps:
{steps}
  - set: {{ body: {{ text: \"${{message.text}} ${{headers['{again}']}}\" }} }}
  - send: {{ {adapter}: {{ connection: {connection}, {sink} }} }}
on_error:
  - match: [any]
    then: {{ release: {{}} }}
on_reject: discard
"
        )
    }

    /// A runtime with two flows that have come to their broker: `mill` through a plugin, and `beside`.
    fn run(&self, scratch: &Scratch, beside: &str) -> Running {
        scratch.plugin("stamp", &guests::stamp("first"));
        scratch.connections(&[
            ("broker", self.adapter, &self.connection),
            ("other", self.adapter, &self.connection),
        ]);
        scratch.flow("mill", &self.mill("first"));
        scratch.flow("beside", &self.flow("beside", beside, ""));
        let running = scratch.run();
        for flow in ["mill", "beside"] {
            running.becomes(flow, "running");
        }
        running
    }

    fn mill(&self, word: &str) -> String {
        let steps =
            format!("  - transform: {{ plugin: stamp }}\n  - set: {{ headers: {{ x-word: {word} }} }}");
        self.flow("mill", "broker", &steps)
    }

    fn lanes<'n>(&self, names: &[&'n str]) -> Vec<(&'n str, Lane)> {
        names.iter().map(|name| (*name, (self.lane)(name))).collect()
    }
}

/// How many messages have come out of each lane.
struct Passed<'a>(Vec<&'a AtomicU64>);

impl Passed<'_> {
    /// Waits until some more have come out of every lane, the first of which went in only now.
    #[track_caller]
    fn more(&self) {
        for passed in &self.0 {
            let goal = passed.load(Ordering::Relaxed) + AHEAD + BETWEEN;
            eventually("more messages", || (passed.load(Ordering::Relaxed) >= goal).then_some(()));
        }
    }
}

/// Sends numbered messages through lanes while something is done: all come out, once, in order. Unless the broker `may_repeat`
/// what it had sent and the runtime had not acknowledged, it has sent none of them before.
fn while_messages_pass(mut lanes: Vec<(&str, Lane)>, may_repeat: bool, meanwhile: impl FnOnce(&Passed<'_>)) {
    let stop = AtomicBool::new(false);
    let counts: Vec<AtomicU64> = lanes.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        let stop = Stop(&stop);
        for ((name, lane), passed) in lanes.iter_mut().zip(&counts) {
            let stop = stop.0;
            scope.spawn(move || {
                let (mut fed, mut taken) = (0, 0);
                let mut take = |lane: &mut Lane| {
                    let mut came = (lane.take)();
                    if may_repeat && let Some(numbered) = came.strip_suffix(" true") {
                        came = format!("{numbered} false");
                    }
                    assert_eq!(came, format!("{name} {taken} false"), "after {taken} messages");
                    taken += 1;
                    passed.store(taken, Ordering::Relaxed);
                };
                while !stop.load(Ordering::Relaxed) {
                    (lane.feed)(&format!("{name} {fed}"));
                    fed += 1;
                    if fed > AHEAD {
                        take(lane);
                    }
                }
                for _ in 0..fed.min(AHEAD) {
                    take(lane);
                }
            });
        }
        meanwhile(&Passed(counts.iter().collect()));
        drop(stop);
    });
}

/// Stops the lanes, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How often the links of a connection were made.
fn connects(running: &Running, connection: &str) -> f64 {
    running.metric("gristmill_connection_connects_total", &[&format!("connection=\"{connection}\"")])
}

fn reloads_leave_the_session(bench: &Bench) {
    let scratch = Scratch::new();
    let lanes = bench.lanes(&["mill", "beside"]);
    let running = bench.run(&scratch, "broker");
    let beside = running.status("beside")["version"].clone();
    while_messages_pass(lanes, false, |passed| {
        for reload in 0..RELOADS {
            let mark = running.mark();
            scratch.flow("mill", &bench.mill(&format!("word-{reload}")));
            running.runs_after(mark, "mill");
            passed.more();
            let mark = running.mark();
            scratch.plugin("stamp", &guests::stamp(&format!("plugin-{reload}")));
            running.runs_after(mark, "mill");
            passed.more();
            // What is refused touches nothing either.
            let mark = running.mark();
            scratch.flow("mill", &bench.mill("broken").replace("- send", "- sned"));
            running.refuses_after(mark, "mill");
        }
        assert_eq!(connects(&running, "broker"), bench.links);
        assert_eq!(running.status("beside")["version"], beside);
    });
}

#[test]
fn reloads_of_flow_and_plugin_leave_the_consumers_of_amqp_as_they_are() {
    reloads_leave_the_session(&amqp());
}

#[test]
fn reloads_of_flow_and_plugin_leave_the_sessions_of_mqtt_as_they_are() {
    reloads_leave_the_session(&mqtt());
}

fn another_connection_takes_the_place_of_the_first(bench: &Bench) {
    let scratch = Scratch::new();
    let lanes = bench.lanes(&["mill", "beside"]);
    let running = bench.run(&scratch, "other");
    let (mill, beside) = (|| running.status("mill"), || running.status("beside"));
    let beside_before = beside();
    let connect = |connection: &str| {
        let other = ("other", bench.adapter, bench.connection.as_str());
        scratch.connections(&[("broker", bench.adapter, connection), other]);
    };
    while_messages_pass(lanes, bench.hands_back, |passed| {
        passed.more();
        let others = connects(&running, "other");
        for (what, changed) in &bench.changed {
            let (mark, before) = (running.mark(), connects(&running, "broker"));
            connect(changed);
            running.runs_after(mark, "mill");
            passed.more();
            assert!(connects(&running, "broker") > before, "{what} is changed without connecting anew");
        }
        // The way back: what cannot connect is refused, and what runs goes on.
        let version = mill()["version"].clone();
        let (refused, said) = &bench.refused;
        let mark = running.mark();
        connect(refused);
        running.logged_after(mark, |line| line["flow"] == "mill" && says(line, said));
        passed.more();
        let status = mill();
        assert_eq!((&status["version"], &status["state"]["is"]), (&version, &"running".into()), "{status}");
        assert!(status["refused"].as_str().unwrap().contains(said), "{status}");
        let mark = running.mark();
        connect(&bench.connection);
        running.runs_after(mark, "mill");
        passed.more();
        assert!(mill()["refused"].is_null());
        assert_eq!(connects(&running, "other"), others, "the connection beside it is another");
    });
    assert_eq!(beside()["version"], beside_before["version"]);
}

#[test]
fn another_connection_of_amqp_takes_the_place_of_the_first() {
    another_connection_takes_the_place_of_the_first(&amqp());
}

#[test]
fn another_connection_of_mqtt_takes_the_place_of_the_first() {
    another_connection_takes_the_place_of_the_first(&mqtt());
}

#[test]
fn a_flow_that_is_removed_leaves_its_queue_to_others() {
    let bench = amqp();
    let scratch = Scratch::new();
    let lanes = bench.lanes(&["beside"]);
    let client = AmqpClient::connect(RabbitMq::shared().url());
    let mill = queue("mill", "in");
    client.declare(&queue("mill", "out"));
    let running = bench.run(&scratch, "broker");
    assert_eq!(client.consumers(&mill), 1);
    while_messages_pass(lanes, false, |passed| {
        let mark = running.mark();
        scratch.remove("flows/mill.yaml");
        running.logged_after(mark, |line| line["flow"] == "mill" && says(line, "removed"));
        eventually("the consumer to go", || (client.consumers(&mill) == 0).then_some(()));
        client.publish(&mill, "left alone");
        passed.more();
        assert_eq!(client.take(&mill), "left alone");
    });
    assert_eq!(connects(&running, "broker"), bench.links);
}

#[test]
fn a_topic_that_is_dropped_is_unsubscribed_and_a_flow_that_is_removed_ends_its_session() {
    let broker = Mosquitto::start();
    let flow = |topics: &str| {
        format!(
            "
flow: taps
source: {{ mqtt: {{ connection: plant, topics: {topics} }} }}
steps:
  - send: {{ mqtt: {{ connection: plant, topic: out }} }}
on_reject: discard
"
        )
    };
    let scratch = Scratch::with_flow("taps", &flow("[\"cold/#\", hot/+]"));
    scratch.connections(&[("plant", "mqtt", &format!("{{ url: \"{}\", client_id: mill }}", broker.url()))]);
    let mut running = scratch.run();
    running.becomes("taps", "running");
    let mut sender = MqttClient::connect(broker.address(), "sender");
    let mut receiver = MqttClient::connect(broker.address(), "receiver");
    receiver.subscribe("out");
    for (topic, body) in [("cold/1", "a"), ("hot/1", "b")] {
        sender.publish(topic, body);
        assert_eq!(receiver.take(), body);
    }
    let mark = running.mark();
    scratch.flow("taps", &flow("[\"cold/#\"]"));
    running.runs_after(mark, "taps");
    // The flow runs with what it wants; that the broker has undone the rest, it says itself.
    eventually("the end of the subscription", || {
        broker.log().contains("Sending UNSUBACK to mill-taps").then_some(())
    });
    sender.publish("hot/1", "dropped");
    sender.publish("cold/2", "c");
    assert_eq!(receiver.take(), "c");
    assert_eq!(connects(&running, "plant"), 2.0, "one for the source, one for sinks");

    // A runtime that is stopped leaves its session, with what comes meanwhile; a flow that is removed does not.
    let left = |count| {
        let is_so =
            || (broker.log().matches("Received DISCONNECT from mill-taps").count() == count).then_some(());
        eventually("the session to be left", is_so);
    };
    assert!(running.stop().success());
    left(1);
    assert!(MqttClient::has_session(broker.address(), "mill-taps"));
    sender.publish("cold/3", "kept");
    sender.publish("hot/3", "dropped");
    let running = scratch.run();
    assert_eq!(receiver.take(), "kept");
    let mark = running.mark();
    scratch.remove("flows/taps.yaml");
    running.logged_after(mark, |line| line["flow"] == "taps" && says(line, "removed"));
    // Its connection is closed first, and then the session ended by one that begins clean.
    running.logged_after(mark, |line| line["flow"] == "taps" && says(line, "is ended"));
    assert_eq!(running.metric("gristmill_connection_up", &["role=\"source taps\""]), 0.0);
    assert!(!MqttClient::has_session(broker.address(), "mill-taps"));
}
