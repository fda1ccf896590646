//! What a person can see of a running runtime: the log and the metrics.

pub(crate) mod log;
pub(crate) mod metrics;
