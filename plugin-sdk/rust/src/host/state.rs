//! A small key/value store, scoped to this plugin in this step of this flow. Needs the grant `state`. It survives an instance's
//! retirement and a reload of the flow, and ends with the process.

use std::fmt;

/// A key over 256 bytes, a value over 64 KiB, or a store that is full. The text says which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimit(pub String);

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "over a limit of the plugin's state: {}", self.0)
    }
}

impl std::error::Error for OverLimit {}

#[cfg(target_family = "wasm")]
mod wasm {
    pub(super) use crate::bindings::capabilities::gristmill::plugin::state::{
        StateError, delete, get, increment, set,
    };

    impl From<StateError> for super::OverLimit {
        fn from(error: StateError) -> Self {
            let StateError::OverLimit(text) = error;
            super::OverLimit(text)
        }
    }
}

/// The value of a key.
#[must_use]
pub fn get(key: &str) -> Option<Vec<u8>> {
    #[cfg(target_family = "wasm")]
    return wasm::get(key);
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| double.state.get(key).cloned())
}

/// Sets the value of a key.
///
/// # Errors
/// When key, value or store are over their limits.
pub fn set(key: &str, value: &[u8]) -> Result<(), OverLimit> {
    #[cfg(target_family = "wasm")]
    return Ok(wasm::set(key, value)?);
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| double.set(key, value.to_vec()))
}

/// Deletes a key; no effect when it is not there.
pub fn delete(key: &str) {
    #[cfg(target_family = "wasm")]
    wasm::delete(key);
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| {
        double.state.remove(key);
    });
}

/// Adds to a decimal number kept as text and gives the new value; atomic among the plugin's instances. An absent key
/// or a value that is no number counts as 0. Saturates.
///
/// # Errors
/// When key or store are over their limits.
pub fn increment(key: &str, amount: i64) -> Result<i64, OverLimit> {
    #[cfg(target_family = "wasm")]
    return Ok(wasm::increment(key, amount)?);
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| {
        let old = double.state.get(key).and_then(|value| str::from_utf8(value).ok()?.parse::<i64>().ok());
        let new = old.unwrap_or(0).saturating_add(amount);
        double.set(key, new.to_string().into_bytes())?;
        Ok(new)
    })
}
