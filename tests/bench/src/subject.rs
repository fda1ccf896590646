//! A process under test, a floor or the real binary: bound to its processor, with a folder and a log of its own, killed when
//! it is no longer needed.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    case::Setup,
    counter::Counter,
    machine::{Memory, bound_to, is_stopped, places, process_cpu_time, process_memory},
};

/// How long it may take until it is ready, the compilation of its plugins included.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How often it is asked whether it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How much of its log is shown when it fails.
const TAIL_LINES: usize = 20;

/// A running process.
#[derive(Debug)]
pub(crate) struct Subject {
    child: Child,
    /// How it was started, to start it again.
    command: Command,
    processor: Option<usize>,
    /// Its working directory, with its log.
    folder: TempDir,
    /// That of how often it asks for memory, if that is counted.
    counter: Option<Counter>,
}

impl Subject {
    /// A floor: this program with other arguments.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn floor<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        Self::start(command, tempfile::tempdir()?)
    }

    /// What a load needs besides itself, and is not measured: this program with other arguments, on the load's processor.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn helper<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        Self::start_on(places().load, command, tempfile::tempdir()?)
    }

    /// The real binary with these flows, each a file name and its text.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn gristmill(setup: &Setup, flows: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let command = gristmill(setup, folder.path(), flows)?;
        Self::start(command, folder)
    }

    /// Whatever the command says, in this folder.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(command: Command, folder: TempDir) -> Result<Self> {
        Self::start_on(places().subject, command, folder)
    }

    fn start_on(processor: Option<usize>, mut command: Command, folder: TempDir) -> Result<Self> {
        let log = File::create(folder.path().join("log"))?;
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn_on(processor, &mut command)?;
        Ok(Self { child, command, processor, folder, counter: None })
    }

    /// Ends it and starts it anew, in the same folder and with the same arguments, so that it is counted how often it asks for
    /// memory. That makes it slower. It may not be ready yet, as after the first start.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn restart_counted(&mut self, counting: &Path) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.counter = Some(Counter::of(&mut self.command, counting)?);
        self.child = spawn_on(self.processor, &mut self.command)?;
        Ok(())
    }

    /// How often it asks for memory while this is done.
    ///
    /// # Errors
    /// When it was not restarted to be counted, and as `work`.
    pub(crate) fn allocations_of(&self, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        let counter = self.counter.as_ref().context("nothing is counted")?;
        let before = counter.so_far()?;
        work()?;
        Ok(counter.so_far()?.saturating_sub(before))
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not in time; with the end of its log.
    pub(crate) fn until(
        &mut self,
        what: &str,
        mut is_ready: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let began = Instant::now();
        while !is_ready(self)? {
            let ended = self.child.try_wait()?;
            if ended.is_some() || began.elapsed() > START_LIMIT {
                let how = ended.map_or("it takes too long".to_owned(), |status| status.to_string());
                bail!("not ready, {what} ({how}); its log ends with:\n{}", self.log_tail());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Waits until it listens there.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub(crate) fn until_it_listens(&mut self, address: SocketAddr) -> Result<()> {
        self.until(&format!("nobody listens on {address}"), |_| Ok(TcpStream::connect(address).is_ok()))
    }

    /// The number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Its working directory.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How much processor time it took so far.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        process_cpu_time(self.process())
    }

    /// How much memory it has and had.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn memory(&self) -> Result<Memory> {
        process_memory(self.process())
    }

    /// Stops it where it is (SIGSTOP): what comes for it waits.
    ///
    /// # Errors
    /// When it has ended, or does not stop.
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        // The signal is given to one thread, and the others go on until that one had a processor.
        let began = Instant::now();
        while !is_stopped(self.process())? {
            ensure!(began.elapsed() < START_LIMIT, "it does not stop");
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// The end of what it wrote.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself, which was noticed by then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn_on(processor: Option<usize>, command: &mut Command) -> Result<Child> {
    bound_to(processor, || command.spawn())?
        .with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// The command that runs the real binary in this folder, with these flows, which are written there.
///
/// # Errors
/// When they cannot be written.
pub(crate) fn gristmill(setup: &Setup, folder: &Path, flows: &[(&str, &str)]) -> Result<Command> {
    let into = folder.join("flows");
    fs::create_dir(&into)?;
    for (name, text) in flows {
        fs::write(into.join(name), text)?;
    }
    let mut command = Command::new(&setup.gristmill);
    command.args(["run", "--admin", "off", "--flows"]).arg(&into).arg("--plugins").arg(&setup.plugins);
    Ok(command)
}

/// The command that runs the real binary on what is in its working directory.
pub(crate) fn gristmill_here(setup: &Setup) -> Command {
    let mut command = Command::new(&setup.gristmill);
    command.args(["run", "--admin", "off"]);
    command
}

/// An address that no one listens on. Someone may take it before the server does; then the server says so.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
