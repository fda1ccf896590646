//! What a plugin in a step of a flow keeps beyond an instance and beyond a version: its state, and the names of its
//! metrics. It lives in the host, so that a reload finds it again, and ends with the process.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use crate::sync::lock;

/// The longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 256;

/// The longest value, in bytes.
pub(crate) const MAX_VALUE_BYTES: usize = 64 * 1024;

/// The most names of metrics that one plugin in one step may use.
pub(crate) const MAX_METRIC_NAMES: usize = 32;

/// The longest name of a metric, in bytes.
pub(crate) const MAX_METRIC_NAME_BYTES: usize = 128;

/// Everything that is kept, by flow, step and plugin.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<HashMap<Key, Arc<Memory>>>);

/// Flow, step, plugin.
type Key = (Arc<str>, Arc<str>, Arc<str>);

/// What is kept for one plugin in one step of one flow.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    values: Mutex<KeyValues>,
    metric_names: Mutex<MetricNames>,
}

#[derive(Debug, Default)]
struct KeyValues {
    map: HashMap<Box<str>, Vec<u8>>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct MetricNames {
    known: HashSet<Box<str>>,
    dropped: u64,
}

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StateLimits {
    pub(crate) keys: usize,
    pub(crate) bytes: usize,
}

/// Why a metric was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetricRefused {
    /// How many have been refused, this one included.
    pub(crate) dropped: u64,
}

// === impl Memories ===

impl Memories {
    /// What is kept there; the same for as long as the process lives. What is empty and of no use to anyone is forgotten
    /// on the way, so that flows that come and go do not add up.
    pub(crate) fn of(&self, flow: &Arc<str>, step: &Arc<str>, plugin: &Arc<str>) -> Arc<Memory> {
        let mut all = lock(&self.0);
        all.retain(|_, memory| Arc::strong_count(memory) > 1 || !memory.is_empty());
        all.entry((flow.clone(), step.clone(), plugin.clone())).or_default().clone()
    }
}

// === impl Memory ===

impl Memory {
    fn is_empty(&self) -> bool {
        lock(&self.values).map.is_empty() && lock(&self.metric_names).known.is_empty()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        lock(&self.values).map.get(key).cloned()
    }

    /// # Errors
    /// Says which limit was passed.
    pub(crate) fn set(&self, key: &str, value: &[u8], limits: StateLimits) -> Result<(), String> {
        lock(&self.values).set(key, value, limits)
    }

    pub(crate) fn delete(&self, key: &str) {
        let mut values = lock(&self.values);
        if let Some(old) = values.map.remove(key) {
            values.bytes -= key.len() + old.len();
        }
    }

    /// # Errors
    /// Says which limit was passed.
    pub(crate) fn increment(&self, key: &str, amount: i64, limits: StateLimits) -> Result<i64, String> {
        let mut values = lock(&self.values);
        let old = values.map.get(key).and_then(|v| std::str::from_utf8(v).ok()?.parse::<i64>().ok());
        let new = old.unwrap_or(0).saturating_add(amount);
        values.set(key, new.to_string().as_bytes(), limits)?;
        Ok(new)
    }

    /// Whether a metric of that name may be counted.
    ///
    /// # Errors
    /// The name is one too many, or not a name.
    pub(crate) fn admit_metric(&self, name: &str) -> Result<(), MetricRefused> {
        let mut names = lock(&self.metric_names);
        if names.known.contains(name) {
            return Ok(());
        }
        let is_name =
            !name.is_empty() && name.len() <= MAX_METRIC_NAME_BYTES && !name.chars().any(char::is_control);
        if names.known.len() >= MAX_METRIC_NAMES || !is_name {
            names.dropped = names.dropped.saturating_add(1);
            return Err(MetricRefused { dropped: names.dropped });
        }
        names.known.insert(name.into());
        Ok(())
    }
}

// === impl KeyValues ===

impl KeyValues {
    fn set(&mut self, key: &str, value: &[u8], limits: StateLimits) -> Result<(), String> {
        if key.len() > MAX_KEY_BYTES {
            return Err(format!("a key of {} bytes is longer than the limit of {MAX_KEY_BYTES}", key.len()));
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!(
                "a value of {} bytes is longer than the limit of {MAX_VALUE_BYTES}",
                value.len()
            ));
        }
        let old = self.map.get(key);
        if old.is_none() && self.map.len() >= limits.keys {
            return Err(format!("the limit of {} keys is reached (limits.state_keys)", limits.keys));
        }
        let freed = old.map_or(0, |old| key.len() + old.len());
        let bytes = self.bytes - freed + key.len() + value.len();
        if bytes > limits.bytes {
            return Err(format!("the limit of {} bytes is reached (limits.state_bytes)", limits.bytes));
        }
        self.bytes = bytes;
        self.map.insert(key.into(), value.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StateLimits = StateLimits { keys: 2, bytes: 20 };

    #[test]
    fn every_limit_holds_and_what_is_replaced_is_given_back() {
        let memory = Memory::default();
        memory.set("a", b"0123456789", LIMITS).unwrap();
        memory.set("a", b"9876543210", LIMITS).unwrap();
        assert!(memory.set("b", b"0123456789", LIMITS).unwrap_err().contains("state_bytes"));
        memory.set("b", b"", LIMITS).unwrap();
        assert!(memory.set("c", b"", LIMITS).unwrap_err().contains("state_keys"));
        memory.delete("a");
        memory.delete("a");
        memory.set("c", b"0123456789", LIMITS).unwrap();
        let wide = StateLimits { keys: 10, bytes: usize::MAX };
        assert!(memory.set(&"k".repeat(MAX_KEY_BYTES + 1), b"", wide).is_err());
        assert!(memory.set("k", &vec![0; MAX_VALUE_BYTES + 1], wide).is_err());
    }

    #[test]
    fn increment_counts_from_nothing_and_saturates() {
        let memory = Memory::default();
        assert_eq!(memory.increment("n", 2, LIMITS), Ok(2));
        assert_eq!(memory.increment("n", -5, LIMITS), Ok(-3));
        assert_eq!(memory.get("n").unwrap(), b"-3");
        memory.set("n", b"no number", LIMITS).unwrap();
        assert_eq!(memory.increment("n", 1, LIMITS), Ok(1));
        let wide = StateLimits { keys: 10, bytes: 1000 };
        assert_eq!(memory.increment("m", i64::MAX, wide), Ok(i64::MAX));
        assert_eq!(memory.increment("m", 1, wide), Ok(i64::MAX));
    }

    #[test]
    fn the_same_place_finds_its_state_again_and_another_does_not() {
        let memories = Memories::default();
        let [flow, step, other, plugin]: [Arc<str>; 4] = ["flow".into(), "1".into(), "2".into(), "p".into()];
        memories.of(&flow, &step, &plugin).set("k", b"v", LIMITS).unwrap();
        assert_eq!(memories.of(&flow, &step, &plugin).get("k").unwrap(), b"v");
        assert_eq!(memories.of(&flow, &other, &plugin).get("k"), None);
        memories.of(&flow, &step, &plugin);
        assert_eq!(lock(&memories.0).len(), 1, "what is empty is forgotten");
    }

    #[test]
    fn metrics_have_at_most_32_names() {
        let memory = Memory::default();
        for i in 0..MAX_METRIC_NAMES {
            memory.admit_metric(&format!("m{i}")).unwrap();
        }
        assert_eq!(memory.admit_metric("another"), Err(MetricRefused { dropped: 1 }));
        assert_eq!(memory.admit_metric(""), Err(MetricRefused { dropped: 2 }));
        memory.admit_metric("m0").unwrap();
    }
}
