//! What was measured, as a table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    plot::Plot,
    stats::{Comparison, Spread},
};

/// One line of the table of ratios.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// The case and, behind a slash, what of it.
    pub(crate) case: String,
    /// What ours is held against, where there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) against: Option<&'static str>,
    pub(crate) unit: Unit,
    /// What it has to be, where there is a goal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<Goal>,
    /// Whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) met: Option<bool>,
    #[serde(flatten)]
    pub(crate) measured: Measured,
}

/// The figures of a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Measured {
    /// Beside a floor.
    Compared(Comparison),
    /// Ours alone, where nothing does the same without us.
    Alone { ours: Spread },
}

/// What is wanted of a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// Of the median of the ratios to the floor.
    RatioAtLeast(f64),
    /// Of the median of the ratios to the floor.
    RatioAtMost(f64),
    /// Of the median of ours, in the unit of the row.
    AtMost(f64),
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    PerSecond,
    Mebibytes,
    /// Of one processor.
    Percent,
    /// Things, such as failures.
    Count,
}

/// One line of the table of what a message costs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cost {
    /// The case and, behind a slash, what of it.
    pub(crate) case: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) floor: Option<Resources>,
    pub(crate) ours: Resources,
}

/// What one message costs. What cannot be told of a case is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Resources {
    /// Processor time, in user mode and in the kernel, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_us: Option<f64>,
    /// How often memory was asked for: calls of the allocator, those that make something larger included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allocations: Option<f64>,
    /// The most memory that the whole process had at any time (its resident set), in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_mib: Option<f64>,
}

/// All that a run says.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// How many processors the machine has for us.
    pub(crate) processors: usize,
    /// Whether it was a short run, with fewer and shorter rounds.
    pub(crate) quick: bool,
    /// How many rounds each ratio is the median of.
    pub(crate) rounds: usize,
    pub(crate) rows: Vec<Row>,
    pub(crate) costs: Vec<Cost>,
    /// How a figure goes with something that grows.
    pub(crate) plots: Vec<Plot>,
    /// What a reader of the figures should know.
    pub(crate) remarks: Vec<String>,
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::PerSecond => "/s",
            Self::Mebibytes => "MiB",
            Self::Percent => "%",
            Self::Count => "",
        }
    }
}

impl Row {
    /// A figure beside that of a floor.
    pub(crate) fn compared(
        case: impl Into<String>,
        against: &'static str,
        unit: Unit,
        compared: Comparison,
    ) -> Self {
        Self {
            case: case.into(),
            against: Some(against),
            unit,
            goal: None,
            met: None,
            measured: Measured::Compared(compared),
        }
    }

    /// A figure that has no floor.
    pub(crate) fn alone(case: impl Into<String>, unit: Unit, ours: Spread) -> Self {
        let measured = Measured::Alone { ours };
        Self { case: case.into(), against: None, unit, goal: None, met: None, measured }
    }

    /// Says what it has to be.
    pub(crate) fn goal(self, goal: impl Into<Option<Goal>>) -> Self {
        let goal = goal.into();
        let met = goal.and_then(|goal| goal.is_met(&self.measured));
        Self { goal, met, ..self }
    }

    fn cells(&self) -> [String; 8] {
        let unit = self.unit.text();
        let shown = |spread: Spread| digits(spread.median, unit);
        let (theirs, ours, ratio, between) = match self.measured {
            Measured::Compared(Comparison { floor, ours, ratio }) => (
                shown(floor),
                shown(ours),
                format!("{:.2}", ratio.median),
                format!("{:.2} to {:.2}", ratio.min, ratio.max),
            ),
            Measured::Alone { ours } => {
                let between = format!("{} to {}", digits(ours.min, ""), digits(ours.max, ""));
                (String::new(), shown(ours), String::new(), between)
            }
        };
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let goal = self.goal.map(|goal| goal.text(unit)).unwrap_or_default();
        [
            self.case.clone(),
            self.against.unwrap_or_default().to_owned(),
            theirs,
            ours,
            ratio,
            between,
            goal,
            met.to_owned(),
        ]
    }
}

