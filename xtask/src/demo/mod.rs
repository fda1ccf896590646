//! `cargo xtask demo`: builds everything, starts the flows of `flows/` on a copy, sends real input through them, and shows
//! and checks what came out where. Then it is left running for its reader; with `--once` it replaces a flow and a plugin
//! under load and ends.

mod http;
mod mill;
mod play;
mod reload;
mod story;

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{binary, plugins};
use mill::{Mill, Place};
use play::{CameOut, Played};
use story::Story;

/// The folder of the demo, below the root of the repository.
const FOLDER: &str = "demo-run";

/// The case whose request is sent again and again, to make a reload visible.
const HEARTBEAT: &str = "a star is given";

/// How often it is, while the demo is left running.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// How many characters of a sample are shown.
const SAMPLE_CHARS: usize = 110;

/// The arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show a reload under load too, and end: with 0 when everything came out right, else with 1.
    #[arg(long)]
    once: bool,
}

/// Runs `cargo xtask demo`.
pub(crate) fn run(root: &Path, arguments: Arguments) -> Result<()> {
    println!(
        "This demo builds Gristmill and its plugins, starts the flows of flows/ on a copy in {FOLDER}/, sends GitHub webhooks, \
         XML orders and JSON lines through them, and checks what comes out. Nothing is written outside the build folder, \
         plugins/*.wasm and {FOLDER}/; a compiler for WebAssembly is installed if there is none, and said before.\n"
    );
    let started = Instant::now();
    println!("1. The plugins, compiled to WebAssembly:");
    let plugins = plugins::build(root, &plugins::Options::first_party(root)?)?;
    let names: Vec<_> = plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    println!("   {}  ({:.0} s)\n", names.join(", "), started.elapsed().as_secs_f64());

    let started = Instant::now();
    println!(
        "2. The runtime, in the development profile, which builds in half the time of the release profile:"
    );
    let binary = binary::gristmill(root)?;
    println!("   {}  ({:.0} s)\n", shown(root, &binary), started.elapsed().as_secs_f64());

    let stories = story::read_all(&root.join("flows"))?;
    let interrupted = interrupts()?;
    let (place, mut mill) = start(root, &binary, &interrupted)?;
    show_and_check(root, &place, &mut mill, &stories)?;
    let webhook = heartbeat(root, &place, &stories)?;
    if arguments.once {
        return finish(&place, mill, &webhook);
    }
    instructions(&place);
    watch(&mut mill, &webhook, &interrupted)?;
    println!("\nStopping: the runtime finishes what it has accepted.");
    mill.stop()
}

/// The demo with `--once`, of a binary and plugins that are built already.
pub(crate) fn play_once(root: &Path, binary: &Path) -> Result<()> {
    let stories = story::read_all(&root.join("flows"))?;
    let (place, mut mill) = start(root, binary, &interrupts()?)?;
    show_and_check(root, &place, &mut mill, &stories)?;
    let webhook = heartbeat(root, &place, &stories)?;
    finish(&place, mill, &webhook)
}

/// Set by Ctrl-C and SIGTERM, from when it is asked for.
fn interrupts() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("cannot listen for signals")?;
    }
    Ok(interrupted)
}

fn start(root: &Path, binary: &Path, interrupted: &Arc<AtomicBool>) -> Result<(Place, Mill)> {
    let started = Instant::now();
    let place = Place::prepare(root, &root.join(FOLDER))?;
    println!("3. The flows, started with `gristmill run --admin {}` in {FOLDER}/:", place.admin());
    let mill = Mill::start(binary, &place, Arc::clone(interrupted))?;
    for flow in mill.flows()? {
        let (name, version) = (flow.flow.unwrap_or_default(), flow.version.unwrap_or_default());
        println!("   {name:<16} version {version}");
    }
    println!("   HTTP on {}  ({:.1} s)\n", place.address, started.elapsed().as_secs_f64());
    Ok((place, mill))
}

fn show_and_check(root: &Path, place: &Place, mill: &mut Mill, stories: &[Story]) -> Result<()> {
    let started = Instant::now();
    let played = play::play(root, place, mill, stories)?;
    let came_out = play::check(place, stories)?;
    println!("4. What went in, as flows/<name>.test.yaml says:");
    show_played(&played);
    println!("\n5. What came out where, in {FOLDER}/:");
    show_came_out(&came_out);
    let wrong = played.iter().filter(|one| one.problem.is_some()).count()
        + came_out.iter().map(|one| one.problems.len()).sum::<usize>();
    ensure!(wrong == 0, "{wrong} things did not come out right; they are marked WRONG above");
    println!("   all as expected  ({:.1} s)\n", started.elapsed().as_secs_f64());
    Ok(())
}

