//! The binary while it runs: its log, its admin listener, its end.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{
    PATIENCE, eventually,
    http::{self, Answer},
};

/// A runtime. Killed when dropped; shows its log when the test has failed.
pub(crate) struct Running {
    child: Child,
    log: Arc<Log>,
    admin: SocketAddr,
}

/// What the binary has written to standard error, line by line.
#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<Value>,
    ended: bool,
}

/// A place in the log, to wait for what comes after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(usize);

impl Running {
    /// Starts the binary and waits for its admin listener.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let (writer, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || writer.fill(BufReader::new(stderr)));
        let unbound = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut running = Self { child, log, admin: unbound };
        running.admin = address(&running.logged(|line| says(line, "admin:")));
        running
    }

    /// The first line of the log that fits, waiting for it.
    #[track_caller]
    pub(crate) fn logged(&self, fits: impl Fn(&Value) -> bool) -> Value {
        self.logged_after(Mark(0), fits)
    }

    /// The first line after `mark` that fits, waiting for it.
    #[track_caller]
    pub(crate) fn logged_after(&self, mark: Mark, fits: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        let mut next = mark.0;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.lines[next..].iter().find(|line| fits(line)) {
                return line.clone();
            }
            next = lines.lines.len();
            assert!(!lines.ended, "the runtime has ended without the line that is waited for");
            let left = PATIENCE.checked_sub(began.elapsed()).expect("waited in vain for a line of the log");
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Where the log is now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.log.lines.lock().unwrap().lines.len())
    }

    /// How many lines of the log fit, so far.
    pub(crate) fn count(&self, fits: impl Fn(&Value) -> bool) -> usize {
        self.log.lines.lock().unwrap().lines.iter().filter(|line| fits(line)).count()
    }

    /// Waits until a flow has been started, and gives its version.
    #[track_caller]
    pub(crate) fn is_running(&self, flow: &str) -> String {
        self.runs_after(Mark(0), flow)
    }

    /// Waits until a flow has been started or replaced after `mark`, and gives its version.
    #[track_caller]
    pub(crate) fn runs_after(&self, mark: Mark, flow: &str) -> String {
        let line = self.logged_after(mark, |line| line["flow"] == flow && says(line, ": running"));
        line["version"].as_str().unwrap().to_owned()
    }

    /// Waits until a save of a flow has been refused after `mark`, be it for the same as before.
    #[track_caller]
    pub(crate) fn refuses_after(&self, mark: Mark, flow: &str) -> String {
        let refused = |line: &Value| says(line, ": refused; ") || says(line, ": still refused, ");
        let line = self.logged_after(mark, |line| line["flow"] == flow && refused(line));
        line["message"].as_str().unwrap().to_owned()
    }

    /// The address of the flows that listen on port 0.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        address(&self.logged(|line| says(line, "listening for HTTP")))
    }

    /// Sends a message to a flow that listens on port 0, on a connection of its own.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        http::post(self.address(), path, body.as_ref()).unwrap()
    }

    /// Asks the admin listener.
    #[track_caller]
    pub(crate) fn admin(&self, path: &str) -> Answer {
        http::get(self.admin, path).unwrap()
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// How a flow is, as `/health/ready` has it; null while there is none of that name.
    #[track_caller]
    pub(crate) fn status(&self, flow: &str) -> Value {
        let mut report = self.admin(&format!("/health/ready?flow={flow}")).json();
        report["flows"].get_mut(0).map(Value::take).unwrap_or_default()
    }

    /// Waits until a flow is in a state, and gives how it is then.
    #[track_caller]
    pub(crate) fn becomes(&self, flow: &str, state: &str) -> Value {
        let status = || Some(self.status(flow)).filter(|status| status["state"]["is"] == state);
        eventually(&format!("`{flow}` to be {state}"), status)
    }

    /// The sum of all series of a metric that have all of these labels, each written `name="value"`.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin("/metrics").text();
        let series = text.lines().filter(|line| {
            let labelled = line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
            labelled && labels.iter().all(|label| line.contains(label))
        });
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// The most memory it ever had resident, in bytes.
    pub(crate) fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and what it ended with.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ends()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> ExitStatus {
        eventually("the end of the runtime", || self.child.try_wait().unwrap())
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

/// Whether the text of a line contains these words.
pub(crate) fn says(line: &Value, words: &str) -> bool {
    line["message"].as_str().is_some_and(|text| text.contains(words))
}

/// Whether a line says that this version of a flow runs now.
pub(crate) fn running_says_so(line: &Value, flow: &str, version: &str) -> bool {
    line["flow"] == flow && line["version"] == version && says(line, ": running")
}

fn address(line: &Value) -> SocketAddr {
    line["address"].as_str().unwrap().parse().unwrap()
}

impl Log {
    fn fill(&self, stderr: impl BufRead) {
        for line in stderr.lines().map_while(Result::ok) {
            // What is not JSON (a panic) is kept as it is.
            let line = serde_json::from_str(&line).unwrap_or_else(|_| serde_json::json!({ "message": line }));
            self.lines.lock().unwrap().lines.push(line);
            self.more.notify_all();
        }
        self.lines.lock().unwrap().ended = true;
        self.more.notify_all();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let lines = self.log.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let last = lines.lines.len().saturating_sub(40);
            for line in &lines.lines[last..] {
                eprintln!("{line}");
            }
        }
    }
}
