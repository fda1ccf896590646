//! The contract `gristmill:plugin` as Rust types: what crosses the boundary, in the layout that the canonical ABI wants.
//!
//! Written by hand, not generated, so that a message is lowered from borrowed parts: neither headers nor body are copied
//! on the host's side before they are copied into the guest.
#![allow(
    unsafe_code,
    reason = "the derives of ComponentType, Lower and Lift expand to unsafe implementations"
)]

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift, Lower};

/// The package, as it begins every interface name.
pub(crate) const PACKAGE: &str = "gristmill:plugin/";

/// The version of the contract that this host was built for. Older versions of the same compatibility range link against
/// it; `tests/contracts` keeps a plugin of each.
pub(crate) const VERSION: &str = "0.1.0";

/// The range of versions that load, for messages.
pub(crate) const RANGE: &str = "0.1";

/// `types.message`, borrowed.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(crate) struct WitMessage<'a> {
    pub(crate) id: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// `types.change`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(crate) struct WitChange {
    #[component(name = "set-headers")]
    pub(crate) set_headers: Vec<(String, String)>,
    #[component(name = "remove-headers")]
    pub(crate) remove_headers: Vec<String>,
    pub(crate) body: Option<Vec<u8>>,
}

/// `types.outcome`.
#[derive(Debug, ComponentType, Lift)]
#[component(variant)]
pub(crate) enum WitOutcome {
    #[component(name = "change")]
    Change(WitChange),
    #[component(name = "emit")]
    Emit(Vec<WitChange>),
    #[component(name = "drop")]
    Drop(String),
}

/// `types.failure`.
#[derive(Debug, ComponentType, Lift)]
#[component(variant)]
pub(crate) enum WitFailure {
    #[component(name = "reject")]
    Reject(String),
    #[component(name = "retry")]
    Retry(String),
}

/// `types.wants-headers`.
#[derive(Debug, Clone, ComponentType, Lift, Serialize, Deserialize)]
#[component(variant)]
pub(crate) enum WitWantsHeaders {
    #[component(name = "none")]
    None,
    #[component(name = "listed")]
    Listed(Vec<String>),
    #[component(name = "all")]
    All,
}

/// `types.description`.
#[derive(Debug, Clone, ComponentType, Lift, Serialize, Deserialize)]
#[component(record)]
pub(crate) struct WitDescription {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) summary: String,
    #[component(name = "config-schema")]
    pub(crate) config_schema: String,
    #[component(name = "wants-headers")]
    pub(crate) wants_headers: WitWantsHeaders,
    #[component(name = "wants-body")]
    pub(crate) wants_body: bool,
}

/// `log.level`.
#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made by the derived Lift, out of the number that the guest gives")]
pub(crate) enum WitLevel {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

/// `state.state-error`.
#[derive(Debug, ComponentType, Lower)]
#[component(variant)]
pub(crate) enum WitStateError {
    #[component(name = "over-limit")]
    OverLimit(String),
}

/// Parameters and results of `describe`.
pub(crate) type DescribeParams = ();
/// As [`DescribeParams`].
pub(crate) type DescribeResults = (WitDescription,);
/// Parameters and results of `configure`.
pub(crate) type ConfigureParams<'a> = (&'a str,);
/// As [`ConfigureParams`].
pub(crate) type ConfigureResults = (Result<(), String>,);
/// Parameters of `transform` and `route`.
pub(crate) type CallParams<'a> = (WitMessage<'a>,);
/// Results of `transform` and `route`.
pub(crate) type CallResults<R> = (Result<R, WitFailure>,);
