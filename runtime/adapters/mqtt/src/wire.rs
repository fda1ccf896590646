//! Packets on the wire. The runtime speaks MQTT 5.0 throughout, in the packet types of `rumqttc-v5-next`; for a 3.1.1 broker
//! they are translated here, to and from those of `rumqttc-v4-next`. What 3.1.1 has no place for (properties, reasons) is left
//! out on the way out and absent on the way in.
//!
//! Of the client library only packets and codecs are used. Its event loop refuses every SUBSCRIBE on a session that an earlier
//! process left at the broker (`broker_only_session_resume`), has no limit for a write to a peer that does not read, and
//! unwraps; what stands in its place is `link.rs`.

use bytes::{Buf as _, BytesMut};
use rumqttc_v4::mqttbytes::{self as core4, v4};
use rumqttc_v5::mqttbytes::{self as core5, v5};
use tokio_util::codec::Decoder;

use crate::{config::Version, reason::Reason};

pub(crate) use rumqttc_v5::mqttbytes::{QoS, v5::Packet};

/// The largest packet that the protocol has, in bytes: four bytes of seven bits, and the fixed header.
const MAX_PACKET_BYTES: usize = 268_435_455 + 5;

/// Reads and writes packets of one version of the protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codec {
    version: Version,
}

/// What a broker sends.
#[derive(Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "taken apart where it is given; a box would be one more allocation a packet"
)]
pub(crate) enum Incoming {
    /// What the library can read.
    Packet(Packet),
    /// A PUBACK or PUBREC that says no to the message of this packet identifier.
    Refused { packet: u16, reason: Reason },
    /// A DISCONNECT.
    Ended(Reason),
}

/// What cannot be read or written, in the library's words.
#[derive(Debug)]
pub(crate) struct WireError(pub(crate) String);

impl Codec {
    pub(crate) fn new(version: Version) -> Self {
        Self { version }
    }

    /// The packet as it is sent.
    ///
    /// # Errors
    /// It breaks a rule of the protocol. `to` is as it was.
    pub(crate) fn encode(self, packet: Packet, to: &mut BytesMut) -> Result<(), WireError> {
        if matches!(packet, Packet::Connect(..)) {
            // The library's CONNECT finds its flags by their place in the whole buffer.
            let mut alone = BytesMut::new();
            self.write(packet, &mut alone)?;
            to.extend_from_slice(&alone);
            return Ok(());
        }
        let before = to.len();
        // A packet that cannot be written leaves its beginning behind.
        self.write(packet, to).inspect_err(|_| to.truncate(before))
    }

    fn write(self, packet: Packet, to: &mut BytesMut) -> Result<(), WireError> {
        match self.version {
            Version::V5 => packet.write(to, None).map_err(in_words)?,
            Version::V311 => downgraded(packet)?.write(to, MAX_PACKET_BYTES).map_err(in_words)?,
        };
        Ok(())
    }
}

impl Decoder for Codec {
    type Item = Incoming;
    type Error = WireError;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<Incoming>, WireError> {
        if !from.has_remaining() {
            return Ok(None);
        }
        match self.version {
            Version::V5 => match refusal(from) {
                Some((length, refusal)) => {
                    from.advance(length);
                    Ok(Some(refusal))
                }
                None => match v5::Packet::read(from, None) {
                    Ok(packet) => Ok(Some(Incoming::Packet(packet))),
                    Err(core5::Error::InsufficientBytes(_)) => Ok(None),
                    Err(error) => Err(in_words(error)),
                },
            },
            Version::V311 => match v4::Packet::read(from, MAX_PACKET_BYTES) {
                Ok(packet) => upgraded(packet).map(|packet| Some(Incoming::Packet(packet))),
                Err(core4::Error::InsufficientBytes(_)) => Ok(None),
                Err(error) => Err(in_words(error)),
            },
        }
    }
}

