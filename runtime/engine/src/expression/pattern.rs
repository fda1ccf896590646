//! Regular expressions of `matches`. The engine (crate `regex`) takes time linear in the text, but the factor grows with
//! the pattern, so a pattern is weighed when it is compiled and its matches are paid for by its weight.

use regex::{Regex, RegexBuilder};

use super::{
    budget::{Budget, MAX_PATTERN_BYTES},
    error::EvalError,
};

/// Compiled sizes and what a pattern of that size weighs. The last is the largest that is taken.
const WEIGHTS: [(usize, u64); 4] = [(16 * 1024, 1), (64 * 1024, 4), (512 * 1024, 16), (4 * 1024 * 1024, 64)];

/// How many bytes a pattern of weight 1 searches for the price of one step.
const SEARCHED_BYTES_A_STEP: u64 = 16;

/// A pattern, compiled.
#[derive(Debug)]
pub(crate) struct Pattern {
    regex: Regex,
    weight: u64,
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
        for (size_bytes, weight) in WEIGHTS {
            match RegexBuilder::new(pattern).size_limit(size_bytes).dfa_size_limit(size_bytes * 8).build() {
                Ok(regex) => return Ok(Self { regex, weight }),
                Err(regex::Error::CompiledTooBig(_)) => {}
                Err(error) => {
                    // The engine's text draws the pattern over several lines; its last line is the sentence.
                    let text = error.to_string();
                    let sentence = text.lines().last().unwrap_or_default().trim();
                    return Err(format!(
                        "the pattern is not a regular expression: {}",
                        sentence.strip_prefix("error: ").unwrap_or(sentence)
                    ));
                }
            }
        }
        Err("the pattern is too large when compiled: write smaller repetitions, or \\d as [0-9] and \\w as \
             [0-9A-Za-z_]"
            .to_owned())
    }

    /// Whether the pattern is found anywhere in the text.
    pub(crate) fn is_match(&self, text: &str, budget: &Budget) -> Result<bool, EvalError> {
        budget.steps(self.weight + text.len() as u64 * self.weight / SEARCHED_BYTES_A_STEP)?;
        Ok(self.regex.is_match(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_pattern_says_what_is_wrong() {
        assert!(Pattern::compile("(a").unwrap_err().contains("unclosed group"));
        assert!(Pattern::compile(&"a".repeat(2000)).unwrap_err().contains("longer"));
        assert!(Pattern::compile(r"\w{1000}").unwrap_err().contains("too large"));
    }

    #[test]
    fn a_larger_pattern_is_dearer() {
        let weight = |pattern| Pattern::compile(pattern).unwrap().weight;
        assert_eq!(weight("^[a-z]+-[0-9]{4}$"), 1);
        assert!(weight(r"\w+@\w+\.\w{2,10}") > 1);
    }
}
