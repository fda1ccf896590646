//! The case `queue`: a million messages wait in a queue, and the flow that takes them has a slow sink. What is asked is not how
//! fast that goes but that it takes no memory: nothing but the broker may hold what waits. So there is no floor.
//!
//! The memory of the process once a thousand messages have passed, with all that it needs to work, is held against the most
//! that it has in the time after.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::{Router, http::StatusCode, routing::post};
use gristmill_brokers::rabbitmq::RabbitMq;
use lapin::BasicProperties;
use tokio::net::TcpListener;

use crate::{
    amqp::{connections, load::Queues},
    case::Setup,
    forwarding,
    machine::{bound_to, note_grandchildren, places},
    report::{Cost, Goal, Report, Resources, Row, Unit},
    stats::Spread,
    subject::Subject,
};

const QUEUE: &str = "waiting";

/// How many messages wait.
const MESSAGES: usize = 1_000_000;
const QUICK_MESSAGES: usize = 200_000;

/// How long is looked at the memory.
const WATCH: Duration = Duration::from_secs(60);
const QUICK_WATCH: Duration = Duration::from_secs(10);

/// After how many messages everything that the process needs is there.
const WARM: usize = 1_000;

/// How long the sink takes for a message: with 256 on their way, some 2,500 a second.
const SINK_TAKES: Duration = Duration::from_millis(100);

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What an allocator keeps or gives back from one moment to the next, in MiB and as a share of what there is.
const SLACK_MIB: f64 = 8.0;
const SLACK_SHARE: f64 = 0.1;

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    bound_to(places().load, || measure(setup, report))?
}

fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let (messages, watch) = if report.quick { (QUICK_MESSAGES, QUICK_WATCH) } else { (MESSAGES, WATCH) };
    let broker = RabbitMq::start();
    let url = broker.url();
    let queues = Queues::connect(&url)?;
    queues.declare(QUEUE)?;
    // Not persistent: what is looked at is not the broker's disk.
    let properties = BasicProperties::default().with_content_type("application/json".into());
    queues.fill(QUEUE, messages, &properties, |number| format!(r#"{{"order_id":{number},"cust":"Ada"}}"#))?;
    let waiting = queues.waiting(QUEUE)?;
    ensure!(usize::try_from(waiting)? == messages, "{waiting} messages wait, and not {messages}");

    let sink = SlowSink::start()?;
    let subject = forwarding::ours(setup, &flow(sink.address), &connections(&url))?;
    let growth = Growth::watch(&subject, &sink, watch)
        .with_context(|| format!("the log ends with:\n{}", subject.log_tail()))?;
    let left = queues.waiting(QUEUE)?;
    let cpu = subject.cpu_time()?;

    let allowed = (SLACK_MIB + growth.base_mib * SLACK_SHARE).round();
    let row = |what: &str, value: f64| -> Result<Row> {
        Ok(Row::alone(format!("queue/{what}"), Unit::Mebibytes, Spread::of(&[value])?))
    };
    report.rows.push(row("memory", growth.base_mib)?);
    report.rows.push(row("growth", growth.most_mib - growth.base_mib)?.goal(Goal::AtMost(allowed)));
    report.costs.push(Cost {
        case: "queue".into(),
        floor: None,
        ours: Resources {
            cpu_us: Some(cpu.as_secs_f64() * 1e6 / growth.passed as f64),
            peak_mib: Some(subject.memory()?.peak_mib),
            ..Resources::default()
        },
    });
    report.remarks.push(format!(
        "queue: {messages} messages waited, {} of them passed in {} s, {left} still waited",
        growth.passed,
        watch.as_secs()
    ));
    if report.quick {
        report.remarks.push(format!("queue: in a full run {MESSAGES} messages wait"));
    }
    note_grandchildren()
}

fn flow(sink: SocketAddr) -> String {
    format!(
        "flow: slow
source:
  amqp: {{ connection: rabbit, queue: {QUEUE} }}
steps:
  - transform: {{ plugin: bench-rename }}
  - send:
      http: {{ url: \"http://{sink}/\" }}
on_reject: discard
"
    )
}

/// The memory of a process over some time.
#[derive(Debug)]
struct Growth {
    base_mib: f64,
    most_mib: f64,
    passed: usize,
}

impl Growth {
    /// Watches for that long from when the process is warm.
    fn watch(subject: &Subject, sink: &SlowSink, time: Duration) -> Result<Self> {
        let began = Instant::now();
        while sink.taken() < WARM {
            ensure!(began.elapsed() < forwarding::PATIENCE, "only {} messages came", sink.taken());
            std::thread::sleep(LOOK_EVERY);
        }
        let base_mib = subject.memory()?.now_mib;
        let mut most_mib = base_mib;
        let began = Instant::now();
        while began.elapsed() < time {
            std::thread::sleep(LOOK_EVERY);
            most_mib = most_mib.max(subject.memory()?.now_mib);
        }
        let passed = sink.taken();
        ensure!(passed > 2 * WARM, "only {passed} messages came: memory says nothing of so few");
        Ok(Self { base_mib, most_mib, passed })
    }
}

/// A server that takes its time. It ends with its runtime.
struct SlowSink {
    address: SocketAddr,
    taken: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl SlowSink {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&taken);
        let take = move || {
            let counter = Arc::clone(&counter);
            async move {
                tokio::time::sleep(SINK_TAKES).await;
                counter.fetch_add(1, Relaxed);
                StatusCode::NO_CONTENT
            }
        };
        runtime.spawn(async move { axum::serve(listener, Router::new().route("/", post(take))).await });
        Ok(Self { address, taken, _runtime: runtime })
    }

    /// How many messages it has taken.
    fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }
}
