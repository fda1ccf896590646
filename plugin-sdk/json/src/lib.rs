//! JSON for plugins that pass on what they do not understand.
//!
//! A plugin that reads a body, changes one field and writes it again must not change the other fields. `serde_json::Value`
//! turns `12345678901234567890123` into a double and `1.10` into `1.1`; here a number is the text that the sender wrote.
//! The tree borrows its strings from the body, so parsing allocates little more than the containers.
//!
//! - [`Value`] with [`parse`] and [`Value::to_vec`] (RFC 8259; nesting bounded by [`MAX_DEPTH`]; of repeated names the last wins)
//! - [`Path`]: JSONPath (RFC 9535), compiled once, with a short cut for the paths that name a single place
//! - [`Location`]: a place found by a path, for changing the tree
//!
//! In serde types, a [`Path`] deserializes from a string, so a mistake in it is found with the configuration.

mod parse;
mod path;
mod value;
mod write;

pub use parse::{MAX_DEPTH, ParseError, parse};
pub use path::{Location, Path, PathError};
pub use value::{Number, Object, Value};
