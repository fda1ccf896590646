//! A runtime over a copy of flows, in a folder of its own, so that they may be edited and the repository stays clean.

use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::http;
use crate::wait;

/// How long the runtime may take until every flow takes messages. Compiling the plugins is most of it.
const START: Duration = Duration::from_secs(180);

/// How long it may take to finish what it has accepted.
const STOP: Duration = Duration::from_secs(40);

/// Where the flows listen, as their files say.
const FLOWS_ADDRESS: &str = "127.0.0.1:8080";

/// Where the runtime listens for health and metrics, unless it is told otherwise.
const ADMIN_ADDRESS: &str = "127.0.0.1:9090";

/// What the runtime is configured with beside its command line: a log for people also where it goes to a file.
const SETTINGS: &str = "log: { format: human }\n";

/// Where flows are copied from.
pub(crate) struct Origin<'a> {
    /// Holds `flows/`, and perhaps `inbox/` and `gristmill.yaml`.
    pub(crate) folder: &'a Path,
    /// Holds the plugins.
    pub(crate) plugins: &'a Path,
}

/// The folder in which flows run.
pub(crate) struct Place {
    /// Absolute.
    pub(crate) folder: PathBuf,
    /// Where the flows listen.
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    /// Held as long as the flows run.
    _lock: File,
}

/// A runtime that runs.
pub(crate) struct Mill {
    child: Child,
    admin: String,
    client: ureq::Agent,
    interrupted: Arc<AtomicBool>,
    /// The runtime's log.
    pub(crate) log: PathBuf,
}

/// How a flow is, as `/health/ready` tells.
#[derive(Debug, Deserialize)]
pub(crate) struct FlowStatus {
    pub(crate) flow: Option<String>,
    pub(crate) version: Option<String>,
    /// Why the file as it is now does not run, while an older version does.
    pub(crate) refused: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Readiness {
    ready: bool,
    flows: Vec<FlowStatus>,
}

// === impl Place ===

impl Place {
    /// Prepares the folder: what was left in it is removed, but for compiled plugins.
    pub(crate) fn prepare(origin: &Origin<'_>, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let lock = File::create(folder.join(".lock")).context("cannot lock the folder")?;
        if lock.try_lock().is_err() {
            bail!("flows run in {} already; stop them first", folder.display());
        }
        for old in ["flows", "plugins", "inbox", "out", "dead", ".gristmill/flows"] {
            match fs::remove_dir_all(folder.join(old)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {old} of before"));
                }
                _ => {}
            }
        }
        let settings = origin.folder.join("gristmill.yaml");
        let own = if settings.is_file() { fs::read_to_string(&settings)? } else { String::new() };
        fs::write(folder.join("gristmill.yaml"), format!("{SETTINGS}{own}"))?;
        let inboxes = origin.folder.join("inbox");
        for inbox in if inboxes.is_dir() { subfolders(&inboxes)? } else { Vec::new() } {
            fs::create_dir_all(folder.join("inbox").join(inbox))?;
        }
        let address = free(FLOWS_ADDRESS)?;
        copy_files(origin.plugins, &folder.join("plugins"), |name| name.ends_with(".wasm"), |bytes| bytes)?;
        copy_files(
            &origin.folder.join("flows"),
            &folder.join("flows"),
            |name| !name.ends_with(".test.yaml"),
            |bytes| match String::from_utf8(bytes) {
                Ok(text) => text.replace(FLOWS_ADDRESS, &address.to_string()).into_bytes(),
                Err(binary) => binary.into_bytes(),
            },
        )?;
        let folder = folder.canonicalize()?;
        Ok(Self { folder, address, admin: free(ADMIN_ADDRESS)?, _lock: lock })
    }

    /// A URL of a flow as its file says it, with the address where it listens here.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(FLOWS_ADDRESS, &self.address.to_string())
    }

    /// Where the admin listener is.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }
}

/// The address, or one with another port if it is taken.
fn free(wanted: &str) -> Result<SocketAddr> {
    let wanted: SocketAddr = wanted.parse()?;
    if TcpListener::bind(wanted).is_ok() {
        return Ok(wanted);
    }
    let address = TcpListener::bind((wanted.ip(), 0)).and_then(|listener| listener.local_addr());
    address.context("there is no free port")
}

fn subfolders(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

fn copy_files(
    from: &Path,
    to: &Path,
    wanted: impl Fn(&str) -> bool,
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name().to_str().is_some_and(&wanted) {
            fs::write(to.join(entry.file_name()), change(fs::read(entry.path())?))?;
        }
    }
    Ok(())
}

// === impl Mill ===

impl Mill {
    /// Starts the runtime and waits until every flow takes messages, or `interrupted` is set.
    pub(crate) fn start(
        binary: &Path,
        place: &Place,
        environment: &[(&str, &str)],
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self> {
        let log = place.folder.join("gristmill.log");
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(binary)
            .args(["run", "--admin", &place.admin.to_string()])
            .envs(environment.iter().copied())
            .current_dir(&place.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            // Ctrl-C on the terminal is for this process, which then stops the runtime: two signals would stop it at once.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let admin = format!("http://{}", place.admin);
        let mut mill = Self { child, admin, client: http::client(), interrupted, log };
        wait::until("every flow takes messages", START, || {
            mill.check_alive()?;
            Ok(mill.readiness().ok().filter(|readiness| readiness.ready).map(drop))
        })
        .with_context(|| mill.log_tail())?;
        Ok(mill)
    }

    /// How a flow is.
    pub(crate) fn status(&mut self, flow: &str) -> Result<FlowStatus> {
        self.check_alive()?;
        let found = self.readiness()?.flows.into_iter().find(|status| status.flow.as_deref() == Some(flow));
        found.with_context(|| format!("the runtime has no flow `{flow}`"))
    }

    /// The flows with their versions.
    pub(crate) fn flows(&self) -> Result<Vec<FlowStatus>> {
        Ok(self.readiness()?.flows)
    }

    fn readiness(&self) -> Result<Readiness> {
        let answer = http::get(&self.client, &format!("{}/health/ready", self.admin))?;
        serde_json::from_str(&answer.body).context("the health answer is not as expected")
    }

    /// An error when the runtime has ended by itself, or this process has been interrupted.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the runtime has ended: {status}\n{}", self.log_tail()),
        }
    }

    /// Asks the runtime to finish what it has accepted and waits for it.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.signal()?;
        let status = self.ended()?;
        ensure!(status.success(), "the runtime did not end well: {status}\n{}", self.log_tail());
        Ok(())
    }

    fn signal(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM).context("cannot stop the runtime")
    }

    fn ended(&mut self) -> Result<ExitStatus> {
        wait::until("the runtime finishes what it has accepted", STOP, || Ok(self.child.try_wait()?))
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        format!("the end of {}:\n  {}", self.log.display(), tail.join("\n  "))
    }
}

/// What fails leaves no runtime behind.
impl Drop for Mill {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Already failing: what goes wrong here changes nothing.
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}
