//! What the broker says to a message, and what its send fails with.

use gristmill_core::{ErrorClass, Failure};
use lapin::{Confirmation, message::BasicReturnMessage};

use super::spec::Checked;
use crate::trouble::Trouble;

/// What the broker says to a publish.
pub(super) enum Answer {
    Ack,
    Nack,
    /// No queue takes it. With a call it may be of another one: see the publisher.
    Returned(Box<BasicReturnMessage>),
    /// The channel does not confirm.
    None,
}

/// What the broker says.
///
/// # Errors
/// The channel is gone.
pub(super) fn read(result: lapin::Result<Confirmation>) -> Result<Answer, Trouble> {
    match result {
        Ok(Confirmation::Ack(None)) => Ok(Answer::Ack),
        Ok(Confirmation::Nack(None)) => Ok(Answer::Nack),
        Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
            Ok(Answer::Returned(Box::new(returned)))
        }
        Ok(Confirmation::NotRequested) => Ok(Answer::None),
        Err(error) => Err(Trouble::from_error("publishing", &error)),
    }
}

/// What the answer to a message means for its send.
///
/// # Errors
/// The broker does not have the message.
pub(super) fn judge(checked: &Checked, answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::Ack => Ok(()),
        Answer::Returned(returned) => Err(returned_failure(checked, &returned)),
        Answer::Nack => {
            let text = format!(
                "{}: the broker refused the message; a queue is full, or cannot write",
                place(checked)
            );
            Err(Failure::new(ErrorClass::SinkUnavailable, text))
        }
        Answer::None => Err(Failure::new(ErrorClass::Internal, "the AMQP channel does not confirm")),
    }
}

/// The failure of a message whose channel or connection is in trouble.
pub(super) fn failure(checked: &Checked, trouble: &Trouble) -> Failure {
    Failure::new(ErrorClass::SinkUnavailable, format!("{}: {}", place(checked), trouble.text))
}

/// What is heard of a message whose connection is gone: nothing.
pub(super) fn broke_off() -> Trouble {
    Trouble::new("publishing: the connection broke off")
}

/// The failure of a message whose headers no frame has room for.
pub(super) fn too_large(checked: &Checked) -> Failure {
    let text = format!("{}: the headers are larger than the broker's frames", place(checked));
    Failure::new(ErrorClass::SinkRejected, text)
}

/// The failure of a message that the broker gave back.
pub(super) fn returned_failure(checked: &Checked, returned: &BasicReturnMessage) -> Failure {
    let key = returned.delivery.routing_key.as_str();
    let text = match returned.reply_code {
        312 => format!(
            "{}: no queue takes the routing key `{key}`; bind one, or correct `routing_key`",
            place(checked)
        ),
        code => format!("{}: the broker returned it: {} ({code})", place(checked), returned.reply_text),
    };
    Failure::new(ErrorClass::SinkReturned, text)
}

/// Where a sink publishes to, for texts.
pub(crate) fn place(checked: &Checked) -> String {
    let name = &checked.connection.name;
    match checked.exchange.as_str() {
        "" => format!("`{name}`, default exchange"),
        exchange => format!("`{name}`, exchange `{exchange}`"),
    }
}
