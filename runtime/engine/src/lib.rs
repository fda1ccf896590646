//! The engine: checks flows, runs them, and replaces them live. It knows the traits of `gristmill-core` and nothing of any
//! protocol or of Wasm.
//!
//! | stage | module | type |
//! |---|---|---|
//! | as written | [`yaml`], [`substitute`] | `Node` |
//! | checked | [`flow`], `steps`, [`expression`] | [`flow::CheckedFlow`] |
//! | ready | `run::version` | a version with plugins bound and sinks open |
//! | running | [`runtime`], `run::endpoint` | endpoints, and the version attached to each |
//!
//! Only a [`flow::CheckedFlow`] can be made ready, and only what is ready can be attached, so that nothing unchecked runs.

pub mod connections;
pub mod dead_letter;
pub mod expression;
pub mod flow;
mod run;
pub mod runtime;
mod steps;
pub mod substitute;
pub mod yaml;
