//! The log: for people on a terminal, JSON lines otherwise.

use std::io::IsTerminal;

use gristmill_core::config::nearest;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::settings::{LogConfig, LogFormat};

/// The levels, `off` included.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Changes the level of the log while it is written.
pub(crate) struct LogHandle(reload::Handle<EnvFilter, Registry>);

/// Why a text is no level of the log.
pub(crate) struct Unfit {
    pub(crate) text: String,
    pub(crate) mend: String,
}

/// Checks what `log.level` says. The filter's own parser takes a word that is no level for the name of a part, and then
/// writes nothing else: a misspelt level would silence the log.
///
/// # Errors
/// The first word that is no level, and a filter that is none.
pub(crate) fn check_level(level: &str) -> Result<(), Unfit> {
    let known = LEVELS.map(|level| format!("`{level}`")).join(", ");
    let mend = format!("write one of {known}, or a filter such as `info,gristmill::plugin=debug`");
    // What stands in brackets is about spans, and may hold commas.
    for directive in level.split(',').filter(|_| !level.contains('[')) {
        let word = directive.rsplit('=').next().unwrap_or_default().trim();
        if word.is_empty() {
            return Err(Unfit { text: "the log level is empty".to_owned(), mend });
        }
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(word)) {
            let mend = nearest(word, LEVELS).map_or(mend, |near| format!("did you mean `{near}`?"));
            return Err(Unfit { text: format!("`{word}` is no log level"), mend });
        }
    }
    filter(level).map(drop).map_err(|text| Unfit { text, mend })
}

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

/// The filter for `log.level`. What the client library of AMQP logs, the adapter says in words for operators: it is left out
/// unless it is asked for (`info,lapin=debug`).
fn filter(level: &str) -> Result<EnvFilter, String> {
    format!("lapin=off,{level}").parse().map_err(|e| format!("`{level}` is no log level: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_amqp_is_silent_unless_it_is_asked() {
        let shown = |level| filter(level).ok().unwrap().to_string();
        assert_eq!(shown("info"), "lapin=off,info");
        let asked = shown("info,lapin=debug");
        assert!(asked.contains("lapin=debug") && !asked.contains("lapin=off"), "{asked}");
    }
}
