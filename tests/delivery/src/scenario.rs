//! One scenario from its beginning to the verdict: a quiet moment, faults in all places at once, everything mended, and then
//! all that was accepted has to arrive.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::{
    brokers::Brokers,
    endpoint::{
        self, Kind,
        file::{self, Taken},
    },
    feed::Feed,
    ledger::{Ledger, lock},
    oracle::{self, Dead, Disturbance, History, Order, Terms, Verdict},
    runtime::Peaks,
    schedule::{self, Fault, Lane},
    spec::{IN_FLIGHT, Spec},
    stage::Stage,
};

/// How long messages flow before the first fault.
const QUIET_FIRST: Duration = Duration::from_millis(700);

/// How long after a fault was mended its repeats may come: clients connect again, brokers send again.
const RECOVERY: Duration = Duration::from_secs(10);

/// How many duplicates one fault can make: what is in flight in the runtime, sent again as often as the flow's retries and
/// releases can while the fault lasts, and what the feeder and the receiver have under way.
const REPEATS_EACH: usize = 16 * IN_FLIGHT as usize;

/// What is accepted is lost when nothing at all arrives for so long.
const NOTHING_FOR: Duration = Duration::from_secs(45);

/// How long a scenario may take to come to rest in all.
const REST_WITHIN: Duration = Duration::from_secs(240);

/// The most memory that the runtime may take, in KiB. A debug build with its plugins takes a quarter of it.
const MEMORY_KIB: u64 = 512 * 1024;

/// How often the runtime is watched.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// How often is looked whether all has arrived.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    /// What was played.
    pub spec: Spec,
    /// What the oracle says.
    pub verdict: Verdict,
    /// How often each fault struck.
    pub faults: BTreeMap<String, usize>,
    /// The faults with their times.
    pub timeline: Vec<Disturbance>,
    /// The most that was seen of the runtime.
    pub peaks: Peaks,
    /// What did not hold, in words; empty when all did.
    pub problems: Vec<String>,
    /// What could not be tried here.
    pub not_tried: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// The folder with the log, kept when something did not hold.
    pub folder: Option<PathBuf>,
}

/// Plays a scenario.
///
/// # Errors
/// It could not be played. What did not hold is in the outcome, and no error.
pub fn play(spec: &Spec, binary: &Path, brokers: &Brokers) -> Result<Outcome> {
    let begun = Instant::now();
    let folder = tempfile::Builder::new().prefix("delivery-").tempdir()?;
    let played = act(spec, binary, folder.path(), brokers);
    let keep = |folder: tempfile::TempDir| folder.keep();
    match played {
        Ok(mut outcome) => {
            outcome.took = begun.elapsed();
            if !outcome.problems.is_empty() {
                outcome.folder = Some(keep(folder));
            }
            Ok(outcome)
        }
        Err(error) => {
            let kept = keep(folder);
            let problem = format!("{} with the seed {}, see {}", spec.pair(), spec.seed, kept.display());
            Err(error.context(problem))
        }
    }
}

