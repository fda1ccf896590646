//! Wants every header and changes nothing, so what a call costs is what it costs to hand the headers over.

use gristmill_plugin::{Change, Failure, Message, NoConfig, Outcome, Transformer, Wants, export_transformer};

/// The plugin.
#[derive(Debug)]
pub struct AllHeaders;

impl Transformer for AllHeaders {
    type Config = NoConfig;

    fn wants() -> Wants {
        Wants::no_body().all_headers()
    }

    fn configure(NoConfig {}: NoConfig) -> Result<Self, String> {
        Ok(Self)
    }

    fn transform(&self, message: Message) -> Result<Outcome, Failure> {
        // Looked at, so that no compiler finds out that they are not needed.
        if message.headers.iter().any(|(name, _)| name.is_empty()) {
            return Err(Failure::reject("a header has no name"));
        }
        Ok(Change::new().into())
    }
}

export_transformer!(AllHeaders);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_changed() {
        let message = Message::with_body("{}").with_header("a", "1");
        assert_eq!(AllHeaders.transform(message).unwrap(), Change::new().into());
    }
}
