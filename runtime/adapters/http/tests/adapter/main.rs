//! The HTTP adapter over real sockets of this machine.
//!
//! | module | holds |
//! |---|---|
//! | `support` | a flow in a few lines, clients, servers with a script |
//! | `authority` | certificates for the tests |
//! | `config` | what is said about a configuration before anything runs |
//! | `contract` | the contract of every adapter |
//! | `request` | from request to message: routes, headers, parameters, what is malformed |
//! | `answer` | from settlement to answer, late and lost answers |
//! | `limits` | every limit of the source, reached |
//! | `overload` | senders that begin and do not go on |
//! | `reload` | versions and routes that change under load |
//! | `https` | a source over TLS: handshakes, client certificates, files that change |
//! | `tls` | `send` over HTTPS: whom it trusts, and as whom it comes |
//! | `sink` | `send` and `call` against servers that behave and servers that do not |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod answer;
mod authority;
mod config;
mod contract;
mod https;
mod limits;
mod overload;
mod reload;
mod request;
mod sink;
mod support;
mod tls;
