//! Ids for messages that come without one.

use gristmill_core::Timestamp;

/// A new id that no other message has: 48 bits of time and 80 of chance, as a ULID has them, in 26 characters whose order
/// as text is the order of the times.
pub(crate) fn new(now: Timestamp) -> String {
    const RANDOM_BITS: u32 = 80;
    let time = u128::from(now.as_millis()) << RANDOM_BITS;
    let random = rand::random::<u128>() >> (u128::BITS - RANDOM_BITS);
    to_text(time | random)
}

/// Crockford's base 32, five bits a character, the topmost three bits first.
fn to_text(bits: u128) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    const CHARACTERS: u32 = 26;
    (0..CHARACTERS)
        .rev()
        .filter_map(|place| ALPHABET.get(((bits >> (5 * place)) & 31) as usize))
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_sort_by_time() {
        let at = |millis| new(Timestamp::from_millis(millis));
        let ids: HashSet<_> = (0..10_000).map(|_| at(1_769_860_800_000)).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.len() == 26));
        assert!(at(1_769_860_800_000) < at(1_769_860_800_001));
    }

    /// The example of the ULID specification has the time 01ARZ3NDEK, which is 1469922850259.
    #[test]
    fn the_text_is_that_of_the_specification() {
        assert!(new(Timestamp::from_millis(1_469_922_850_259)).starts_with("01ARZ3NDEK"));
        assert_eq!(to_text(u128::MAX), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(to_text(0), "0".repeat(26));
    }
}
