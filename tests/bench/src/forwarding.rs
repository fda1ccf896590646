//! What the cases with brokers have in common: a subject that takes what is in one place and puts it, renamed, in another, and
//! is measured by how fast what waits there comes through.
//!
//! A round is a pile and not a stream: the subject is stopped (SIGSTOP) while the pile is made, then let go, and the clock runs
//! until all of it has come out. So nothing but the subject and the broker works while it is measured, and whoever makes the
//! messages can neither be too slow nor take the broker's processor.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bench_rename::rename;
use gristmill_mill::sample::{numbered_order, order};

use crate::{
    case::Setup,
    report::{Cost, Goal, Report, Resources, Row, Unit},
    stats::alternate,
    subject::{Subject, gristmill},
};

/// The size of a message, in bytes.
const BODY_BYTES: usize = 1024;

/// How many messages a round has.
const MESSAGES: usize = 30_000;
const QUICK_MESSAGES: usize = 8_000;

/// How many messages may be on their way through a subject: the broker's prefetch, or its receive maximum.
pub(crate) const IN_FLIGHT: u16 = 200;

/// How long what comes out may stay away.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Two subjects at one broker, and what is between them.
pub(crate) trait Broker {
    /// Puts the pile where the subject takes messages from, and waits until the broker has it.
    fn pile_up(&mut self, of: Side, pile: &Pile) -> Result<()>;

    /// Waits until the whole pile has come out, and gives how long that took from `release` on, which lets the subject go.
    fn pour(&mut self, of: Side, pile: &Pile, release: &mut dyn FnMut() -> Result<()>) -> Result<Duration>;

    /// Looks at what came out, if `pour` has not, and leaves nothing of it.
    fn check(&mut self, of: Side, pile: &Pile) -> Result<()>;

    /// Waits until the subject takes what comes.
    fn until_ready(&mut self, of: Side, subject: &mut Subject) -> Result<()>;
}

/// Which subject: each has places of its own at the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Floor,
    Ours,
}

/// The messages of a round.
#[derive(Debug)]
pub(crate) struct Pile {
    template: String,
    messages: usize,
}

/// What one round says.
#[derive(Debug, Clone, Copy)]
struct Sample {
    per_second: f64,
    cpu_us: f64,
}

impl Side {
    /// Where its messages come from.
    pub(crate) fn source(self) -> &'static str {
        match self {
            Self::Floor => "floor/in",
            Self::Ours => "ours/in",
        }
    }

    /// Where they go.
    pub(crate) fn sink(self) -> &'static str {
        match self {
            Self::Floor => "floor/out",
            Self::Ours => "ours/out",
        }
    }
}

impl Pile {
    fn new(messages: usize) -> Self {
        // The numbers have two digits more than that of the template.
        Self { template: order(BODY_BYTES - 2), messages }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages
    }

    /// A message as it goes in.
    pub(crate) fn message(&self, number: usize) -> String {
        numbered_order(&self.template, number)
    }

    /// Whether the message with this number came out as it has to.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn check(&self, number: usize, body: &[u8]) -> Result<()> {
        let is_right = rename(self.message(number).as_bytes())? == body;
        ensure!(is_right, "message {number} came out as {}", String::from_utf8_lossy(body));
        Ok(())
    }
}

/// Measures a case with these subjects, the floor and ours, and adds its rows.
pub(crate) fn measure(
    case: &'static str,
    floor_name: &'static str,
    (setup, report): (&Setup, &mut Report),
    (floor, ours): (&mut Subject, &mut Subject),
    broker: &mut dyn Broker,
) -> Result<()> {
    let pile = Pile::new(if report.quick { QUICK_MESSAGES } else { MESSAGES });
    broker.until_ready(Side::Floor, floor)?;
    broker.until_ready(Side::Ours, ours)?;
    let broker = std::cell::RefCell::new(broker);
    let round_of = |side: Side, subject: &Subject| {
        round(&mut **broker.borrow_mut(), side, subject, &pile)
            .with_context(|| format!("the log of {side:?} ends with:\n{}", subject.log_tail()))
    };
    // What warms them up.
    round_of(Side::Floor, floor)?;
    round_of(Side::Ours, ours)?;
    let measured = alternate(setup.effort.rounds, &mut [&mut || round_of(Side::Floor, floor)], &mut || {
        round_of(Side::Ours, ours)
    })?;
    let rate = measured.compare(0, |sample| sample.per_second)?;
    report.rows.push(Row::compared(case, floor_name, Unit::PerSecond, rate).goal(Goal::RatioAtLeast(0.9)));
    let cpu = measured.compare(0, |sample| sample.cpu_us)?;
    // The floor was last, so ours has settled everything by now; and while ours is counted, the floor has.
    let resources = |side: Side, cpu_us: f64, subject: &mut Subject| -> Result<Resources> {
        let peak_mib = Some(subject.memory()?.peak_mib);
        let mut counted = Resources { cpu_us: Some(cpu_us), peak_mib, allocations: None };
        if let Some(counting) = &setup.counting {
            subject.restart_counted(counting)?;
            broker.borrow_mut().until_ready(side, subject)?;
            round_of(side, subject)?;
            let calls = subject.allocations_of(|| round_of(side, subject).map(drop))?;
            counted.allocations = Some(calls as f64 / pile.len() as f64);
        }
        Ok(counted)
    };
    let ours = resources(Side::Ours, cpu.ours.median, ours)?;
    let floor = Some(resources(Side::Floor, cpu.floor.median, floor)?);
    report.costs.push(Cost { case: case.into(), floor, ours });
    Ok(())
}

fn round(broker: &mut dyn Broker, side: Side, subject: &Subject, pile: &Pile) -> Result<Sample> {
    subject.pause()?;
    broker.pile_up(side, pile)?;
    let cpu_before = subject.cpu_time()?;
    let took = broker.pour(side, pile, &mut || subject.resume())?;
    let cpu = subject.cpu_time()?.saturating_sub(cpu_before);
    broker.check(side, pile)?;
    let messages = pile.len() as f64;
    Ok(Sample { per_second: messages / took.as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / messages })
}

/// The real binary with one flow and one connection, each as text.
pub(crate) fn ours(setup: &Setup, flow: &str, connections: &str) -> Result<Subject> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("gristmill.yaml"), connections)?;
    let command = gristmill(setup, folder.path(), &[("forward.yaml", flow)])?;
    Subject::start(command, folder)
}

/// A floor of this kind that does the bare Wasm call.
pub(crate) fn floor(kind: &str, url: &str, plugins: &Path) -> Result<Subject> {
    let plugins = plugins.to_str().context("the folder of the plugins has a name that is not text")?;
    let (source, sink) = (Side::Floor.source(), Side::Floor.sink());
    Subject::floor(["floor", kind, "--url", url, "--source", source, "--sink", sink, "--plugins", plugins])
}

/// The arguments of the floors.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) work: crate::work::Choice,
    /// The broker.
    #[arg(long)]
    pub(crate) url: String,
    /// Where messages are taken from: a queue or a topic.
    #[arg(long)]
    pub(crate) source: String,
    /// Where they are put.
    #[arg(long)]
    pub(crate) sink: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_came_out_in_the_place_of_another_is_noticed() {
        let pile = Pile::new(3);
        assert_eq!(pile.message(2).len(), BODY_BYTES);
        let out = rename(pile.message(1).as_bytes()).unwrap();
        pile.check(1, &out).unwrap();
        assert!(pile.check(2, &out).is_err());
        assert!(pile.check(1, pile.message(1).as_bytes()).is_err());
    }
}
