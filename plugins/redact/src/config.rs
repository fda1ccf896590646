//! The configuration as the flow file gives it, and its check.

use gristmill_json::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Redact, action::Action};

/// A keyed hash with a shorter key can be searched for.
const MIN_KEY_BYTES: usize = 16;

/// How many mask characters a fixed length may have.
const MAX_LENGTH: usize = 1_024;

/// What to redact. At least one field or header.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Fields of the JSON body. Without any the body is not looked at and need not be JSON.
    #[serde(default)]
    fields: Vec<Field>,
    /// Headers.
    #[serde(default)]
    headers: Vec<Header>,
}

/// Fields of the body.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Field {
    /// JSONPath (RFC 9535) of the values. Selecting nothing is no error.
    path: Path,
    /// What is done to each value.
    action: Raw,
}

/// One header.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The name, without regard to case.
    #[schemars(length(min = 1))]
    name: String,
    /// What is done to each of its values.
    action: Raw,
}

/// What is done to a value. In an array or object it is done to every scalar inside; null stays null.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Raw {
    /// Replaces characters, so that the value becomes a string of mask characters.
    Mask(Mask),
    /// Takes the field or header out.
    Remove {},
    /// Replaces by the SHA-256 hash of the text, in hexadecimal. Values that can be guessed can be found again: use `hmac_sha256` for them.
    Sha256 {},
    /// Replaces by the HMAC-SHA-256 of the text, in hexadecimal.
    HmacSha256 {
        /// The key, at least 16 bytes; `${env:NAME}` or `${file:path}` in a flow file.
        #[schemars(length(min = 1))]
        key: String,
    },
}

/// How to mask.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Mask {
    /// One character.
    #[schemars(length(min = 1, max = 1))]
    with: String,
    /// How many characters at the end stay readable, if the value has at least twice as many; else none.
    keep_last: usize,
    /// Always this many mask characters, so that the length of the value does not show; at most 1024.
    #[schemars(range(max = 1_024))]
    length: Option<usize>,
}

impl Default for Mask {
    fn default() -> Self {
        Mask { with: "*".to_owned(), keep_last: 0, length: None }
    }
}

/// The key must not reach a log.
impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Raw::Mask(mask) => mask.fmt(f),
            Raw::Remove {} => f.write_str("Remove"),
            Raw::Sha256 {} => f.write_str("Sha256"),
            Raw::HmacSha256 { .. } => f.write_str("HmacSha256"),
        }
    }
}

impl Config {
    pub(crate) fn check(self) -> Result<Redact, String> {
        if self.fields.is_empty() && self.headers.is_empty() {
            return Err("nothing to redact: give `fields` or `headers`".to_owned());
        }
        let fields = self.fields.into_iter().enumerate().map(|(i, field)| {
            Ok((field.path, field.action.check().map_err(|error| format!("fields[{i}].action: {error}"))?))
        });
        let headers = self.headers.into_iter().enumerate().map(|(i, header)| {
            let action = header.action.check().map_err(|error| format!("headers[{i}].action: {error}"))?;
            Ok((header.name.to_ascii_lowercase(), action))
        });
        Ok(Redact {
            fields: fields.collect::<Result<_, String>>()?,
            headers: headers.collect::<Result<_, String>>()?,
        })
    }
}

impl Raw {
    fn check(self) -> Result<Action, String> {
        match self {
            Raw::Remove {} => Ok(Action::Remove),
            Raw::Sha256 {} => Ok(Action::Sha256),
            Raw::HmacSha256 { key } if key.len() < MIN_KEY_BYTES => {
                Err(format!("hmac_sha256.key has {} bytes, at least {MIN_KEY_BYTES} are needed", key.len()))
            }
            Raw::HmacSha256 { key } => Action::keyed_hash(key.as_bytes()),
            Raw::Mask(Mask { with, keep_last, length }) => {
                let mut characters = with.chars();
                let (Some(with), None) = (characters.next(), characters.next()) else {
                    return Err("mask.with must be one character".to_owned());
                };
                if length.is_some_and(|length| length > MAX_LENGTH) {
                    return Err(format!("mask.length may be {MAX_LENGTH} at most"));
                }
                Ok(Action::Mask { with, keep_last, length })
            }
        }
    }
}
