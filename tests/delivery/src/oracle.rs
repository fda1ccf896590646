//! The oracle: out of what was sent, accepted and delivered, and when which fault struck, it says whether the promises of
//! the runtime held. Pure: no clock, no thread, no file; histories of its own prove it in the tests below.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A moment: how long after the scenario began.
pub type Moment = Duration;

/// What has happened to the messages of a scenario.
#[derive(Debug, Clone)]
pub struct History {
    /// By number: a message is in here once its first attempt was begun.
    pub messages: Vec<Sent>,
    /// What came out, by sink.
    pub sinks: Vec<Received>,
    /// Dead letters.
    pub dead: Vec<Dead>,
}

/// A message on the source's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// When it was first sent.
    pub first: Moment,
    /// When the source's side confirmed it: then it is the runtime's (or its broker's) to deliver.
    pub accepted: Option<Moment>,
    /// How often it was sent: more than once when an answer was missing.
    pub attempts: u32,
}

/// What one sink got.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// Messages in the order in which they came.
    pub arrivals: Vec<Arrival>,
    /// What is no message of the scenario, or not as it was sent.
    pub corrupted: Vec<(Moment, String)>,
    /// By number: how often it came. Follows `arrivals`.
    counts: Vec<u32>,
    /// How many numbers came at all.
    distinct: usize,
}

/// One message at a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at: Moment,
    /// Which.
    pub number: u64,
}

/// One dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead {
    /// Which message.
    pub number: u64,
    /// For which sink it stands, when it is for one only.
    pub sink: Option<usize>,
}

/// A stretch of time in which something was broken on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disturbance {
    /// What.
    pub kind: String,
    /// When it began.
    pub from: Moment,
    /// When it was mended.
    pub until: Moment,
    /// Whether it can make the runtime, a broker or a receiver send something again.
    pub repeats: bool,
}

/// Which order is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// None.
    Free,
    /// That of the source, of the messages that came before this moment.
    Until(Moment),
    /// That of the source, always.
    Always,
}

/// By what a history is judged.
#[derive(Debug, Clone)]
pub struct Terms {
    /// What was broken.
    pub disturbances: Vec<Disturbance>,
    /// How long after it was mended a disturbance may still show: clients connect again, brokers send again.
    pub recovery: Duration,
    /// The order, by sink.
    pub order: Vec<Order>,
    /// How many messages one disturbance can make come again; `None` where that has no bound.
    pub repeats_each: Option<usize>,
}

/// What the oracle says.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Messages sent.
    pub sent: usize,
    /// Messages accepted.
    pub accepted: usize,
    /// Messages that came out at every sink.
    pub delivered: usize,
    /// Accepted, and not at this sink: number, sink, when it was accepted.
    pub lost: Vec<(u64, usize, Moment)>,
    /// What came out changed.
    pub corrupted: Vec<(Moment, String)>,
    /// Numbers that came out and were never sent.
    pub invented: Vec<u64>,
    /// Arrivals beyond the first of their number.
    pub duplicated: usize,
    /// Of those, the ones that no disturbance explains: number, first arrival, this one.
    pub unexplained: Vec<(u64, Moment, Moment)>,
    /// How many there are above what so many disturbances can make.
    pub excessive: usize,
    /// First arrivals behind a greater number, where order is promised: the number, what came before it, when.
    pub reordered: Vec<(u64, u64, Moment)>,
    /// Messages that became dead letters.
    pub dead_lettered: usize,
}

// === impl History ===

impl History {
    /// Nothing yet, for this many sinks.
    pub fn new(sinks: usize) -> Self {
        Self { messages: Vec::new(), sinks: vec![Received::default(); sinks], dead: Vec::new() }
    }

    /// Accepted messages that are not at each sink, nor in a dead letter: number and sink.
    pub fn missing(&self) -> Vec<(u64, usize)> {
        let mut missing = Vec::new();
        for (sink, received) in self.sinks.iter().enumerate() {
            for (number, message) in (0..).zip(&self.messages) {
                if message.accepted.is_some() && received.count(number) == 0 {
                    missing.push((number, sink));
                }
            }
        }
        if !missing.is_empty() {
            missing.retain(|(number, sink)| {
                !self.dead.iter().any(|dead| dead.number == *number && dead.sink.is_none_or(|of| of == *sink))
            });
        }
        missing
    }

    /// How many messages were sent and are not at the sink that has the fewest, nor in a dead letter. One that is in both makes
    /// it too few.
    pub fn under_way(&self) -> usize {
        let fewest = self.sinks.iter().map(|sink| sink.distinct).min().unwrap_or(0);
        let dead: BTreeSet<u64> = self.dead.iter().map(|dead| dead.number).collect();
        self.messages.len().saturating_sub(fewest + dead.len())
    }
}

// === impl Received ===

impl Received {
    /// One more.
    pub fn arrive(&mut self, arrival: Arrival) {
        self.arrivals.push(arrival);
        let Ok(at) = usize::try_from(arrival.number) else { return };
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(at) {
            self.distinct += usize::from(*count == 0);
            *count += 1;
        }
    }

