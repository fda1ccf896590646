//! Random bytes fit for cryptography. Needs the grant `random`.

/// `length` random bytes. The host traps above 65,536. Natively a fixed sequence, so that tests repeat.
#[must_use]
pub fn bytes(length: u32) -> Vec<u8> {
    #[cfg(target_family = "wasm")]
    return crate::bindings::capabilities::gristmill::plugin::random::get_bytes(length);
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| (0..length).map(|_| double.next_random()).collect())
}

/// A random number over the whole range of 64 bits.
#[must_use]
pub fn u64() -> u64 {
    bytes(8).into_iter().fold(0, |number, byte| (number << 8) | u64::from(byte))
}
