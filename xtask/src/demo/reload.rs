//! Replaces a flow and a plugin while webhooks come in without a pause, and holds every answer against the version that
//! gave it.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{
    story::{
        http::{self, Prepared},
        mill::{Mill, Place},
        play,
    },
    wait,
};

/// The flow that is edited.
const FLOW: &str = "github-webhooks";

/// The plugin that is replaced.
const PLUGIN: &str = "json-map";

/// What the flow's answer says, and what it is made to say.
pub(crate) const GREETING: &str = "Ground by Gristmill";
const NEW_GREETING: &str = "Ground while the mill turns";

/// How many senders there are at once, each with a connection of its own that it keeps.
const SENDERS: usize = 4;

/// How many answers the last version gives before the senders stop.
const MORE: usize = 200;

/// How long a change may take until answers tell of it.
const CHANGE: Duration = Duration::from_secs(120);

/// What the flow answers.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    pub(crate) greeting: String,
    pub(crate) version: String,
}

/// What the senders saw.
#[derive(Debug, Default)]
struct Seen {
    /// The versions in the order of their first answers: each with its greeting and the number of its answers.
    versions: Vec<(String, String, usize)>,
    /// The version of the newest answer.
    newest: Option<String>,
    problems: Vec<String>,
}

/// Edits, breaks and mends a flow and replaces a plugin under load; prints what happens.
pub(crate) fn demonstrate(place: &Place, mill: &mut Mill, webhook: &Prepared) -> Result<()> {
    let before = play::count_delivered(place, FLOW)?;
    let seen = Mutex::new(Seen::default());
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| send_until(&stop, webhook, &seen));
        }
        let changed = change(place, mill, &seen);
        stop.store(true, Ordering::Relaxed);
        changed
    })?;
    let elapsed = started.elapsed();
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    let answers: usize = seen.versions.iter().map(|(_, _, count)| count).sum();
    for (version, greeting, count) in &seen.versions {
        println!("    version {version}  {count:>6} answers  \"{greeting}\"");
    }
    ensure!(seen.problems.is_empty(), "requests failed during the reload: {}", seen.problems.join("; "));
    let written = play::count_delivered(place, FLOW)?.saturating_sub(before);
    ensure!(
        written == answers,
        "{answers} webhooks were answered with 202, and {written} are in the files: some were lost or written twice"
    );
    println!(
        "    {answers} webhooks over {SENDERS} connections in {:.1} s: none failed, each is in the files once",
        elapsed.as_secs_f64()
    );
    Ok(())
}

fn change(place: &Place, mill: &mut Mill, seen: &Mutex<Seen>) -> Result<()> {
    let flow = place.folder.join(format!("flows/{FLOW}.yaml"));
    let good = fs::read_to_string(&flow)?;
    let first = next_version(mill, seen, None)?;

    println!("  the flow is edited: another greeting");
    let edited = good.replace(GREETING, NEW_GREETING);
    ensure!(edited != good, "{} does not say \"{GREETING}\"", flow.display());
    save(&flow, edited.as_bytes())?;
    let second = next_version(mill, seen, Some(&first))?;

    println!("  the flow is broken: `reply` becomes `repyl`");
    save(&flow, edited.replace("- reply:", "- repyl:").as_bytes())?;
    let refused = wait::until("the broken flow is refused", CHANGE, || Ok(mill.status(FLOW)?.refused))?;
    println!("    refused, version {second} goes on: {}", refused.lines().next().unwrap_or_default());
    save(&flow, edited.as_bytes())?;
    wait::until("the mended flow is taken", CHANGE, || {
        Ok(mill.status(FLOW)?.refused.is_none().then_some(()))
    })?;

    println!("  the plugin {PLUGIN} is replaced by another build");
    let plugin = place.folder.join(format!("plugins/{PLUGIN}.wasm"));
    let mut wasm = fs::read(&plugin)?;
    wasm.extend(custom_section("demo", b"another build")?);
    save(&plugin, &wasm)?;
    let third = next_version(mill, seen, Some(&second))?;
    wait::until("more answers of the newest version", CHANGE, || {
        mill.check_alive()?;
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count =
            seen.versions.iter().find(|(version, _, _)| *version == third).map(|(_, _, count)| *count);
        Ok(count.filter(|count| *count >= MORE || !seen.problems.is_empty()).map(drop))
    })
}

/// Waits for an answer by another version than `old`.
fn next_version(mill: &mut Mill, seen: &Mutex<Seen>, old: Option<&str>) -> Result<String> {
    wait::until("answers of another version", CHANGE, || {
        mill.check_alive()?;
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.problems.is_empty() {
            bail!("requests failed during the reload: {}", seen.problems.join("; "));
        }
        Ok(seen.newest.clone().filter(|newest| Some(newest.as_str()) != old))
    })
}

fn send_until(stop: &AtomicBool, webhook: &Prepared, seen: &Mutex<Seen>) {
    let client = http::client();
    while !stop.load(Ordering::Relaxed) {
        let answer = http::send(&client, webhook).and_then(|answer| {
            ensure!(answer.status == 202, "answered {}: {}", answer.status, answer.body);
            told(&answer.body)
        });
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(told) => seen.note(told),
            Err(problem) => {
                seen.problems.push(format!("{problem:#}"));
                return;
            }
        }
    }
}

/// Reads the flow's answer.
pub(crate) fn told(body: &str) -> Result<Told> {
    serde_json::from_str(body).with_context(|| format!("not the flow's answer: {body}"))
}

/// Replaces a file in one step, as editors and deployments do.
fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot replace {}", path.display()))
}

/// A section that WebAssembly ignores (core specification, appendix "custom sections"): the same code, but another file.
fn custom_section(name: &str, content: &[u8]) -> Result<Vec<u8>> {
    // One byte holds a length up to 127 in LEB128.
    let short = |length: usize| u8::try_from(length).ok().filter(|length| *length < 128);
    let name_length = short(name.len()).context("the name is too long")?;
    let length = short(1 + name.len() + content.len()).context("the section is too long")?;
    Ok([&[0, length, name_length], name.as_bytes(), content].concat())
}

// === impl Seen ===

impl Seen {
    fn note(&mut self, told: Told) {
        match self.versions.iter_mut().find(|(version, _, _)| *version == told.version) {
            Some((_, greeting, count)) => {
                *count += 1;
                if *greeting != told.greeting {
                    let problem = format!(
                        "version {} says both \"{greeting}\" and \"{}\"",
                        told.version, told.greeting
                    );
                    self.problems.push(problem);
                }
            }
            None => self.versions.push((told.version.clone(), told.greeting, 1)),
        }
        self.newest = Some(told.version);
    }
}
