//! What a session takes of what the broker sends, and what it leaves.

use gristmill_core::{Headers, Message, MessageId, limits::FlowLimits};
use rumqttc_v5::mqttbytes::v5::{PubRec, Publish};
use tokio::time::Instant;

use super::Session;
use crate::{
    link::{Link, LinkError},
    properties,
    source::{inbox::Offer, ledger::Arrival},
    wire::{Packet, QoS},
};

impl Session {
    pub(super) fn published(&mut self, publish: Publish, link: &mut Link) -> Result<(), LinkError> {
        self.emptying.lost_at = None;
        self.stir();
        if self.has_overflowed && publish.qos != QoS::AtMostOnce {
            return Ok(());
        }
        match self.ledger.arrived(&publish) {
            Arrival::Known => return Ok(()),
            Arrival::AcknowledgeAgain => return link.send(Packet::PubRec(PubRec::new(publish.pkid, None))),
            Arrival::New => {}
        }
        if !self.takes() {
            // Left to the session; of QoS 0 there is nothing to leave.
            self.has_overflowed |= publish.qos != QoS::AtMostOnce;
            return Ok(());
        }
        if publish.qos == QoS::AtMostOnce {
            if self.inbox.len() >= self.settings.buffer_messages {
                self.drop_one(
                    "overflow",
                    "the flow does not keep up with QoS 0; what is above `buffer_messages` is dropped",
                );
                return Ok(());
            }
        } else if self.has_too_many() {
            self.has_overflowed = true;
            tracing::warn!(
                target: "gristmill::mqtt", flow = &*self.settings.context.flow,
                "the broker sends more than the flow keeps up with; it is asked again when the flow has settled what it has"
            );
            return Ok(());
        }
        self.take(&publish);
        Ok(())
    }

    /// Whether the broker has sent more than the flow keeps up with: 3.1.1 has no word for how much that is, and Mosquitto 2.0
    /// sends more than it was told when a session goes on with messages that have waited.
    fn has_too_many(&self) -> bool {
        self.ledger.owed() >= 2 * usize::from(self.settings.dial.receive_maximum)
    }

    /// Whether the rest may wait with the broker. Not while other settings wait for their answer, which would wait behind it,
    /// for meanwhile no one takes messages.
    pub(super) fn has_enough(&self) -> bool {
        let is_awaited = self.before().is_some() || self.alive.is_some();
        self.takes() && self.has_too_many() && !is_awaited
    }

    fn take(&mut self, publish: &Publish) {
        let limits = &self.settings.context.limits;
        let (headers, left_out) = properties::to_headers(publish);
        if left_out > 0 {
            tracing::debug!(target: "gristmill::mqtt", left_out, "user properties that no header can hold are left out");
        }
        if let Some(text) = over_limit(limits, publish, &headers) {
            self.ledger.refuse(publish);
            self.drop_one("too_large", &text);
            return;
        }
        // The sequence is taken by `accept`; the id has to be known before.
        let id = MessageId::numbered(&self.id_prefix, self.ledger.next_sequence());
        let message = Message::new(id, self.settings.context.clock.now(), publish.payload.clone())
            .with_headers(headers);
        let sequence = self.ledger.accept(publish, message.clone());
        self.inbox.push(Offer { sequence, message, redelivered: publish.dup });
    }

    /// Counts a message that is dropped; the log has the first, and then each power of two.
    fn drop_one(&mut self, reason: &'static str, text: &str) {
        self.settings.context.observer.refused(reason);
        self.dropped += 1;
        if self.dropped.is_power_of_two() {
            tracing::warn!(
                target: "gristmill::mqtt", flow = &*self.settings.context.flow, dropped = self.dropped, "{text}"
            );
        }
    }

    /// Offers again what has waited long enough.
    pub(super) fn retry(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some((sequence, message)) = self.ledger.retry(now) {
            due.push(Offer { sequence, message, redelivered: true });
        }
        for offer in due.into_iter().rev() {
            self.inbox.push_again(offer);
        }
    }
}

/// What is said of a message that is over a limit of the flow.
fn over_limit(limits: &FlowLimits, publish: &Publish, headers: &Headers) -> Option<String> {
    let header_bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let (found, unit, key, limit) = [
        (publish.payload.len(), "bytes", "body_bytes", limits.body_bytes),
        (headers.len(), "headers", "headers", limits.headers),
        (header_bytes, "bytes of headers", "header_bytes", limits.header_bytes),
    ]
    .into_iter()
    .find(|(found, _, _, limit)| found > limit)?;
    let topic: String = String::from_utf8_lossy(&publish.topic).escape_debug().take(200).collect();
    Some(format!(
        "a message to the topic `{topic}` is acknowledged and dropped: it has {found} {unit}, and `limits.{key}` of the flow is {limit}; \
         raise it, or have less sent"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_over_a_limit_is_named_with_what_it_has_and_what_it_may_have() {
        let limits = FlowLimits { body_bytes: 10, headers: 2, header_bytes: 100, ..FlowLimits::default() };
        let publish = |body: &str| Publish::new("a\n/b", QoS::AtLeastOnce, body.to_owned(), None);
        let mut headers = Headers::new();
        headers.append("one", "1").unwrap();
        assert_eq!(over_limit(&limits, &publish("0123456789"), &headers), None);
        let text = over_limit(&limits, &publish("0123456789a"), &headers).unwrap();
        assert!(
            text.contains("`a\\n/b`")
                && text.contains("11 bytes")
                && text.contains("`limits.body_bytes` of the flow is 10"),
            "{text}"
        );
        headers.append("two", &"2".repeat(98)).unwrap();
        let text = over_limit(&limits, &publish(""), &headers).unwrap();
        assert!(
            text.contains("105 bytes of headers")
                && text.contains("`limits.header_bytes` of the flow is 100"),
            "{text}"
        );
        headers.append("three", "3").unwrap();
        let text = over_limit(&limits, &publish(""), &headers).unwrap();
        assert!(text.contains("3 headers") && text.contains("`limits.headers` of the flow is 2"), "{text}");
    }
}
