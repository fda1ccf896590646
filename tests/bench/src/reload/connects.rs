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
    /// How many were to be made.
    pub(super) tried: usize,
    /// How many of them were refused.
    pub(super) refused: usize,
}

impl<'a> Connects<'a> {
    pub(super) fn new(server: &'a Server, work: &'a Work) -> Self {
        let request = work.request(server.address, PATH);
        Self { server, work, request, next: Instant::now(), tried: 0, refused: 0 }
    }

    /// What was so far does not count.
    pub(super) fn forget(&mut self) {
        (self.tried, self.refused) = (0, 0);
    }

    /// Makes one with one request, when it is time for one.
    ///
    /// # Errors
    /// When the request is not answered, or wrongly.
    pub(super) fn go_on(&mut self) -> Result<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + CONNECT_EVERY;
        self.tried += 1;
        let Ok(mut asker) = Asker::connect(self.server.address) else {
            self.refused += 1;
            return Ok(());
        };
        let answer = asker.ask(&self.request).context("on a new connection")?;
        let is_right = answer.status == 200 && answer.body == self.work.expected();
        ensure!(is_right, "a wrong answer on a new connection: {answer:?}");
        Ok(())
    }
}
