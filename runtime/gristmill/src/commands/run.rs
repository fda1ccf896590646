//! `gristmill run`: runs the flows of a folder, and reloads them when they change.

use std::{io::IsTerminal as _, process::ExitCode, sync::Arc};

use gristmill_core::{SystemClock, background, config::Mistake, observe::ReloadResult};
use gristmill_engine::flow::FlowFile;
use gristmill_engine::runtime::{Applied, DOWN_RETRY, Runtime, RuntimeParts};
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{Admin, AdminListener, BoundListener, Refusal},
    assemble,
    cli::RunArguments,
    files,
    report::{self, Problem, Sources},
    settings::Settings,
    telemetry::{
        log::{self, LogHandle},
        metrics::Metrics,
    },
    watch::Watcher,
};

/// Runs until it is told to stop.
pub(crate) fn run(arguments: &RunArguments) -> Result<ExitCode, Problem> {
    let settings = Settings::load(&arguments.places)?;
    let log = log::start(&settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("no threads can be started: {e}"))?;
    let result = runtime.block_on(serve(arguments, settings, log));
    // What is still blocked (a read from a dead disk) must not keep the process.
    runtime.shutdown_background();
    result
}

/// A runtime with what surrounds it.
struct Server<'a> {
    arguments: &'a RunArguments,
    settings: Settings,
    log: LogHandle,
    runtime: Arc<Runtime>,
    admin: Arc<Admin>,
    listener: Option<AdminListener>,
    watcher: Watcher,
    /// Whether what the configuration was refused for may pass without a change of the configuration.
    refusal_may_pass: bool,
}

/// A configuration of which everything that is new was checked and is ready.
struct Ready {
    settings: Settings,
    /// `None` to keep the one that runs, or none.
    listener: Option<Option<BoundListener>>,
    files: Vec<FlowFile>,
}

/// Why a configuration was refused.
struct Refused {
    problem: Problem,
    may_pass: bool,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

async fn serve(arguments: &RunArguments, settings: Settings, log: LogHandle) -> Result<ExitCode, Problem> {
    let mut signals = Signals::listen()?;
    std::fs::create_dir_all(&settings.state)
        .map_err(|e| format!("cannot make the state folder {}: {e}", files::shown(&settings.state)))?;
    // Read before anything is started, so that a wrong folder is said at once.
    let files = files::flow_files(&settings.flows)?;
    let host = assemble::plugin_host(&settings.plugins, &settings.state)?;
    let metrics = Metrics::new();
    let runtime = Arc::new(Runtime::new(RuntimeParts {
        context: assemble::set_context(assemble::registry(), host, &settings),
        observer: Arc::new(metrics.clone()),
        clock: Arc::new(SystemClock),
        state_dir: settings.state.join("flows"),
    }));
    let admin = Arc::new(Admin {
        runtime: Arc::clone(&runtime),
        metrics,
        loaded: CancellationToken::new(),
        draining: CancellationToken::new(),
        configuration_refused: Refusal::default(),
        flows_refused: Refusal::default(),
    });
    let watcher = Watcher::start(&settings);
    let refusal_may_pass = false;
    let mut server =
        Server { arguments, settings, log, runtime, admin, listener: None, watcher, refusal_may_pass };
    if let Some(address) = server.settings.admin {
        let listener = BoundListener::bind(address, None).await?.serve(Arc::clone(&server.admin))?;
        tracing::info!(address = %listener.address, "admin: /health/live, /health/ready, /metrics");
        server.listener = Some(listener);
    }
    if files.is_empty() {
        let dir = files::shown(&server.settings.flows);
        tracing::warn!("there are no flows in {dir} yet; `gristmill new flow hello` writes one");
    }
    server.run(&mut signals, files).await
}

/// What there is to do between two waits.
enum Turn {
    /// Everything is looked at again.
    Reload(&'static str, Say),
    /// What could not be started is tried again.
    Retry,
    /// The end.
    Stop,
}

/// How much is said of a file that is refused for the same as before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Say {
    /// All of it again: someone asked.
    Everything,
    /// That it still is.
    RepeatsInShort,
    /// Nothing.
    News,
}

impl Server<'_> {
    async fn run(&mut self, signals: &mut Signals, files: Vec<FlowFile>) -> Result<ExitCode, Problem> {
        // Whatever is going on, a signal to stop is heard: a reload that hangs is left behind.
        let loaded = tokio::select! {
            () = self.load(files, Say::Everything) => true,
            () = signals.stop() => false,
        };
        if loaded {
            self.serve(signals).await;
        }
        self.admin.draining.cancel();
        tracing::info!("stopping: no more messages are taken, those that were accepted are finished");
        let runtime = Arc::clone(&self.runtime);
        tokio::select! {
            left = runtime.shutdown() => {
                match left {
                    0 => tracing::info!("stopped: every accepted message is settled"),
                    left => tracing::warn!(left, "stopped at the drain limit: what was left is released"),
                }
                Ok(ExitCode::SUCCESS)
            }
            () = signals.stop() => Ok(stopped_at_once()),
        }
    }

