//! The servers that a load is put on, ours and the floors, and the requests that they get.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use bench_rename::rename;
use gristmill_mill::sample;

use crate::{
    case::Setup,
    load::{self, Pace, Plan, Sample},
    stats::{Rounds, alternate},
    subject::{Subject, free_address},
};

const BODY_BYTES: usize = 1024;

/// Where every server takes requests.
pub(crate) const PATH: &str = "/orders";

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) subject: Subject,
    pub(crate) address: SocketAddr,
    /// A process that works on the load's processor for it.
    pub(crate) helper: Option<u32>,
}

/// What is asked of a server: the body of every request, and that of every right answer.
#[derive(Debug)]
pub(crate) struct Work {
    body: String,
    expected: Vec<u8>,
}

/// How a server is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    pub(crate) round: Duration,
}

impl Server {
    /// A floor: this program with another task, which is told where to listen and then the rest.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn floor(task: &str, rest: &[&str]) -> Result<Self> {
        let address = free_address()?;
        let listen = address.to_string();
        let arguments = [task, &listen].into_iter().chain(rest.iter().copied());
        Self::until_it_listens(Subject::floor(arguments)?, address)
    }

    /// The real binary with one flow, made for the address on which it is to listen.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn gristmill(setup: &Setup, flow: impl FnOnce(SocketAddr) -> String) -> Result<Self> {
        let address = free_address()?;
        let subject = Subject::gristmill(setup, &[("orders.yaml", &flow(address))])?;
        Self::until_it_listens(subject, address)
    }

    /// What was started to listen there, as soon as it does.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn until_it_listens(mut subject: Subject, address: SocketAddr) -> Result<Self> {
        subject.until_it_listens(address)?;
        Ok(Self { subject, address, helper: None })
    }

    /// One round of load.
    ///
    /// # Errors
    /// As [`load::round`], with the end of the server's log.
    pub(crate) fn round(&self, work: &Work, manner: Manner) -> Result<Sample> {
        load::round(&work.plan(self, manner))
            .with_context(|| format!("the server's log ends with:\n{}", self.subject.log_tail()))
    }

    /// How often it asks for memory for a request, in a round of its own, for which it is restarted.
    ///
    /// # Errors
    /// When it does not start again, and as [`Self::round`].
    pub(crate) fn allocations(&mut self, work: &Work, manner: Manner, counting: &Path) -> Result<f64> {
        self.subject.restart_counted(counting)?;
        self.subject.until_it_listens(self.address)?;
        // What is made once: instances of plugins, buffers, connections to others.
        self.round(work, manner)?;
        let mut requests = 0;
        let calls = self.subject.allocations_of(|| {
            requests = self.round(work, manner)?.requests;
            Ok(())
        })?;
        Ok(calls as f64 / requests as f64)
    }
}

impl Work {
    /// An order of 1 KiB, of which two fields are renamed.
    ///
    /// # Errors
    /// When it is no JSON.
    pub(crate) fn rename() -> Result<Self> {
        let body = sample::order(BODY_BYTES);
        let expected = rename(body.as_bytes())?;
        Ok(Self { body, expected })
    }

    /// The same order, which comes back as it was.
    pub(crate) fn echo() -> Self {
        let body = sample::order(BODY_BYTES);
        Self { expected: body.clone().into_bytes(), body }
    }

    /// The whole request for a path, as it goes over the wire.
    pub(crate) fn request(&self, address: SocketAddr, path: &str) -> Vec<u8> {
        let (body, length) = (&self.body, self.body.len());
        format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// The body of the right answer.
    pub(crate) fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn plan(&self, server: &Server, manner: Manner) -> Plan {
        let Manner { connections, pace, round } = manner;
        Plan {
            address: server.address,
            request: self.request(server.address, PATH),
            expected: self.expected.clone(),
            connections,
            pace,
            round,
            server: server.subject.process(),
            helper: server.helper,
        }
    }
}

/// Loads both in the same manner, in alternating rounds, after one round each that warms them up.
///
/// # Errors
/// That of the first round that fails.
pub(crate) fn compare(
    floor: &Server,
    ours: &Server,
    work: &Work,
    manner: Manner,
    rounds: usize,
) -> Result<Rounds<Sample>> {
    for server in [floor, ours] {
        server.round(work, manner)?;
    }
    alternate(rounds, &mut [&mut || floor.round(work, manner)], &mut || ours.round(work, manner))
}