/// From IO, for what [`Decoder`] wants of its error.
impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole PUBACK or PUBREC that says no, or a DISCONNECT, at the beginning of what was read; and how many bytes it has.
fn refusal(from: &[u8]) -> Option<(usize, Incoming)> {
    const PUBACK: u8 = 0x40;
    const PUBREC: u8 = 0x50;
    const DISCONNECT: u8 = 0xe0;
    let (kind, rest) = from.split_first()?;
    if ![PUBACK, PUBREC, DISCONNECT].contains(kind) {
        return None;
    }
    // The length is in bytes of seven bits, the lowest first (section 1.5.5).
    let (mut length, mut digits) = (0, 0);
    for digit in rest.iter().take(4) {
        length |= usize::from(digit & 0x7f) << (7 * digits);
        digits += 1;
        if digit & 0x80 == 0 {
            let packet = rest.get(digits..digits + length)?;
            let incoming = match (*kind, packet) {
                // Without a code it is the good-bye of a server that goes.
                (DISCONNECT, packet) => Incoming::Ended(Reason(packet.first().copied().unwrap_or_default())),
                (_, [high, low, code, ..]) if *code >= Reason::FIRST_FAILURE => {
                    Incoming::Refused { packet: u16::from_be_bytes([*high, *low]), reason: Reason(*code) }
                }
                _ => return None,
            };
            return Some((1 + digits + length, incoming));
        }
    }
    None
}

fn in_words(error: impl std::fmt::Display) -> WireError {
    WireError(error.to_string())
}

/// What a client sends, in 3.1.1.
fn downgraded(packet: Packet) -> Result<v4::Packet, WireError> {
    Ok(match packet {
        Packet::Connect(connect, will, auth) => v4::Packet::Connect(v4::Connect {
            keep_alive: connect.keep_alive,
            client_id: connect.client_id,
            clean_session: connect.clean_start,
            last_will: will.map(|will| v4::LastWill {
                topic: String::from_utf8_lossy(&will.topic).into_owned(),
                message: will.message,
                qos: will.qos,
                retain: will.retain,
            }),
            auth: match auth {
                v5::ConnectAuth::Username { username } => v4::ConnectAuth::Username { username },
                v5::ConnectAuth::UsernamePassword { username, password } => {
                    v4::ConnectAuth::UsernamePassword { username, password }
                }
                v5::ConnectAuth::None | v5::ConnectAuth::Password { .. } => v4::ConnectAuth::None,
            },
        }),
        Packet::Publish(publish) => v4::Packet::Publish(v4::Publish {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic,
            pkid: publish.pkid,
            payload: publish.payload,
        }),
        Packet::PubAck(it) => v4::Packet::PubAck(v4::PubAck { pkid: it.pkid }),
        Packet::PubRec(it) => v4::Packet::PubRec(v4::PubRec { pkid: it.pkid }),
        Packet::PubRel(it) => v4::Packet::PubRel(v4::PubRel { pkid: it.pkid }),
        Packet::PubComp(it) => v4::Packet::PubComp(v4::PubComp { pkid: it.pkid }),
        Packet::Subscribe(subscribe) => v4::Packet::Subscribe(v4::Subscribe {
            pkid: subscribe.pkid,
            filters: subscribe
                .filters
                .into_iter()
                .map(|filter| v4::SubscribeFilter { path: filter.path, qos: filter.qos })
                .collect(),
        }),
        Packet::Unsubscribe(it) => {
            v4::Packet::Unsubscribe(v4::Unsubscribe { pkid: it.pkid, topics: it.filters })
        }
        Packet::PingReq => v4::Packet::PingReq,
        Packet::Disconnect(_) => v4::Packet::Disconnect,
        other => return Err(WireError(format!("a client of 3.1.1 sends no {:?}", other.packet_type()))),
    })
}

