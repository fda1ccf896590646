//! New connections, from time to time: whether one is refused.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{
    http::{
        PATH,
        server::{Server, Work},
    },
    load::Asker,
};

/// From one to the next.
const CONNECT_EVERY: Duration = Duration::from_millis(10);

/// Makes them.
#[derive(Debug)]
pub(super) struct Connects<'a> {
    server: &'a Server,
    work: &'a Work,
    request: Vec<u8>,
    next: Instant,
    /// How many were made.
    pub(super) made: usize,
}

impl<'a> Connects<'a> {
    pub(super) fn new(server: &'a Server, work: &'a Work) -> Self {
        let request = work.request(server.address, PATH);
        Self { server, work, request, next: Instant::now(), made: 0 }
    }

    /// Makes one with one request, when it is time for one.
    ///
    /// # Errors
    /// When it is refused, or answered wrongly.
    pub(super) fn go_on(&mut self) -> Result<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + CONNECT_EVERY;
        self.made += 1;
        let which = || format!("new connection {}", self.made);
        let mut asker = Asker::connect(self.server.address).with_context(which)?;
        let answer = asker.ask(&self.request).with_context(which)?;
        let is_right = answer.status == 200 && answer.body == self.work.expected();
        ensure!(is_right, "a wrong answer on {}: {answer:?}", which());
        Ok(())
    }
}