impl Goal {
    fn text(self, unit: &str) -> String {
        match self {
            Self::RatioAtLeast(goal) => format!(">= {goal}"),
            Self::RatioAtMost(goal) => format!("<= {goal}"),
            Self::AtMost(goal) => format!("<= {goal} {unit}").trim_end().to_owned(),
        }
    }

    /// As exact as it is written. Nothing for a goal of another kind of row.
    fn is_met(self, measured: &Measured) -> Option<bool> {
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        match (self, measured) {
            (Self::RatioAtLeast(goal), Measured::Compared(c)) => Some(rounded(c.ratio.median) >= goal),
            (Self::RatioAtMost(goal), Measured::Compared(c)) => Some(rounded(c.ratio.median) <= goal),
            (Self::AtMost(goal), Measured::Compared(c)) => Some(rounded(c.ours.median) <= goal),
            (Self::AtMost(goal), Measured::Alone { ours }) => Some(rounded(ours.median) <= goal),
            (Self::RatioAtLeast(_) | Self::RatioAtMost(_), Measured::Alone { .. }) => None,
        }
    }
}

impl Cost {
    fn cells(&self) -> [String; 7] {
        let pair = |of: fn(&Resources) -> Option<f64>, unit: &'static str| {
            let shown = |resources: Option<&Resources>| {
                resources.and_then(of).map(|value| digits(value, unit)).unwrap_or_default()
            };
            [shown(self.floor.as_ref()), shown(Some(&self.ours))]
        };
        let [cpu_floor, cpu] = pair(|r| r.cpu_us, "us");
        let [allocations_floor, allocations] = pair(|r| r.allocations, "");
        let [peak_floor, peak] = pair(|r| r.peak_mib, "MiB");
        [self.case.clone(), cpu_floor, cpu, allocations_floor, allocations, peak_floor, peak]
    }
}

/// A value with as many digits as say something: no fraction from 100 on.
fn digits(value: f64, unit: &str) -> String {
    let places = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.places$} {unit}").trim_end().to_owned()
}

impl Report {
    /// The tables, for people and for a page in Markdown.
    pub(crate) fn table(&self) -> String {
        let head = ["case", "floor", "floor's", "ours", "ratio", "least to most", "goal", "met"];
        let mut text = markdown(&head, 2, self.rows.iter().map(Row::cells));
        let effort = if self.quick { "a quick run" } else { "a full run" };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\n{effort} on {} processors; medians of {} rounds, ratios are ours to the floor's",
            self.processors, self.rounds
        );
        if !self.costs.is_empty() {
            let head =
                ["a message of", "cpu, floor", "ours", "allocations, floor", "ours", "peak, floor", "ours"];
            let _ = writeln!(text, "\n{}", markdown(&head, 1, self.costs.iter().map(Cost::cells)).trim_end());
        }
        for (index, remark) in self.remarks.iter().enumerate() {
            let _ = writeln!(text, "{}- {remark}", if index == 0 { "\n" } else { "" });
        }
        text
    }
}

