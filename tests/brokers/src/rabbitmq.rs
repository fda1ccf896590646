//! RabbitMQ: a broker of a test's own, to be stopped, killed, held and brought back on the same data; or one that the tests
//! of a process share.
//!
//! What a broker leaves behind outlives a test that is killed: Erlang's port mapper, its own children, its folder. So each
//! broker has a guardian, a shell that waits for the end of a pipe which the test process holds, and clears up then, however
//! that process ended.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::free_port;

/// The variable with the URL of a broker that whoever runs the tests has started for all of them: `amqp://127.0.0.1:5672`.
pub const SHARED_URL: &str = "GRISTMILL_TEST_AMQP";

/// How long a broker may take to answer: 5 s on a quiet machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often a start is tried with other ports: one may be taken between being found free and being used.
const STARTS: usize = 3;

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where Debian's package puts the servers, one folder a version.
const SERVERS: &str = "/usr/lib/rabbitmq/lib";

/// A broker with its own ports, node name and data. Gone when dropped.
#[derive(Debug)]
pub struct RabbitMq {
    server: PathBuf,
    ports: Ports,
    child: Option<Child>,
    /// Its end ends the guardian's wait.
    _guardian: Guardian,
    folder: TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    distribution: u16,
    mapper: u16,
}

/// The shell that clears up.
#[derive(Debug)]
struct Guardian {
    shell: Child,
    pipe: Option<ChildStdin>,
}

/// A broker for tests that only talk to it: its queues need names of their own.
#[derive(Debug)]
pub struct SharedRabbitMq {
    url: String,
    /// `None` when whoever runs the tests has started it.
    _own: Option<RabbitMq>,
}

// === impl RabbitMq ===

#[allow(clippy::panic, reason = "for tests, which fail by panicking")]
impl RabbitMq {
    /// Starts a broker and waits until it answers.
    ///
    /// # Panics
    /// RabbitMQ is not installed, or does not come up within a minute.
    pub fn start() -> Self {
        let mut problem = String::new();
        for _ in 0..STARTS {
            match Self::try_start() {
                Ok(broker) => return broker,
                Err(text) => problem = text,
            }
        }
        panic!("RabbitMQ does not start: {problem}");
    }

    /// The broker that the tests of this process share: that of [`SHARED_URL`], else one that is started when it is first
    /// asked for.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn shared() -> &'static SharedRabbitMq {
        static SHARED: OnceLock<SharedRabbitMq> = OnceLock::new();
        SHARED.get_or_init(|| match env::var(SHARED_URL) {
            Ok(url) => SharedRabbitMq { url, _own: None },
            Err(_) => {
                let own = Self::start();
                SharedRabbitMq { url: own.url(), _own: Some(own) }
            }
        })
    }

    fn try_start() -> Result<Self, String> {
        let server = installed();
        let port = || free_port().map_err(|error| format!("no free port: {error}"));
        let ports = Ports { amqp: port()?, distribution: port()?, mapper: port()? };
        let folder = tempfile::Builder::new()
            .prefix("rabbitmq-")
            .tempdir()
            .map_err(|error| format!("no folder: {error}"))?;
        let guardian = Guardian::new(folder.path(), ports).map_err(|error| format!("no shell: {error}"))?;
        let mut broker = Self { server, ports, child: None, _guardian: guardian, folder };
        broker.prepare_folder().map_err(|error| format!("its folder cannot be written: {error}"))?;
        broker.launch()?;
        Ok(broker)
    }

    fn prepare_folder(&self) -> io::Result<()> {
        let folder = self.folder.path();
        for name in ["home", "mnesia", "log"] {
            fs::create_dir(folder.join(name))?;
        }
        fs::write(folder.join("enabled_plugins"), "[].\n")?;
        fs::write(folder.join("rabbitmq.conf"), "heartbeat = 60\n")
    }

    /// Where it listens: `amqp://127.0.0.1:PORT`. The user is `guest`, the password `guest`, the virtual host `/`.
    pub fn url(&self) -> String {
        format!("amqp://{}", self.address())
    }

    /// The address it listens on, for a proxy between it and its client.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.amqp))
    }

    /// Stops it in good order: what is durable stays.
    ///
    /// # Panics
    /// It cannot be told to.
    pub fn stop(&mut self) {
        let pid_file = self.folder.path().join("rabbitmq.pid");
        self.ctl(&["stop", &pid_file.to_string_lossy()]);
        if let Some(mut child) = self.child.take() {
            let _ended = child.wait();
        }
    }

    /// Ends it as a crash does (`kill -9`).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal("-KILL", &child);
            let _ended = child.wait();
        }
    }

    /// Starts it again on the same data and the same ports, after [`Self::stop`] or [`Self::kill`].
    ///
    /// # Panics
    /// It does not come up.
    pub fn restart(&mut self) {
        if let Err(problem) = self.launch() {
            panic!("RabbitMQ does not start again: {problem}");
        }
    }

    /// Holds all its processes (SIGSTOP): connections stay open, and nothing is answered.
    pub fn suspend(&self) {
        if let Some(child) = &self.child {
            signal("-STOP", child);
        }
    }

    /// Lets them go on (SIGCONT).
    pub fn resume(&self) {
        if let Some(child) = &self.child {
            signal("-CONT", child);
        }
    }

    /// Raises its memory alarm, which blocks every connection that publishes, or takes it back.
    ///
    /// # Panics
    /// It cannot be told to.
    pub fn memory_alarm(&self, raised: bool) {
        // No memory at all is too little; 0.4 of the machine's is the default.
        self.ctl(&["set_vm_memory_high_watermark", if raised { "0.0000001" } else { "0.4" }]);
    }

    /// `rabbitmqctl` with these arguments; gives what it prints.
    ///
    /// # Panics
    /// It fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.command("rabbitmqctl").arg("-q").args(arguments).output();
        match output {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                panic!("rabbitmqctl {arguments:?} failed: {}", String::from_utf8_lossy(&said));
            }
            Err(error) => panic!("rabbitmqctl cannot be run: {error}"),
        }
    }

    /// A program of the server's, with the environment that keeps it to its own ports and folders.
    fn command(&self, program: &str) -> Command {
        let (folder, sbin) = (self.folder.path(), self.server.join("sbin"));
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([sbin.clone()].into_iter().chain(env::split_paths(&path)));
        let mut command = Command::new(sbin.join(program));
        command
            .envs(path.map(|path| ("PATH", path)))
            // Where it leaves its dumps.
            .current_dir(folder)
            .env("HOME", folder.join("home"))
            .env("RABBITMQ_HOME", &self.server)
            .env("RABBITMQ_NODENAME", format!("mill{}@localhost", self.ports.amqp))
            .env("RABBITMQ_USE_LONGNAME", "false")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", folder.join("rabbitmq.pid"))
            .env("ERL_EPMD_PORT", self.ports.mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // It spins for work otherwise, which takes the processors from what is tested.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
            )
            .stdin(Stdio::null());
        command
    }

    fn launch(&mut self) -> Result<(), String> {
        let log = || fs::File::options().create(true).append(true).open(self.folder.path().join("console"));
        let console = || log().map_err(|error| format!("its log cannot be written: {error}"));
        let mut command = self.command("rabbitmq-server");
        // A group of its own, so that the shell script and the machine that it runs are signalled together.
        command.stdout(console()?).stderr(console()?).process_group(0);
        let child = command.spawn().map_err(|error| format!("it cannot be run: {error}"))?;
        let noted = fs::write(self.folder.path().join("group"), child.id().to_string());
        self.child = Some(child);
        noted.map_err(|error| format!("its process cannot be noted: {error}"))?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        while begin.elapsed() < READY_WITHIN {
            if answers(self.address()) {
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                self.child = None;
                return Err(format!("it ended with {status}:\n{}", self.console()));
            }
            thread::sleep(LOOK_AGAIN);
        }
        Err(format!("it does not answer:\n{}", self.console()))
    }

    fn console(&self) -> String {
        fs::read_to_string(self.folder.path().join("console")).unwrap_or_default()
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl SharedRabbitMq ===

impl SharedRabbitMq {
    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }
}

