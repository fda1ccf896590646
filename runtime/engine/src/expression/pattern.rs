//! Regular expressions of `matches`, in the syntax of CEL, which is RE2's: `\d`, `\w`, `\s` and `\b` are about ASCII.
//!
//! A pattern becomes a DFA when it is compiled, which takes the same short time for every byte that it searches. The few
//! patterns whose DFA would be huge (`a.{30}b`) are searched by an NFA, whose time for a byte grows with the pattern, so
//! that their searches are dear. Which it is depends on the pattern alone, not on what was searched before.

use std::error::Error as _;

use regex_automata::{
    Input,
    dfa::{Automaton, StartKind, dense},
    nfa::thompson::{self, WhichCaptures, pikevm::PikeVM},
};

use super::{
    budget::{Budget, MAX_PATTERN_BYTES},
    error::EvalError,
};

/// The largest NFA of a pattern.
const MAX_NFA_BYTES: usize = 256 * 1024;

/// The largest DFA of a pattern, and what may be used while it is made.
const MAX_DFA_BYTES: usize = 512 * 1024;
const MAX_DETERMINIZE_BYTES: usize = 2 * 1024 * 1024;

/// How many bytes a DFA searches for the price of one step.
const DFA_BYTES_A_STEP: u64 = 8;

/// How many states of an NFA look at one byte for the price of one step.
const NFA_STATES_A_STEP: u64 = 2;

/// A pattern, compiled.
#[derive(Debug)]
pub(crate) enum Pattern {
    Dfa(Box<dense::DFA<Vec<u32>>>),
    Nfa { vm: Box<PikeVM>, states: u64 },
}

// === impl Pattern ===

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn compile(pattern: &str) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(format!("the pattern is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        let config =
            thompson::Config::new().nfa_size_limit(Some(MAX_NFA_BYTES)).which_captures(WhichCaptures::None);
        let nfa = thompson::Compiler::new()
            .configure(config)
            .build(&with_ascii_classes(pattern))
            .map_err(|error| problem(&error))?;
        let config = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(MAX_DFA_BYTES))
            .determinize_size_limit(Some(MAX_DETERMINIZE_BYTES));
        if let Ok(dfa) = dense::Builder::new().configure(config).build_from_nfa(&nfa) {
            return Ok(Self::Dfa(Box::new(dfa)));
        }
        let states = nfa.states().len() as u64;
        PikeVM::new_from_nfa(nfa)
            .map(|vm| Self::Nfa { vm: Box::new(vm), states })
            .map_err(|error| problem(&error))
    }

    /// Whether the pattern is found anywhere in the text.
    pub(crate) fn is_match(&self, text: &str, budget: &Budget) -> Result<bool, EvalError> {
        let bytes = text.len() as u64;
        match self {
            Self::Dfa(dfa) => {
                budget.steps(1 + bytes / DFA_BYTES_A_STEP)?;
                dfa.try_search_fwd(&Input::new(text).earliest(true))
                    .map(|found| found.is_some())
                    .map_err(|error| EvalError::unfit(format!("`matches` could not search: {error}")))
            }
            Self::Nfa { vm, states } => {
                budget.steps((1 + bytes).saturating_mul(1 + states / NFA_STATES_A_STEP))?;
                Ok(vm.is_match(&mut vm.create_cache(), text))
            }
        }
    }
}

/// The sentence of an error. The parser's text draws the pattern over several lines, and ends with it.
fn problem(error: &thompson::BuildError) -> String {
    if error.size_limit().is_some() {
        return "the pattern is too large when compiled: write fewer or smaller repetitions".to_owned();
    }
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let sentence = text.lines().last().unwrap_or_default().trim();
    format!(
        "the pattern is not a regular expression: {}",
        sentence.strip_prefix("error: ").unwrap_or(sentence)
    )
}

/// The pattern with the classes that RE2 defines on ASCII written out.
fn with_ascii_classes(pattern: &str) -> String {
    let mut translated = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            translated.push(c);
            continue;
        }
        match chars.next() {
            Some('d') => translated.push_str("[0-9]"),
            Some('D') => translated.push_str("[^0-9]"),
            Some('w') => translated.push_str("[0-9A-Za-z_]"),
            Some('W') => translated.push_str("[^0-9A-Za-z_]"),
            Some('s') => translated.push_str(r"[\t\n\x0c\r\x20]"),
            Some('S') => translated.push_str(r"[^\t\n\x0c\r\x20]"),
            Some('b') => translated.push_str(r"(?-u:\b)"),
            Some('B') => translated.push_str(r"(?-u:\B)"),
            Some(other) => translated.extend(['\\', other]),
            None => translated.push('\\'),
        }
    }
    translated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pattern: &str, text: &str) -> bool {
        Pattern::compile(pattern).unwrap().is_match(text, &Budget::new(0)).unwrap()
    }

    #[test]
    fn a_wrong_pattern_says_what_is_wrong() {
        assert_eq!(
            Pattern::compile("(a").unwrap_err(),
            "the pattern is not a regular expression: unclosed group"
        );
        assert!(Pattern::compile("\\").unwrap_err().contains("incomplete escape"));
        assert!(Pattern::compile(&"a".repeat(2000)).unwrap_err().contains("longer"));
        assert!(Pattern::compile("(.{1000}){1000}").unwrap_err().contains("too large"));
    }

    #[test]
    fn classes_are_ascii_as_in_re2() {
        assert!(found(r"^\d+\.\D$", "12.x") && !found(r"^\d$", "٣"));
        assert!(found(r"^[\w.-]+@\w+$", "a.b-c@d") && !found(r"^\w$", "ü") && found(r"^\W$", "ü"));
        assert!(found(r"^a\sb\S$", "a bü") && !found(r"\s", "a\u{a0}b"));
        assert!(found(r"\bb\b", "a b") && found(r"a\Bb", "ab"));
        assert!(found(r"^\\d$", r"\d") && found(r"^ü.$", "üß") && found("^$", ""));
        assert!(found("(?i)ABC", "xabcx") && found(r"\p{Greek}", "α"));
    }

    #[test]
    fn ordinary_patterns_are_cheap_and_the_others_still_work() {
        for cheap in [
            r"^[A-Z]{2}\d{9}$",
            r"^[\w.+-]+@[\w-]+(\.[\w-]+)+$",
            r"(?i)\b(error|fatal)\b",
            r"^\d{4}-\d{2}-\d{2}T",
        ] {
            assert!(matches!(Pattern::compile(cheap), Ok(Pattern::Dfa(_))), "{cheap}");
        }
        let dear = "a.{40}b";
        assert!(matches!(Pattern::compile(dear), Ok(Pattern::Nfa { .. })));
        assert!(
            found(dear, &format!("xa{}b", "y".repeat(40))) && !found(dear, &format!("a{}b", "y".repeat(39)))
        );
    }
}
