//! Reloads under load: 32 clients that keep their connection and 32 that open one for each request, while the flow, its
//! plugin and broken versions of both are saved 200 times.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use gristmill_guests::{Guest, router, transformer};

use crate::harness::{
    Dice, Running, Scratch, eventually, guests,
    http::{Answer, Connection},
    running_says_so,
};

const CLIENTS_OF_A_KIND: usize = 32;
const SAVES: usize = 200;

/// What an answer says of where it comes from: a word of the flow file, and one of the plugin.
type Pair = (String, String);

fn flow(word: &str) -> String {
    format!(
        "
flow: mill
source: {{ http: {{ listen: 127.0.0.1:0, path: /mill }} }}
steps:
  # Generous, because so many clients leave the machine little time for anyone.
  - transform: {{ plugin: stamp, limits: {{ deadline_ms: 20000, call_timeout_ms: 20000 }} }}
  - reply:
      headers:
        x-version: ${{flow.version}}
        x-flow: {word}
        x-plugin: \"${{headers['x-plugin']}}\"
      body: {{ expression: message.text }}
"
    )
}

/// Each is wrong in a way of its own.
fn broken_flow(n: u64) -> String {
    let good = flow("broken");
    match n % 4 {
        0 => good.replace("steps:", "steps: ["),
        1 => good.replace("transform", "tansform"),
        2 => good.replace("message.text", "message.texts"),
        _ => good.replace("stamp", "stomp"),
    }
}

/// Each is wrong in a way of its own.
fn broken_plugin(n: u64) -> Vec<u8> {
    match n % 4 {
        0 => b"no plugin".to_vec(),
        1 => guests::stamp("torn").module()[..300].to_vec(),
        2 => router().module(),
        _ => Guest { describe: "unreachable", ..transformer() }.module(),
    }
}

/// What a client saw.
#[derive(Default)]
struct Tally {
    /// How many answers each version gave, by what they said.
    answers: BTreeMap<String, BTreeMap<Pair, usize>>,
    failures: Vec<String>,
}

impl Tally {
    fn note(&mut self, body: &str, answer: std::io::Result<Answer>) {
        match answer {
            Ok(answer) if answer.status == 200 && answer.body == body.as_bytes() => {
                let (version, pair) = origin(&answer);
                *self.answers.entry(version).or_default().entry(pair).or_default() += 1;
            }
            other => self.failures.push(format!("{body}: {other:?}")),
        }
    }
}

fn origin(answer: &Answer) -> (String, Pair) {
    let header = |name| answer.header(name).unwrap_or_default().to_owned();
    (header("x-version"), (header("x-flow"), header("x-plugin")))
}

/// Sends one request after the other until it is told to stop.
fn client(number: usize, address: SocketAddr, keeps: bool, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut kept = keeps.then(|| Connection::open(address).unwrap());
    for request in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let body = format!("{number}-{request}");
        let answer = match &mut kept {
            Some(connection) => connection.ask("POST", "/mill", &[], body.as_bytes()),
            None => crate::harness::http::post(address, "/mill", body.as_bytes()),
        };
        let broken = answer.is_err();
        tally.note(&body, answer);
        if broken && keeps {
            break;
        }
    }
    tally
}

/// Stops the clients, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is on disk, and what may be served.
struct Editor<'a> {
    scratch: &'a Scratch,
    running: &'a Running,
    dice: Dice,
    saves: usize,
    applied: usize,
    refused: usize,
    /// The words on disk; `None` is a broken file.
    flow: Option<String>,
    plugin: Option<String>,
    /// Every pair that was on disk together.
    allowed: BTreeSet<Pair>,
}

