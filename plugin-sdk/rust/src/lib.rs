//! Write Gristmill plugins in Rust.
//!
//! A plugin is a struct that implements [`Transformer`] (messages in, messages out) or [`Router`] (messages in, route
//! names out), and one macro call:
//!
//! ```
//! use gristmill_plugin::{Change, Failure, Message, Outcome, Transformer, Wants, export_transformer};
//! use gristmill_plugin::{schemars::JsonSchema, serde::Deserialize, serde_json::Value};
//!
//! /// The configuration: doc comments become the descriptions of its JSON Schema.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(crate = "gristmill_plugin::serde", deny_unknown_fields)]
//! #[schemars(crate = "gristmill_plugin::schemars")]
//! struct Config {
//!     /// The currency to write into every order.
//!     currency: String,
//! }
//!
//! struct Stamp(Config);
//!
//! impl Transformer for Stamp {
//!     type Config = Config;
//!
//!     fn wants() -> Wants {
//!         Wants::body()
//!     }
//!
//!     fn configure(config: Config) -> Result<Self, String> {
//!         Ok(Stamp(config))
//!     }
//!
//!     fn transform(&self, message: Message) -> Result<Outcome, Failure> {
//!         let mut order: Value = message.json()?;
//!         let fields = order.as_object_mut().ok_or_else(|| Failure::reject("the order is not an object"))?;
//!         fields.insert("currency".into(), self.0.currency.clone().into());
//!         Ok(Change::new().json(&order)?.into())
//!     }
//! }
//!
//! export_transformer!(Stamp);
//! # fn main() {
//! let stamp: Stamp = gristmill_plugin::testing::configure(r#"{"currency":"EUR"}"#).unwrap();
//! let outcome = stamp.transform(Message::with_body(r#"{"id":1}"#)).unwrap();
//! assert_eq!(outcome.body(), Some(&br#"{"id":1,"currency":"EUR"}"#[..]));
//! # }
//! ```
//!
//! Everything compiles natively too, so a plugin's tests need no Wasm runtime; see [`testing`]. The modules [`log`],
//! [`clock`], [`random`], [`metrics`] and [`state`] are the host's capabilities: a plugin imports exactly those it calls,
//! and a flow has to grant them.

// The export macros name this crate by its public name, also from its own tests.
extern crate self as gristmill_plugin;

#[cfg(any(test, all(feature = "allocator", target_family = "wasm", not(target_feature = "atomics"))))]
mod allocator;
mod bindings;
mod configure;
mod export;
mod host;
mod message;
mod traits;

#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use bindings::types::{Change, Description, Failure, Message, Outcome, WantsHeaders};
pub use configure::NoConfig;
pub use host::{clock, log, metrics, random, state};
pub use traits::{Router, Transformer, Wants};
// Re-exported so that a plugin needs one dependency and cannot mix versions.
pub use {schemars, serde, serde_json};

#[cfg(all(feature = "allocator", target_family = "wasm", not(target_feature = "atomics")))]
#[global_allocator]
static ALLOCATOR: allocator::SmallBlocks<std::alloc::System> =
    allocator::SmallBlocks::over(std::alloc::System);

/// What the export macros expand to; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::{router, transformer};
    pub use crate::configure::{describe, parse};
    pub use wit_bindgen::rt;

    /// The name, version and summary that a plugin takes from its own `Cargo.toml`.
    #[derive(Clone, Copy)]
    pub struct Package {
        /// `CARGO_PKG_NAME`.
        pub name: &'static str,
        /// `CARGO_PKG_VERSION`.
        pub version: &'static str,
        /// `CARGO_PKG_DESCRIPTION`.
        pub summary: &'static str,
    }
}
