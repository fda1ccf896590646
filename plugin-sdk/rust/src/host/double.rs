//! What stands in for the host in native tests.

use std::{cell::RefCell, collections::BTreeMap};

use super::{log::Level, state::OverLimit};

/// The contract's limits of the `state` interface.
const MAX_KEY_BYTES: usize = 256;
const MAX_VALUE_BYTES: usize = 64 * 1024;
const MAX_KEYS: usize = 1_024;

/// One thread's host.
#[derive(Default)]
pub(crate) struct Double {
    pub(crate) log: Vec<(Level, String)>,
    pub(crate) now_ms: u64,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) gauges: BTreeMap<String, f64>,
    pub(crate) state: BTreeMap<String, Vec<u8>>,
    random: u64,
}

impl Double {
    /// The next byte of a fixed sequence (SplitMix64, its top byte).
    pub(crate) fn next_random(&mut self) -> u8 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).to_be_bytes()[0]
    }

    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) -> Result<(), OverLimit> {
        if key.len() > MAX_KEY_BYTES {
            return Err(OverLimit(format!("the key has {} bytes, {MAX_KEY_BYTES} are allowed", key.len())));
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(OverLimit(format!(
                "the value has {} bytes, {MAX_VALUE_BYTES} are allowed",
                value.len()
            )));
        }
        if self.state.len() >= MAX_KEYS && !self.state.contains_key(key) {
            return Err(OverLimit(format!("there are {MAX_KEYS} keys already")));
        }
        self.state.insert(key.to_owned(), value);
        Ok(())
    }
}

thread_local! {
    static DOUBLE: RefCell<Double> = RefCell::default();
}

/// Hands this thread's host to `f`, which must not call a capability itself.
pub(crate) fn with<R>(f: impl FnOnce(&mut Double) -> R) -> R {
    DOUBLE.with_borrow_mut(f)
}
