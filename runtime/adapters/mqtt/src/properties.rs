//! What a PUBLISH says besides its body, as headers of a message, and back. `docs/adapters/mqtt.md` has the table.

use data_encoding::BASE64;
use gristmill_core::{Headers, message::CONTENT_TYPE};
use rumqttc_v5::mqttbytes::v5::{Publish, PublishProperties};

/// Names that begin so are the adapter's own. A peer cannot forge them: a user property of such a name is dropped.
pub(crate) const RESERVED_PREFIX: &str = "mqtt-";
/// The topic that the message was published to.
pub(crate) const TOPIC: &str = "mqtt-topic";
/// The quality of service it came with: `0`, `1`, `2`.
pub(crate) const QOS: &str = "mqtt-qos";
/// `true` when the broker had kept it from before the subscription.
pub(crate) const RETAIN: &str = "mqtt-retain";
/// `true` when the broker may have sent it before.
pub(crate) const DUP: &str = "mqtt-dup";
/// Where the sender wants an answer.
pub(crate) const RESPONSE_TOPIC: &str = "mqtt-response-topic";
/// What the sender wants to find in the answer, when it is text.
pub(crate) const CORRELATION: &str = "mqtt-correlation-data";
/// The same in base64, when it is not.
pub(crate) const CORRELATION_BASE64: &str = "mqtt-correlation-data-base64";
/// How many seconds were left of its life when the broker sent it.
pub(crate) const MESSAGE_EXPIRY: &str = "mqtt-message-expiry-s";

/// The headers of a message. What no header can hold (a control character, a name with a space) and what would pass for the
/// adapter's own is left out: the second value says how many user properties.
pub(crate) fn to_headers(publish: &Publish) -> (Headers, usize) {
    let mut headers = Headers::new();
    let mut left_out = 0;
    let mut set = |name: &str, value: &str| headers.append(name, value).is_ok();
    // A broker that sends what is not UTF-8 here breaks the protocol; the codec has refused it.
    set(TOPIC, &String::from_utf8_lossy(&publish.topic));
    set(
        QOS,
        match publish.qos as u8 {
            0 => "0",
            1 => "1",
            _ => "2",
        },
    );
    set(RETAIN, if publish.retain { "true" } else { "false" });
    set(DUP, if publish.dup { "true" } else { "false" });
    if let Some(properties) = &publish.properties {
        if let Some(text) = &properties.content_type {
            set(CONTENT_TYPE, text);
        }
        if let Some(topic) = &properties.response_topic {
            set(RESPONSE_TOPIC, topic);
        }
        if let Some(data) = &properties.correlation_data {
            let is_set = std::str::from_utf8(data).is_ok_and(|text| set(CORRELATION, text));
            if !is_set {
                set(CORRELATION_BASE64, &BASE64.encode(data));
            }
        }
        if let Some(seconds) = properties.message_expiry_interval {
            set(MESSAGE_EXPIRY, &seconds.to_string());
        }
        for (name, value) in &properties.user_properties {
            let is_reserved = is_reserved(name);
            if is_reserved || !set(name, value) {
                left_out += 1;
            }
        }
    }
    (headers, left_out)
}

/// Whether a user property or a header of that name would pass for something else.
pub(crate) fn is_reserved(name: &str) -> bool {
    let begins = name.get(..RESERVED_PREFIX.len());
    begins.is_some_and(|it| it.eq_ignore_ascii_case(RESERVED_PREFIX))
        || name.eq_ignore_ascii_case(CONTENT_TYPE)
}

/// The correlation data with which a message came.
///
/// # Errors
/// The header that should hold base64 does not.
pub(crate) fn correlation_of(headers: &Headers) -> Result<Option<bytes::Bytes>, &'static str> {
    if let Some(text) = headers.get(CORRELATION) {
        return Ok(Some(text.to_owned().into()));
    }
    match headers.get(CORRELATION_BASE64) {
        Some(text) => match BASE64.decode(text.as_bytes()) {
            Ok(data) => Ok(Some(data.into())),
            Err(_) => Err("its header `mqtt-correlation-data-base64` is not base64"),
        },
        None => Ok(None),
    }
}

/// No properties at all.
pub(crate) fn none() -> PublishProperties {
    PublishProperties::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::QoS;

    fn headers(properties: PublishProperties) -> (Headers, usize) {
        let mut publish = Publish::new("a/b", QoS::AtLeastOnce, "", Some(properties));
        publish.dup = true;
        to_headers(&publish)
    }

    #[test]
    fn every_property_has_its_header() {
        let (headers, left_out) = headers(PublishProperties {
            message_expiry_interval: Some(60),
            response_topic: Some("answers".into()),
            correlation_data: Some("c-1".into()),
            user_properties: vec![("Line".into(), "7".into()), ("line".into(), "8".into())],
            content_type: Some("text/plain".into()),
            ..none()
        });
        assert_eq!(left_out, 0);
        assert_eq!(
            headers.iter().collect::<Vec<_>>(),
            [
                ("mqtt-topic", "a/b"),
                ("mqtt-qos", "1"),
                ("mqtt-retain", "false"),
                ("mqtt-dup", "true"),
                ("content-type", "text/plain"),
                ("mqtt-response-topic", "answers"),
                ("mqtt-correlation-data", "c-1"),
                ("mqtt-message-expiry-s", "60"),
                ("line", "7"),
                ("line", "8"),
            ]
        );
    }

    #[test]
    fn correlation_data_comes_back_as_it_was() {
        for data in [&b"text"[..], b"", b"\0\xff\n", b"tab\t"] {
            let (headers, _) =
                headers(PublishProperties { correlation_data: Some(data.to_vec().into()), ..none() });
            assert_eq!(correlation_of(&headers).unwrap().unwrap(), data);
        }
        let mut wrong = Headers::new();
        wrong.append(CORRELATION_BASE64, "?").unwrap();
        assert!(correlation_of(&wrong).is_err());
    }

    #[test]
    fn a_sender_cannot_forge_what_the_adapter_says() {
        let forged = ["MQTT-Topic", "mqtt-x", "Content-Type", "a b", "ä"];
        let user_properties = forged.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        let (headers, left_out) = headers(PublishProperties { user_properties, ..none() });
        assert_eq!((headers.len(), left_out), (4, forged.len()));
        assert_eq!(headers.get(TOPIC), Some("a/b"));
    }
}
