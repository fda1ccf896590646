//! HTTP: clients that post until they are told 2xx, and a server that writes down before it answers.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;

use super::Work;
use crate::{feed::Feed, http::Connection, ledger::Ledger};

/// How many clients post at once.
pub const CLIENTS: usize = 6;

/// How long a client waits for an answer: longer than the runtime's own limit.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long it waits after a refusal.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Starts the clients.
pub fn feed(feed: &Arc<Feed>, address: SocketAddr) -> Vec<Work> {
    (0..CLIENTS)
        .map(|_| {
            let feed = Arc::clone(feed);
            thread::spawn(move || client(&feed, address))
        })
        .collect()
}

fn client(feed: &Feed, address: SocketAddr) -> Result<()> {
    let mut kept = None;
    while let Some(number) = feed.next() {
        while !feed.is_given_up() {
            if post(feed, address, number, &mut kept) {
                feed.ledger().accepted(number);
                break;
            }
            thread::sleep(AGAIN_AFTER);
        }
    }
    Ok(())
}

/// Whether a message was taken: only a 2xx says so.
fn post(feed: &Feed, address: SocketAddr, number: u64, kept: &mut Option<Connection>) -> bool {
    let connection = kept.take().map_or_else(|| Connection::open(address, PATIENCE), Ok);
    let Ok(mut connection) = connection else { return false };
    let Ok((status, _)) = connection.ask("POST", "/in", feed.attempt(number).as_bytes()) else {
        return false;
    };
    *kept = Some(connection);
    (200..300).contains(&status)
}

/// How the receiver behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Manner {
    /// Takes everything.
    Good,
    /// Answers 503, and takes nothing.
    Refuses,
    /// Takes every message, and closes the connection without an answer.
    Silent,
}

/// A server. Gone when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    manner: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
}

impl Receiver {
    /// Starts one that writes down what it gets as arrivals at this sink.
    ///
    /// # Errors
    /// No port, no thread.
    pub fn start(ledger: &Arc<Ledger>, sink: usize) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (manner, stop) = (Arc::new(AtomicU8::new(Manner::Good as u8)), Arc::new(AtomicBool::new(false)));
        let receiver = Self { address, manner: Arc::clone(&manner), stop: Arc::clone(&stop) };
        let ledger = Arc::clone(ledger);
        thread::Builder::new().name("receiver".into()).spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), ledger, manner) = (stream, Arc::clone(&ledger), Arc::clone(&manner)) else {
                    continue;
                };
                // What a connection ends with is the sender's to see.
                thread::spawn(move || drop(serve(stream, &ledger, sink, &manner)));
            }
        })?;
        Ok(receiver)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how it behaves.
    pub fn behave(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::Relaxed);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _woken = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, ledger: &Ledger, sink: usize, manner: &AtomicU8) -> std::io::Result<()> {
    let mut connection = Connection::over(stream, Duration::from_secs(120))?;
    while let Some((_, body)) = connection.read()? {
        let now = manner.load(Ordering::Relaxed);
        if now == Manner::Refuses as u8 {
            connection.answer("503 Service Unavailable")?;
            continue;
        }
        ledger.arrived(sink, &body);
        if now == Manner::Silent as u8 {
            return Ok(());
        }
        connection.answer("200 OK")?;
    }
    Ok(())
}
