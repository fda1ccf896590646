//! The limits: a file of lines `name instructions excess %`, comments that begin with `#`, and a line that says which compiler
//! the counts are of.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

/// How much above its limit a count may be, in percent, where no line says otherwise.
const EXCESS_PERCENT: f64 = 3.0;

/// What begins the line of the compiler.
const COMPILER: &str = "compiler";

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) name: String,
    /// For one call or delivery.
    pub(super) instructions: u64,
}

/// What the file says.
#[derive(Debug)]
pub(super) struct Limits {
    /// The compiler that the counts are of.
    pub(super) compiler: Option<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    name: String,
    instructions: u64,
    excess_percent: f64,
}

/// What is to be said of one count or limit.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    Held {
        name: String,
        counted: u64,
        limit: u64,
        percent: f64,
    },
    /// By more than what could as well be more.
    Less {
        name: String,
        counted: u64,
        limit: u64,
        percent: f64,
    },
    More {
        name: String,
        counted: u64,
        limit: u64,
        percent: f64,
        allowed: f64,
    },
    WithoutLimit {
        name: String,
        counted: u64,
    },
    NotCounted {
        name: String,
    },
}

// === impl Limits ===

impl Limits {
    /// # Errors
    /// When a line is none of those that there are, or names something twice.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut limits = Self { compiler: None, rows: Vec::new() };
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(compiler) = line.strip_prefix(COMPILER) {
                limits.compiler = Some(compiler.trim().to_owned());
                continue;
            }
            let row = Row::parse(line)
                .with_context(|| format!("line {number} has to be `name instructions excess %`: {line}"))?;
            let is_new = limits.rows.iter().all(|other| other.name != row.name);
            ensure!(is_new, "line {number} is the second one of {}", row.name);
            limits.rows.push(row);
        }
        Ok(limits)
    }

    /// One for each that was counted or has a limit.
    pub(super) fn judge(&self, counts: &[Count]) -> Vec<Verdict> {
        let counted = counts.iter().map(|count| {
            let (name, counted) = (count.name.clone(), count.instructions);
            let Some(row) = self.rows.iter().find(|row| row.name == name) else {
                return Verdict::WithoutLimit { name, counted };
            };
            let limit = row.instructions;
            // In this order, so that what is just allowed is exact.
            let percent = 100.0 * (counted as f64 - limit as f64) / limit as f64;
            if percent > row.excess_percent {
                Verdict::More { name, counted, limit, percent, allowed: row.excess_percent }
            } else if percent < -row.excess_percent {
                Verdict::Less { name, counted, limit, percent }
            } else {
                Verdict::Held { name, counted, limit, percent }
            }
        });
        let not_counted = self.rows.iter().filter(|row| counts.iter().all(|count| count.name != row.name));
        counted.chain(not_counted.map(|row| Verdict::NotCounted { name: row.name.clone() })).collect()
    }
}

// === impl Row ===

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let [name, instructions, excess, "%"] = line.split_ascii_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(Self {
            name: name.to_owned(),
            instructions: instructions.replace('_', "").parse().ok().filter(|count| *count > 0)?,
            excess_percent: excess.parse().ok().filter(|excess: &f64| *excess >= 0.0)?,
        })
    }

    fn line(&self) -> String {
        let instructions = with_separator(self.instructions, '_');
        format!("{:<24} {instructions:>9}  {} %", self.name, self.excess_percent)
    }
}

// === impl Verdict ===

impl Verdict {
    /// What makes the run fail, if it does.
    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Verdict::Held { .. } | Verdict::Less { .. } => None,
            Verdict::More { name, counted, limit, percent, allowed } => Some(format!(
                "{name} grew from {} to {} instructions: {percent:+.1} %, where {allowed} % are allowed.",
                grouped(*limit),
                grouped(*counted)
            )),
            Verdict::WithoutLimit { name, .. } => Some(format!("{name} has no limit.")),
            Verdict::NotCounted { name } => Some(format!("{name} has a limit, and was not counted.")),
        }
    }

    fn cells(&self) -> [String; 4] {
        match self {
            Verdict::Held { name, counted, limit, percent }
            | Verdict::Less { name, counted, limit, percent }
            | Verdict::More { name, counted, limit, percent, .. } => {
                [name.clone(), grouped(*counted), grouped(*limit), format!("{percent:+.2} %")]
            }
            Verdict::WithoutLimit { name, counted } => {
                [name.clone(), grouped(*counted), "none".into(), String::new()]
            }
            Verdict::NotCounted { name } => {
                [name.clone(), "not counted".into(), String::new(), String::new()]
            }
        }
    }
}

