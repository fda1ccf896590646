//! Lines for the runtime's log. Needs the grant `log`. The host adds flow, version, step and plugin; it cuts long lines and drops, and counts, what is too much.

use std::fmt::Display;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step taken.
    Trace,
    /// What helps to find a mistake.
    Debug,
    /// What an operator may want to know.
    Info,
    /// What an operator should look at.
    Warn,
    /// What went wrong.
    Error,
}

/// Writes one line.
pub fn write(level: Level, text: impl Display) {
    #[cfg(target_family = "wasm")]
    {
        use crate::bindings::capabilities::gristmill::plugin::log as host;
        let level = match level {
            Level::Trace => host::Level::Trace,
            Level::Debug => host::Level::Debug,
            Level::Info => host::Level::Info,
            Level::Warn => host::Level::Warn,
            Level::Error => host::Level::Error,
        };
        host::write(level, &text.to_string());
    }
    #[cfg(not(target_family = "wasm"))]
    super::double::with(|double| double.log.push((level, text.to_string())));
}

/// Writes a line at level debug.
pub fn debug(text: impl Display) {
    write(Level::Debug, text);
}

/// Writes a line at level info.
pub fn info(text: impl Display) {
    write(Level::Info, text);
}

/// Writes a line at level warn.
pub fn warn(text: impl Display) {
    write(Level::Warn, text);
}

/// Writes a line at level error.
pub fn error(text: impl Display) {
    write(Level::Error, text);
}