impl Editor<'_> {
    fn save_something(&mut self) {
        let mark = self.running.mark();
        match self.dice.below(5) {
            0 => self.save_flow(),
            1 => self.save_plugin(),
            2 => {
                self.flow = None;
                self.save("flows/mill.yaml", broken_flow(self.saves as u64).into_bytes());
            }
            3 => {
                self.plugin = None;
                self.save("plugins/stamp.wasm", broken_plugin(self.saves as u64));
            }
            _ => {
                self.save_flow();
                self.save_plugin();
            }
        }
        match self.pair() {
            Some(pair) => {
                let version = eventually("the saved version to answer", || {
                    let (version, served) = origin(&self.running.post("/mill", "probe"));
                    (served == pair).then_some(version)
                });
                // So that what comes after this in the log is about the next save.
                self.running.logged_after(mark, |line| running_says_so(line, "mill", &version));
                self.applied += 1;
            }
            None => {
                let said = self.running.refuses_after(mark, "mill");
                assert!(said.contains("goes on"), "{said}");
                assert!(self.running.status("mill")["refused"].is_string());
                // A repeat is not counted again.
                self.refused += usize::from(!said.contains("still refused"));
            }
        }
    }

    fn save_flow(&mut self) {
        let word = format!("f{}", self.saves);
        let content = flow(&word);
        self.flow = Some(word);
        self.save("flows/mill.yaml", content.into_bytes());
    }

    fn save_plugin(&mut self) {
        let word = format!("p{}", self.saves);
        let content = guests::stamp(&word).module();
        self.plugin = Some(word);
        self.save("plugins/stamp.wasm", content);
    }

    fn save(&mut self, name: &str, content: Vec<u8>) {
        self.allowed.extend(self.pair());
        self.scratch.save(name, content);
        self.saves += 1;
    }

    fn pair(&self) -> Option<Pair> {
        Some((self.flow.clone()?, self.plugin.clone()?))
    }
}

#[test]
fn no_request_fails_and_each_answer_is_explained_by_one_version() {
    let scratch = Scratch::with_flow("mill", &flow("f"));
    scratch.plugin("stamp", &guests::stamp("p"));
    let running = scratch.run();
    running.is_running("mill");
    let address = running.address();
    let stop = AtomicBool::new(false);
    let first: Pair = ("f".into(), "p".into());
    let mut editor = Editor {
        scratch: &scratch,
        running: &running,
        dice: Dice::new(7),
        saves: 0,
        applied: 0,
        refused: 0,
        flow: Some(first.0.clone()),
        plugin: Some(first.1.clone()),
        allowed: BTreeSet::from([first]),
    };

    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let stop_all = Stop(&stop);
        let clients: Vec<_> = (0..2 * CLIENTS_OF_A_KIND)
            .map(|number| (number, number % 2 == 0, &stop))
            .map(|(number, keeps, stop)| scope.spawn(move || client(number, address, keeps, stop)))
            .collect();
        while editor.saves < SAVES {
            editor.save_something();
        }
        drop(stop_all);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });

    let mut versions: BTreeMap<String, BTreeSet<Pair>> = BTreeMap::new();
    let mut answers = 0;
    for (number, tally) in tallies.iter().enumerate() {
        assert_eq!(tally.failures, Vec::<String>::new(), "client {number}");
        assert!(!tally.answers.is_empty(), "client {number} was never answered");
        for (version, pairs) in &tally.answers {
            versions.entry(version.clone()).or_default().extend(pairs.keys().cloned());
            answers += pairs.values().sum::<usize>();
        }
    }
    for (version, pairs) in &versions {
        assert_eq!(pairs.len(), 1, "version {version} answered as {pairs:?}");
        assert!(pairs.is_subset(&editor.allowed), "{pairs:?} was never saved together");
    }
    println!("{answers} answers by {} versions, {} refused saves", versions.len(), editor.refused);
    assert!(
        editor.applied > 50 && editor.refused > 30,
        "{} applied, {} refused",
        editor.applied,
        editor.refused
    );
    assert!(versions.len() > 20, "only {} versions answered", versions.len());
    let reloads = |result: &str| running.metric("gristmill_reloads_total", &["flow=\"mill\"", result]);
    assert!(reloads("result=\"applied\"") >= editor.applied as f64);
    assert!(reloads("result=\"refused\"") >= editor.refused as f64);
    assert_eq!(running.metric("gristmill_refused_total", &[]), 0.0);
}
