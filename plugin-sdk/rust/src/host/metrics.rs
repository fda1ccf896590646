//! Numbers for the runtime's metrics. Needs the grant `metrics`. At most 32 names a plugin; more are dropped and counted.

/// Adds to the counter `name`.
pub fn add(name: &str, amount: u64) {
    #[cfg(target_family = "wasm")]
    crate::bindings::capabilities::gristmill::plugin::metrics::add(name, amount);
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| {
        let counter = double.counters.entry(name.to_owned()).or_default();
        *counter = counter.saturating_add(amount);
    });
}

/// Sets the gauge `name`.
pub fn set_gauge(name: &str, value: f64) {
    #[cfg(target_family = "wasm")]
    crate::bindings::capabilities::gristmill::plugin::metrics::set_gauge(name, value);
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| {
        double.gauges.insert(name.to_owned(), value);
    });
}
