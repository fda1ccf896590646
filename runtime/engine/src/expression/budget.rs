//! What one evaluation may cost. The text of an expression is the engineer's, but what it walks over is the sender's:
//! three nested `all` over 300 items are 27 million steps. So every step of an evaluation, every byte that it reads and
//! every byte that it makes is paid from a budget, and the budget ends the evaluation wherever it is. The costs are
//! counted, not timed: the same message and the same expression end the same way on any machine.

use std::cell::Cell;

use super::error::EvalError;

/// The longest text of an expression or a template, in bytes.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;

/// How deep an expression may nest: brackets, operators and calls within each other. Parsing and evaluating recurse.
pub const MAX_NESTING: usize = 64;

/// How deep comprehensions (`all`, `exists`, `exists_one`, `map`, `filter`) may nest.
pub const MAX_COMPREHENSION_NESTING: usize = 3;

/// The longest pattern of `matches` and the longest path of `jsonpath`, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// How deep lists and maps in JSON may nest: as deep as `serde_json` reads.
pub(crate) const MAX_JSON_NESTING: usize = 128;

/// How many JSON values (members and elements counted one by one) a body may have to be read by an expression: a value
/// takes many times the memory of the two bytes that it may be in the body.
pub const MAX_BODY_VALUES: usize = 1_000_000;

/// The steps that one evaluation may take; a step is a node of the expression, an element visited, or some bytes read,
/// and takes 5 to 30 nanoseconds. What takes longer pays several.
pub const MAX_STEPS: u64 = 4_000_000;

/// The bytes of texts and lists that one evaluation may make, its result included; twice the body when that is more.
pub const MAX_MADE_BYTES: u64 = 16 * 1024 * 1024;

/// The longest text that a template may render to, in bytes.
pub const MAX_RENDERED_BYTES: usize = 64 * 1024;

/// How many bytes are read for the price of one step: comparing and searching run at gigabytes a second.
const READ_BYTES_A_STEP: u64 = 64;

/// How many bytes are gone over one by one, or in pieces as short as that, for the price of one step.
const SLOWLY_READ_BYTES_A_STEP: u64 = 8;

/// How many bytes are made for the price of one step.
const MADE_BYTES_A_STEP: u64 = 64;

/// What is left of one evaluation's budget.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: Cell<u64>,
    made_bytes: Cell<u64>,
}

// === impl Budget ===

impl Budget {
    /// A whole budget, for a message with a body of this size.
    pub(crate) fn new(body_bytes: usize) -> Self {
        let made_bytes = MAX_MADE_BYTES.max(2 * body_bytes as u64);
        Self { steps: Cell::new(MAX_STEPS), made_bytes: Cell::new(made_bytes) }
    }

    /// Pays for steps.
    pub(crate) fn steps(&self, count: u64) -> Result<(), EvalError> {
        match self.steps.get().checked_sub(count) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => Err(EvalError::Limit(format!("takes more than {MAX_STEPS} steps on this message"))),
        }
    }

    /// Pays for reading bytes of a text.
    pub(crate) fn read(&self, bytes: usize) -> Result<(), EvalError> {
        self.steps(bytes as u64 / READ_BYTES_A_STEP)
    }

    /// Pays for going over a text character by character.
    pub(crate) fn read_slowly(&self, bytes: usize) -> Result<(), EvalError> {
        self.steps(bytes as u64 / SLOWLY_READ_BYTES_A_STEP)
    }

    /// Pays for bytes about to be made. Called before they are.
    pub(crate) fn make(&self, bytes: usize) -> Result<(), EvalError> {
        self.steps(bytes as u64 / MADE_BYTES_A_STEP)?;
        match self.made_bytes.get().checked_sub(bytes as u64) {
            Some(left) => {
                self.made_bytes.set(left);
                Ok(())
            }
            None => Err(EvalError::Limit(format!(
                "makes more than {} MiB of text and lists on this message",
                MAX_MADE_BYTES / (1024 * 1024)
            ))),
        }
    }
}