    /// Takes the last arrivals back, to this many: a file was cut.
    pub fn keep(&mut self, arrivals: usize) {
        for gone in self.arrivals.drain(arrivals.min(self.arrivals.len())..) {
            let count = usize::try_from(gone.number).ok().and_then(|at| self.counts.get_mut(at));
            if let Some(count) = count {
                *count -= 1;
                self.distinct -= usize::from(*count == 0);
            }
        }
    }

    /// How often a number came.
    pub fn count(&self, number: u64) -> u32 {
        usize::try_from(number).ok().and_then(|at| self.counts.get(at)).copied().unwrap_or(0)
    }
}

// === impl Verdict ===

impl Verdict {
    /// What was promised and did not hold, in words; empty when all did.
    pub fn problems(&self) -> Vec<String> {
        let counts = [
            (self.lost.len(), "accepted and lost"),
            (self.corrupted.len(), "changed on the way"),
            (self.invented.len(), "never sent"),
            (self.unexplained.len(), "twice without a fault that explains it"),
            (self.excessive, "more came twice than the faults can make"),
            (self.reordered.len(), "out of order"),
        ];
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
    }
}

/// Judges a history.
pub fn judge(history: &History, terms: &Terms) -> Verdict {
    let mut verdict = Verdict {
        sent: history.messages.len(),
        accepted: history.messages.iter().filter(|message| message.accepted.is_some()).count(),
        ..Verdict::default()
    };
    let accepted = |number: u64| {
        let message = usize::try_from(number).ok().and_then(|at| history.messages.get(at));
        message.and_then(|message| message.accepted)
    };
    for (number, sink) in history.missing() {
        verdict.lost.push((number, sink, accepted(number).unwrap_or_default()));
    }
    verdict.delivered = (0..history.messages.len() as u64)
        .filter(|number| history.sinks.iter().all(|sink| sink.count(*number) > 0))
        .count();
    let mut dead: Vec<u64> = history.dead.iter().map(|dead| dead.number).collect();
    dead.sort_unstable();
    dead.dedup();
    verdict.dead_lettered = dead.len();
    for (sink, received) in history.sinks.iter().enumerate() {
        verdict.corrupted.extend(received.corrupted.iter().cloned());
        let order = terms.order.get(sink).copied().unwrap_or(Order::Free);
        let is_dead = |number| {
            let letters = history.dead.iter().filter(|dead| dead.sink.is_none_or(|of| of == sink));
            letters.into_iter().any(|dead| dead.number == number)
        };
        let sent = history.messages.len() as u64;
        judge_sink(sent, &received.arrivals, is_dead, order, terms, &mut verdict);
    }
    if let Some(each) = terms.repeats_each {
        let disturbances = terms.disturbances.iter().filter(|it| it.repeats).count();
        verdict.excessive = verdict.duplicated.saturating_sub(each * disturbances);
    }
    verdict
}

fn judge_sink(
    sent: u64,
    arrivals: &[Arrival],
    is_dead: impl Fn(u64) -> bool,
    order: Order,
    terms: &Terms,
    verdict: &mut Verdict,
) {
    let mut firsts: BTreeMap<u64, Moment> = BTreeMap::new();
    let mut greatest = None;
    for &Arrival { at, number } in arrivals {
        if number >= sent {
            verdict.invented.push(number);
            continue;
        }
        if let Some(first) = firsts.get(&number) {
            verdict.duplicated += 1;
            if !terms.explains(*first, at) {
                verdict.unexplained.push((number, *first, at));
            }
            continue;
        }
        firsts.insert(number, at);
        if is_dead(number) {
            // It was given up in its place; that it comes all the same is a repeat, for which no order holds.
            continue;
        }
        let promised = match order {
            Order::Free => false,
            Order::Until(end) => at < end,
            Order::Always => true,
        };
        match greatest {
            Some(before) if promised && before > number => verdict.reordered.push((number, before, at)),
            _ => greatest = greatest.max(Some(number)),
        }
    }
}

