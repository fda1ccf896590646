//! Mosquitto.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::free_port;

/// How long a broker may take to come up or to go, also on a machine under load.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a port is asked for: another process can take one before the broker does.
const ATTEMPTS: usize = 5;

/// What to do when there is none.
const INSTALL: &str = "mosquitto is not installed: `apt-get install mosquitto` (the tests start it by themselves, so stop \
                       the system's own: `systemctl disable --now mosquitto`)";

/// A CONNECT of MQTT 3.1.1 without a client id: what a broker that is up answers.
const KNOCK: &[u8] = &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 0];

/// Whether Mosquitto is installed.
pub fn is_installed() -> bool {
    program().is_some()
}

/// Where it is: Debian has it in a folder that is not in everyone's search path.
fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("mosquitto")).find(|file| file.is_file())
}

/// A broker of one's own. It is gone, and its folder with it, when this is dropped.
#[derive(Debug)]
pub struct Mosquitto {
    folder: TempDir,
    port: u16,
    tls_port: Option<u16>,
    child: Option<Child>,
}

/// What a broker is started with.
#[derive(Debug, Clone, Default)]
pub struct MosquittoOptions {
    /// User name and password, without which it lets no one in.
    pub user: Option<(String, String)>,
    /// Certificate and key in PEM: then it listens with TLS too.
    pub tls: Option<(String, String)>,
    /// Further lines of its configuration file.
    pub lines: Vec<String>,
}

#[allow(clippy::panic, clippy::expect_used, reason = "for tests: this is how they fail")]
impl Mosquitto {
    /// A broker that lets everyone in, keeps what it has on disk, and drops nothing.
    ///
    /// # Panics
    /// When there is none installed, or it does not come up.
    pub fn start() -> Self {
        Self::with(&MosquittoOptions::default())
    }

    /// The same with options.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn with(options: &MosquittoOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the broker");
        let tls_port = options.tls.as_ref().map(|_| free_port().expect("a free port"));
        let mut broker = Self { folder, port: 0, tls_port, child: None };
        for _ in 0..ATTEMPTS {
            broker.port = free_port().expect("a free port");
            broker.configure(options).expect("the broker's files can be written");
            if broker.launch() {
                return broker;
            }
        }
        panic!("mosquitto does not come up:\n{}", broker.log());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Its URL with TLS, under the name of the certificate.
    ///
    /// # Panics
    /// When it was started without.
    pub fn tls_url(&self, name: &str) -> String {
        format!("mqtts://{name}:{}", self.tls_port.expect("started with TLS"))
    }

    /// Ends it by SIGTERM, at which it writes what it holds to disk.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal(&child, "TERM");
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("a child can be asked").is_none() {
            if Instant::now() > deadline {
                let _ended = child.kill().and_then(|()| child.wait());
                panic!("mosquitto does not end:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts it again on the port and the data of before.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it still runs");
        assert!(self.launch(), "mosquitto does not come up again:\n{}", self.log());
    }

    /// Ends it by SIGTERM, and starts it again.
    ///
    /// # Panics
    /// When it does not end, or does not come up.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Stops it where it is (SIGSTOP): its connections stay, and it answers nothing.
    pub fn freeze(&self) {
        if let Some(child) = &self.child {
            signal(child, "STOP");
        }
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        if let Some(child) = &self.child {
            signal(child, "CONT");
        }
    }

    /// What it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("mosquitto.log")).unwrap_or_default()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, options: &MosquittoOptions) -> io::Result<()> {
        let shown = |path: &Path| path.display().to_string();
        let mut lines = vec![
            "persistence true".to_owned(),
            format!("persistence_location {}/", shown(self.folder.path())),
            // Else small packets wait for each other.
            "set_tcp_nodelay true".to_owned(),
            // Else it drops what is too much for it, and whoever counts finds it missing.
            "max_queued_messages 0".to_owned(),
            "log_type all".to_owned(),
            "connection_messages true".to_owned(),
        ];
        if is_root() {
            lines.push("user root".to_owned());
        }
        match &options.user {
            Some((name, password)) => {
                let file = self.file("passwords");
                fs::write(&file, format!("{name}:{password}\n"))?;
                // Turns the passwords into hashes.
                let hashed = Command::new("mosquitto_passwd").arg("-U").arg(&file).status();
                assert!(hashed.is_ok_and(|it| it.success()), "mosquitto_passwd fails: {INSTALL}");
                lines.push("allow_anonymous false".to_owned());
                lines.push(format!("password_file {}", shown(&file)));
            }
            None => lines.push("allow_anonymous true".to_owned()),
        }
        lines.extend(options.lines.iter().cloned());
        lines.push(format!("listener {} 127.0.0.1", self.port));
        if let (Some((certificate, key)), Some(port)) = (&options.tls, self.tls_port) {
            let (certificate_file, key_file) = (self.file("certificate.pem"), self.file("key.pem"));
            fs::write(&certificate_file, certificate)?;
            fs::write(&key_file, key)?;
            lines.push(format!("listener {port} 127.0.0.1"));
            lines.push(format!("certfile {}", shown(&certificate_file)));
            lines.push(format!("keyfile {}", shown(&key_file)));
        }
        fs::write(self.file("mosquitto.conf"), lines.join("\n") + "\n")
    }

    /// False when it ended by itself: its port was taken.
    fn launch(&mut self) -> bool {
        let log = fs::File::options().create(true).append(true).open(self.file("mosquitto.log"));
        let log = log.expect("the broker's log can be written");
        let child = Command::new(program().unwrap_or_else(|| panic!("{INSTALL}")))
            .arg("-c")
            .arg(self.file("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => panic!("{INSTALL}"),
            Err(error) => panic!("mosquitto cannot be started: {error}"),
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if child.try_wait().expect("a child can be asked").is_some() {
                return false;
            }
            if self.answers() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ended = child.kill().and_then(|()| child.wait());
        false
    }

    /// Whether there is a broker at the port: that it is open could be another's doing.
    fn answers(&self) -> bool {
        let knock = || -> io::Result<bool> {
            let mut tcp = TcpStream::connect_timeout(&self.address(), Duration::from_secs(1))?;
            tcp.set_read_timeout(Some(Duration::from_secs(1)))?;
            tcp.write_all(KNOCK)?;
            let mut first = [0];
            tcp.read_exact(&mut first)?;
            Ok(first == [0x20])
        };
        knock().unwrap_or(false)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Whatever it holds goes with its folder.
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}

fn is_root() -> bool {
    let asked = Command::new("id").arg("-u").output();
    asked.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
    assert!(sent.is_ok_and(|it| it.success()), "a signal cannot be sent");
}
