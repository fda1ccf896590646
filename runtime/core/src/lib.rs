//! The vocabulary of Gristmill. Everything else in the runtime speaks in these words, and none of it is known here:
//! no network, no YAML, no Wasm.
//!
//! | module | holds |
//! |---|---|
//! | [`message`] | what travels: headers and a body |
//! | [`header_patterns`] | which headers go along to another protocol |
//! | [`settlement`], [`acknowledgement`] | how a delivery ended, what tells its source, and the lineage that makes the worst child win |
//! | [`delivery`] | a message with the acknowledgement and the reply it owes |
//! | [`failure`] | what went wrong with a message, and whether to try again |
//! | [`limits`], [`clock`] | the named limits, and time that tests can hold |
//! | [`stopwatch`] | how long the parts of a delivery take |
//! | [`config`] | values with their place in the file, checked against JSON Schema; mistakes with place and mend |
//! | [`source`], [`sink`], [`step`], [`plugin`] | the four traits |
//! | [`adapter`] | what a protocol registers: its source and sink |
//! | [`connection`] | named connections, which flows share |
//! | [`observe`] | the hooks through which metrics, traces and the admin API see deliveries |
//! | [`background`] | threads for long work, beside those that carry messages |
//! | [`rate`] | how many lines a second something may write to the log |
//! | [`testkit`] | (feature `testkit`) doubles, and the contract suite of adapters |

pub mod acknowledgement;
pub mod adapter;
pub mod background;
pub mod clock;
pub mod config;
pub mod connection;
pub mod delivery;
pub mod failure;
pub mod header_patterns;
pub mod limits;
pub mod message;
pub mod observe;
pub mod plugin;
pub mod rate;
pub mod settlement;
pub mod sink;
pub mod source;
pub mod step;
pub mod stopwatch;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

pub use acknowledgement::{Acknowledgement, Branch, Lineage};
pub use clock::{Clock, SystemClock, Timestamp};
pub use delivery::{Delivery, Reply};
pub use failure::{ErrorClass, Failure};
pub use header_patterns::HeaderPatterns;
pub use message::{Headers, Message, MessageId};
pub use settlement::{Outcome, Settlement};
pub use stopwatch::{Moment, Stopwatch};
