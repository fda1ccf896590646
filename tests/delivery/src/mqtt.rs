//! As much of MQTT 3.1.1 (OASIS, 2014) as the bench speaks: QoS 1 both ways, QoS 2 to the broker. Written here, on purpose: what is to be proved
//! uses a library, and a fault of that library must not be on both sides.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long a read waits for the next packet.
pub const TICK: Duration = Duration::from_millis(50);

/// A packet from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A message, with its packet id.
    Publish(u16, Vec<u8>),
    /// A message of ours with QoS 1 is the broker's now.
    PubAck(u16),
    /// The broker has a message of ours with QoS 2, and passes it on when it is released.
    PubRec(u16),
    /// It has been passed on.
    PubComp(u16),
    /// Whatever else.
    Other(u8),
}

/// A client.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    /// Connects; a session that is not `clean` is kept by the broker while the client is away.
    ///
    /// # Errors
    /// There is no broker, or it refuses.
    pub fn connect(address: SocketAddr, id: &str, clean: bool) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        stream.set_read_timeout(Some(TICK))?;
        let mut client = Self { stream, read: Vec::new() };
        // Keep-alive 0: a broker that is held is waited for.
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, if clean { 2 } else { 0 }, 0, 0];
        text(&mut body, id);
        client.send(0x10, &body)?;
        match client.answer(0x20)?.get(1) {
            Some(0) => Ok(client),
            code => Err(io::Error::other(format!("the broker refuses the connection: {code:?}"))),
        }
    }

    /// Subscribes with QoS 1.
    ///
    /// # Errors
    /// The broker refuses or has gone.
    pub fn subscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut body = vec![0, 1];
        text(&mut body, filter);
        body.push(1);
        self.send(0x82, &body)?;
        match self.answer(0x90)?.get(2) {
            Some(1) => Ok(()),
            code => Err(io::Error::other(format!("the broker refuses the subscription: {code:?}"))),
        }
    }

    /// Publishes with this QoS, which is 1 or 2.
    ///
    /// # Errors
    /// The broker has gone.
    pub fn publish(&mut self, id: u16, topic: &str, payload: &[u8], qos: u8) -> io::Result<()> {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend(id.to_be_bytes());
        body.extend(payload);
        self.send(0x30 | qos << 1, &body)
    }

    /// Releases a message with QoS 2 that the broker has.
    ///
    /// # Errors
    /// The broker has gone.
    pub fn release(&mut self, id: u16) -> io::Result<()> {
        self.send(0x62, &id.to_be_bytes())
    }

    /// Acknowledges a message.
    ///
    /// # Errors
    /// The broker has gone.
    pub fn acknowledge(&mut self, id: u16) -> io::Result<()> {
        self.send(0x40, &id.to_be_bytes())
    }

    /// The next packet, if one comes within [`TICK`].
    ///
    /// # Errors
    /// The broker has gone, or what it says is not MQTT.
    pub fn receive(&mut self) -> io::Result<Option<Packet>> {
        let Some((kind, body)) = self.packet()? else { return Ok(None) };
        let number = |at: usize| match body.get(at..at + 2) {
            Some([high, low]) => Ok(u16::from_be_bytes([*high, *low])),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        };
        Ok(Some(match kind & 0xf0 {
            0x30 => {
                let topic = usize::from(number(0)?);
                // QoS 0 has no packet id; there is none of it here.
                let id =
                    if kind & 0x06 == 0 { return Ok(Some(Packet::Other(kind))) } else { number(2 + topic)? };
                Packet::Publish(id, body.get(4 + topic..).unwrap_or_default().to_vec())
            }
            0x40 => Packet::PubAck(number(0)?),
            0x50 => Packet::PubRec(number(0)?),
            0x70 => Packet::PubComp(number(0)?),
            _ => Packet::Other(kind),
        }))
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let mut packet = vec![kind];
        let mut left = body.len();
        loop {
            let digit = u8::try_from(left % 128).unwrap_or_default();
            left /= 128;
            packet.push(if left > 0 { digit | 0x80 } else { digit });
            if left == 0 {
                break;
            }
        }
        packet.extend(body);
        self.stream.write_all(&packet)
    }

    /// Waits for the answer of this kind.
    fn answer(&mut self, kind: u8) -> io::Result<Vec<u8>> {
        for _ in 0..200 {
            match self.packet()? {
                Some((is, body)) if is == kind => return Ok(body),
                // What the session kept may come before the answer; it comes again, since it is not acknowledged,
                // only with the next connection: so no one may subscribe on a session that holds something.
                Some(_) => return Err(io::Error::other("something else came before the answer")),
                None => {}
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn packet(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some((head, length)) = frame(&self.read)
                && self.read.len() >= head + length
            {
                let kind = self.read.first().copied().unwrap_or_default();
                let body = self.read.get(head..head + length).unwrap_or_default().to_vec();
                self.read.drain(..head + length);
                return Ok(Some((kind, body)));
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.read.extend(chunk.iter().take(length)),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The length of the head, and of the body after it, as soon as both can be told.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (at, digit) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(digit & 0x7f) << (7 * at);
        if digit & 0x80 == 0 {
            return Some((at + 2, length));
        }
    }
    None
}

fn text(into: &mut Vec<u8>, text: &str) {
    into.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    into.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_packet_has_up_to_four_digits() {
        assert_eq!(frame(&[0x40, 2]), Some((2, 2)));
        assert_eq!(frame(&[0x30, 0x80, 0x01]), Some((3, 128)));
        assert_eq!(frame(&[0x30, 0x80]), None);
        assert_eq!(frame(&[0x30]), None);
    }
}
