//! The AMQP adapter over a real RabbitMQ: the one that `GRISTMILL_TEST_AMQP` names, or one of the test's own.
//!
//! | module | holds |
//! |---|---|
//! | `support` | sources, sinks and queues in a few lines |
//! | `config` | what is said about a configuration before anything runs |
//! | `contract` | the contract of every adapter |
//! | `source` | queues: declared, missing, deleted, of other properties |
//! | `sink` | confirms, returns, properties, and what a broker refuses |
//! | `call` | request and reply |
//! | `tls` | brokers that are spoken to in TLS |
//! | `faults` | a broker that goes away and comes back, hangs, or takes nothing |
//! | `hostile` | messages that no client library would write |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod call;
mod config;
mod contract;
mod faults;
mod hostile;
mod sink;
mod source;
mod support;
mod tls;