fn act(spec: &Spec, binary: &Path, folder: &Path, brokers: &Brokers) -> Result<Outcome> {
    let stage = Stage::set_up(spec, binary, folder, brokers)?;
    let ledger = Arc::clone(&stage.ledger);
    let mut problems = Vec::new();
    let feed = Arc::new(Feed::new(Arc::clone(&ledger), spec.rate, most_under_way(spec)));
    let feeders = stage.feed(&feed);
    let lanes = schedule::lanes(spec, stage.means);
    let watched = Mutex::new(None);
    let over = AtomicBool::new(false);
    let dead = Mutex::new(DeadLetters::new(stage.dead()));
    let rest = thread::scope(|scope| -> Result<Option<String>> {
        let watcher = scope.spawn(|| watch(&stage, &over, &dead, &watched));
        thread::sleep(QUIET_FIRST);
        let striking: Vec<_> = lanes.iter().map(|lane| scope.spawn(|| strike(&stage, lane))).collect();
        let struck: Result<Vec<()>> = striking
            .into_iter()
            .map(|lane| lane.join().map_err(|_| anyhow!("a fault has panicked, see above"))?)
            .collect();
        let rest = struck.and_then(|_| {
            feed.end();
            come_to_rest(&stage, &feed, &dead)
        });
        feed.give_up();
        over.store(true, Ordering::Relaxed);
        watcher.join().map_err(|_| anyhow!("the watcher has panicked"))?;
        rest
    })?;
    problems.extend(rest);
    problems.extend(lock(&watched).take());
    feeders.into_iter().try_for_each(endpoint::join).context("a feeder")?;
    if let Err(error) = stage.runtime.terminate() {
        problems.push(format!("{error:#}"));
    }
    let peaks = stage.runtime.peaks();
    let (means, no_disk) = (stage.means, stage.no_disk.clone());
    stage.finish()?;
    let mut dead = dead.into_inner().unwrap_or_else(PoisonError::into_inner);
    dead.look(&ledger)?;

    let timeline = ledger.disturbances();
    let history = ledger.history();
    let verdict = oracle::judge(&history, &terms(spec, &timeline));
    problems.extend(verdict.problems());
    problems.extend(dead.unreadable.iter().map(|letter| format!("a dead letter that is none: {letter}")));
    if peaks.in_flight > IN_FLIGHT {
        problems.push(format!("{} deliveries in flight, over the limit of {IN_FLIGHT}", peaks.in_flight));
    }
    if peaks.memory_kib > MEMORY_KIB {
        problems.push(format!("{} MiB of memory", peaks.memory_kib / 1024));
    }
    write_story(folder, &history, &timeline, &verdict)?;
    let mut faults = BTreeMap::new();
    for fault in &timeline {
        *faults.entry(fault.kind.clone()).or_default() += 1;
    }
    let mut not_tried = Vec::new();
    not_tried.extend(no_disk.map(|why| format!("disk_full: {why}")));
    if !means.clock {
        not_tried.push("clock: libfaketime is not installed".to_owned());
    }
    Ok(Outcome {
        spec: spec.clone(),
        verdict,
        faults,
        timeline,
        peaks,
        problems,
        not_tried,
        took: Duration::ZERO,
        folder: None,
    })
}

/// The most messages under way, where the source has a bound of its own.
fn most_under_way(spec: &Spec) -> Option<usize> {
    (spec.source == Kind::File).then(|| spec.variant().taken.most_under_way()).flatten()
}

/// What is promised, given what was broken.
fn terms(spec: &Spec, timeline: &[Disturbance]) -> Terms {
    let variant = spec.variant();
    let is_fault = |it: &&Disturbance| !file::ROTATIONS.contains(&it.kind.as_str());
    let first = timeline.iter().filter(is_fault).map(|it| it.from).min().unwrap_or(Duration::MAX);
    let is_ordered = match spec.source {
        // Rotated twice between two looks, logs are met together, and read in turns.
        Kind::File => variant.taken != Taken::FollowedWide,
        kind => kind.is_ordered(),
    };
    let order = |sink: &Kind| match (is_ordered, variant.strict, sink) {
        (false, ..) => Order::Free,
        (true, true, _) => Order::Always,
        // Requests go side by side over several connections: what holds is the order in which they are begun.
        (true, false, Kind::Http) => Order::Free,
        (true, false, _) => Order::Until(first),
    };
    // What RabbitMQ was told was settled, and has not yet written down, comes again after kill -9, however much it is.
    let forgetful = timeline.iter().any(|fault| fault.kind == Fault::RabbitKill.name());
    Terms {
        disturbances: timeline.to_vec(),
        recovery: RECOVERY,
        order: spec.sinks.iter().map(order).collect(),
        repeats_each: (spec.sinks.len() == 1 && !forgetful).then_some(REPEATS_EACH),
    }
}

fn strike(stage: &Stage<'_>, lane: &Lane) -> Result<()> {
    let begun = Instant::now();
    for planned in lane {
        thread::sleep(planned.at.saturating_sub(begun.elapsed()));
        // One that is late because another took long is left out, so that the end is not far off.
        if begun.elapsed() > stage.spec.lasts + Duration::from_secs(2) {
            break;
        }
        stage.strike(planned.fault, planned.lasts)?;
    }
    Ok(())
}

fn watch(stage: &Stage<'_>, over: &AtomicBool, dead: &Mutex<DeadLetters>, problem: &Mutex<Option<String>>) {
    while !over.load(Ordering::Relaxed) {
        // Whoever feeds may have to know what has come out.
        if let Err(error) = lock(dead).look(&stage.ledger) {
            lock(problem).get_or_insert(format!("dead letters cannot be read: {error:#}"));
        }
        if let Err(error) = stage.runtime.watch() {
            lock(problem).get_or_insert(format!("{error:#}"));
        }
        // No fault of the bench's own, but what follows from one: a send that was under way is repeated.
        if stage.runtime.has_interrupted().unwrap_or(false) {
            let noted = stage.ledger.broken("drain_limit", true);
            stage.ledger.mended(noted);
        }
        thread::sleep(WATCH_EVERY);
    }
}

