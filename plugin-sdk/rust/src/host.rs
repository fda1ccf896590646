//! The host's capabilities. A plugin imports exactly the interfaces whose functions it calls, since a linker drops the
//! rest, and the flow has to grant each (`grants: { log: true }`), or the plugin does not load. Natively each is a double in memory, kept per
//! thread so that tests do not disturb each other; [`testing`](crate::testing) looks into it.

pub mod clock;
pub mod log;
pub mod metrics;
pub mod random;
pub mod state;

#[cfg(not(target_family = "wasm"))]
pub(crate) mod double;
