//! What was measured, as a table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::stats::Comparison;

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// The case and, behind a slash, what of it.
    pub(crate) case: String,
    /// What ours is held against.
    pub(crate) floor: &'static str,
    pub(crate) unit: Unit,
    /// What the ratio has to be, where there is a goal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<Goal>,
    #[serde(flatten)]
    pub(crate) compared: Comparison,
}

/// What the median of the ratios has to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Nanoseconds,
    Microseconds,
    PerSecond,
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
    /// What a reader of the figures should know.
    pub(crate) remarks: Vec<String>,
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::PerSecond => "/s",
        }
    }
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtLeast(goal) => format!(">= {goal}"),
            Self::AtMost(goal) => format!("<= {goal}"),
        }
    }

    /// As exact as it is written.
    fn is_met(self, ratio: f64) -> bool {
        let ratio = (ratio * 100.0).round() / 100.0;
        match self {
            Self::AtLeast(goal) => ratio >= goal,
            Self::AtMost(goal) => ratio <= goal,
        }
    }
}

impl Report {
    /// The table, for people and for a page in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![
            ["case", "floor", "floor's", "ours", "ratio", "least to most", "goal", "met"].map(String::from),
        ];
        lines.extend(self.rows.iter().map(|row| {
            let Row { case, floor, unit, goal, compared: Comparison { floor: theirs, ours, ratio } } = row;
            let unit = unit.text();
            [
                case.clone(),
                (*floor).to_owned(),
                format!("{:.0} {unit}", theirs.median),
                format!("{:.0} {unit}", ours.median),
                format!("{:.2}", ratio.median),
                format!("{:.2} to {:.2}", ratio.min, ratio.max),
                goal.map(Goal::text).unwrap_or_default(),
                goal.map_or("", |goal| if goal.is_met(ratio.median) { "yes" } else { "no" }).to_owned(),
            ]
        }));
        let widths: [usize; 8] = std::array::from_fn(|column| {
            lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0)
        });
        let mut table = String::new();
        for (index, line) in lines.iter().enumerate() {
            for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
                // Names to the left, numbers to the right. Writing to a string does not fail.
                let _ = if column < 2 {
                    write!(table, "| {cell:width$} ")
                } else {
                    write!(table, "| {cell:>width$} ")
                };
            }
            table.push_str("|\n");
            if index == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let line = "-".repeat(width + 1);
                    let _ = if column < 2 { write!(table, "|{line}-") } else { write!(table, "|{line}:") };
                }
                table.push_str("|\n");
            }
        }
        let effort = if self.quick { "a quick run" } else { "a full run" };
        let _ = writeln!(
            table,
            "\n{effort} on {} processors; medians of {} rounds, ratios are ours to the floor's",
            self.processors, self.rounds
        );
        for remark in &self.remarks {
            let _ = writeln!(table, "- {remark}");
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Spread;

    fn report() -> Report {
        let spread = |median| Spread { median, min: median / 2.0, max: median * 2.0 };
        let compared = Comparison { floor: spread(500.0), ours: spread(650.0), ratio: spread(1.3) };
        Report {
            processors: 2,
            quick: true,
            rounds: 7,
            rows: vec![Row {
                case: "plugin-call/x".into(),
                floor: "native",
                unit: Unit::Nanoseconds,
                goal: Some(Goal::AtMost(1.3)),
                compared,
            }],
            remarks: vec!["a remark".into()],
        }
    }

    #[test]
    fn the_table_is_markdown_with_columns_that_stand_under_each_other() {
        let expected = "\
| case          | floor  | floor's |   ours | ratio | least to most |   goal | met |
|---------------|--------|--------:|-------:|------:|--------------:|-------:|----:|
| plugin-call/x | native |  500 ns | 650 ns |  1.30 |  0.65 to 2.60 | <= 1.3 | yes |

a quick run on 2 processors; medians of 7 rounds, ratios are ours to the floor's
- a remark
";
        assert_eq!(report().table(), expected);
    }

    #[test]
    fn the_json_has_every_spread() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json.pointer("/rows/0/ratio/median"), Some(&serde_json::json!(1.3)));
        assert_eq!(json.pointer("/rows/0/unit"), Some(&serde_json::json!("nanoseconds")));
    }
}