fn finish(place: &Place, mut mill: Mill, webhook: &http::Prepared) -> Result<()> {
    println!("6. A flow and a plugin are replaced while webhooks come in without a pause:");
    reload::demonstrate(place, &mut mill, webhook)?;
    mill.stop()?;
    println!("\nEverything came out right; the runtime has finished what it had accepted and stopped.");
    Ok(())
}

fn heartbeat(root: &Path, place: &Place, stories: &[Story]) -> Result<http::Prepared> {
    for story in stories {
        if let Some(case) = story.cases.iter().find(|case| case.name == HEARTBEAT)
            && let (Some(endpoint), Some(request)) = (&story.request, &case.request)
        {
            return http::prepare(root, &place.url(&endpoint.url), endpoint, request);
        }
    }
    bail!("no story has the case `{HEARTBEAT}`")
}

fn instructions(place: &Place) {
    println!(
        "6. It goes on running: a webhook is sent every second, and the answer is shown when it changes. Now try:\n\
         \n   - Edit {FOLDER}/flows/github-webhooks.yaml: let it say something else than \"{}\", and save.\
         \n     The next answer says it, and no request fails meanwhile.\
         \n   - Break the file: write `repyl:` for `reply:`. The log says what is wrong, and the old version goes on.\
         \n   - Drop a file: cp examples/xml-orders/samples/order-1001.xml {FOLDER}/inbox/xml-orders/again.xml\
         \n   - Look: http://{}/health/ready and http://{}/metrics\
         \n\nCtrl-C stops it. The runtime's log follows.\n",
        reload::GREETING,
        place.admin(),
        place.admin(),
    );
}

/// Shows the log as it grows and the answers as they change, until it is stopped.
fn watch(mill: &mut Mill, webhook: &http::Prepared, interrupted: &AtomicBool) -> Result<()> {
    let client = http::client();
    let mut log = File::open(&mill.log)?;
    log.seek(SeekFrom::End(0))?;
    let mut last = String::new();
    while !interrupted.load(Ordering::Relaxed) {
        if let Err(problem) = mill.check_alive() {
            return if interrupted.load(Ordering::Relaxed) { Ok(()) } else { Err(problem) };
        }
        let answer = http::send(&client, webhook)?;
        ensure!(answer.status == 202, "a webhook was answered {}: {}", answer.status, answer.body);
        let told = reload::told(&answer.body)?;
        let now = format!("version {} answers \"{}\"", told.version, told.greeting);
        if now != last {
            println!(">> {now}");
            last = now;
        }
        let tick = Instant::now();
        while tick.elapsed() < HEARTBEAT_EVERY && !interrupted.load(Ordering::Relaxed) {
            let mut lines = Vec::new();
            log.read_to_end(&mut lines)?;
            std::io::stdout().write_all(&lines)?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn show_played(played: &[Played]) {
    let widest =
        |of: fn(&Played) -> &str| played.iter().map(|one| of(one).chars().count()).max().unwrap_or(0);
    let (flow, case) = (widest(|one| &one.flow), widest(|one| &one.case));
    for one in played {
        let problem = one.problem.as_deref().map(|problem| format!("  WRONG: {problem}")).unwrap_or_default();
        println!("   {:<flow$}  {:<case$}  {}{problem}", one.flow, one.case, one.answer);
    }
}

fn show_came_out(came_out: &[CameOut]) {
    let widest = came_out.iter().map(|one| one.place.len()).max().unwrap_or(0);
    for one in came_out {
        let sample = one.documents.first().map(sample).unwrap_or_default();
        println!("   {:<widest$}  {:>2}  {sample}", one.place, one.documents.len());
        for problem in &one.problems {
            println!("   {:<widest$}      WRONG: {problem}", "");
        }
    }
}

/// A document in one line. Of a dead letter, what went wrong.
fn sample(document: &Value) -> String {
    let text = match document.pointer("/error") {
        Some(error) => {
            let part = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
            format!("{} at {}: {}", part("class"), part("step"), part("text"))
        }
        None => document.to_string(),
    };
    if text.chars().count() <= SAMPLE_CHARS {
        return text;
    }
    text.chars().take(SAMPLE_CHARS - 1).chain(['…']).collect()
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
