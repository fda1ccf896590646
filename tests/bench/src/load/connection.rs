//! A connection that is kept open, with one request on its way at a time.

use std::{
    io::{self, Read, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use super::answer::{Answer, whole};

/// The most bytes of the head of an answer.
const MAX_HEAD_BYTES: usize = 4096;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    reading: Reading,
    /// When the request on its way was to be sent.
    begun: Option<Instant>,
}

/// What came so far of an answer.
#[derive(Debug)]
struct Reading {
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Connects, for answers with a body of at most so many bytes.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) fn open(address: SocketAddr, body_bytes: usize) -> Result<Self> {
        let stream = TcpStream::connect(address).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, reading: Reading::new(body_bytes), begun: None })
    }

    /// What it is waited for with.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a request that was to be sent at `begun`.
    ///
    /// # Errors
    /// When the connection is broken, or does not take all of it at once: it is smaller than what the system buffers, and the
    /// one before has been answered.
    pub(super) fn send(&mut self, request: &[u8], begun: Instant) -> Result<()> {
        self.stream.write_all(request).context("cannot send a request")?;
        self.begun = Some(begun);
        Ok(())
    }

    /// Reads what has come, and tells when the request was to be sent if that completes its answer.
    ///
    /// # Errors
    /// When it is not the right answer, or the connection is broken.
    pub(super) fn receive(&mut self, expected: &[u8]) -> Result<Option<Instant>> {
        if !self.reading.read(&mut self.stream, expected)? {
            return Ok(None);
        }
        self.begun.take().map(Some).context("an answer that nobody asked for")
    }
}

impl Reading {
    fn new(body_bytes: usize) -> Self {
        // A byte more than the largest right answer, so that one that is too long is seen to be.
        Self { buffer: vec![0; MAX_HEAD_BYTES + body_bytes + 1], filled: 0 }
    }

    /// Whether the answer is whole now.
    fn read(&mut self, wire: &mut impl Read, expected: &[u8]) -> Result<bool> {
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        ensure!(!room.is_empty(), "an answer is too long");
        match wire.read(room) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(read) => self.filled += read,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("cannot read an answer"),
        }
        let answer = self.buffer.get(..self.filled).unwrap_or_default();
        let Some(Answer { status, body }) = whole(answer)? else { return Ok(false) };
        let is_right = status == 200 && body == expected;
        ensure!(is_right, "a wrong answer: {}", String::from_utf8_lossy(answer));
        self.filled = 0;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";

    fn read(mut wire: &[u8]) -> Result<bool> {
        Reading::new(4).read(&mut wire, b"body")
    }

    #[test]
    fn the_right_answer_is_read_in_pieces_and_so_is_the_next() {
        let mut reading = Reading::new(4);
        for cut in 1..ANSWER.len() {
            let (mut first, mut second) = ANSWER.split_at(cut);
            assert!(!reading.read(&mut first, b"body").unwrap());
            assert!(reading.read(&mut second, b"body").unwrap());
        }
    }

    #[test]
    fn whatever_is_not_the_right_answer_fails_the_bench() {
        let endless = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; MAX_HEAD_BYTES]].concat();
        for (wire, says) in [
            (&b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbody"[..], "a wrong answer: HTTP/1.1 503"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbodi", "a wrong answer"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbody", "more came"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "without content-length"),
            (b"", "closed"),
        ] {
            let error = read(wire).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let mut reading = Reading::new(4);
        let mut wire = endless.as_slice();
        assert!(!reading.read(&mut wire, b"body").unwrap());
        assert!(reading.read(&mut wire, b"body").unwrap_err().to_string().contains("too long"));
    }
}
