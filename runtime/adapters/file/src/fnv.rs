//! FNV-1a with 64 bits: the same on every machine and in every version, for what ends up in names and ids. Tells apart what
//! differs by chance, not what someone makes alike.

/// The hash of these bytes.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
