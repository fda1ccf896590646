//! The engine through its public face, `Runtime`, with a source, a sink and plugins that the tests play, and with time that
//! stands still until all wait for it. One binary; what belongs where:
//!
//! - `harness`: a runtime with its doubles, and what the tests say to it in one line
//! - `steps`: what each step does with a message
//! - `policy`: `on_error`: retries, dead letters, and what becomes of what no rule matches
//! - `lineage`: one delivery of many branches, and faults in the midst of it
//! - `limits`: in flight, released, held back: when the source is asked and when not
//! - `order`: who may overtake whom
//! - `reload`: versions, endpoints and flows that come, change and go while messages are in the air
//! - `validate`: every mistake with its place and its mend; the golden files; the JSON Schema

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;
mod limits;
mod lineage;
mod order;
mod policy;
mod reload;
mod steps;
mod validate;
