//! The runtime under test: the real binary as a child process, started, killed and watched.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{disk::Disk, http::Connection, ledger::lock};

/// How long the runtime may take to come up or to go, also on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long its admin listener may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The binary with its folder.
#[derive(Debug)]
pub struct Runtime {
    binary: PathBuf,
    folder: PathBuf,
    admin: SocketAddr,
    disk: Option<Arc<Disk>>,
    clock: Option<PathBuf>,
    child: Mutex<Option<Child>>,
    peaks: Mutex<Peaks>,
    /// Whether it has come up: before that it does not listen to signals.
    is_up: AtomicBool,
    /// How far its log was read.
    log_read: Mutex<u64>,
}

/// The line of the log that says that deliveries were interrupted.
const DRAIN_LIMIT: &str = "reached its drain limit";

/// The most that was seen, over all its processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peaks {
    /// Memory, in KiB: `VmHWM` of Linux.
    pub memory_kib: u64,
    /// Unsettled deliveries.
    pub in_flight: u64,
}

/// Debian's library that fakes the time of a process, where it is installed.
pub fn fake_clock() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.is_file())
}

impl Runtime {
    /// One that is not started yet. With a `disk`, it runs where that is mounted; with `clock`, its wall clock can jump.
    pub fn new(
        binary: &Path,
        folder: &Path,
        admin: SocketAddr,
        disk: Option<Arc<Disk>>,
        clock: bool,
    ) -> Self {
        Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            admin,
            disk,
            clock: clock.then(fake_clock).flatten(),
            child: Mutex::default(),
            peaks: Mutex::default(),
            is_up: AtomicBool::new(false),
            log_read: Mutex::default(),
        }
    }

    /// Whether its clock can jump.
    pub fn has_a_clock(&self) -> bool {
        self.clock.is_some()
    }

    /// Sets its wall clock off by so many seconds.
    ///
    /// # Errors
    /// The file that says so cannot be written.
    pub fn set_clock(&self, seconds: i64) -> Result<()> {
        let file = self.folder.join("clock");
        let new = self.folder.join("clock.new");
        fs::write(&new, format!("{seconds:+}\n"))?;
        // At once: what is half-written would be another time.
        Ok(fs::rename(new, file)?)
    }

    /// Starts it, and waits until its admin listener answers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&self) -> Result<()> {
        let mut command = match &self.disk {
            Some(disk) => disk.enter(&self.folder, &self.binary),
            None => Command::new(&self.binary),
        };
        let log = File::options().create(true).append(true).open(self.folder.join("runtime.log"))?;
        command.arg("run").current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        if let Some(library) = &self.clock {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", self.folder.join("clock"))
                .env("FAKETIME_NO_CACHE", "1")
                // Timeouts are measured on a clock that does not jump, here as on any machine.
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let child = command.spawn().context("the runtime cannot be run")?;
        *lock(&self.child) = Some(child);
        let begun = Instant::now();
        while self.ask("/health/live").is_none() {
            if let Some(status) = self.has_ended()? {
                bail!("the runtime ended with {status} while it was starting: see runtime.log");
            }
            if begun.elapsed() > PATIENCE {
                bail!("the runtime does not come up: see runtime.log");
            }
            thread::sleep(LOOK_AGAIN);
        }
        self.is_up.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until its flow takes messages.
    ///
    /// # Errors
    /// It does not: the text has what the runtime says of it.
    pub fn wait_until_ready(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let report = self.ask("/health/ready?flow=bench");
            if let Some((200, _)) = report {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let said = report.map(|(_, body)| body).unwrap_or_default();
                bail!("the flow does not come up: {}", String::from_utf8_lossy(&said));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// There is none.
    pub fn kill(&self) -> Result<()> {
        self.is_up.store(false, Ordering::Relaxed);
        let mut child = lock(&self.child).take().context("the runtime does not run")?;
        child.kill()?;
        child.wait()?;
        self.tidy(child.id());
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It does not end, or not in good order.
    pub fn terminate(&self) -> Result<()> {
        self.is_up.store(false, Ordering::Relaxed);
        let mut child = lock(&self.child).take().context("the runtime does not run")?;
        signal(&child, Signal::TERM)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                self.tidy(child.id());
                return if status.success() {
                    Ok(())
                } else {
                    bail!("after SIGTERM the runtime ended with {status}")
                };
            }
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!("the runtime does not end after SIGTERM");
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// SIGHUP, if it is up: it would end any process that does not listen yet.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn hang_up(&self) -> Result<()> {
        if !self.is_up.load(Ordering::Relaxed) {
            return Ok(());
        }
        lock(&self.child).as_ref().map_or(Ok(()), |child| signal(child, Signal::HUP))
    }

    /// Notes how much memory it has taken and how many deliveries are in flight.
    ///
    /// # Errors
    /// It has ended by itself.
    pub fn watch(&self) -> Result<()> {
        if let Some(status) = self.has_ended()? {
            bail!("the runtime ended by itself, with {status}: see runtime.log");
        }
        let id = lock(&self.child).as_ref().map(Child::id);
        let memory = id.and_then(peak_memory_kib).unwrap_or(0);
        let in_flight = self.in_flight().unwrap_or(0);
        let mut peaks = lock(&self.peaks);
        peaks.memory_kib = peaks.memory_kib.max(memory);
        peaks.in_flight = peaks.in_flight.max(in_flight);
        Ok(())
    }

    /// Whether, since this was last asked, a version came to its drain limit: then what it had begun is begun again.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn has_interrupted(&self) -> Result<bool> {
        let mut read = lock(&self.log_read);
        let mut log = File::open(self.folder.join("runtime.log"))?;
        log.seek(SeekFrom::Start(*read))?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        *read += whole as u64;
        Ok(String::from_utf8_lossy(text.get(..whole).unwrap_or_default()).contains(DRAIN_LIMIT))
    }

    /// The most that was seen.
    pub fn peaks(&self) -> Peaks {
        *lock(&self.peaks)
    }

    /// The unsettled deliveries of now; `None` when it does not answer.
    pub fn in_flight(&self) -> Option<u64> {
        let (_, body) = self.ask("/metrics")?;
        let text = String::from_utf8(body).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("gristmill_in_flight{flow=\"bench\"} "))?;
        line.trim().parse().ok()
    }

    fn ask(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        Connection::open(self.admin, ANSWERS_WITHIN).ok()?.ask("GET", path, b"").ok()
    }

    fn has_ended(&self) -> Result<Option<ExitStatus>> {
        match lock(&self.child).as_mut() {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// What the library of the clock leaves behind when its process is killed; a later process of the same number would
    /// stumble over it.
    fn tidy(&self, process: u32) {
        if self.clock.is_some() {
            for name in [format!("faketime_shm_{process}"), format!("sem.faketime_sem_{process}")] {
                let _gone = fs::remove_file(Path::new("/dev/shm").join(name));
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.kill();
    }
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
    kill_process(id, signal).context("a signal cannot be sent")
}

fn peak_memory_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
