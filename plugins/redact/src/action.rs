//! What is done to one text. Plain functions: they know neither JSON nor headers.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What is done to each selected value, checked.
pub(crate) enum Action {
    Mask { with: char, keep_last: usize, length: Option<usize> },
    Remove,
    Sha256,
    HmacSha256(Box<Hmac<Sha256>>),
}

/// What is left of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Redacted {
    Text(String),
    Gone,
}

impl Action {
    /// A keyed hash. HMAC takes keys of any length.
    pub(crate) fn keyed_hash(key: &[u8]) -> Result<Self, String> {
        let mac = Hmac::new_from_slice(key).map_err(|error| format!("hmac_sha256.key: {error}"))?;
        Ok(Action::HmacSha256(Box::new(mac)))
    }

    pub(crate) fn text(&self, text: &str) -> Redacted {
        Redacted::Text(match self {
            Action::Remove => return Redacted::Gone,
            Action::Mask { with, keep_last, length } => mask(text, *with, *keep_last, *length),
            Action::Sha256 => hex(&Sha256::digest(text)),
            Action::HmacSha256(mac) => {
                let mut mac = mac.clone();
                mac.update(text.as_bytes());
                hex(&mac.finalize().into_bytes())
            }
        })
    }
}

/// The key must not reach a log.
impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Action::Mask { .. } => "Mask",
            Action::Remove => "Remove",
            Action::Sha256 => "Sha256",
            Action::HmacSha256(_) => "HmacSha256",
        })
    }
}

/// Keeps the last characters only of a text at least twice as long: of a short one they would be most of it.
fn mask(text: &str, with: char, keep_last: usize, length: Option<usize>) -> String {
    let characters = text.chars().count();
    let kept = if characters >= keep_last.saturating_mul(2) { keep_last } else { 0 };
    let hidden = characters - kept;
    std::iter::repeat_n(with, length.unwrap_or(hidden)).chain(text.chars().skip(hidden)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xF])
        .filter_map(|nibble| char::from_digit(nibble.into(), 16))
        .collect()
}
