//! A server under test: a child process bound to its processor, killed when it is no longer needed.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::PATH;
use crate::machine::{bound_to, places};

/// How long a server may take until it listens, the compilation of its plugins included.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How much of its log is shown when it fails.
const TAIL_LINES: usize = 20;

/// A running server.
#[derive(Debug)]
pub(crate) struct Subject {
    child: Child,
    address: SocketAddr,
    /// Its working directory, with its log.
    folder: TempDir,
}

impl Subject {
    /// The floor.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn axum() -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve-floor", &address.to_string()]);
        Self::start(command, address, tempfile::tempdir()?)
    }

    /// The real binary with one flow: rename in a plugin, answer with what comes out.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn gristmill(binary: &Path, plugins: &Path) -> Result<Self> {
        let address = free_address()?;
        let folder = tempfile::tempdir()?;
        let flows = folder.path().join("flows");
        fs::create_dir(&flows)?;
        let flow = format!(
            r#"flow: orders
source:
  http: {{ listen: "{address}", path: {PATH}, methods: [POST] }}
steps:
  - transform: {{ plugin: bench-rename }}
  - reply:
      headers: {{ content-type: application/json }}
      body: {{ expression: message.text }}
"#
        );
        fs::write(flows.join("orders.yaml"), flow)?;
        let mut command = Command::new(binary);
        command.args(["run", "--admin", "off", "--flows"]).arg(&flows).arg("--plugins").arg(plugins);
        Self::start(command, address, folder)
    }

    fn start(mut command: Command, address: SocketAddr, folder: TempDir) -> Result<Self> {
        let log = File::create(folder.path().join("log"))?;
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = bound_to(places().subject, || command.spawn())?
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let mut subject = Self { child, address, folder };
        subject.wait_until_it_listens()?;
        Ok(subject)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || began.elapsed() > START_LIMIT {
                let how = ended.map_or("it takes too long".to_owned(), |status| status.to_string());
                bail!("the server does not listen on {} ({how}):\n{}", self.address, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
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

/// An address that no one listens on. Someone may take it before the server does; then the server says so.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
