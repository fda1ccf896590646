//! What a run prints: a line a scenario, a table by pair, and all of it as JSON.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use serde::Serialize;

use crate::scenario::Outcome;

/// The sums of some scenarios.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Row {
    /// Source and sinks.
    pub pair: String,
    /// How many scenarios.
    pub scenarios: usize,
    /// Messages sent.
    pub sent: usize,
    /// Messages whose source was told that they were taken.
    pub accepted: usize,
    /// Messages that came out at every sink.
    pub delivered: usize,
    /// Accepted messages that did not.
    pub lost: usize,
    /// Changed on the way, or never sent.
    pub corrupted: usize,
    /// Arrivals beyond the first of a message.
    pub duplicated: usize,
    /// Of those, the ones that no fault explains.
    pub unexplained: usize,
    /// First arrivals out of order, where order is promised.
    pub reordered: usize,
    /// Messages in dead letters.
    pub dead_lettered: usize,
    /// Faults by kind.
    pub faults: BTreeMap<String, usize>,
    /// The most memory of the runtime, in MiB.
    pub peak_memory_mib: u64,
    /// The most unsettled deliveries.
    pub peak_in_flight: u64,
}

/// All of a run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The seed of the run.
    pub seed: u64,
    /// By pair.
    pub rows: Vec<Row>,
    /// How many scenarios were of which variant.
    pub variants: BTreeMap<&'static str, usize>,
    /// What did not hold.
    pub failures: Vec<String>,
    /// What could not be tried here.
    pub not_tried: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: u64,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        let verdict = &outcome.verdict;
        self.scenarios += 1;
        self.sent += verdict.sent;
        self.accepted += verdict.accepted;
        self.delivered += verdict.delivered;
        self.lost += verdict.lost.len();
        self.corrupted += verdict.corrupted.len() + verdict.invented.len();
        self.duplicated += verdict.duplicated;
        self.unexplained += verdict.unexplained.len();
        self.reordered += verdict.reordered.len();
        self.dead_lettered += verdict.dead_lettered;
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
        self.peak_memory_mib = self.peak_memory_mib.max(outcome.peaks.memory_kib / 1024);
        self.peak_in_flight = self.peak_in_flight.max(outcome.peaks.in_flight);
    }

    fn line(&self) -> String {
        let Self {
            pair, scenarios, sent, accepted, delivered, lost, corrupted, duplicated, unexplained, ..
        } = self;
        let Self { reordered, dead_lettered, peak_memory_mib, peak_in_flight, .. } = self;
        let faults: usize = self.faults.values().sum();
        format!(
            "{pair:<16} {scenarios:>4} {sent:>8} {accepted:>8} {delivered:>9} {lost:>5} {corrupted:>7} {duplicated:>6} \
             {unexplained:>11} {reordered:>9} {dead_lettered:>6} {faults:>6} {peak_in_flight:>9} {peak_memory_mib:>7}"
        )
    }
}

impl Report {
    /// Adds a scenario.
    pub fn add(&mut self, outcome: &Outcome) {
        let pair = outcome.spec.pair();
        if !self.rows.iter().any(|row| row.pair == pair) {
            self.rows.push(Row { pair: pair.clone(), ..Row::default() });
        }
        for word in outcome.spec.words() {
            *self.variants.entry(word).or_default() += 1;
        }
        self.rows.iter_mut().filter(|row| row.pair == pair).for_each(|row| row.add(outcome));
        for what in &outcome.not_tried {
            if !self.not_tried.contains(what) {
                self.not_tried.push(what.clone());
            }
        }
        if !outcome.problems.is_empty() {
            self.failures.push(failure(outcome));
        }
    }

    /// Whether all held.
    pub fn holds(&self) -> bool {
        self.failures.is_empty()
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut total = Row { pair: "total".into(), ..Row::default() };
        let mut text = "pair             runs     sent accepted delivered  lost corrupt  twice unexplained reordered   dead faults in-flight max-MiB\n".to_owned();
        for row in &self.rows {
            text.push_str(&row.line());
            text.push('\n');
            total.scenarios += row.scenarios;
            total.sent += row.sent;
            total.accepted += row.accepted;
            total.delivered += row.delivered;
            total.lost += row.lost;
            total.corrupted += row.corrupted;
            total.duplicated += row.duplicated;
            total.unexplained += row.unexplained;
            total.reordered += row.reordered;
            total.dead_lettered += row.dead_lettered;
            total.peak_memory_mib = total.peak_memory_mib.max(row.peak_memory_mib);
            total.peak_in_flight = total.peak_in_flight.max(row.peak_in_flight);
            for (kind, count) in &row.faults {
                *total.faults.entry(kind.clone()).or_default() += count;
            }
        }
        text.push_str(&total.line());
        text.push_str("\nfaults by kind:");
        for (kind, count) in &total.faults {
            // Writing to a text cannot fail.
            let _written = write!(text, " {kind} {count}");
        }
        text.push_str("\nscenarios by variant:");
        for (word, count) in &self.variants {
            let _written = write!(text, " {word} {count}");
        }
        text.push('\n');
        for what in &self.not_tried {
            let _written = writeln!(text, "not tried here: {what}");
        }
        text
    }
}

/// One line about a scenario that was played.
pub fn line(outcome: &Outcome) -> String {
    let verdict = &outcome.verdict;
    let words = outcome.spec.words().join(" ");
    let end = if outcome.problems.is_empty() { "good".to_owned() } else { outcome.problems.join(", ") };
    format!(
        "{:<16} seed {:<10} {words:<34} {:>5.1} s  {:>6} accepted  {:>3} lost  {:>5} twice  {:>4} dead  {:>3} faults  {:>4} MiB  {end}",
        outcome.spec.pair(),
        outcome.spec.seed,
        seconds(outcome.took),
        verdict.accepted,
        verdict.lost.len(),
        verdict.duplicated,
        verdict.dead_lettered,
        outcome.timeline.len(),
        outcome.peaks.memory_kib / 1024,
    )
}

/// All that whoever has to find the cause needs.
pub fn failure(outcome: &Outcome) -> String {
    let Outcome { spec, verdict, timeline, problems, folder, .. } = outcome;
    let mut text = format!("{} with the seed {}: {}\n", spec.pair(), spec.seed, problems.join(", "));
    let _written = writeln!(
        text,
        "  again: cargo xtask soak --pair {} --seed {} --once{}",
        spec.pair(),
        spec.seed,
        if spec.calm { " --calm" } else { "" }
    );
    for (number, sink, at) in verdict.lost.iter().take(50) {
        let _written = writeln!(text, "  lost: {number}, at sink {sink}, accepted at {:.3}", seconds(*at));
    }
    for (at, what) in verdict.corrupted.iter().take(10) {
        let _written = writeln!(text, "  changed, at {:.3}: {what}", seconds(*at));
    }
    for (number, first, again) in verdict.unexplained.iter().take(20) {
        let _written =
            writeln!(text, "  twice: {number}, at {:.3} and at {:.3}", seconds(*first), seconds(*again));
    }
    for (number, before, at) in verdict.reordered.iter().take(20) {
        let _written = writeln!(text, "  out of order: {number} behind {before}, at {:.3}", seconds(*at));
    }
    text.push_str("  faults, from and until:\n");
    for fault in timeline {
        let _written =
            writeln!(text, "    {:>8.3} {:>8.3}  {}", seconds(fault.from), seconds(fault.until), fault.kind);
    }
    if let Some(folder) = folder {
        let _written = writeln!(text, "  the log and all that happened: {}", folder.display());
    }
    text
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
