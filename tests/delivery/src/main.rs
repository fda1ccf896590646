//! `soak`: plays scenarios with new seeds until the time is over, and prints a table. Started by `cargo xtask soak`.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use gristmill_delivery::{
    brokers::Brokers,
    dice::Dice,
    endpoint::Kind,
    report::{self, Report},
    scenario,
    spec::Spec,
};

/// Plays scenarios until the time is over, and prints a table. The exit status is 1 when something did not hold, and 2
/// when it could not be run at all.
#[derive(Debug, Parser)]
struct Arguments {
    /// The runtime's binary.
    #[arg(long)]
    gristmill: PathBuf,
    /// For how long scenarios are begun.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Where all chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this pair: `amqp:file`, or two sinks: `http:amqp+file` [default: all]
    #[arg(long)]
    pair: Option<String>,
    /// One scenario with just this seed, as a failure names it; needs `--pair`.
    #[arg(long, requires = "pair")]
    once: bool,
    /// Only what must not repeat anything: reloads, SIGTERM, slow plugins, jumps of the clock.
    #[arg(long)]
    calm: bool,
    /// How many seconds faults are begun in a scenario.
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// Messages a second.
    #[arg(long, default_value_t = 300)]
    rate: u64,
    /// Writes the table as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let pairs = pairs(arguments.pair.as_deref())?;
    // It runs in a folder of its own.
    let gristmill = arguments.gristmill.canonicalize();
    let gristmill = gristmill.with_context(|| format!("no binary at {}", arguments.gristmill.display()))?;
    let brokers = Brokers::default();
    let mut report = Report { seed: arguments.seed, ..Report::default() };
    let begun = Instant::now();
    let time = Duration::from_secs(arguments.minutes * 60);
    let mut dice = Dice::new(arguments.seed).branch("soak");
    'time: loop {
        for (source, sinks) in &pairs {
            let spec = Spec {
                source: *source,
                sinks: sinks.clone(),
                // Short enough to be typed.
                seed: if arguments.once { arguments.seed } else { dice.below(1 << 32) },
                lasts: Duration::from_secs(arguments.seconds),
                rate: arguments.rate,
                calm: arguments.calm,
            };
            match scenario::play(&spec, &gristmill, &brokers) {
                Ok(outcome) => {
                    println!("{}", report::line(&outcome));
                    if !outcome.problems.is_empty() {
                        println!("{}", report::failure(&outcome));
                    }
                    report.add(&outcome);
                }
                Err(error) => {
                    println!("{error:#}");
                    report.failures.push(format!("{error:#}"));
                }
            }
            if arguments.once || begun.elapsed() >= time {
                break 'time;
            }
        }
    }
    report.seconds = begun.elapsed().as_secs();
    println!("\n{}", report.table());
    println!("{} s, seed {}", report.seconds, report.seed);
    for failure in &report.failures {
        println!("\nfailed: {failure}");
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(report.holds())
}

/// Sources with their sinks: one pair that was asked for, or all, and those with two sinks.
fn pairs(asked: Option<&str>) -> Result<Vec<(Kind, Vec<Kind>)>> {
    if let Some(asked) = asked {
        let Some((source, sinks)) = asked.split_once(':') else {
            bail!("`{asked}` is no pair such as `amqp:file`")
        };
        let sinks: Vec<Kind> = sinks.split('+').map(str::parse).collect::<Result<_>>()?;
        if sinks.len() > 2 {
            bail!("`{asked}` has more than two sinks");
        }
        return Ok(vec![(source.parse()?, sinks)]);
    }
    let mut pairs = Vec::new();
    for source in Kind::ALL {
        pairs.extend(Kind::ALL.map(|sink| (source, vec![sink])));
    }
    pairs.push((Kind::Http, vec![Kind::File, Kind::Amqp]));
    pairs.push((Kind::File, vec![Kind::Mqtt, Kind::Http]));
    pairs.push((Kind::Amqp, vec![Kind::Mqtt, Kind::File]));
    pairs.push((Kind::Mqtt, vec![Kind::File, Kind::Amqp]));
    Ok(pairs)
}
