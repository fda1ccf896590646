//! The MQTT adapter against a real broker.
//!
//! | module | holds |
//! |---|---|
//! | `support` | a broker, a flow's source and sink on it, another client |
//! | `config` | what is said about a configuration before anything runs |
//! | `contract` | the contract of every adapter |
//! | `source` | crashes, restarts, order, overflow, changes of settings |
//! | `sessions` | another client id or broker: the session of before is emptied and ended |
//! | `leases` | one client id, two flows: neither gets or loses what is the other's |
//! | `sink` | topics and properties, restarts, `call` |
//! | `doors` | TLS, passwords, access lists: what is said to who does not get in |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod config;
mod contract;
mod doors;
mod leases;
mod sessions;
mod sink;
mod source;
mod support;
