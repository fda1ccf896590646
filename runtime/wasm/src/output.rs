//! What guests write for people: log lines, and their stdout and stderr, which become log lines. Many lines are dropped
//! and counted, long ones are cut, and no line can look like two. A full log never fails a call.

use std::sync::Arc;

use gristmill_core::{MessageId, rate::LineRate};
use tracing::Level;

use crate::{secrets::Secrets, text::clean};

/// The longest line, in bytes.
pub(crate) const MAX_LINE_BYTES: usize = 8 * 1024;

/// How much of the end of stderr is kept as evidence, in bytes.
const MAX_TAIL_BYTES: usize = 4 * 1024;

/// The log of one plugin in one step.
#[derive(Debug)]
pub(crate) struct GuestLog {
    flow: Arc<str>,
    version: Arc<str>,
    step: Arc<str>,
    plugin: Arc<str>,
    rate: LineRate,
    secrets: Secrets,
}

/// A stream of bytes from one instance, cut into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    log: Arc<GuestLog>,
    level: Level,
    message: Option<MessageId>,
    partial: Vec<u8>,
    /// How many bytes of the line were over the limit.
    cut: usize,
    tail: Option<Vec<u8>>,
}

// === impl GuestLog ===

impl GuestLog {
    /// Its place is flow, version and step.
    pub(crate) fn new(
        [flow, version, step]: [Arc<str>; 3],
        plugin: Arc<str>,
        lines_per_second: u32,
        secrets: Secrets,
    ) -> Self {
        Self { flow, version, step, plugin, rate: LineRate::new(lines_per_second), secrets }
    }

    /// Writes a line that a guest gave, unless there are too many.
    pub(crate) fn write(&self, level: Level, message: Option<&MessageId>, text: &str) {
        if !is_enabled(level) {
            return;
        }
        let Some(dropped) = self.rate.admit() else { return };
        if dropped > 0 {
            let note = format!("{dropped} lines of this plugin were dropped (limits.log_lines_per_second)");
            self.emit(Level::WARN, None, &note);
        }
        self.emit(level, message, &clean(&self.secrets.redact(text), MAX_LINE_BYTES, false));
    }

    /// Writes a line of the host about this plugin.
    pub(crate) fn note(&self, text: &str) {
        self.emit(Level::WARN, None, &self.secrets.redact(text));
    }

    fn emit(&self, level: Level, message: Option<&MessageId>, text: &str) {
        let (flow, version, step, plugin) = (&*self.flow, &*self.version, &*self.step, &*self.plugin);
        let message_id = message.map(MessageId::as_str);
        // The level of an event must be known when it is compiled, so there is one for each.
        macro_rules! emit {
            ($level:ident) => {
                tracing::event!(
                    target: "gristmill::plugin", Level::$level, flow, version, step, plugin, message_id, "{text}"
                )
            };
        }
        match level {
            Level::TRACE => emit!(TRACE),
            Level::DEBUG => emit!(DEBUG),
            Level::INFO => emit!(INFO),
            Level::WARN => emit!(WARN),
            Level::ERROR => emit!(ERROR),
        }
    }
}

fn is_enabled(level: Level) -> bool {
    match level {
        Level::TRACE => tracing::enabled!(target: "gristmill::plugin", Level::TRACE),
        Level::DEBUG => tracing::enabled!(target: "gristmill::plugin", Level::DEBUG),
        Level::INFO => tracing::enabled!(target: "gristmill::plugin", Level::INFO),
        Level::WARN => tracing::enabled!(target: "gristmill::plugin", Level::WARN),
        Level::ERROR => tracing::enabled!(target: "gristmill::plugin", Level::ERROR),
    }
}

// === impl Lines ===

impl Lines {
    pub(crate) fn stdout(log: Arc<GuestLog>) -> Self {
        Self { log, level: Level::INFO, message: None, partial: Vec::new(), cut: 0, tail: None }
    }

    pub(crate) fn stderr(log: Arc<GuestLog>) -> Self {
        Self { level: Level::WARN, tail: Some(Vec::new()), ..Self::stdout(log) }
    }

    /// From here on lines belong to this message.
    pub(crate) fn begin_call(&mut self, message: Option<&MessageId>) {
        self.message = message.cloned();
        if let Some(tail) = &mut self.tail {
            tail.clear();
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if let Some(tail) = &mut self.tail {
            tail.extend_from_slice(bytes);
            let over = tail.len().saturating_sub(MAX_TAIL_BYTES);
            tail.drain(..over);
        }
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ended) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = MAX_LINE_BYTES.saturating_sub(self.partial.len()).min(text.len());
            let (kept, cut) = text.split_at(room);
            self.partial.extend_from_slice(kept);
            self.cut += cut.len();
            if ended {
                self.end_line();
            }
        }
    }

    /// Writes what was begun and not ended.
    pub(crate) fn flush(&mut self) {
        if !self.partial.is_empty() {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let mut text = String::from_utf8_lossy(&self.partial).into_owned();
        if self.cut > 0 {
            text = self.log.secrets.redact_beginning(&text);
            text.push_str(&format!("… ({} bytes more)", self.cut));
        }
        self.log.write(self.level, self.message.as_ref(), &text);
        self.partial.clear();
        self.cut = 0;
    }

    /// The end of what was written since the call began.
    pub(crate) fn tail(&self) -> Option<String> {
        let tail = self.tail.as_ref().filter(|t| !t.is_empty())?;
        let text = self.log.secrets.redact_end(&String::from_utf8_lossy(tail));
        Some(clean(&text, 2 * MAX_TAIL_BYTES, true).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Arc<GuestLog> {
        Arc::new(GuestLog::new(
            ["flow", "version", "steps[0]"].map(Into::into),
            "p".into(),
            3,
            Secrets::default(),
        ))
    }

    #[test]
    fn stderr_keeps_its_end_and_a_line_without_end_does_not_grow() {
        let mut lines = Lines::stderr(log());
        for _ in 0..10_000 {
            lines.write(b"0123456789");
        }
        assert_eq!(lines.partial.len(), MAX_LINE_BYTES);
        lines.write(b"\nthe end");
        assert!(lines.tail().unwrap().ends_with("9\nthe end"));
        assert!(lines.tail().unwrap().len() <= MAX_TAIL_BYTES);
        lines.begin_call(None);
        assert_eq!(lines.tail(), None);
    }
}
