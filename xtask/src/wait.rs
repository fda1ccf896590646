//! Waiting for what another process does: asked again and again, until it has happened or a deadline has passed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often is asked.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `ask` gives a value. `Ok(None)` is "not yet"; an error ends the waiting.
pub(crate) fn until<T>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = ask()? {
            return Ok(value);
        }
        if started.elapsed() > deadline {
            bail!("waited {} s in vain: {what}", deadline.as_secs());
        }
        std::thread::sleep(INTERVAL);
    }
}
