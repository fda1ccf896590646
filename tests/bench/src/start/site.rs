//! What a runtime finds when it starts: flows, plugins, and the compiled code of the start before.

use std::{
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    case::Setup,
    http::{flow_of, server::Work},
    load::Asker,
    machine::{bound_to, places},
    plugins::{self, marked},
    subject::{Subject, free_address, gristmill_here},
};

/// How long to wait before a flow that is not there yet is asked again.
const ASK_AGAIN: Duration = Duration::from_micros(200);

/// After how many times it is looked whether the process still lives.
const ASK_TIMES: usize = 1_000;

/// Flows that rename fields, each on a path of its own, on one address; and what they need.
#[derive(Debug)]
pub(crate) struct Site {
    address: SocketAddr,
    /// A request for each flow.
    requests: Vec<Vec<u8>>,
    expected: Vec<u8>,
    /// With the folders `flows`, `plugins` and `state`.
    folder: TempDir,
}

/// What one start says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// From before the process is started until one message was answered.
    pub(crate) first: Duration,
    /// The same until every flow had answered one.
    pub(crate) all: Duration,
    /// The most memory until then.
    pub(crate) peak_mib: f64,
}

impl Site {
    /// So many flows, which share so many plugins, no two of which are the same; with all of the plugins compiled.
    ///
    /// # Errors
    /// When it cannot be written, or does not run.
    pub(crate) fn new(setup: &Setup, flows: usize, plugins: u16) -> Result<Self> {
        let (address, folder, work) = (free_address()?, tempfile::tempdir()?, Work::rename()?);
        for part in ["flows", "plugins", "state"] {
            fs::create_dir(folder.path().join(part))?;
        }
        let rename = plugins::read(&setup.plugins, "bench-rename")?;
        for number in 0..plugins {
            let file = plugins::file(&folder.path().join("plugins"), &plugin_name(number.into()));
            fs::write(file, marked(&rename, number))?;
        }
        let path = |number| format!("/flows/{number}");
        for number in 0..flows {
            let plugin = plugin_name(number % usize::from(plugins));
            let flow = flow_of(&format!("flow-{number}"), address, &path(number), &plugin);
            fs::write(folder.path().join(format!("flows/flow-{number:04}.yaml")), flow)?;
        }
        let requests = (0..flows).map(|number| work.request(address, &path(number))).collect();
        let site = Self { address, requests, expected: work.expected().to_vec(), folder };
        site.start(setup)?;
        Ok(site)
    }

    /// Starts the runtime, and asks every flow once.
    ///
    /// # Errors
    /// When it does not come up, or answers wrongly.
    pub(crate) fn start(&self, setup: &Setup) -> Result<(Subject, Start)> {
        // The process has a working directory of its own, so that each start has its own log. JSON is YAML.
        let here = tempfile::tempdir()?;
        let part = |name| self.folder.path().join(name);
        let configuration =
            json!({ "flows": part("flows"), "plugins": part("plugins"), "state": part("state") });
        fs::write(here.path().join("gristmill.yaml"), configuration.to_string())?;

        let began = Instant::now();
        let mut subject = Subject::start(gristmill_here(setup), here)?;
        let (first, all) = bound_to(places().load, || -> Result<_> {
            let (mut asker, mut first) = (None, None);
            for request in &self.requests {
                subject.until("a flow does not answer", |_| self.is_answered(&mut asker, request))?;
                first = first.or_else(|| Some(began.elapsed()));
            }
            Ok((first.unwrap_or_default(), began.elapsed()))
        })??;
        let peak_mib = subject.memory()?.peak_mib;
        Ok((subject, Start { first, all, peak_mib }))
    }

    /// Asks until there is an answer, for some time. Nobody listens yet, or has the path yet: that is no answer.
    fn is_answered(&self, asker: &mut Option<Asker>, request: &[u8]) -> Result<bool> {
        for _ in 0..ASK_TIMES {
            if asker.is_none() {
                *asker = Asker::connect(self.address).ok();
            }
            if let Some(asker) = asker {
                let answer = asker.ask(request)?;
                if answer.status != 404 {
                    let is_right = answer.status == 200 && answer.body == self.expected;
                    ensure!(is_right, "a wrong answer: {answer:?}");
                    return Ok(true);
                }
            }
            thread::sleep(ASK_AGAIN);
        }
        Ok(false)
    }
}

fn plugin_name(number: usize) -> String {
    format!("rename-{number}")
}