/// A table whose columns stand under each other, the first `names` of them to the left, the others, which are numbers, to
/// the right.
fn markdown<const N: usize>(
    head: &[&str; N],
    names: usize,
    lines: impl Iterator<Item = [String; N]>,
) -> String {
    let mut all = vec![head.map(String::from)];
    all.extend(lines);
    let widths: [usize; N] = std::array::from_fn(|column| {
        all.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0)
    });
    let mut table = String::new();
    for (index, line) in all.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Writing to a string does not fail.
            let _ = if column < names {
                write!(table, "| {cell:width$} ")
            } else {
                write!(table, "| {cell:>width$} ")
            };
        }
        table.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(width + 1);
                let _ = if column < names { write!(table, "|{line}-") } else { write!(table, "|{line}:") };
            }
            table.push_str("|\n");
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64) -> Spread {
        Spread { median, min: median / 2.0, max: median * 2.0 }
    }

    fn report() -> Report {
        let compared = Comparison { floor: spread(500.0), ours: spread(650.0), ratio: spread(1.3) };
        let resources = Resources { cpu_us: Some(0.5), allocations: Some(12.0), peak_mib: None };
        Report {
            processors: 2,
            quick: true,
            rounds: 7,
            rows: vec![
                Row::compared("plugin-call/x", "native", Unit::Nanoseconds, compared)
                    .goal(Goal::RatioAtMost(1.3)),
                Row::alone("idle/memory", Unit::Mebibytes, spread(64.0)).goal(Goal::AtMost(60.0)),
            ],
            costs: vec![Cost { case: "plugin-call/x".into(), floor: None, ours: resources }],
            plots: Vec::new(),
            remarks: vec!["a remark".into(), "another".into()],
        }
    }

    #[test]
    fn the_tables_are_markdown_with_columns_that_stand_under_each_other() {
        let expected = "\
| case          | floor  | floor's |     ours | ratio | least to most |      goal | met |
|---------------|--------|--------:|---------:|------:|--------------:|----------:|----:|
| plugin-call/x | native |  500 ns |   650 ns |  1.30 |  0.65 to 2.60 |    <= 1.3 | yes |
| idle/memory   |        |         | 64.0 MiB |       |   32.0 to 128 | <= 60 MiB |  no |

a quick run on 2 processors; medians of 7 rounds, ratios are ours to the floor's

| a message of  | cpu, floor |    ours | allocations, floor | ours | peak, floor | ours |
|---------------|-----------:|--------:|-------------------:|-----:|------------:|-----:|
| plugin-call/x |            | 0.50 us |                    | 12.0 |             |      |

- a remark
- another
";
        assert_eq!(report().table(), expected);
    }

    #[test]
    fn a_goal_is_met_as_exactly_as_it_is_written() {
        let of = |median| {
            Measured::Compared(Comparison { floor: spread(1.0), ours: spread(90.0), ratio: spread(median) })
        };
        for (goal, ratio, met) in [
            (Goal::RatioAtMost(1.3), 1.304, Some(true)),
            (Goal::RatioAtMost(1.3), 1.31, Some(false)),
            (Goal::RatioAtLeast(0.8), 0.796, Some(true)),
            (Goal::RatioAtLeast(0.8), 0.79, Some(false)),
            (Goal::AtMost(90.0), 7.0, Some(true)),
            (Goal::AtMost(89.0), 7.0, Some(false)),
        ] {
            assert_eq!(goal.is_met(&of(ratio)), met, "{goal:?} {ratio}");
        }
        assert_eq!(Goal::RatioAtMost(1.0).is_met(&Measured::Alone { ours: spread(1.0) }), None);
    }

    #[test]
    fn the_json_has_every_name_spread_and_verdict() {
        // As text: what is made into a value has each key once, whatever is written.
        let text = serde_json::to_string(&report()).unwrap();
        let row = text.split_once("\"rows\":[").and_then(|(_, rows)| rows.split_once("},{")).unwrap().0;
        for key in ["case", "against", "unit", "goal", "met", "floor", "ours", "ratio"] {
            assert_eq!(row.matches(&format!("\"{key}\":")).count(), 1, "{key} in {row}");
        }
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json.pointer("/rows/0/against"), Some(&serde_json::json!("native")));
        assert_eq!(json.pointer("/rows/0/floor/median"), Some(&serde_json::json!(500.0)));
        assert_eq!(json.pointer("/rows/0/met"), Some(&serde_json::json!(true)));
        assert_eq!(json.pointer("/rows/1/met"), Some(&serde_json::json!(false)));
        assert_eq!(json.pointer("/rows/0/ratio/median"), Some(&serde_json::json!(1.3)));
        assert_eq!(json.pointer("/rows/0/unit"), Some(&serde_json::json!("nanoseconds")));
        assert_eq!(json.pointer("/rows/1/ours/max"), Some(&serde_json::json!(128.0)));
        assert_eq!(json.pointer("/costs/0/ours/allocations"), Some(&serde_json::json!(12.0)));
    }
}
