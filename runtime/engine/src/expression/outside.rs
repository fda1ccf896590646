//! Values from outside (`${env:…}`, `${file:…}`) in an expression. Each stands for a text, as if it were written there in
//! quotes; so it can be compared and joined, and never becomes anything else of the expression, whatever is in it.

use std::fmt::Write as _;

use gristmill_core::config::{SubstitutedPart, Substitution, ends_in_string};

use super::CompileError;

/// The expression with its values as literals.
///
/// # Errors
/// A value that stands in quotes.
pub(super) fn with_values(substitution: &Substitution) -> Result<String, CompileError> {
    expression(substitution, literal)
}

/// The expression with empty texts in the place of its values: what an error may quote.
///
/// # Errors
/// As [`with_values`].
pub(super) fn without_values(substitution: &Substitution) -> Result<String, CompileError> {
    expression(substitution, |_| literal(""))
}

fn expression(substitution: &Substitution, literal: impl Fn(&str) -> String) -> Result<String, CompileError> {
    let mut text = String::new();
    for part in &substitution.parts {
        match part {
            SubstitutedPart::Written(written) => text.push_str(written),
            SubstitutedPart::Value { written, value } => {
                if ends_in_string(&text) {
                    let problem = format!("`{written}` stands in quotes or in a comment");
                    let mend = format!(
                        "leave the quotes out: it is a text already, as in `headers.key == {written}`"
                    );
                    return Err(CompileError::new(&text, problem).mend(mend));
                }
                text.push_str(&literal(value));
            }
        }
    }
    Ok(text)
}

/// A CEL string literal: everything but letters, digits and spaces is escaped, so that nothing of it can end it.
fn literal(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        if c.is_ascii_alphanumeric() || c == ' ' {
            text.push(c);
        } else {
            // Writing into a string cannot fail.
            let _ = write!(text, "\\U{:08X}", u32::from(c));
        }
    }
    text.push('"');
    text
}