impl Terms {
    /// Whether a message that first came at `first` may have come again at `again`: something was broken meanwhile, or
    /// shortly before.
    fn explains(&self, first: Moment, again: Moment) -> bool {
        self.disturbances
            .iter()
            .filter(|it| it.repeats)
            .any(|it| it.from <= again && first <= it.until + self.recovery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    /// One sink; messages sent and accepted every 10 ms, arrivals as told.
    fn history(messages: u64, arrivals: &[(u64, u64)]) -> History {
        let mut history = History::new(1);
        for number in 0..messages {
            let first = ms(number * 10);
            history.messages.push(Sent { first, accepted: Some(first + ms(1)), attempts: 1 });
        }
        for &(at, number) in arrivals {
            history.sinks[0].arrive(Arrival { at: ms(at), number });
        }
        history
    }

    fn terms(order: Order, faults: &[(u64, u64, bool)]) -> Terms {
        let fault = |&(from, until, repeats): &(u64, u64, bool)| Disturbance {
            kind: "test".into(),
            from: ms(from),
            until: ms(until),
            repeats,
        };
        Terms {
            disturbances: faults.iter().map(fault).collect(),
            recovery: ms(100),
            order: vec![order],
            repeats_each: None,
        }
    }

    #[test]
    fn all_that_was_accepted_and_came_is_good() {
        let verdict = judge(&history(3, &[(5, 0), (15, 1), (25, 2)]), &terms(Order::Always, &[]));
        assert_eq!((verdict.sent, verdict.accepted, verdict.delivered, verdict.duplicated), (3, 3, 3, 0));
        assert_eq!(verdict.problems(), Vec::<String>::new());
    }

    #[test]
    fn what_was_accepted_and_did_not_come_is_lost() {
        let mut history = history(3, &[(5, 0), (25, 2)]);
        let verdict = judge(&history, &terms(Order::Always, &[(0, 1000, true)]));
        assert_eq!(verdict.lost, [(1, 0, ms(11))]);
        assert_eq!(verdict.problems(), ["1 accepted and lost"]);
        // Not so when no one was told that it was taken,
        history.messages[1].accepted = None;
        assert!(judge(&history, &terms(Order::Always, &[])).lost.is_empty());
        // nor when it is in a dead letter.
        history.messages[1].accepted = Some(ms(11));
        history.dead.push(Dead { number: 1, sink: None });
        let verdict = judge(&history, &terms(Order::Always, &[]));
        assert_eq!((verdict.lost.len(), verdict.dead_lettered, verdict.delivered), (0, 1, 2));
    }

    #[test]
    fn a_dead_letter_of_one_branch_does_not_stand_for_the_other() {
        let mut history = history(1, &[]);
        history.sinks.push(Received::default());
        history.dead.push(Dead { number: 0, sink: Some(1) });
        let lost = judge(&history, &terms(Order::Free, &[])).lost;
        assert_eq!(lost, [(0, 0, ms(1))]);
    }

    #[test]
    fn duplicates_need_a_fault_between_the_first_and_the_second() {
        let history = history(2, &[(50, 0), (60, 1), (500, 0)]);
        let unexplained =
            |faults: &[(u64, u64, bool)]| judge(&history, &terms(Order::Free, faults)).unexplained;
        assert_eq!(unexplained(&[]), [(0, ms(50), ms(500))]);
        assert!(unexplained(&[(200, 300, true)]).is_empty(), "between them");
        assert!(unexplained(&[(10, 20, true)]).is_empty(), "shortly before the first");
        assert_eq!(unexplained(&[(200, 300, false)]).len(), 1, "one that repeats nothing");
        assert_eq!(unexplained(&[(600, 700, true)]).len(), 1, "after both");
        assert_eq!(judge(&history, &terms(Order::Free, &[])).duplicated, 1);
    }

    #[test]
    fn a_fault_explains_only_so_many_duplicates() {
        let history = history(2, &[(50, 0), (60, 1), (70, 0), (80, 1), (90, 0)]);
        let excessive = |each| {
            let terms = terms(Order::Free, &[(0, 100, true), (0, 100, false)]);
            judge(&history, &Terms { repeats_each: each, ..terms }).excessive
        };
        assert_eq!((excessive(None), excessive(Some(3)), excessive(Some(2))), (0, 0, 1));
    }

    #[test]
    fn order_is_that_of_first_arrivals() {
        let repeated = history(3, &[(50, 0), (60, 1), (70, 0), (80, 2)]);
        assert!(judge(&repeated, &terms(Order::Always, &[(0, 100, true)])).reordered.is_empty());
        let swapped = history(3, &[(50, 0), (60, 2), (70, 1)]);
        let reordered = |order| judge(&swapped, &terms(order, &[])).reordered;
        assert_eq!(reordered(Order::Always), [(1, 2, ms(70))]);
        assert_eq!(reordered(Order::Until(ms(71))).len(), 1);
        assert!(reordered(Order::Until(ms(70))).is_empty(), "what came later is not promised");
        assert!(reordered(Order::Free).is_empty());
        let mut dead = swapped.clone();
        dead.dead.push(Dead { number: 1, sink: Some(0) });
        assert!(
            judge(&dead, &terms(Order::Always, &[])).reordered.is_empty(),
            "it was given up in its place"
        );
    }

    #[test]
    fn what_was_never_sent_is_invented_and_what_is_changed_corrupted() {
        let mut history = history(1, &[(5, 0), (6, 9)]);
        history.sinks[0].corrupted.push((ms(7), "half".into()));
        let verdict = judge(&history, &terms(Order::Free, &[]));
        assert_eq!(verdict.invented, [9]);
        assert_eq!(verdict.problems(), ["1 changed on the way", "1 never sent"]);
    }

    #[test]
    fn arrivals_that_are_taken_back_have_not_come() {
        let mut history = history(2, &[(5, 0), (6, 1), (7, 1)]);
        assert_eq!(history.under_way(), 0);
        history.sinks[0].keep(1);
        assert_eq!((history.under_way(), history.missing()), (1, vec![(1, 0)]));
        history.dead.push(Dead { number: 1, sink: None });
        assert_eq!((history.under_way(), history.missing()), (0, vec![]));
    }
}
