//! A TCP proxy that fails on command: it cuts connections, halves what is on its way, delays, and stalls.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::ledger::lock;

/// How often a pump that waits looks at what it has been told.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A proxy before one address. Gone, with its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    control: Arc<Control>,
}

#[derive(Debug)]
struct Control {
    target: SocketAddr,
    stop: AtomicBool,
    /// Nothing passes, in neither direction.
    stalled: AtomicBool,
    /// New connections are closed at once.
    refusing: AtomicBool,
    /// How long each chunk waits, in milliseconds.
    delay_ms: AtomicU64,
    /// The next chunk is sent by half, and its connection cut.
    halve: AtomicBool,
    next: AtomicU64,
    live: Mutex<HashMap<u64, [TcpStream; 2]>>,
}

impl Proxy {
    /// One before this address, on a port of its own.
    ///
    /// # Errors
    /// No port, no thread.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let control = Arc::new(Control {
            target,
            stop: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            halve: AtomicBool::new(false),
            next: AtomicU64::new(0),
            live: Mutex::default(),
        });
        let accepting = Arc::clone(&control);
        thread::Builder::new().name("proxy".into()).spawn(move || accepting.accept(&listener))?;
        Ok(Self { address, control })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.control.cut();
    }

    /// Sends the next chunk, whosever it is, by half, and cuts its connection.
    pub fn halve(&self) {
        self.control.halve.store(true, Ordering::Relaxed);
    }

    /// Lets nothing pass, or everything again.
    pub fn stall(&self, stalled: bool) {
        self.control.stalled.store(stalled, Ordering::Relaxed);
    }

    /// How long each chunk waits; zero: not at all.
    pub fn delay(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.control.delay_ms.store(delay, Ordering::Relaxed);
    }

    /// Cuts every connection and closes new ones at once, or takes them again.
    pub fn refuse(&self, refusing: bool) {
        self.control.refusing.store(refusing, Ordering::Relaxed);
        if refusing {
            self.control.cut();
        }
    }

    /// As at the start.
    pub fn heal(&self) {
        self.stall(false);
        self.refuse(false);
        self.delay(Duration::ZERO);
        self.control.halve.store(false, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
        self.control.cut();
        // So that the thread that accepts looks up.
        let _woken = TcpStream::connect(self.address);
    }
}

impl Control {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if self.refusing.load(Ordering::Relaxed) {
                continue;
            }
            let Ok(client) = client else { continue };
            let control = Arc::clone(&self);
            thread::spawn(move || control.serve(client));
        }
    }

    /// Both directions of one connection, until it ends. What cannot be reached is as if the client had been cut off.
    fn serve(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect_timeout(&self.target, Duration::from_secs(2)) else { return };
        let _sent_at_once = (client.set_nodelay(true), server.set_nodelay(true));
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
        let (Ok(one), Ok(other)) = (client.try_clone(), server.try_clone()) else { return };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.live).insert(id, [one, other]);
        let control = Arc::clone(&self);
        let back = thread::spawn(move || control.pump(id, server_too, client_too));
        self.pump(id, client, server);
        let _ended = back.join();
        lock(&self.live).remove(&id);
    }

    fn pump(&self, id: u64, mut from: TcpStream, mut to: TcpStream) {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(length) = from.read(&mut chunk) {
            let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
            let delay = self.delay_ms.load(Ordering::Relaxed);
            if delay > 0 {
                thread::sleep(Duration::from_millis(delay));
            }
            while self.stalled.load(Ordering::Relaxed) && !self.stop.load(Ordering::Relaxed) {
                thread::sleep(LOOK_AGAIN);
            }
            if self.halve.swap(false, Ordering::Relaxed) {
                let _sent = to.write_all(bytes.get(..length / 2).unwrap_or_default());
                if let Some(both) = lock(&self.live).get(&id) {
                    close(both);
                }
                return;
            }
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        // The end goes on to the other side, which may still answer; one that cannot be told has gone itself.
        let _told = to.shutdown(Shutdown::Write);
    }

    fn cut(&self) {
        lock(&self.live).values().for_each(close);
    }
}

fn close(both: &[TcpStream; 2]) {
    for side in both {
        let _closed = side.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                thread::spawn(move || {
                    let mut chunk = [0; 1024];
                    while let Ok(length @ 1..) = client.read(&mut chunk) {
                        client.write_all(&chunk[..length]).unwrap();
                    }
                });
            }
        });
        address
    }

    fn open(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn ask(stream: &mut TcpStream, text: &str) -> String {
        let _cut = stream.write_all(text.as_bytes());
        let mut chunk = [0; 1024];
        let length = stream.read(&mut chunk).unwrap_or(0);
        String::from_utf8(chunk[..length].to_vec()).unwrap()
    }

    #[test]
    fn passes_halves_cuts_and_refuses() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut stream = open(&proxy);
        assert_eq!(ask(&mut stream, "hello"), "hello");
        proxy.cut();
        assert_eq!(ask(&mut stream, "hello"), "");
        let mut stream = open(&proxy);
        assert_eq!(ask(&mut stream, "again"), "again");
        proxy.halve();
        // Half of it reaches the server; whether its answer comes back before the cut is chance.
        assert!(ask(&mut stream, "1234").len() <= 2);
        proxy.refuse(true);
        assert_eq!(ask(&mut open(&proxy), "no"), "");
        proxy.heal();
        assert_eq!(ask(&mut open(&proxy), "yes"), "yes");
    }
}