/// What a broker sends, in 5.0.
fn upgraded(packet: v4::Packet) -> Result<Packet, WireError> {
    Ok(match packet {
        v4::Packet::ConnAck(connack) => Packet::ConnAck(v5::ConnAck {
            session_present: connack.session_present,
            code: match connack.code {
                v4::ConnectReturnCode::Success => v5::ConnectReturnCode::Success,
                v4::ConnectReturnCode::RefusedProtocolVersion => {
                    v5::ConnectReturnCode::UnsupportedProtocolVersion
                }
                v4::ConnectReturnCode::BadClientId => v5::ConnectReturnCode::ClientIdentifierNotValid,
                v4::ConnectReturnCode::ServiceUnavailable => v5::ConnectReturnCode::ServerUnavailable,
                v4::ConnectReturnCode::BadUserNamePassword => v5::ConnectReturnCode::BadUserNamePassword,
                v4::ConnectReturnCode::NotAuthorized => v5::ConnectReturnCode::NotAuthorized,
            },
            properties: None,
        }),
        v4::Packet::Publish(publish) => Packet::Publish(v5::Publish {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic,
            pkid: publish.pkid,
            payload: publish.payload,
            properties: None,
        }),
        v4::Packet::PubAck(it) => Packet::PubAck(v5::PubAck::new(it.pkid, None)),
        v4::Packet::PubRec(it) => Packet::PubRec(v5::PubRec::new(it.pkid, None)),
        v4::Packet::PubRel(it) => Packet::PubRel(v5::PubRel::new(it.pkid, None)),
        v4::Packet::PubComp(it) => Packet::PubComp(v5::PubComp::new(it.pkid, None)),
        v4::Packet::SubAck(suback) => Packet::SubAck(v5::SubAck {
            pkid: suback.pkid,
            return_codes: suback
                .return_codes
                .into_iter()
                .map(|code| match code {
                    v4::SubscribeReasonCode::Success(qos) => v5::SubscribeReasonCode::Success(qos),
                    v4::SubscribeReasonCode::Failure => v5::SubscribeReasonCode::Failure,
                })
                .collect(),
            properties: None,
        }),
        v4::Packet::UnsubAck(it) => {
            Packet::UnsubAck(v5::UnsubAck { pkid: it.pkid, reasons: Vec::new(), properties: None })
        }
        v4::Packet::PingResp => Packet::PingResp,
        other => return Err(WireError(format!("a broker sends no {:?}", other.packet_type()))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish() -> Packet {
        let mut publish = v5::Publish::new("a/b", QoS::AtLeastOnce, "body", None);
        publish.pkid = 7;
        Packet::Publish(publish)
    }

    #[test]
    fn a_publish_is_the_same_after_the_way_over_either_version() {
        for version in [Version::V5, Version::V311] {
            let (mut codec, mut bytes) = (Codec::new(version), BytesMut::new());
            codec.encode(publish(), &mut bytes).unwrap();
            let last = bytes.split_off(bytes.len() - 1);
            assert_eq!(codec.decode(&mut bytes).unwrap(), None);
            bytes.extend_from_slice(&last);
            assert_eq!(codec.decode(&mut bytes).unwrap(), Some(Incoming::Packet(publish())));
            assert_eq!(codec.decode(&mut bytes).unwrap(), None);
        }
    }

    #[test]
    fn a_refusal_is_read_whatever_its_reason() {
        let mut bytes = BytesMut::new();
        let (ack, rec) = ([0x40, 4, 0, 7, 0x95, 0], [0x50, 3, 1, 0, 0xee]);
        for sent in
            [&ack[..], &rec, &[0x40, 2, 0, 8], &[0xe0, 2, 0x95, 0], &[0xe0, 0], &[0x40, 4, 0, 9, 0x95]]
        {
            bytes.extend_from_slice(sent);
        }
        let mut codec = Codec::new(Version::V5);
        let mut next = || codec.decode(&mut bytes).unwrap();
        let refused = |packet, reason| Some(Incoming::Refused { packet, reason: Reason(reason) });
        assert_eq!(next(), refused(7, 0x95));
        assert_eq!(next(), refused(256, 0xee));
        assert_eq!(next(), Some(Incoming::Packet(Packet::PubAck(v5::PubAck::new(8, None)))));
        assert_eq!(next(), Some(Incoming::Ended(Reason::PACKET_TOO_LARGE)));
        assert_eq!(next(), Some(Incoming::Ended(Reason(0))));
        assert_eq!(next(), None, "it is not whole");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        for version in [Version::V5, Version::V311] {
            let (codec, mut bytes) = (Codec::new(version), BytesMut::from(&b"before"[..]));
            let wild = Packet::Publish(v5::Publish::new("a/+", QoS::AtMostOnce, "body", None));
            assert!(codec.encode(wild, &mut bytes).is_err());
            assert_eq!(&bytes[..], b"before");
        }
    }

    #[test]
    fn a_packet_is_the_same_whatever_waits_before_it() {
        let connect = || {
            let connect =
                v5::Connect { keep_alive: 30, client_id: "c".into(), clean_start: true, properties: None };
            Packet::Connect(connect, None, v5::ConnectAuth::Username { username: "u".into() })
        };
        for version in [Version::V5, Version::V311] {
            for packet in [&connect as &dyn Fn() -> Packet, &publish] {
                let (codec, mut alone, mut behind) = (Codec::new(version), BytesMut::new(), BytesMut::new());
                codec.encode(packet(), &mut alone).unwrap();
                behind.extend_from_slice(b"before");
                codec.encode(packet(), &mut behind).unwrap();
                assert_eq!(behind.split_off(b"before".len()), alone);
            }
        }
    }
}
