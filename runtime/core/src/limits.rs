//! The limits of a flow and of a plugin in it. Every limit has a name, a unit and a default; reaching one gives
//! back-pressure or a failure of class `limit`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// How deep steps may nest. Not a setting: the walk over a flow is recursive.
pub const MAX_STEP_NESTING: usize = 16;

/// How many steps a flow may have, nested ones included.
pub const MAX_STEPS: usize = 1_000;

/// How large a flow file may be.
pub const MAX_FLOW_FILE_BYTES: u64 = 1024 * 1024;

/// The limits of one flow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlowLimits {
    /// Deliveries that may be unsettled at once. Above it the source is not asked for more (HTTP answers 503).
    #[schemars(range(min = 1, max = 100_000))]
    pub in_flight: usize,
    /// The largest body, from the source and after each step, in bytes.
    #[schemars(range(min = 0, max = 2_147_483_648_u64))]
    pub body_bytes: usize,
    /// The most headers a message may have.
    #[schemars(range(min = 1, max = 10_000))]
    pub headers: usize,
    /// The most bytes that names and values of all headers of a message may have together.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub header_bytes: usize,
    /// The most messages that may be made of one delivery, over all its steps.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub fan_out: usize,
    /// How long a released delivery waits before the source offers it again, in milliseconds.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub release_delay_ms: u64,
    /// How long a version that was replaced or removed may take to finish what it has accepted, in milliseconds. What is
    /// left then is offered to the new version, or released when there is none.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub drain_ms: u64,
    /// How long making a version ready (plugins, connections) may take, in milliseconds.
    #[schemars(range(min = 100, max = 3_600_000))]
    pub prepare_ms: u64,
}

/// The limits of one plugin in one step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PluginLimits {
    /// How long one call may run in the guest, in milliseconds. This is for bodies of up to 1 MiB; each further MiB that
    /// is begun adds the same again.
    #[schemars(range(min = 1, max = 600_000))]
    pub deadline_ms: u64,
    /// How long one call may take in all, waits in host calls included, in milliseconds. Never below `deadline_ms`.
    #[schemars(range(min = 1, max = 600_000))]
    pub call_timeout_ms: u64,
    /// The most linear memory of one instance, in MiB.
    #[schemars(range(min = 1, max = 4_096))]
    pub memory_mib: u32,
    /// The most instances at once; a call waits for a free one. The default is the number of processors.
    #[schemars(range(min = 1, max = 1_024))]
    pub instances: Option<usize>,
    /// After how many calls an instance is replaced by a fresh one; 1 gives every message its own.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub calls_per_instance: u64,
    /// The most log lines a second that are written for this plugin; what is above is counted and dropped.
    #[schemars(range(min = 1, max = 100_000))]
    pub log_lines_per_second: u32,
    /// The most keys of its state.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub state_keys: usize,
    /// The most bytes of its state, keys and values together.
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub state_bytes: usize,
    /// After how many messages in a row that failed by trap, timeout, memory or a malformed answer the plugin is held
    /// back (quarantined), when they also are more than half of its last calls: of 20 times as many, at most 1,000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub quarantine_after: u32,
    /// How long a plugin is held back before one message probes it, in milliseconds; doubles with each probe that
    /// fails and is not one of the messages that failed before, up to 64 times.
    #[schemars(range(min = 10, max = 3_600_000))]
    pub quarantine_ms: u64,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            in_flight: 256,
            body_bytes: 8 * 1024 * 1024,
            headers: 128,
            header_bytes: 64 * 1024,
            fan_out: 10_000,
            release_delay_ms: 1_000,
            drain_ms: 30_000,
            prepare_ms: 60_000,
        }
    }
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            // Far above what a transformer takes: a machine under load takes the processor from a guest for long.
            deadline_ms: 1_000,
            call_timeout_ms: 10_000,
            memory_mib: 64,
            instances: None,
            calls_per_instance: 1_000_000,
            log_lines_per_second: 100,
            state_keys: 1_024,
            state_bytes: 1024 * 1024,
            quarantine_after: 5,
            quarantine_ms: 1_000,
        }
    }
}

impl FlowLimits {
    /// [`FlowLimits::release_delay_ms`] as a duration.
    pub fn release_delay(&self) -> Duration {
        Duration::from_millis(self.release_delay_ms)
    }

    /// [`FlowLimits::drain_ms`] as a duration.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }

    /// [`FlowLimits::prepare_ms`] as a duration.
    pub fn prepare(&self) -> Duration {
        Duration::from_millis(self.prepare_ms)
    }
}
