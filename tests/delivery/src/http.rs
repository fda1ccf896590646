//! As much of HTTP/1.1 as the bench speaks: a client that keeps its connection, and what a server reads.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// The most lines of a head, and bytes of one of them, that are read.
const MOST_LINES: usize = 200;

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Opens one; nothing on it may take longer than `patience`.
    ///
    /// # Errors
    /// There is no one.
    pub fn open(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        Self::over(stream, patience)
    }

    /// One that was accepted.
    ///
    /// # Errors
    /// The system cannot set it up.
    pub fn over(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// A request and its answer: the status and the body.
    ///
    /// # Errors
    /// The connection ends before the answer is whole, or it is none.
    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.send(&head, body)?;
        let (first, body) = self.read()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or(io::ErrorKind::InvalidData)?, body))
    }

    /// Answers what was read.
    ///
    /// # Errors
    /// The other side has gone.
    pub fn answer(&mut self, status: &str) -> io::Result<()> {
        self.send(&format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"), b"")
    }

    fn send(&mut self, head: &str, body: &[u8]) -> io::Result<()> {
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes)
    }

    /// The first line and the body of what comes next; `None` when the other side has closed.
    ///
    /// # Errors
    /// It ends in the middle, or is not HTTP.
    pub fn read(&mut self) -> io::Result<Option<(String, Vec<u8>)>> {
        let first = self.line()?;
        if first.is_empty() {
            return Ok(None);
        }
        let mut length = 0;
        for _ in 0..MOST_LINES {
            let line = self.line()?;
            if line.trim_end().is_empty() {
                if line.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let mut body = vec![0; length];
                self.stream.read_exact(&mut body)?;
                return Ok(Some((first, body)));
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line)
    }
}
