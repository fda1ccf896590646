//! kill -9, for real: a child process moves lines from a folder to a file through source and sink, and is killed again and
//! again. Every line arrives; only lines that were in flight arrive twice.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use gristmill_core::{
    Delivery, SystemClock,
    adapter::{Adapter, Checker, SinkUse},
    config::{Mistakes, Node, Span},
    limits::FlowLimits,
    observe::Unobserved,
    sink::{Outgoing, Sink, SinkContext},
    source::{EndpointContext, Source},
};
use gristmill_file::FileAdapter;
use serde_json::json;

const LINES: usize = 40_000;
const IN_FLIGHT: usize = 64;
const FOLDER: &str = "GRISTMILL_TEST_FOLDER";
const READ: &str = "GRISTMILL_TEST_READ";

async fn open(folder: &Path, read: &str) -> (Box<dyn Source>, Arc<dyn Sink>) {
    let adapter = FileAdapter::new();
    let limits = FlowLimits { in_flight: IN_FLIGHT, ..FlowLimits::default() };
    let mut mistakes = Mistakes::new();
    let mut checker = Checker::new(&mut mistakes, folder, &limits);
    let node = |json| Node::from_json(&json, &Span::nowhere("test"));
    let source = node(match read {
        "follow" => {
            json!({"directory": "in", "pattern": "app.log*", "poll_ms": 50, "read": {"follow": {}}})
        }
        _ => json!({"directory": "in", "settle_ms": 0, "poll_ms": 50, "read": {"lines": {}}}),
    });
    let source = adapter.check_source(&source, &mut checker).unwrap();
    let sink = node(json!({"directory": "out", "name": "all", "mode": {"append": {}}}));
    let sink = adapter.check_sink(&sink, SinkUse::Send, &mut checker).unwrap();
    let context = EndpointContext {
        flow: "kill".into(),
        limits,
        state_dir: folder.join("state"),
        clock: Arc::new(SystemClock),
        observer: Arc::new(Unobserved),
    };
    let source = source.prepare(context).await.unwrap().start().await.unwrap();
    let sink = sink.spec.open(SinkContext { flow: "kill".into(), body_bytes: 1 << 20 }).await.unwrap();
    (source, sink)
}

/// What the engine does, as short as it can be: keeps `IN_FLIGHT` sends under way, settles each as it ends.
async fn run(folder: &Path, read: &str) {
    let (mut source, sink) = open(folder, read).await;
    let mut sends = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = sends.next() => {}
            delivery = source.next(), if sends.len() < IN_FLIGHT => {
                let delivery = delivery.unwrap().unwrap();
                sends.push(send(Arc::clone(&sink), delivery));
            }
        }
    }
}

async fn send(sink: Arc<dyn Sink>, delivery: Delivery) {
    sink.send(Outgoing::new(&delivery.message, &[])).await.unwrap();
    delivery.acknowledgement.delivered();
}

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let read = std::env::var(READ).unwrap();
    runtime.block_on(run(Path::new(&folder), &read));
}

fn start(folder: &Path, read: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture"])
        .env(FOLDER, folder)
        .env(READ, read)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until the output has grown by so much, or all is done.
fn watch(folder: &Path, child: &mut Child, more: u64) {
    let size = || fs::metadata(folder.join("out/all")).map_or(0, |m| m.len());
    let begin = size();
    while size() < begin + more && !folder.join("in/done/lines").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        std::thread::yield_now();
    }
}

#[test]
fn every_line_arrives_and_only_those_in_flight_arrive_twice() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    let content: String = (0..LINES).map(|n| format!("{n:06}\n")).collect();
    fs::write(folder.path().join("in/lines"), content).unwrap();
    let (mut kills, mut walk) = (0, 11_u64);
    while !folder.path().join("in/done/lines").exists() {
        let mut child = start(folder.path(), "lines");
        walk = walk.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        watch(folder.path(), &mut child, (walk >> 33) % 20_000);
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    check(folder.path(), kills);
}

/// Lines are added, and files renamed, while nobody looks and while somebody does.
#[test]
fn of_files_that_grow_and_rotate_every_line_arrives_too() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    let path = folder.path().join("in/app.log");
    let (rounds, mut walk) = (20, 13_u64);
    let a_round = LINES / rounds;
    for round in 0..rounds {
        walk = walk.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let add = |from: usize, to: usize| {
            let lines: String = (from..to).map(|n| format!("{n:06}\n")).collect();
            let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
            file.write_all(lines.as_bytes()).unwrap();
        };
        let (begin, middle) = (round * a_round, round * a_round + a_round / 2);
        add(begin, middle);
        if walk >> 63 == 0 {
            fs::rename(&path, path.with_extension(format!("log.{round}a"))).unwrap();
        }
        let mut child = start(folder.path(), "follow");
        watch(folder.path(), &mut child, (walk >> 33) % 3_000);
        if walk >> 62 & 1 == 0 && path.exists() {
            fs::rename(&path, path.with_extension(format!("log.{round}b"))).unwrap();
        }
        add(middle, begin + a_round);
        watch(folder.path(), &mut child, (walk >> 40) % 3_000);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut child = start(folder.path(), "follow");
    while seen(&fs::read_to_string(folder.path().join("out/all")).unwrap()).contains(&0) {
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    check(folder.path(), rounds + 1);
}

/// How often each line stands in the output.
fn seen(output: &str) -> Vec<usize> {
    let mut seen = vec![0; LINES];
    // The last one may be half-written.
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    for line in whole.lines() {
        seen[line.parse::<usize>().unwrap()] += 1;
    }
    seen
}

/// Every line has arrived, and no more than were in flight arrived twice.
fn check(folder: &Path, kills: usize) {
    let output = fs::read_to_string(folder.join("out/all")).unwrap();
    let seen = seen(&output);
    assert!(seen.iter().all(|n| *n > 0), "lost: {}", seen.iter().filter(|n| **n == 0).count());
    let repeated: usize = seen.iter().map(|n| n - 1).sum();
    assert!(kills > 10, "{kills}");
    assert!(repeated <= kills * IN_FLIGHT, "{repeated} in {kills} kills");
    println!("{kills} kills, {repeated} lines twice");
}