/// What a person reads.
pub(super) fn table(verdicts: &[Verdict]) -> String {
    let mut table = String::new();
    let head = ["one", "instructions", "limit", "difference"].map(str::to_owned);
    for [name, counted, limit, difference] in [head].into_iter().chain(verdicts.iter().map(Verdict::cells)) {
        // Writing to a string does not fail.
        let _ = writeln!(table, "{name:<24} {counted:>13} {limit:>10} {difference:>11}");
    }
    table
}

/// The file with these counts: comments and allowed excesses stay, what was not counted goes.
pub(super) fn accept(text: &str, counts: &[Count], compiler: &str) -> String {
    let mut left: Vec<_> = counts.iter().collect();
    let mut lines = Vec::new();
    let mut has_compiler = false;
    for line in text.lines() {
        if line.trim_start().starts_with(COMPILER) {
            has_compiler = true;
            lines.push(format!("{COMPILER} {compiler}"));
        } else if let Some(row) = Row::parse(line.trim()) {
            if let Some(index) = left.iter().position(|count| count.name == row.name) {
                lines.push(Row { instructions: left.remove(index).instructions, ..row }.line());
            }
        } else {
            lines.push(line.to_owned());
        }
    }
    if !has_compiler {
        lines.push(format!("{COMPILER} {compiler}"));
    }
    lines.extend(left.into_iter().map(|count| {
        Row { name: count.name.clone(), instructions: count.instructions, excess_percent: EXCESS_PERCENT }
            .line()
    }));
    lines.join("\n") + "\n"
}

/// A number with commas.
pub(super) fn grouped(number: u64) -> String {
    with_separator(number, ',')
}

fn with_separator(number: u64, separator: char) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(separator);
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# why\ncompiler rustc 1.95.0\n\na/b 1_000 3 %\n# slow\na/c 200_000 0.5 %\n";

    fn count(name: &str, instructions: u64) -> Count {
        Count { name: name.into(), instructions }
    }

    fn problems(counts: &[Count]) -> Vec<String> {
        Limits::parse(FILE).unwrap().judge(counts).iter().filter_map(Verdict::problem).collect()
    }

    #[test]
    fn a_count_may_be_above_its_limit_by_what_is_allowed_and_no_more() {
        assert_eq!(problems(&[count("a/b", 1_030), count("a/c", 201_000)]), [""; 0]);
        assert_eq!(
            problems(&[count("a/b", 1_031), count("a/c", 150_000)]),
            ["a/b grew from 1,000 to 1,031 instructions: +3.1 %, where 3 % are allowed."]
        );
    }

    #[test]
    fn what_has_become_less_is_told_and_is_no_problem() {
        let verdicts = Limits::parse(FILE).unwrap().judge(&[count("a/b", 960), count("a/c", 199_500)]);
        assert!(matches!(&verdicts[..], [Verdict::Less { .. }, Verdict::Held { .. }]), "{verdicts:?}");
    }

    #[test]
    fn each_count_wants_a_limit_and_each_limit_a_count() {
        assert_eq!(
            problems(&[count("a/b", 1_000), count("a/d", 1)]),
            ["a/d has no limit.", "a/c has a limit, and was not counted."]
        );
    }

    #[test]
    fn accepting_keeps_comments_and_allowed_excesses() {
        let accepted = accept(FILE, &[count("a/d", 7), count("a/c", 190_000)], "rustc 1.96.0");
        let lines: Vec<_> = accepted
            .lines()
            .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(lines, ["# why", "compiler rustc 1.96.0", "", "# slow", "a/c 190_000 0.5 %", "a/d 7 3 %"]);
        let again = Limits::parse(&accepted).unwrap();
        assert_eq!(again.compiler.as_deref(), Some("rustc 1.96.0"));
        assert!(
            again.judge(&[count("a/c", 190_000), count("a/d", 7)]).iter().all(|it| it.problem().is_none())
        );
    }

    #[test]
    fn a_line_that_says_nothing_is_a_mistake() {
        for wrong in ["a/b 1000", "a/b many 3 %", "a/b 0 3 %", "a/b 1 -3 %", "a/b 1 3 %\na/b 2 3 %"] {
            assert!(Limits::parse(wrong).is_err(), "{wrong}");
        }
    }
}
