//! A delivery: a message on its way, with what it owes to its source.

use bytes::Bytes;

use crate::{acknowledgement::Acknowledgement, message::Headers, message::Message};

/// A message on its way through a flow, with the acknowledgement it owes to its source.
#[derive(Debug)]
pub struct Delivery {
    /// The message as the source gave it.
    pub message: Message,
    /// What is owed. Also carries the reply, for sources that answer.
    pub acknowledgement: Acknowledgement,
    /// Whether the source knows that it has offered this message before.
    pub redelivered: bool,
}

/// What a request/reply source answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The status, for protocols that have one (RFC 9110 section 15); `None` leaves it to the source.
    pub status: Option<u16>,
    /// Headers of the answer.
    pub headers: Headers,
    /// The body of the answer.
    pub body: Bytes,
}

impl Delivery {
    /// A delivery that is offered for the first time, as far as the source knows.
    pub fn new(message: Message, acknowledgement: Acknowledgement) -> Self {
        Self { message, acknowledgement, redelivered: false }
    }
}
