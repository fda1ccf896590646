//! `cargo xtask demo`: builds everything, starts the flows of `flows/` on a copy, sends real input through them, and shows
//! and checks what came out where. Then it is left running for its reader; with `--once` it replaces a flow and a plugin
//! under load and ends.

mod reload;

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::{
    binary, plugins,
    story::{
        file::{self, Story},
        http,
        mill::{Mill, Origin, Place},
        show,
    },
};

/// The folder of the demo, below the root of the repository.
const FOLDER: &str = "demo-run";

/// The case whose request is sent again and again, to make a reload visible.
const HEARTBEAT: &str = "a star is given";

/// How often it is, while the demo is left running.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

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

    let stories = file::read_all(&root.join("flows"))?;
    let interrupted = show::interrupts()?;
    let (place, mut mill) = start(root, &binary, &interrupted)?;
    play_through(root, &place, &mut mill, &stories)?;
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
    let stories = file::read_all(&root.join("flows"))?;
    let (place, mut mill) = start(root, binary, &show::interrupts()?)?;
    play_through(root, &place, &mut mill, &stories)?;
    let webhook = heartbeat(root, &place, &stories)?;
    finish(&place, mill, &webhook)
}

fn start(root: &Path, binary: &Path, interrupted: &Arc<AtomicBool>) -> Result<(Place, Mill)> {
    let origin = Origin { folder: root, plugins: &root.join("plugins") };
    let place = Place::prepare(&origin, &root.join(FOLDER))?;
    println!("3. The flows, started with `gristmill run --admin {}` in {FOLDER}/:", place.admin());
    let mill = show::start(binary, &place, &[], interrupted)?;
    Ok((place, mill))
}

fn play_through(root: &Path, place: &Place, mill: &mut Mill, stories: &[Story]) -> Result<()> {
    println!("4. What went in, as flows/<name>.test.yaml says, and what came out where, in {FOLDER}/:");
    show::play_through(root, place, mill, stories)
}

fn finish(place: &Place, mut mill: Mill, webhook: &http::Prepared) -> Result<()> {
    println!("5. A flow and a plugin are replaced while webhooks come in without a pause:");
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
        "5. It goes on running: a webhook is sent every second, and the answer is shown when it changes. Now try:\n\
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
            show::log_lines(&mut log)?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