/// Waits until every message that was begun is accepted, every accepted one has arrived, and nothing is in flight. Says
/// where it stands when it does not come to that.
fn come_to_rest(stage: &Stage<'_>, feed: &Feed, dead: &Mutex<DeadLetters>) -> Result<Option<String>> {
    let begun = Instant::now();
    let mut moved = Instant::now();
    let mut before = None;
    loop {
        lock(dead).look(&stage.ledger)?;
        let (sent, accepted) = stage.ledger.progress();
        let (missing, arrived) = stage.ledger.missing();
        if sent == accepted && missing == 0 && stage.runtime.in_flight() == Some(0) && stage.waiting()? == 0 {
            return Ok(None);
        }
        let now = Some((accepted, missing, arrived));
        if now != before {
            (before, moved) = (now, Instant::now());
        }
        if moved.elapsed() > NOTHING_FOR || begun.elapsed() > REST_WITHIN || feed.is_given_up() {
            return Ok(Some(format!(
                "it did not come to rest: of {sent} messages {accepted} were accepted, {missing} are missing, {} are in \
                 flight, {} wait in queues",
                stage
                    .runtime
                    .in_flight()
                    .map_or_else(|| "an unknown number".to_owned(), |count| count.to_string()),
                stage.waiting()?,
            )));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The dead letters in a folder, each read once.
struct DeadLetters {
    folder: PathBuf,
    known: BTreeSet<String>,
    dead: Vec<Dead>,
    unreadable: Vec<String>,
}

impl DeadLetters {
    fn new(folder: PathBuf) -> Self {
        Self { folder, known: BTreeSet::new(), dead: Vec::new(), unreadable: Vec::new() }
    }

    fn look(&mut self, ledger: &Ledger) -> Result<()> {
        let names =
            fs::read_dir(&self.folder)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let new: Vec<String> =
            names.filter(|name| !name.starts_with('.') && !self.known.contains(name)).collect();
        for name in &new {
            match read_letter(&fs::read(self.folder.join(name))?, ledger) {
                Some(dead) => self.dead.push(dead),
                None => self.unreadable.push(name.clone()),
            }
        }
        if !new.is_empty() {
            self.known.extend(new);
            ledger.dead(self.dead.clone());
        }
        Ok(())
    }
}

fn read_letter(bytes: &[u8], ledger: &Ledger) -> Option<Dead> {
    let letter: Value = serde_json::from_slice(bytes).ok()?;
    let body = letter.pointer("/message/body/text")?.as_str()?;
    let step = letter.pointer("/error/step")?.as_str()?;
    let sink = [("branches.left", 0), ("branches.right", 1)];
    let sink = sink.into_iter().find(|(branch, _)| step.contains(branch)).map(|(_, sink)| sink);
    Some(Dead { number: ledger.messages().number(body.as_bytes()).ok()?, sink })
}

/// Writes beside the log what has happened, for whoever has to find out why something did not hold.
fn write_story(folder: &Path, history: &History, timeline: &[Disturbance], verdict: &Verdict) -> Result<()> {
    use std::fmt::Write as _;
    let mut text = String::from("faults\n");
    for fault in timeline {
        writeln!(
            text,
            "  {:>8.3}  {:>8.3}  {}",
            fault.from.as_secs_f64(),
            fault.until.as_secs_f64(),
            fault.kind
        )?;
    }
    writeln!(text, "{verdict:#?}")?;
    for (sink, received) in history.sinks.iter().enumerate() {
        writeln!(text, "arrivals at sink {sink}")?;
        for arrival in &received.arrivals {
            writeln!(text, "  {:>8.3}  {}", arrival.at.as_secs_f64(), arrival.number)?;
        }
    }
    writeln!(text, "messages: first sent, accepted, attempts")?;
    for (number, message) in history.messages.iter().enumerate() {
        let accepted = message.accepted.map_or(-1.0, |at| at.as_secs_f64());
        writeln!(
            text,
            "  {number}  {:.3}  {accepted:.3}  {}",
            message.first.as_secs_f64(),
            message.attempts
        )?;
    }
    Ok(fs::write(folder.join("story.txt"), text)?)
}
