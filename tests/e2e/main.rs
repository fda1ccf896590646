//! End-to-end tests: the real binary, real files, real sockets, real signals. What a crate can show by itself is tested
//! there; here is what only the whole can show. Plugins are Wasm text (package `gristmill-guests`), so that no compiler
//! for Wasm is needed.
//!
//! | module | holds |
//! |---|---|
//! | `harness` | a scratch folder, the running binary with its log and admin listener, an HTTP client, golden files |
//! | `load` | reloads under load: no request fails, and each answer is explained by one version |
//! | `follow` | a log that is rotated while it is followed, and kill -9 meanwhile |
//! | `kill` | kill -9 and SIGTERM in the middle of a file: nothing lost, little or nothing twice |
//! | `reload` | what a save, a broken save, a signal, a removed file and a new configuration do |
//! | `admin` | health and metrics |
//! | `bad_flows` | flows that cannot start, beside one that can |
//! | `bad_plugins` | hostile plugins, beside a good one |
//! | `bad_senders` | senders that send too much, too slowly, or go away |
//! | `bad_files` | what is no file, and a disk that is full |
//! | `brokers` | reloads, connections that change and flows that go, at real brokers while messages pass |
//! | `bad_brokers` | brokers that refuse, and what they cannot carry: each has its text |
//! | `quarantine` | a plugin that fails on everything is held back and comes back |
//! | `commands` | `validate`, `plugin inspect`, `schema`, `new`, `--help` |
//! | `pages` | every example of the pages about flows and about operating is valid |
//!
//! Nothing here sleeps and hopes: `harness::eventually` and the log are what is waited for. `GRISTMILL_BLESS=1` rewrites
//! the golden files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod admin;
mod bad_brokers;
mod bad_files;
mod bad_flows;
mod bad_plugins;
mod bad_senders;
mod brokers;
mod commands;
mod follow;
mod harness;
mod kill;
mod load;
mod pages;
mod quarantine;
mod reload;
