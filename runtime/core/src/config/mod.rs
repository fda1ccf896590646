//! Configuration as it was written: values that know their place in the file, and mistakes that can show it.
//!
//! A file is read into a [`Node`] tree (by whoever knows its syntax), then each part is turned into its own Rust type by
//! [`parse`], which checks it against the JSON Schema that the type derives. So one definition gives the type, the schema
//! for editors, and every mistake with line, column and the nearest known key; and all mistakes are found, not the first.

mod compiled;
mod draft;
mod mistake;
mod node;
mod parse;
mod secret;
mod suggest;
mod template;

pub use mistake::{Mistake, Mistakes};
pub use node::{Entry, Node, Span, SubstitutedPart, Substitution, Value};
pub use parse::{Schema, check_against, parse, schema_of};
pub use secret::Secret;
pub use suggest::nearest;
pub use template::{Piece, ends_in_string, split_expressions};
