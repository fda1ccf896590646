//! For a plugin's native tests: configure it as the host would, and look into the capabilities' doubles. Each thread,
//! and so each test, has its own.

use schemars::JsonSchema;
use serde_json::Value;

pub use crate::host::log::Level;
use crate::{Router, Transformer, host::double};

/// Makes a transformer from JSON text, by the same road as in the host.
///
/// # Errors
/// When the text does not fit the configuration, or the plugin refuses it.
pub fn configure<T: Transformer>(config: &str) -> Result<T, String> {
    T::configure(crate::configure::parse(config)?)
}

/// Makes a router from JSON text, by the same road as in the host.
///
/// # Errors
/// When the text does not fit the configuration, or the plugin refuses it.
pub fn configure_router<R: Router>(config: &str) -> Result<R, String> {
    R::configure(crate::configure::parse(config)?)
}

/// The JSON Schema that a configuration type exports.
#[must_use]
pub fn schema<C: JsonSchema>() -> Value {
    schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<C>().to_value()
}

/// The lines logged so far.
#[must_use]
pub fn logged() -> Vec<(Level, String)> {
    double::with(|double| double.log.clone())
}

/// Sets the clock, in milliseconds since 1970-01-01T00:00:00Z. It stands still until it is set again.
pub fn set_now_ms(now_ms: u64) {
    double::with(|double| double.now_ms = now_ms);
}

/// A counter's value; 0 when it was never added to.
#[must_use]
pub fn counter(name: &str) -> u64 {
    double::with(|double| double.counters.get(name).copied().unwrap_or(0))
}

/// A gauge's value, if it was ever set.
#[must_use]
pub fn gauge(name: &str) -> Option<f64> {
    double::with(|double| double.gauges.get(name).copied())
}
