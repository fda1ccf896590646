//! Doubles for tests: a clock to hold, an adapter whose source and sink are played by the test, plugins made of closures; and
//! the contract suite that every adapter's tests run.

mod clock;
pub mod contract;
mod plugins;
mod scripted;

pub use clock::ManualClock;
pub use plugins::{ScriptedPlugin, ScriptedPlugins};
pub use scripted::{Offered, ScriptedAdapter, ScriptedSink, ScriptedSource};
