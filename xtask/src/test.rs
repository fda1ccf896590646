//! `cargo xtask test`: everything that has to hold before a change is merged, in stages, the quickest first. It stops at
//! the first stage that fails.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use gristmill_brokers::rabbitmq::{RabbitMq, SHARED_URL};

use crate::{
    binary, brokers, cargo, demo,
    example::{self, Example},
    instructions, plugins,
};

/// The arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// The test runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runner {
    Nextest,
    /// What cargo brings, where nextest cannot be installed.
    Cargo,
}

/// The stages that have passed, with what they took.
#[derive(Debug, Default)]
struct Report {
    passed: Vec<(&'static str, Duration)>,
}

/// Runs `cargo xtask test`.
pub(crate) fn run(root: &Path, _: Arguments) -> Result<()> {
    let started = Instant::now();
    let mut report = Report::default();
    let runner = report.stage("tools", tools)?;
    report.stage("brokers", brokers::install)?;
    report.stage("format", || check(root, &["fmt", "--all", "--check"]))?;
    report.stage("clippy", || {
        check(root, &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])
    })?;
    // With everything that the tests need, so that nothing is built twice; the demo below takes this binary too.
    let binary = report
        .stage("build", || binary::build(root, &["test", "--no-run", "--workspace", "--bins", "--tests"]))?;
    let summary = report.stage("tests", || tests(root, runner))?;
    report.stage("doc tests", || check(root, &["test", "--quiet", "--workspace", "--doc"]))?;
    report.stage("plugins", || plugins::build(root, &plugins::Options::first_party(root)?).map(drop))?;
    report.stage("demo", || demo::play_once(root, &binary))?;
    report.stage("example", || example::play_once(root, &binary, Example::OrdersAmqpMqtt))?;
    report.stage("instructions", || instructions::run(root, &instructions::Arguments::default()))?;
    println!("\nEverything holds:");
    for (stage, took) in &report.passed {
        println!("{:>8}  {stage}", minutes(*took));
    }
    println!("{:>8}  in all", minutes(started.elapsed()));
    println!("{summary}");
    Ok(())
}

// === impl Report ===

impl Report {
    fn stage<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n=== {name} ===");
        let started = Instant::now();
        let done = work();
        let took = started.elapsed();
        let done = done.with_context(|| format!("the stage `{name}` failed, after {}", minutes(took)))?;
        self.passed.push((name, took));
        Ok(done)
    }
}

fn minutes(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

/// Runs cargo; its output is shown as it comes.
fn check(root: &Path, arguments: &[&str]) -> Result<()> {
    let status =
        Command::new(cargo()).args(arguments).current_dir(root).status().context("cannot run cargo")?;
    ensure!(status.success(), "`cargo {}` found something, see above", arguments.join(" "));
    Ok(())
}

// === tools ===

/// Makes sure that the tools are there, installing what is missing.
fn tools() -> Result<Runner> {
    for (command, component, purpose) in
        [("fmt", "rustfmt", "to check how the code is laid out"), ("clippy", "clippy", "to lint the code")]
    {
        if !has(command) {
            println!("`cargo {command}` is missing, which is needed {purpose}: fetching it with rustup");
            let added = Command::new("rustup").args(["component", "add", component]).status();
            ensure!(
                added.is_ok_and(|status| status.success()) && has(command),
                "`cargo {command}` is missing and rustup cannot fetch it; install the component `{component}`"
            );
        }
    }
    if has("nextest") {
        return Ok(Runner::Nextest);
    }
    println!(
        "cargo-nextest is missing, which runs all tests at once and each in a process of its own: installing it with \
         `cargo install cargo-nextest --locked`, which takes some minutes, once"
    );
    let installed = Command::new(cargo()).args(["install", "cargo-nextest", "--locked"]).status();
    if installed.is_ok_and(|status| status.success()) && has("nextest") {
        return Ok(Runner::Nextest);
    }
    println!("it cannot be installed: `cargo test` runs the same tests, more slowly");
    Ok(Runner::Cargo)
}

fn has(command: &str) -> bool {
    let output = Command::new(cargo()).args([command, "--version"]).output();
    output.is_ok_and(|output| output.status.success())
}

// === tests ===

/// Runs the tests and gives the line that sums them up.
fn tests(root: &Path, runner: Runner) -> Result<String> {
    let arguments: &[&str] = match runner {
        Runner::Nextest => &["nextest", "run", "--workspace", "--no-fail-fast"],
        Runner::Cargo => &["test", "--workspace", "--bins", "--lib", "--tests", "--no-fail-fast"],
    };
    let mut command = Command::new(cargo());
    command.args(arguments).current_dir(root);
    // One RabbitMQ serves all tests that only talk to it: it takes seconds to start. Those that break one have their own.
    let rabbitmq = RabbitMq::start();
    command.env(SHARED_URL, rabbitmq.url());
    // Each says what it has to say on another stream; that one is shown and read.
    let mut child = match runner {
        Runner::Nextest => command.stderr(Stdio::piped()),
        Runner::Cargo => command.stdout(Stdio::piped()),
    }
    .spawn()
    .context("cannot run cargo")?;
    let mut lines = Vec::new();
    match runner {
        Runner::Nextest => copy(child.stderr.take().context("no output")?, &mut lines)?,
        Runner::Cargo => copy(child.stdout.take().context("no output")?, &mut lines)?,
    }
    let status = child.wait()?;
    let summary = match runner {
        Runner::Nextest => lines.iter().rfind(|line| line.trim_start().starts_with("Summary")).cloned(),
        Runner::Cargo => add_up(&lines),
    };
    let Some(summary) = summary else { bail!("`cargo {}` did not come to its end", arguments.join(" ")) };
    ensure!(status.success(), "tests failed, see above: {}", summary.trim());
    Ok(summary)
}

/// Shows what comes, and keeps it.
fn copy(from: impl std::io::Read, lines: &mut Vec<String>) -> Result<()> {
    for line in BufReader::new(from).split(b'\n') {
        let line = line?;
        let mut shown = std::io::stdout().lock();
        shown.write_all(&line)?;
        shown.write_all(b"\n")?;
        lines.push(String::from_utf8_lossy(&line).into_owned());
    }
    Ok(())
}

/// One line of all the lines `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
fn add_up(lines: &[String]) -> Option<String> {
    let results: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("test result: ")).collect();
    let count = |what: &str| -> u64 {
        let of = |line: &&str| {
            let part = line.split([';', '.']).map(str::trim).find(|part| part.ends_with(what))?;
            part.split(' ').next()?.parse::<u64>().ok()
        };
        results.iter().filter_map(of).sum()
    };
    (!results.is_empty()).then(|| {
        let (passed, failed, skipped) = (count(" passed"), count(" failed"), count(" ignored"));
        format!("Summary {} tests run: {passed} passed, {failed} failed, {skipped} skipped", passed + failed)
    })
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn results_of_cargo_are_added_up() {
        let lines = [
            "running 2 tests",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ];
        assert_eq!(
            add_up(&lines.map(str::to_owned)).unwrap(),
            "Summary 6 tests run: 5 passed, 1 failed, 1 skipped"
        );
        assert_eq!(add_up(&["error: no such command".to_owned()]), None);
    }
}
