//! The messages of a scenario: each is made of its number and the scenario's seed, so that whoever sees one can tell
//! whether it is whole, whose it is, and whether it went through the plugin.

use crate::dice::{Dice, fingerprint};

/// The messages of one scenario.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    seed: u64,
}

/// What the plugin puts before the body, by its version.
pub const MARKS: [&str; 2] = ["1:", "2:"];

impl Messages {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// `NUMBER-CHECKSUM-PAYLOAD`, one line of text. Most are short; one in a hundred is larger than a socket's chunk.
    pub fn body(&self, number: u64) -> String {
        let mut dice = Dice::new(self.seed ^ number.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let length = match dice.below(100) {
            0 => dice.within(20_000, 60_000),
            1..=9 => dice.within(500, 6_000),
            _ => dice.within(10, 300),
        };
        let mut payload = String::new();
        for _ in 0..length.div_ceil(8) {
            // 8 letters of 5 bits each out of one number.
            let bits = dice.number();
            payload.extend(
                (0..8).map(|at| char::from(b'a' + u8::try_from((bits >> (at * 5)) & 15).unwrap_or(0))),
            );
        }
        let sum = fingerprint(format!("{}/{number}/{payload}", self.seed).as_bytes());
        format!("{number}-{sum:016x}-{payload}")
    }

    /// The number of a body that came out of the plugin.
    ///
    /// # Errors
    /// It is not one of these messages, or not as it was sent, or did not go through the plugin.
    pub fn marked(&self, bytes: &[u8]) -> Result<u64, String> {
        let rest = MARKS.iter().find_map(|mark| bytes.strip_prefix(mark.as_bytes()));
        self.number(rest.ok_or_else(|| format!("it has no mark of the plugin: {}", excerpt(bytes)))?)
    }

    /// The number of a body that is as it was sent.
    ///
    /// # Errors
    /// It is not one of these messages, or not as it was sent.
    pub fn number(&self, bytes: &[u8]) -> Result<u64, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| format!("it is no text: {}", excerpt(bytes)))?;
        let number = text.split('-').next().and_then(|number| number.parse().ok());
        let number: u64 = number.ok_or_else(|| format!("it has no number: {}", excerpt(bytes)))?;
        if text == self.body(number) {
            Ok(number)
        } else {
            Err(format!("message {number} is not as it was sent ({} bytes): {}", bytes.len(), excerpt(bytes)))
        }
    }
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..60).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_again_and_a_changed_one_is_not() {
        let messages = Messages::new(4);
        for number in 0..500 {
            let body = messages.body(number);
            assert!(!body.contains(['\n', '\r']));
            assert_eq!(messages.number(body.as_bytes()), Ok(number));
            assert_eq!(messages.marked(format!("2:{body}").as_bytes()), Ok(number));
            assert!(messages.marked(body.as_bytes()).is_err());
            assert!(messages.number(&body.as_bytes()[..body.len() - 1]).is_err());
            assert!(messages.number(body.replacen('-', "-0", 1).as_bytes()).is_err());
            assert!(Messages::new(5).number(body.as_bytes()).is_err(), "those of others are not known");
        }
    }
}