    /// Until it is told to stop.
    async fn serve(&mut self, signals: &mut Signals) {
        loop {
            let retry = async {
                if self.runtime.wants_retry() || self.refusal_may_pass {
                    tokio::time::sleep(DOWN_RETRY).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let turn = tokio::select! {
                () = self.watcher.changed() => Turn::Reload("files have changed", Say::RepeatsInShort),
                _ = signals.hangup.recv() => Turn::Reload("SIGHUP", Say::Everything),
                () = retry => Turn::Retry,
                _ = signals.terminate.recv() => Turn::Stop,
                _ = signals.interrupt.recv() => Turn::Stop,
            };
            let work = async {
                match turn {
                    Turn::Reload(why, say) => self.reload(why, say).await,
                    Turn::Retry => self.retry().await,
                    Turn::Stop => {}
                }
            };
            tokio::select! {
                () = work => {}
                () = signals.stop() => return,
            }
            if matches!(turn, Turn::Stop) {
                return;
            }
        }
    }

    async fn reload(&mut self, why: &str, say: Say) {
        tracing::info!("reloading: {why}");
        let files = self.reload_settings(say).await;
        self.apply(files, say).await;
    }

    async fn retry(&mut self) {
        let files = if self.refusal_may_pass { self.reload_settings(Say::News).await } else { None };
        self.apply(files, Say::News).await;
    }

    /// Takes over the configuration as it is now, and gives the flows that were read on the way. One with mistakes, or with
    /// a change that needs a restart, changes nothing: it is said once, and shown by `/health/ready` until it is mended.
    async fn reload_settings(&mut self, say: Say) -> Option<Vec<FlowFile>> {
        let taken_over = match self.look_at_settings() {
            Ok(new) if new == self.settings => Ok(None),
            Ok(new) => match self.make_ready(new).await {
                Ok(ready) => self.take_over(ready).map(Some),
                Err(refused) => Err(refused),
            },
            Err(refused) => Err(refused),
        };
        let refused = taken_over.as_ref().err();
        self.refusal_may_pass = refused.is_some_and(|refused| refused.may_pass);
        let summary = refused.map(|refused| refused.problem.summary());
        let before = self.admin.configuration_refused.set(summary.clone());
        match taken_over {
            Ok(None) => {
                if before.is_some() {
                    tracing::info!("the configuration is again the one that runs");
                }
                None
            }
            Ok(files) => {
                self.admin.metrics.config_reload(true);
                tracing::info!("the configuration was reloaded");
                files
            }
            Err(Refused { problem, .. }) => {
                let is_news = before != summary;
                if is_news {
                    self.admin.metrics.config_reload(false);
                }
                if is_news || say == Say::Everything {
                    say_refused(&problem);
                }
                None
            }
        }
    }

    fn look_at_settings(&self) -> Result<Settings, Refused> {
        let new = Settings::load(&self.arguments.places)?;
        // Gone for a moment, or by accident: the defaults are taken from an empty file only.
        if self.settings.has_file && !new.has_file {
            let file = files::shown(&new.file);
            return Err(Refused::for_good(format!(
                "{file} is gone: put it back, or an empty one in its place for the defaults"
            )));
        }
        Ok(new)
    }

    /// Checks everything that is new, so that nothing is taken over by half. What cannot change while it runs is said to need
    /// a restart.
    async fn make_ready(&self, new: Settings) -> Result<Ready, Refused> {
        let old = &self.settings;
        for (what, changed) in [
            ("state", new.state != old.state),
            ("plugins", new.plugins != old.plugins),
            ("log.format", new.log.format != old.log.format),
        ] {
            if changed {
                return Err(Refused::for_good(format!("a change of `{what}` needs a restart")));
            }
        }
        let files = files::flow_files(&new.flows).map_err(Refused::for_now)?;
        let listener = match new.admin {
            Some(_) if new.admin == old.admin => None,
            None => Some(None),
            Some(address) => {
                let own = self.listener.as_ref().map(|listener| listener.address);
                Some(Some(BoundListener::bind(address, own).await.map_err(Refused::for_now)?))
            }
        };
        Ok(Ready { settings: new, listener, files })
    }

    /// What can still fail here comes before the first change.
    fn take_over(&mut self, ready: Ready) -> Result<Vec<FlowFile>, Refused> {
        let Ready { settings, listener, files } = ready;
        let serve = |bound: BoundListener| bound.serve(Arc::clone(&self.admin));
        let listener = listener.map(|bound| bound.map(serve).transpose()).transpose();
        let listener = listener.map_err(Refused::for_now)?;
        self.log.set_level(&settings.log.level).map_err(Refused::for_now)?;
        if let Some(listener) = listener {
            match &listener {
                Some(listener) => tracing::info!(address = %listener.address, "the admin listener has moved"),
                None => tracing::info!("the admin listener is off"),
            }
            self.listener = listener;
        }
        self.runtime.set_connections(Arc::new(settings.connections.clone()));
        self.settings = settings;
        self.watcher = Watcher::start(&self.settings);
        Ok(files)
    }

    /// Loads these files, or those in the folder of flows.
    async fn apply(&self, files: Option<Vec<FlowFile>>, say: Say) {
        match files.map_or_else(|| files::flow_files(&self.settings.flows), Ok) {
            Ok(files) => {
                self.admin.flows_refused.set(None);
                self.load(files, say).await;
            }
            // A folder that is gone for a moment (a deployment that swaps it) must not stop every flow.
            Err(problem) => {
                let before = self.admin.flows_refused.set(Some(problem.clone()));
                if before.as_ref() != Some(&problem) || say == Say::Everything {
                    tracing::error!("nothing was reloaded: {problem}");
                }
            }
        }
    }
}

impl Refused {
    /// Until the configuration is changed.
    fn for_good(problem: impl Into<Problem>) -> Self {
        Self { problem: problem.into(), may_pass: false }
    }

    /// Until something else is: a folder that is made, a port that becomes free.
    fn for_now(problem: String) -> Self {
        Self { problem: problem.into(), may_pass: true }
    }
}

impl From<Vec<Mistake>> for Refused {
    fn from(mistakes: Vec<Mistake>) -> Self {
        Self::for_good(mistakes)
    }
}

impl Server<'_> {
    /// Makes what runs agree with these files, on a thread of its own: a check that keeps it busy must neither keep messages
    /// waiting nor signals from being heard.
    async fn load(&self, files: Vec<FlowFile>, say: Say) {
        let runtime = Arc::clone(&self.runtime);
        let here = Handle::current();
        let applied = background::run("gristmill-apply", move || here.block_on(runtime.apply(files))).await;
        // Before it is said that flows run: whoever reads that may ask `/health/ready` at once.
        self.admin.loaded.cancel();
        match applied {
            Ok(applied) => applied.iter().for_each(|one| {
                let is_repeat = !one.is_news && matches!(one.result, ReloadResult::Refused);
                match say {
                    Say::RepeatsInShort if is_repeat => tell_repeat(one),
                    Say::News if is_repeat => {}
                    Say::Everything | Say::RepeatsInShort | Say::News => tell(one),
                }
            }),
            Err(fault) => tracing::error!("the reload was given up by a fault of the runtime: {fault}"),
        }
    }
}

impl Signals {
    /// SIGTERM or Ctrl-C.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    fn listen() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

fn stopped_at_once() -> ExitCode {
    tracing::warn!(
        "stopped at once, by a second signal: what was not settled is offered again by its source"
    );
    ExitCode::FAILURE
}

fn say_refused(problem: &Problem) {
    match problem {
        Problem::Text(text) => {
            tracing::error!("the configuration was refused: {text}; the one before goes on");
        }
        Problem::Mistakes(mistakes) => {
            show(None, mistakes);
            tracing::error!("the configuration was refused; the one before goes on");
        }
    }
}

/// Says what became of a file.
fn tell(one: &Applied) {
    // A file from which no id could be read has none in the log either.
    let flow = one.flow.as_deref();
    let version = one.version.as_deref().unwrap_or("none");
    let file = one.file.display();
    match one.result {
        ReloadResult::Applied => tracing::info!(flow, version, "{file}: running"),
        ReloadResult::Unchanged if one.is_news => {
            tracing::info!(flow, version, "{file}: is again what runs, and no longer refused");
        }
        ReloadResult::Unchanged => tracing::debug!(flow, version, "{file}: unchanged"),
        ReloadResult::Removed => tracing::info!(flow, "{file}: removed; it finishes what it has accepted"),
        ReloadResult::Refused => {
            let goes_on = what_goes_on(one);
            match &one.problem {
                Some(problem) => tracing::error!(flow, "{file}: {problem}; {goes_on}"),
                None => {
                    show(flow, &one.mistakes);
                    tracing::error!(flow, mistakes = one.mistakes.len(), "{file}: refused; {goes_on}");
                }
            }
        }
    }
}

/// Says that a file is refused for the same as before.
fn tell_repeat(one: &Applied) {
    let (flow, file) = (one.flow.as_deref(), one.file.display());
    tracing::warn!(flow, "{file}: still refused, for the same as before; {}", what_goes_on(one));
}

fn what_goes_on(one: &Applied) -> String {
    match &one.version {
        Some(version) => format!("version {version} goes on"),
        None => "the flow is down".to_owned(),
    }
}

/// Each in the log, and with caret for a person at a terminal.
fn show(flow: Option<&str>, mistakes: &[Mistake]) {
    for mistake in mistakes {
        let (line, column) = (mistake.span.line, mistake.span.column);
        tracing::error!(flow, code = mistake.code, line, column, "{mistake}");
    }
    if std::io::stderr().is_terminal() {
        eprint!("{}", report::human(mistakes, &Sources::read_for(mistakes), report::use_colour()));
    }
}
