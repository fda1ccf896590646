//! A message on its way from a send to the publisher, and how it ended.

use gristmill_core::{ErrorClass, Failure, HeaderPatterns, Headers, sink::Answer};
use lapin::BasicProperties;
use tokio::sync::oneshot;

use super::{line::Outbound, window::Waiting};

/// A message to publish.
#[derive(Debug)]
pub(crate) struct Job {
    pub(super) message: Outbound,
    /// Its place before those who may not overtake it, until it is published.
    pub(super) waiting: Option<Waiting>,
    /// Closed when the send has given up.
    pub(crate) done: oneshot::Sender<Result<Option<Reply>, Failure>>,
}

/// A reply to a call.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

// === impl Job ===

impl Job {
    /// Tells the send how it ended. One that has given up does not hear it.
    pub(crate) fn end(self, result: Result<Option<Reply>, Failure>) {
        let _given_up = self.done.send(result);
    }
}

// === impl Reply ===

impl Reply {
    /// The reply as the new message.
    ///
    /// # Errors
    /// It is over the limit.
    pub(crate) fn into_answer(self, wanted: &HeaderPatterns, limit: usize) -> Result<Answer, Failure> {
        if self.body.len() > limit {
            let size = self.body.len();
            let text =
                format!("the reply has {size} bytes, more than the limit of {limit} (limits.body_bytes)");
            return Err(Failure::new(ErrorClass::Limit, text));
        }
        let mut headers = Headers::new();
        for (name, value) in crate::header_map::headers_of(&self.properties).iter() {
            if wanted.takes(name) {
                // Good by the way they were made.
                let _good = headers.append(name, value);
            }
        }
        Ok(Answer { headers, body: self.body.into() })
    }
}
