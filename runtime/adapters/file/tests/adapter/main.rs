//! The file adapter from outside, as the runtime uses it. What needs its insides is tested beside the code.
//!
//! | module | holds |
//! |---|---|
//! | `contract` | the contract of every adapter |
//! | `again` | a name that comes again, for another file |
//! | `kill` | kill -9, for real |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod again;
mod contract;
mod kill;
