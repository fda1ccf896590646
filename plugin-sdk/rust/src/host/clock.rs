//! The time. Needs the grant `clock`; without it a plugin has no clock, and `std::time` stands still.

/// Milliseconds since 1970-01-01T00:00:00Z.
#[must_use]
pub fn now_ms() -> u64 {
    #[cfg(target_family = "wasm")]
    return crate::bindings::capabilities::gristmill::plugin::clock::now_ms();
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| double.now_ms)
}

/// Nanoseconds since an arbitrary moment; never goes back.
#[must_use]
pub fn monotonic_ns() -> u64 {
    #[cfg(target_family = "wasm")]
    return crate::bindings::capabilities::gristmill::plugin::clock::monotonic_ns();
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| double.now_ms.saturating_mul(1_000_000))
}
