//! One request after the other, for when a server is only coming up or is asked by the way.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::answer::{Answer, whole};

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The most bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A connection.
#[derive(Debug)]
pub(crate) struct Asker {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Asker {
    /// Connects.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream, answer: Vec::new() })
    }

    /// Sends a request, as it goes over the wire, and waits for the answer.
    ///
    /// # Errors
    /// When none comes, or it has no `content-length`.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).context("cannot send a request")?;
        self.answer.clear();
        let mut piece = [0; 4096];
        loop {
            let read = self.stream.read(&mut piece).context("no answer")?;
            ensure!(read > 0, "the server closed the connection");
            self.answer.extend_from_slice(piece.get(..read).unwrap_or_default());
            ensure!(self.answer.len() <= MAX_ANSWER_BYTES, "an answer is too long");
            if whole(&self.answer)?.is_some() {
                break;
            }
        }
        whole(&self.answer)?.context("the answer has gone")
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[test]
    fn one_request_after_the_other_gets_its_answer_whatever_its_status() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in [
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
                "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody",
            ] {
                stream.read_exact(&mut [0; 3]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut asker = Asker::connect(address).unwrap();
        assert_eq!(asker.ask(b"one").unwrap(), Answer { status: 404, body: b"" });
        assert_eq!(asker.ask(b"two").unwrap(), Answer { status: 200, body: b"body" });
        server.join().unwrap();
        assert!(asker.ask(b"and").is_err());
    }
}
