//! A client of MQTT 3.1.1 beside the runtime, which blocks: as much of the protocol as tests need, and what libraries hide,
//! such as whether the broker still had a session.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::PATIENCE;

/// The types of packets, in the upper half of their first byte (MQTT 3.1.1, section 2.2.1).
mod packet {
    pub(super) const CONNECT: u8 = 0x10;
    pub(super) const CONNACK: u8 = 0x20;
    pub(super) const PUBLISH: u8 = 0x30;
    pub(super) const PUBACK: u8 = 0x40;
    pub(super) const SUBSCRIBE: u8 = 0x80;
    pub(super) const SUBACK: u8 = 0x90;
    pub(super) const DISCONNECT: u8 = 0xe0;
}

/// A connection.
pub(crate) struct MqttClient {
    stream: TcpStream,
    session_present: bool,
    next_id: u16,
    /// What has come while something else was waited for.
    received: VecDeque<String>,
}

impl MqttClient {
    /// Connects, with a clean session.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr, id: &str) -> Self {
        Self::open(address, id, 2, None)
    }

    /// Connects with a user name and a password, with a clean session.
    #[track_caller]
    pub(crate) fn connect_as(address: SocketAddr, id: &str, user: (&str, &str)) -> Self {
        Self::open(address, id, 2, Some(user))
    }

    /// Whether the broker keeps a session for this client, which must not be connected. Leaves it as it is.
    #[track_caller]
    pub(crate) fn has_session(address: SocketAddr, id: &str) -> bool {
        Self::open(address, id, 0, None).session_present
    }

    fn open(address: SocketAddr, id: &str, flags: u8, user: Option<(&str, &str)>) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream, session_present: false, next_id: 0, received: VecDeque::new() };
        let credentials = if user.is_some() { 0xc0 } else { 0 };
        // Version 4, and no keep-alive.
        let mut body = [text("MQTT"), vec![4, flags | credentials, 0, 0], text(id)].concat();
        for part in user.iter().flat_map(|(name, password)| [name, password]) {
            body.extend(text(part));
        }
        client.send(packet::CONNECT, &body);
        let answer = client.wait_for(packet::CONNACK);
        assert_eq!(answer[1], 0, "the broker does not let {id} in");
        client.session_present = answer[0] == 1;
        client
    }

    /// Subscribes with QoS 1.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filter: &str) {
        let id = self.id();
        self.send(packet::SUBSCRIBE | 2, &[&id[..], &text(filter), &[1]].concat());
        assert_eq!(self.wait_for(packet::SUBACK)[2], 1, "the broker does not grant {filter}");
    }

    /// Publishes with QoS 1, and waits until the broker has it.
    #[track_caller]
    pub(crate) fn publish(&mut self, topic: &str, body: &str) {
        let id = self.id();
        self.send(packet::PUBLISH | 2, &[&text(topic)[..], &id, body.as_bytes()].concat());
        assert_eq!(self.wait_for(packet::PUBACK)[..2], id);
    }

    /// The next message, waiting for it.
    #[track_caller]
    pub(crate) fn take(&mut self) -> String {
        loop {
            if let Some(body) = self.received.pop_front() {
                return body;
            }
            self.read_one();
        }
    }

    fn id(&mut self) -> [u8; 2] {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.next_id.to_be_bytes()
    }

    fn send(&mut self, head: u8, body: &[u8]) {
        let mut packet = vec![head];
        let mut length = body.len();
        loop {
            let more = length >= 128;
            packet.push(u8::try_from(length % 128).unwrap() | if more { 128 } else { 0 });
            length /= 128;
            if !more {
                break;
            }
        }
        packet.extend(body);
        self.stream.write_all(&packet).unwrap();
    }

    /// The body of the next packet of this type. Messages that come before it are kept.
    #[track_caller]
    fn wait_for(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let (head, body) = self.read_one();
            if head & 0xf0 == kind {
                return body;
            }
        }
    }

    /// Reads a packet; a message is kept and acknowledged.
    #[track_caller]
    fn read_one(&mut self) -> (u8, Vec<u8>) {
        let head = self.byte();
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            length |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        if head & 0xf0 == packet::PUBLISH {
            let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
            let has_id = head & 6 != 0;
            let content = &body[topic_end + if has_id { 2 } else { 0 }..];
            self.received.push_back(String::from_utf8(content.to_vec()).unwrap());
            if has_id {
                let id = [body[topic_end], body[topic_end + 1]];
                self.send(packet::PUBACK, &id);
            }
        }
        (head, body)
    }

    #[track_caller]
    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("the broker sends nothing, or has gone");
        byte[0]
    }
}

impl Drop for MqttClient {
    fn drop(&mut self) {
        // The broker may be gone before its client.
        let _gone = self.stream.write_all(&[packet::DISCONNECT, 0]);
        let _end = self.stream.read(&mut [0]);
    }
}

/// A text with its length before it (section 1.5.3).
fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}
