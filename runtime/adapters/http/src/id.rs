//! Ids for messages that come without one.

use gristmill_core::{MessageId, Timestamp};

/// A new id that no other message has: 48 bits of time and 80 of chance, as a ULID has them, in 26 characters whose order
/// as text is the order of the times.
pub(crate) fn new(now: Timestamp) -> MessageId {
    const RANDOM_BITS: u32 = 80;
    let time = u128::from(now.as_millis()) << RANDOM_BITS;
    let random = rand::random::<u128>() >> (u128::BITS - RANDOM_BITS);
    let characters = characters(time | random);
    // All of them are ASCII.
    MessageId::from(std::str::from_utf8(&characters).unwrap_or_default())
}

/// Crockford's base 32, five bits a character, the topmost three bits first.
fn characters(mut bits: u128) -> [u8; 26] {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut characters = [b'0'; 26];
    for character in characters.iter_mut().rev() {
        if let Some(byte) = ALPHABET.get((bits & 31) as usize) {
            *character = *byte;
        }
        bits >>= 5;
    }
    characters
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
        assert!(ids.iter().all(|id| id.as_str().len() == 26));
        assert!(at(1_769_860_800_000) < at(1_769_860_800_001));
    }

    /// The example of the ULID specification has the time 01ARZ3NDEK, which is 1469922850259.
    #[test]
    fn the_text_is_that_of_the_specification() {
        assert!(new(Timestamp::from_millis(1_469_922_850_259)).as_str().starts_with("01ARZ3NDEK"));
        assert_eq!(&characters(u128::MAX), b"7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(characters(0), [b'0'; 26]);
    }
}
