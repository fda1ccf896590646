//! Whether two patterns can match one name. Asked of the regular expressions that the patterns are matched by, so that the
//! answer is about what will happen, and not about a second reading of the patterns.

use std::collections::HashSet;

use globset::GlobMatcher;
use regex_automata::{
    nfa::thompson::{Config, NFA, State, Transition},
    util::{primitives::StateID, syntax},
};

use super::settings::may_be_hidden;

/// The largest automaton that a pattern may give, in bytes.
const MAX_AUTOMATON_BYTES: usize = 1024 * 1024;

/// The most pairs of states that are looked at: a fraction of a second.
const MAX_PAIRS: usize = 100_000;

/// A state of each automaton that one beginning of a name leads to, and whether that is longer than nothing.
type Pair = (StateID, StateID, bool);

/// Whether there is a name that both patterns take. `None` when that would take too long to say.
pub(crate) fn overlap(one: &GlobMatcher, other: &GlobMatcher) -> Option<bool> {
    let hidden = may_be_hidden(one) && may_be_hidden(other);
    let (one, other) = (automaton(one)?, automaton(other)?);
    let mut open: Vec<Pair> = vec![(one.start_anchored(), other.start_anchored(), false)];
    let mut seen: HashSet<Pair> = open.iter().copied().collect();
    while let Some((a, b, begun)) = open.pop() {
        let mut go = |pair: Pair| {
            if seen.insert(pair) {
                open.push(pair);
            }
        };
        match (Step::of(one.state(a)), Step::of(other.state(b))) {
            (Step::End, Step::End) if begun => return Some(true),
            (Step::Free(next), _) => next.into_iter().for_each(|a| go((a, b, begun))),
            (_, Step::Free(next)) => next.into_iter().for_each(|b| go((a, b, begun))),
            (Step::Byte(ones), Step::Byte(others)) => {
                let is_allowed = |byte: u8| !matches!(byte, 0 | b'/') && (begun || hidden || byte != b'.');
                for a in &ones {
                    for b in &others {
                        if (a.start.max(b.start)..=a.end.min(b.end)).any(is_allowed) {
                            go((a.next, b.next, true));
                        }
                    }
                }
            }
            _ => {}
        }
        if seen.len() > MAX_PAIRS {
            return None;
        }
    }
    Some(false)
}

/// As `globset` compiles it.
fn automaton(pattern: &GlobMatcher) -> Option<NFA> {
    let config = Config::new().utf8(false).nfa_size_limit(Some(MAX_AUTOMATON_BYTES));
    let syntax = syntax::Config::new().utf8(false).dot_matches_new_line(true);
    NFA::compiler().configure(config).syntax(syntax).build(pattern.glob().regex()).ok()
}

/// How a state is left.
enum Step {
    /// By one byte.
    Byte(Vec<Transition>),
    /// By nothing. The beginning and the end of a name, too: a pattern's expression asks for them only where they are.
    Free(Vec<StateID>),
    /// Not: all of the name has been matched.
    End,
    /// Not: this leads nowhere.
    Nowhere,
}

impl Step {
    fn of(state: &State) -> Self {
        match state {
            State::ByteRange { trans } => Self::Byte(vec![*trans]),
            State::Sparse(sparse) => Self::Byte(sparse.transitions.to_vec()),
            State::Dense(dense) => Self::Byte(
                (0..=u8::MAX)
                    .filter_map(|byte| {
                        Some(Transition { start: byte, end: byte, next: dense.matches_byte(byte)? })
                    })
                    .collect(),
            ),
            State::Look { next, .. } | State::Capture { next, .. } => Self::Free(vec![*next]),
            State::Union { alternates } => Self::Free(alternates.to_vec()),
            State::BinaryUnion { alt1, alt2 } => Self::Free(vec![*alt1, *alt2]),
            State::Match { .. } => Self::End,
            State::Fail => Self::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;

    use super::*;

    fn of(one: &str, other: &str) -> Option<bool> {
        let matcher =
            |pattern| GlobBuilder::new(pattern).literal_separator(true).build().unwrap().compile_matcher();
        let answer = overlap(&matcher(one), &matcher(other));
        assert_eq!(answer, overlap(&matcher(other), &matcher(one)), "{one} {other}");
        answer
    }

    #[test]
    fn two_patterns_overlap_when_a_name_matches_both() {
        for (one, other) in [
            ("*", "orders.xml"),
            ("*.xml", "order-*"),
            ("a?c", "ab[cd]"),
            ("*.{xml,json}", "*.{csv,json}"),
            ("[!a]*", "b"),
            ("caf?*", "café"),
            ("**", "*.xml"),
            (".*", ".a*"),
            ("\\*", "?"),
            ("a*b*c", "*bc"),
        ] {
            assert_eq!(of(one, other), Some(true), "{one} {other}");
        }
        for (one, other) in [
            ("*.xml", "*.json"),
            ("a*", "b*"),
            ("[a-c]*", "[!a-c]*"),
            ("?", "??"),
            ("*.{xml,json}", "*.csv"),
            ("\\*", "a"),
            ("A*", "a*"),
            // A name that begins with a dot is for a pattern that does; so nobody else has it.
            ("*.hidden", ".*"),
            ("*", ""),
        ] {
            assert_eq!(of(one, other), Some(false), "{one} {other}");
        }
    }

    #[test]
    fn what_would_take_too_long_is_not_said() {
        let long = |c: &str| format!("*{}", format!("{c}*").repeat(2_000));
        assert_eq!(of(&(long("a") + "x"), &(long("a") + "y")), None);
    }
}
