//! The log: for people on a terminal, JSON lines otherwise.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::settings::{LogConfig, LogFormat};

/// Changes the level of the log while it is written.
pub(crate) struct LogHandle(reload::Handle<EnvFilter, Registry>);

/// Begins to write the log to standard error.
///
/// # Errors
/// When the level is none, or a log is written already.
pub(crate) fn start(config: &LogConfig) -> Result<LogHandle, String> {
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    let human = match config.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format = if human {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        format.compact().with_ansi(colour).with_target(false).boxed()
    } else {
        format.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(format)
        .try_init()
        .map_err(|e| format!("the log cannot be written: {e}"))?;
    Ok(LogHandle(handle))
}

impl LogHandle {
    /// Sets another level.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn set_level(&self, level: &str) -> Result<(), String> {
        self.0.reload(filter(level)?).map_err(|e| format!("the log level cannot be changed: {e}"))
    }
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    level.parse().map_err(|e| format!("`{level}` is no log level: {e}"))
}