// === impl Guardian ===

impl Guardian {
    fn new(folder: &Path, ports: Ports) -> io::Result<Self> {
        // `kill -KILL -- -1` is what not every shell knows. The mapper refuses to end while it still knows of a node.
        let script = r#"
            cat > /dev/null
            [ -s "$1/group" ] && kill -s KILL -- "-$(cat "$1/group")"
            tries=0
            while [ $tries -lt 50 ] && epmd -port "$2" -names > /dev/null; do
                epmd -port "$2" -kill > /dev/null
                sleep 0.1
                tries=$((tries + 1))
            done
            rm -rf "$1"
        "#;
        let mut shell = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(folder)
            .arg(ports.mapper.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal to the tests' group (Ctrl-C) must not end it before its work is done.
            .process_group(0)
            .spawn()?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ended = self.shell.wait();
    }
}

/// Whether RabbitMQ is installed.
pub fn is_installed() -> bool {
    newest().is_some()
}

/// The newest server that is installed.
fn newest() -> Option<PathBuf> {
    let folders = fs::read_dir(SERVERS).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.filter(|folder| folder.join("sbin/rabbitmq-server").is_file()).max()
}

#[allow(clippy::panic, reason = "for tests, which fail by panicking")]
fn installed() -> PathBuf {
    newest().unwrap_or_else(|| {
        panic!("RabbitMQ is not installed: there is no server in {SERVERS}. Install it: `apt-get install rabbitmq-server`")
    })
}

/// Whether a broker answers the protocol header (AMQP 0-9-1, section 4.2.2) with a method frame.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut kind = [0_u8];
        stream.read_exact(&mut kind)?;
        Ok(kind == [1])
    };
    ask().unwrap_or(false)
}

/// Sends a signal to the group of a child that leads one.
fn signal(signal: &str, child: &Child) {
    let group = format!("-{}", child.id());
    let _gone = Command::new("kill").args([signal, "--", &group]).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_lives_through_all_that_is_done_to_it() {
        let mut broker = RabbitMq::start();
        assert!(answers(broker.address()));
        assert!(broker.ctl(&["list_vhosts"]).contains('/'));
        broker.kill();
        assert!(!answers(broker.address()));
        broker.restart();
        broker.stop();
        assert!(!answers(broker.address()));
        let (address, folder) = (broker.address(), broker.folder.path().to_owned());
        broker.restart();
        assert!(answers(address));
        // As when its process is killed: no one but the guardian is left to end it.
        drop(broker.child.take());
        drop(broker);
        assert!(!answers(address) && !folder.exists());
    }
}
