//! What a guest did wrong, told from what the engine reports: a typed failure with the guest's backtrace and the tail of
//! its stderr.

use std::{fmt, time::Duration};

use gristmill_core::{ErrorClass, Failure, plugin::PluginError};
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::{
    guest_time::{DeadlinePassed, WallTimeout},
    instance::GuestState,
    text::clean,
};

/// How much of a backtrace is kept, in bytes.
const MAX_BACKTRACE_BYTES: usize = 8 * 1024;

/// How long a text about a fault may be, in bytes.
const MAX_TEXT_BYTES: usize = 2 * 1024;

/// A guest's fault.
#[derive(Debug, Clone)]
pub(crate) struct GuestFault {
    class: ErrorClass,
    text: String,
    details: Vec<String>,
    /// Whether the guest is to blame: a call that only waited for its turn on a busy machine is not held against it.
    blames_guest: bool,
}

/// A host function refused what a guest asked for; the guest traps.
#[derive(Debug)]
pub(crate) struct HostRefusal(pub(crate) String);

// === impl GuestFault ===

impl GuestFault {
    /// The answer breaks the contract or a limit.
    pub(crate) fn malformed(text: impl Into<String>) -> Self {
        Self { class: ErrorClass::PluginMalformed, text: text.into(), details: vec![], blames_guest: true }
    }

    /// From what a call gave.
    pub(crate) fn from_error(error: &wasmtime::Error, state: &GuestState) -> Self {
        let (class, text) = classify(error, state);
        let backtrace = error.downcast_ref::<WasmBacktrace>().map(|b| b.to_string());
        let text = state.shared.secrets.redact(&text).into_owned();
        Self { class, text, details: vec![], blames_guest: true }.with_evidence(backtrace, state)
    }

    /// From a call that took too long in all. The guest is to blame when it waits in a host call: so far the only host
    /// calls that wait are for timers that it set itself. One that waits for others must not be held against it.
    pub(crate) fn from_timeout(timeout: WallTimeout, state: &GuestState) -> Self {
        let WallTimeout { guest_waited, limit } = timeout;
        let why = if guest_waited { "the plugin waits in a host call" } else { "the machine is busy" };
        let text = format!(
            "the call did not end within {} ms in all (limits.call_timeout_ms): {why}",
            millis(limit)
        );
        let fault =
            Self { class: ErrorClass::PluginTimeout, text, details: vec![], blames_guest: guest_waited };
        fault.with_evidence(None, state)
    }

    fn with_evidence(mut self, backtrace: Option<String>, state: &GuestState) -> Self {
        if let Some(stderr) = state.stderr_tail() {
            self.details.push(format!("stderr of the plugin:\n{stderr}"));
        }
        if let Some(backtrace) = backtrace {
            self.details.push(clean(&backtrace, MAX_BACKTRACE_BYTES, true).into_owned());
        }
        self.details.sort_by_key(String::len);
        self
    }

    /// Whether it counts towards quarantine.
    pub(crate) fn blames_guest(&self) -> bool {
        self.blames_guest
    }

    /// As the failure of a message.
    pub(crate) fn into_failure(self) -> Failure {
        let failure = Failure::new(self.class, self.text);
        self.details.into_iter().fold(failure, |failure, detail| failure.with_detail(detail))
    }

    /// As the reason why a plugin cannot be loaded or bound.
    pub(crate) fn into_plugin_error(self, doing: &str) -> PluginError {
        let code = match self.class {
            ErrorClass::PluginTimeout => "plugin_timeout",
            ErrorClass::PluginMemory => "plugin_memory",
            ErrorClass::PluginMalformed => "plugin_malformed",
            _ => "plugin_trap",
        };
        let error = PluginError::new(code, format!("{doing}, {self}"));
        match self.class {
            ErrorClass::PluginTimeout => error.mend("raise `limits: { call_timeout_ms: … }` of the step"),
            ErrorClass::PluginMemory => error.mend("raise `limits: { memory_mib: … }` of the step"),
            _ => error,
        }
    }
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.details.iter().try_for_each(|detail| write!(f, "\n{detail}"))
    }
}

/// Tells faults apart by what the error is; only the last two kinds have no type of their own. An error that rose through
/// guest code carries the guest's backtrace; one without it was found on the way in or out: the canonical ABI could not
/// read what the guest gave.
fn classify(error: &wasmtime::Error, state: &GuestState) -> (ErrorClass, String) {
    if let Some(DeadlinePassed(limit)) = error.downcast_ref() {
        let text = format!(
            "the plugin ran for more than {} ms in one call (limits.deadline_ms; at start, limits.call_timeout_ms)",
            millis(*limit)
        );
        return (ErrorClass::PluginTimeout, text);
    }
    if state.limiter.refused {
        let text = format!(
            "the plugin needs more memory than {} MiB (limits.memory_mib)",
            state.shared.limits.memory_mib
        );
        return (ErrorClass::PluginMemory, text);
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return (ErrorClass::PluginTrap, format!("the plugin ended itself with exit code {}", exit.0));
    }
    if let Some(refusal) = error.downcast_ref::<HostRefusal>() {
        return (ErrorClass::PluginTrap, format!("the plugin trapped: {refusal}"));
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return (ErrorClass::PluginTrap, format!("the plugin trapped: {trap}"));
    }
    let root = error.root_cause().to_string();
    let root = state.shared.secrets.redact(&root);
    let root = clean(&root, MAX_TEXT_BYTES, false);
    if error.downcast_ref::<WasmBacktrace>().is_some() {
        return (ErrorClass::PluginTrap, format!("the plugin trapped in a host call: {root}"));
    }
    (ErrorClass::PluginMalformed, format!("what the plugin answered cannot be read: {root}"))
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis()
}

impl fmt::Display for HostRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HostRefusal {}
