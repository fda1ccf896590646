//! Sets one header out of another, and keeps the body. It does next to nothing with the message, so what a call costs is
//! what it costs to get there and back.

use gristmill_plugin::{Change, Failure, Message, NoConfig, Outcome, Transformer, Wants, export_transformer};

/// The header that is read.
pub const READS: &str = "x-region";

/// The header that is set.
pub const SETS: &str = "x-queue";

/// The plugin.
#[derive(Debug)]
pub struct SetHeader;

/// The work itself, which the bench also calls natively.
pub fn queue_of(region: &str) -> String {
    format!("orders.{region}")
}

impl Transformer for SetHeader {
    type Config = NoConfig;

    fn wants() -> Wants {
        Wants::body().header(READS)
    }

    fn configure(NoConfig {}: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn transform(&self, message: Message) -> Result<Outcome, Failure> {
        let region = message.header(READS).ok_or_else(|| Failure::reject("there is no x-region"))?;
        Ok(Change::new().set_header(SETS, queue_of(region)).into())
    }
}

export_transformer!(SetHeader);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_that_of_the_region() {
        let message = Message::with_body("{}").with_header(READS, "north");
        let outcome = SetHeader.transform(message).unwrap();
        assert_eq!(outcome, Change::new().set_header(SETS, "orders.north").into());
    }

    #[test]
    fn a_message_without_a_region_is_rejected() {
        let failure = SetHeader.transform(Message::with_body("{}")).unwrap_err();
        assert_eq!(failure, Failure::reject("there is no x-region"));
    }
}
