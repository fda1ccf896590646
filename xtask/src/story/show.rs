//! What a person sees of stories while they are played.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{
    file::Story,
    mill::{Mill, Place},
    play::{self, CameOut, Played},
};

/// How many characters of a sample are shown.
const SAMPLE_CHARS: usize = 110;

/// Set by Ctrl-C and SIGTERM, from when it is asked for.
pub(crate) fn interrupts() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("cannot listen for signals")?;
    }
    Ok(interrupted)
}

/// Starts the runtime, and shows which flows run.
pub(crate) fn start(
    binary: &Path,
    place: &Place,
    environment: &[(&str, &str)],
    interrupted: &Arc<AtomicBool>,
) -> Result<Mill> {
    let started = Instant::now();
    let mill = Mill::start(binary, place, environment, Arc::clone(interrupted))?;
    for flow in mill.flows()? {
        let (name, version) = (flow.flow.unwrap_or_default(), flow.version.unwrap_or_default());
        println!("   {name:<16} version {version}");
    }
    println!("   HTTP on {}  ({:.1} s)\n", place.address, started.elapsed().as_secs_f64());
    Ok(mill)
}

/// Plays stories, the files of which are below `root`, and shows what went in and what came out.
///
/// # Errors
/// Something did not come out right; it is shown.
pub(crate) fn play_through(root: &Path, place: &Place, mill: &mut Mill, stories: &[Story]) -> Result<()> {
    let started = Instant::now();
    let played = play::play(root, place, mill, stories)?;
    let came_out = play::check(place, mill, stories)?;
    show_played(&played);
    println!();
    show_came_out(&came_out);
    let wrong = played.iter().filter(|one| one.problem.is_some()).count()
        + came_out.iter().map(|one| one.problems.len()).sum::<usize>();
    ensure!(wrong == 0, "{wrong} things did not come out right; they are marked WRONG above");
    println!("   all as expected  ({:.1} s)\n", started.elapsed().as_secs_f64());
    Ok(())
}

/// Shows what a log has got since it was last shown.
pub(crate) fn log_lines(log: &mut File) -> Result<()> {
    let mut lines = Vec::new();
    log.read_to_end(&mut lines)?;
    std::io::stdout().write_all(&lines)?;
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
